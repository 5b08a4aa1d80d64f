//! Routes: three tables of prefixes become one row of intervals that answers as the kernel's lookup does.

use std::collections::HashMap;

use dataplane_common::abi::{Ifindex, RouteKind};

use super::adjacency::{Path, Who};
use crate::model::{Family, Link, Model, NextHopFlags, Prefix, Route, RouteType};

/// What an interval maps to, before paths have indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    /// No next hop.
    Kind(RouteKind),
    /// A path of [`Paths`].
    Path(usize),
}

/// What the routes of one prefix come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Leaf(Leaf),
    /// On to the next table.
    Throw,
}

/// The distinct paths of all routes.
#[derive(Default)]
pub(super) struct Paths {
    all: Vec<Path>,
    known: HashMap<Path, usize>,
}

impl Paths {
    /// The number of a path.
    pub(super) fn number(&mut self, path: Path) -> usize {
        *self.known.entry(path).or_insert_with_key(|path| {
            self.all.push(path.clone());
            self.all.len() - 1
        })
    }

    /// The path of a number.
    pub(super) fn get(&self, number: usize) -> &Path {
        &self.all[number]
    }
}

/// A prefix that decides within its table.
struct Entry<A> {
    prefix: Prefix<A>,
    /// Position in [`Family::TABLES`].
    table: usize,
    choice: Choice,
}

/// The longest match of each table, at most three: its length and what it says.
type Tops = [Option<(u8, Choice)>; 3];

/// A prefix around the current position: its last address, its table, and what it hides there.
type Open<A> = (A, usize, Option<(u8, Choice)>);

/// The intervals of a family: ascending, the first at address 0, neighbours in different leaves.
pub(super) fn intervals<A: Family>(model: &Model, paths: &mut Paths) -> Vec<(A, Leaf)> {
    let mut entries = Vec::new();
    for (table, number) in A::TABLES.iter().copied().enumerate() {
        for (prefix, routes) in A::routes(model).table(number) {
            let choice = choose(model, prefix, routes, paths);
            entries.extend(choice.map(|choice| Entry { prefix, table, choice }));
        }
    }
    // An outer prefix comes before those inside it.
    entries.sort_unstable_by_key(|entry| (entry.prefix.first(), entry.prefix.length()));
    sweep(&entries)
}

/// Cuts the address space wherever the longest match of some table changes.
fn sweep<A: Family>(entries: &[Entry<A>]) -> Vec<(A, Leaf)> {
    let mut tops = Tops::default();
    let mut cuts = vec![(A::default(), Leaf::Kind(RouteKind::None))];
    // Innermost last.
    let mut open: Vec<Open<A>> = Vec::new();
    for entry in entries {
        close(&mut open, Some(entry.prefix.first()), &mut tops, &mut cuts);
        let hidden = tops[entry.table].replace((entry.prefix.length(), entry.choice));
        open.push((entry.prefix.last(), entry.table, hidden));
        push(&mut cuts, entry.prefix.first(), resolve::<A>(&tops));
    }
    close(&mut open, None, &mut tops, &mut cuts);
    cuts
}

/// Ends the prefixes that lie wholly before `position`.
fn close<A: Family>(open: &mut Vec<Open<A>>, position: Option<A>, tops: &mut Tops, cuts: &mut Vec<(A, Leaf)>) {
    while let Some((last, table, hidden)) = open.pop_if(|(last, ..)| position.is_none_or(|position| *last < position)) {
        tops[table] = hidden;
        if let Some(next) = last.next() {
            push(cuts, next, resolve::<A>(tops));
        }
    }
}

/// Appends a cut; one at the same place is replaced, one that changes nothing left out.
fn push<A: Family>(cuts: &mut Vec<(A, Leaf)>, start: A, leaf: Leaf) {
    cuts.pop_if(|(last, _)| *last == start);
    if cuts.last().is_none_or(|(_, before)| *before != leaf) {
        cuts.push((start, leaf));
    }
}

/// What the tables say together. Where it depends on how the kernel keeps table local, which can not be seen from outside,
/// the kernel must say.
fn resolve<A: Family>(tops: &Tops) -> Leaf {
    let [local, main, default] = *tops;
    let separate = first_word([local, main, default]);
    if !A::MERGED_LOCAL {
        return separate;
    }
    let longer = match (local, main) {
        (Some(local), Some(main)) => Some(if main.0 > local.0 { main } else { local }),
        (local, main) => local.or(main),
    };
    if first_word([longer, default]) == separate { separate } else { Leaf::Kind(RouteKind::Kernel) }
}

/// The first table that matches and does not throw.
fn first_word<const N: usize>(tops: [Option<(u8, Choice)>; N]) -> Leaf {
    tops.into_iter()
        .flatten()
        .find_map(|(_, choice)| match choice {
            Choice::Leaf(leaf) => Some(leaf),
            Choice::Throw => None,
        })
        .unwrap_or(Leaf::Kind(RouteKind::None))
}

/// What the routes of one prefix come to; `None` if none of them is alive, so that a shorter prefix decides
/// (`fib_table_lookup` in `net/ipv4/fib_trie.c`, `fib6_table_lookup` in `net/ipv6/route.c`).
fn choose<A: Family>(model: &Model, prefix: Prefix<A>, routes: &[Route<A>], paths: &mut Paths) -> Option<Choice> {
    const KERNEL: Choice = Choice::Leaf(Leaf::Kind(RouteKind::Kernel));
    if routes.iter().any(|route| route.tos != 0 || route.source != Prefix::all()) {
        return Some(KERNEL);
    }
    let mut living = routes.iter().filter(|route| alive(route));
    let route = living.next()?;
    // Among equals the kernel looks at the state of their neighbours: IPv6 always, IPv4 for default routes.
    let mut equals = living.take_while(|other| other.priority == route.priority);
    let weighs = A::SIBLINGS || prefix.length() == 0;
    if weighs && equals.any(|other| other.kind != route.kind || route.kind == RouteType::Unicast) {
        return Some(KERNEL);
    }
    let kind = match route.kind {
        RouteType::Throw => return Some(Choice::Throw),
        RouteType::Unicast => {
            let leaf = path(model, route).map(|path| Leaf::Path(paths.number(path)));
            return Some(leaf.map_or(KERNEL, Choice::Leaf));
        }
        RouteType::Local | RouteType::Anycast => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::Blackhole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Other(_) => RouteKind::Kernel,
    };
    Some(Choice::Leaf(Leaf::Kind(kind)))
}

/// Routes without a way of their own always are; others as long as one way is.
fn alive<A>(route: &Route<A>) -> bool {
    let ends =
        matches!(route.kind, RouteType::Blackhole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw);
    ends || route.next_hops.is_empty() || route.next_hops.iter().any(|hop| !hop.flags.contains(NextHopFlags::DEAD))
}

/// The path of a unicast route; `None` if it has something that only the kernel can do.
fn path<A: Family>(model: &Model, route: &Route<A>) -> Option<Path> {
    let living = || route.next_hops.iter().filter(|hop| !hop.flags.contains(NextHopFlags::DEAD));
    let foreign = |dev: Ifindex| {
        let unusable = |link: &Link| link.loopback || link.kind.as_deref() == Some("vrf");
        model.links.get(&dev).is_none_or(unusable)
    };
    if living().any(|hop| hop.encap || foreign(hop.dev)) {
        return None;
    }
    let hops: Vec<_> = living().map(|hop| (Who { dev: hop.dev, via: hop.via }, hop.weight)).collect();
    // With several ways, the destination as next hop would ask for a group for each destination.
    let understood = match hops.as_slice() {
        [] => false,
        [_] => true,
        several => several.iter().all(|(who, _)| who.via.is_some()),
    };
    // One way has no need of a weight, and routes that differ in nothing else share a group.
    let single = hops.len() == 1;
    let hops = hops.into_iter().map(|(who, weight)| (who, if single { 1 } else { weight })).collect();
    understood.then(|| Path { hops, mtu: route.mtu.unwrap_or(0) })
}

/// Cuts single addresses out of on-link intervals: those of neighbours, for which `claim` takes a path if there is room.
/// Only an interval through the neighbour's own link is cut, so a better route is never overridden.
pub(super) fn cut_out_neighbours<A: Family>(
    model: &Model,
    paths: &mut Paths,
    intervals: &[(A, Leaf)],
    mut claim: impl FnMut(&Path) -> bool,
) -> Vec<(A, Leaf)> {
    let mut hosts: Vec<(A, Ifindex)> =
        model.neighbours.keys().filter_map(|(dev, address)| Some((A::from_ip(*address)?, *dev))).collect();
    hosts.sort_unstable();
    let mut cuts = Vec::with_capacity(intervals.len() + 2 * hosts.len());
    let mut hosts = hosts.into_iter().peekable();
    for (position, (start, leaf)) in intervals.iter().copied().enumerate() {
        push(&mut cuts, start, leaf);
        let end = intervals.get(position + 1).map(|(end, _)| *end);
        while let Some((address, dev)) = hosts.next_if(|(address, _)| end.is_none_or(|end| *address < end)) {
            let Leaf::Path(number) = leaf else { continue };
            let outer = paths.get(number);
            if outer.on_link() != Some(dev) {
                continue;
            }
            let host = Path { hops: vec![(Who { dev, via: Some(address.to_ip()) }, 1)], mtu: outer.mtu };
            if !claim(&host) {
                continue;
            }
            push(&mut cuts, address, Leaf::Path(paths.number(host)));
            if let Some(next) = address.next().filter(|next| end.is_none_or(|end| *next < end)) {
                push(&mut cuts, next, leaf);
            }
        }
    }
    cuts
}
