//! All routes of a family, in the order in which the kernel tries them. A full Internet table must fit: equal contents of
//! routes are stored once, so a route costs little more than its prefix.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::{Family, Placement, Prefix, Route, RouteInfo};

/// The routes of a family.
#[derive(Clone, Debug, Default)]
pub struct Routes<A: Family> {
    tables: BTreeMap<u32, Table<A>>,
    infos: Infos<A>,
    lists: Lists,
}

/// One table: for each prefix the number of an info, or of a list of them.
#[derive(Clone, Debug)]
struct Table<A: Family> {
    slots: BTreeMap<Prefix<A>, u32>,
    /// How many prefixes there are of each length.
    lengths: Vec<u32>,
}

/// In a slot: the rest is the number of a list.
const LIST: u32 = 1 << 31;

/// The routes of one prefix in the order in which the kernel tries them; there is at least one.
#[derive(Clone, Copy)]
pub struct Candidates<'a, A: Family> {
    infos: &'a Infos<A>,
    numbers: &'a [u32],
}

impl<'a, A: Family> Candidates<'a, A> {
    /// What they say.
    pub fn iter(self) -> impl Iterator<Item = &'a RouteInfo<A>> {
        self.numbers.iter().map(move |number| self.infos.get(*number))
    }

    /// Numbers of what they say: equal where this is equal, until a change of the routes.
    pub fn numbers(self) -> &'a [u32] {
        self.numbers
    }
}

/// What routes say, each once, with the number of routes that say it.
#[derive(Clone, Debug, Default)]
struct Infos<A: Family> {
    all: Vec<Option<(Arc<RouteInfo<A>>, u32)>>,
    known: HashMap<Arc<RouteInfo<A>>, u32>,
    free: Vec<u32>,
    /// How often one came or went.
    renewals: u64,
}

impl<A: Family> Infos<A> {
    fn get(&self, number: u32) -> &RouteInfo<A> {
        &self.all[number as usize].as_ref().expect("a number that a route holds").0
    }

    /// For one more route.
    fn hold(&mut self, number: u32) -> u32 {
        self.all[number as usize].as_mut().expect("a number that a route holds").1 += 1;
        number
    }

    /// The number of `info`, for one more route.
    fn enter(&mut self, info: RouteInfo<A>) -> u32 {
        if let Some(number) = self.known.get(&info) {
            return self.hold(*number);
        }
        self.renewals += 1;
        let info = Arc::new(info);
        let number = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() as u32 - 1
        });
        self.known.insert(Arc::clone(&info), number);
        self.all[number as usize] = Some((info, 1));
        number
    }

    /// One route less.
    fn release(&mut self, number: u32) {
        let place = &mut self.all[number as usize];
        let (info, holders) = place.as_mut().expect("a number that a route holds");
        *holders -= 1;
        if *holders == 0 {
            self.renewals += 1;
            self.known.remove(info);
            *place = None;
            self.free.push(number);
        }
    }
}

/// The lists of prefixes with several routes.
#[derive(Clone, Debug, Default)]
struct Lists {
    all: Vec<Vec<u32>>,
    free: Vec<u32>,
}

impl Lists {
    fn enter(&mut self, list: Vec<u32>) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.all.push(Vec::new());
            self.all.len() as u32 - 1
        });
        self.all[number as usize] = list;
        number | LIST
    }

    fn get<'a>(&'a self, slot: &'a u32) -> &'a [u32] {
        if *slot & LIST == 0 { std::slice::from_ref(slot) } else { &self.all[(*slot & !LIST) as usize] }
    }

    fn take(&mut self, slot: u32) -> Vec<u32> {
        if slot & LIST == 0 {
            return vec![slot];
        }
        self.free.push(slot & !LIST);
        std::mem::take(&mut self.all[(slot & !LIST) as usize])
    }
}

impl<A: Family> Table<A> {
    fn new() -> Self {
        Self { slots: BTreeMap::new(), lengths: vec![0; A::BITS as usize + 1] }
    }

    fn insert(&mut self, prefix: Prefix<A>, slot: u32) {
        if self.slots.insert(prefix, slot).is_none() {
            self.lengths[usize::from(prefix.length())] += 1;
        }
    }

    fn remove(&mut self, prefix: Prefix<A>) -> Option<u32> {
        let slot = self.slots.remove(&prefix)?;
        self.lengths[usize::from(prefix.length())] -= 1;
        Some(slot)
    }
}

/// Whole-table listings, taken in piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Listing<A: Family> {
    rows: BTreeMap<u32, Vec<(Prefix<A>, u32)>>,
    infos: Infos<A>,
    last: Option<u32>,
    count: usize,
}

impl<A: Family> Listing<A> {
    /// One more route; those of one prefix come in the kernel's order.
    pub fn push(&mut self, mut route: Route<A>) {
        route.normalise();
        // Neighbours in a listing often say the same.
        let number = match self.last {
            Some(last) if *self.infos.get(last) == route.info => self.infos.hold(last),
            _ => self.infos.enter(route.info),
        };
        self.last = Some(number);
        self.rows.entry(route.table).or_default().push((route.destination, number));
        self.count += 1;
    }

    /// How many there are so far.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none so far.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All have come.
    pub fn finish(self) -> Routes<A> {
        let mut routes = Routes { tables: BTreeMap::new(), infos: self.infos, lists: Lists::default() };
        for (number, mut rows) in self.rows {
            rows.sort_by_key(|row| row.0);
            let mut table = Table::new();
            let slots = rows.chunk_by(|a, b| a.0 == b.0).map(|same| {
                let prefix = same[0].0;
                table.lengths[usize::from(prefix.length())] += 1;
                let slot = match same {
                    [(_, only)] => *only,
                    several => {
                        let mut list: Vec<u32> = several.iter().map(|(_, info)| *info).collect();
                        list.sort_by_key(|info| routes.infos.get(*info).rank());
                        routes.lists.enter(list)
                    }
                };
                (prefix, slot)
            });
            table.slots = slots.collect();
            routes.tables.insert(number, table);
        }
        routes
    }
}

impl<A: Family> Routes<A> {
    /// From a dump: routes of one prefix come in the kernel's order.
    pub fn from_dump(routes: Vec<Route<A>>) -> Self {
        let mut listing = Listing::default();
        for route in routes {
            listing.push(route);
        }
        listing.finish()
    }

    /// Enters an announced route. Doing it again changes nothing. Says whether anything changed.
    pub fn insert(&mut self, mut route: Route<A>, placement: Placement) -> bool {
        route.normalise();
        let Route { table, destination, info } = route;
        let mut list = self.take(table, destination);
        let before = list.clone();
        let position = |test: &dyn Fn(&RouteInfo<A>) -> bool| list.iter().position(|id| test(self.infos.get(*id)));
        let rank = position(&|other| other.same_rank(&info));
        let known = position(&|other| other.same(&info) || (A::SIBLINGS && other.sibling(&info)));
        let first = placement == Placement::First && !A::SIBLINGS;
        let behind = position(&|other| if first { other.rank() >= info.rank() } else { other.rank() > info.rank() });
        let number = self.infos.enter(info);
        let replaced = known.or_else(|| rank.filter(|_| placement == Placement::Replace));
        if let Some(position) = replaced {
            self.infos.release(list[position]);
            list[position] = number;
        } else {
            list.insert(behind.unwrap_or(list.len()), number);
        }
        let changed = list != before;
        self.put(table, destination, list);
        changed
    }

    /// Takes out a route that is gone, or those of its next hops that are. Doing it again changes nothing. Says whether
    /// anything changed.
    pub fn remove(&mut self, route: &Route<A>) -> bool {
        let mut list = self.take(route.table, route.destination);
        let before = list.clone();
        if let Some(position) = list.iter().position(|id| self.infos.get(*id).same(route)) {
            self.infos.release(list.remove(position));
        } else if A::SIBLINGS {
            list.retain_mut(|id| {
                let mut other = self.infos.get(*id).clone();
                if other.sibling(route) {
                    other.next_hops.retain(|hop| !route.next_hops.iter().any(|gone| gone.same_way(hop)));
                    if other != *self.infos.get(*id) {
                        self.infos.release(*id);
                        *id = self.infos.enter(other.clone());
                    }
                }
                let ends = other.next_hops.is_empty() && other.same_rank(route) && other.kind == route.kind;
                if ends {
                    self.infos.release(*id);
                }
                !ends
            });
        }
        let changed = list != before;
        self.put(route.table, route.destination, list);
        changed
    }

    /// The list of a prefix, to be put back.
    fn take(&mut self, table: u32, prefix: Prefix<A>) -> Vec<u32> {
        let slot = self.tables.get(&table).and_then(|table| table.slots.get(&prefix).copied());
        slot.map_or_else(Vec::new, |slot| self.lists.take(slot))
    }

    fn put(&mut self, number: u32, prefix: Prefix<A>, list: Vec<u32>) {
        let slot = match list.as_slice() {
            [] => {
                let Some(table) = self.tables.get_mut(&number) else { return };
                table.remove(prefix);
                if table.slots.is_empty() {
                    self.tables.remove(&number);
                }
                return;
            }
            [only] => *only,
            _ => self.lists.enter(list),
        };
        self.tables.entry(number).or_insert_with(Table::new).insert(prefix, slot);
    }

    /// The prefixes of one table, each with its routes in the order in which the kernel tries them.
    pub fn table(&self, table: u32) -> impl Iterator<Item = (Prefix<A>, Candidates<'_, A>)> {
        let slots = self.tables.get(&table).into_iter().flat_map(|table| &table.slots);
        slots.map(|(prefix, slot)| (*prefix, self.candidates(slot)))
    }

    /// The same behind one prefix; all where there is none.
    pub fn behind(
        &self,
        table: u32,
        prefix: Option<Prefix<A>>,
    ) -> impl Iterator<Item = (Prefix<A>, Candidates<'_, A>)> {
        let from = prefix.map_or(Bound::Unbounded, Bound::Excluded);
        let slots = self.tables.get(&table).map(|table| table.slots.range((from, Bound::Unbounded)));
        slots.into_iter().flatten().map(|(prefix, slot)| (*prefix, self.candidates(slot)))
    }

    /// The routes of one prefix of one table.
    pub fn at(&self, table: u32, prefix: Prefix<A>) -> Option<Candidates<'_, A>> {
        self.tables.get(&table)?.slots.get(&prefix).map(|slot| self.candidates(slot))
    }

    /// The prefixes of one table that `outer` contains, itself included, ascending, with their routes.
    pub fn inside(&self, table: u32, outer: Prefix<A>) -> impl Iterator<Item = (Prefix<A>, Candidates<'_, A>)> {
        let slots = self.tables.get(&table).map(|table| table.slots.range(outer..=outer.last_inside()));
        slots.into_iter().flatten().map(|(prefix, slot)| (*prefix, self.candidates(slot)))
    }

    /// The prefixes of one table that contain `inner`, itself included, longest first, with their routes.
    pub fn around(&self, table: u32, inner: Prefix<A>) -> impl Iterator<Item = (Prefix<A>, Candidates<'_, A>)> {
        let table = self.tables.get(&table);
        let lengths = (0..=inner.length()).rev();
        lengths.filter_map(move |length| {
            let table = table.filter(|table| table.lengths[usize::from(length)] != 0)?;
            let prefix = Prefix::new(inner.first(), length);
            table.slots.get(&prefix).map(|slot| (prefix, self.candidates(slot)))
        })
    }

    fn candidates<'a>(&'a self, slot: &'a u32) -> Candidates<'a, A> {
        Candidates { infos: &self.infos, numbers: self.lists.get(slot) }
    }

    /// All that routes say, each once, with its number.
    pub fn infos(&self) -> impl Iterator<Item = (u32, &RouteInfo<A>)> {
        (0..).zip(&self.infos.all).filter_map(|(number, place)| Some((number, &*place.as_ref()?.0)))
    }

    /// Grows whenever contents appear that no route had before, or that none has any more.
    pub fn renewals(&self) -> u64 {
        self.infos.renewals
    }

    /// Takes the place of `before`.
    pub(super) fn succeed(&mut self, before: &Self) {
        self.infos.renewals += before.infos.renewals;
    }

    /// All routes, by table and prefix.
    pub fn iter(&self) -> impl Iterator<Item = Route<A>> {
        self.tables.iter().flat_map(|(number, table)| {
            table.slots.iter().flat_map(|(prefix, slot)| {
                let route = |info: &RouteInfo<A>| Route { table: *number, destination: *prefix, info: info.clone() };
                self.candidates(slot).iter().map(route)
            })
        })
    }

    /// Prefixes of any table whose routes differ between the two.
    pub fn difference(&self, other: &Self) -> Vec<(u32, Prefix<A>)> {
        // The numbers of both mean the same where they stand for the same.
        let same: HashMap<u32, u32> =
            self.infos().filter_map(|(number, info)| Some((number, *other.infos.known.get(info)?))).collect();
        let equal = |a: &u32, b: &u32| {
            let (a, b) = (self.lists.get(a), other.lists.get(b));
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same.get(a) == Some(b))
        };
        let none = BTreeMap::new();
        let mut found = Vec::new();
        let tables: BTreeSet<u32> = self.tables.keys().chain(other.tables.keys()).copied().collect();
        for table in tables {
            let ours = self.tables.get(&table).map_or(&none, |table| &table.slots);
            let theirs = other.tables.get(&table).map_or(&none, |table| &table.slots);
            let (mut ours, mut theirs) = (ours.iter().peekable(), theirs.iter().peekable());
            loop {
                let order = match (ours.peek(), theirs.peek()) {
                    (Some((a, _)), Some((b, _))) => a.cmp(b),
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (None, None) => break,
                };
                let a = order.is_le().then(|| ours.next()).flatten();
                let b = order.is_ge().then(|| theirs.next()).flatten();
                let unchanged = a.zip(b).is_some_and(|((_, a), (_, b))| equal(a, b));
                if let Some((prefix, _)) = a.or(b).filter(|_| !unchanged) {
                    found.push((table, *prefix));
                }
            }
        }
        found
    }

    /// Those of one table.
    #[must_use]
    pub fn only(&self, table: u32) -> Self {
        let mut listing = Listing::default();
        for (destination, candidates) in self.table(table) {
            candidates.iter().for_each(|info| listing.push(Route { table, destination, info: info.clone() }));
        }
        listing.finish()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let lists: usize = self.lists.all.iter().map(|list| list.len().saturating_sub(1)).sum();
        self.tables.values().map(|table| table.slots.len()).sum::<usize>() + lists
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

impl<A: Family> PartialEq for Routes<A> {
    /// Whether both have the same routes in the same order, whatever their numbers.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.difference(other).is_empty()
    }
}

impl<A: Family> Eq for Routes<A> {}
