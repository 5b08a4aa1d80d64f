//! Changes of tables that are live: a rule more or less.
//!
//! What is new is written where nothing was; then one word leads to it. So a packet meets a run as it was or as it will be.
//! The boxes of a rule never overlap: a packet meets one of them at most, and the rule is there for it or it is not.
//!
//! Nothing is taken away from tables but what leads to it. The next [`super::build`] makes them small again.

use std::collections::HashMap;

use dataplane_common::abi::{CatchAll, Class, Ruling, Search, Tables, WORDS, entry as word, place, table, trace};

use super::{
    Image, Rests, Row, addresses, entry_words,
    image::{Builder, Slots},
    screen,
    tuple::{Item, Mask, fresh_mask},
    words, write_rows,
};
use crate::lower::filter::{Entry, key};

/// Runs that are longer than this are shared out better by building anew.
const LONGEST: usize = 64;
/// Slots of a table that is opened.
const SLOTS: usize = 64;

/// What to write into the generation that is live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amendment {
    /// Where what is new begins: all of the image from there on is written first.
    pub fresh: usize,
    /// Then these words, one after the other: where, and what.
    pub leads: Vec<(usize, u64)>,
    /// At last where the tables are, if that has changed: a number by one byte.
    pub headed: bool,
}

impl Image {
    /// Puts a rule's boxes into the tables of a chain. Their orders are that of no other rule. `None`, and nothing changed,
    /// where one fits into no table, or would be one of too many, and where one asks sets: those are found by building.
    pub fn insert(&mut self, chain: usize, boxes: &[Entry]) -> Option<Amendment> {
        if ask_sets(boxes) {
            return None;
        }
        let mut placed = Vec::new();
        for class in Class::ALL {
            let entries = of_class(boxes, class);
            let homeless = entries.iter().filter(|entry| self.home(chain, class, entry).is_none()).count();
            if homeless > self.room(chain, class) {
                return None;
            }
            placed.extend(entries.into_iter().map(|entry| (class, entry)));
        }
        let mut desk = Desk::new(self);
        for (class, entry) in &placed {
            let home = desk.image.home(chain, *class, entry).or_else(|| desk.open(chain, *class, entry))?;
            desk.insert(chain, *class, home, entry);
        }
        Some(desk.close())
    }

    /// How many tables can be opened.
    fn room(&self, chain: usize, class: Class) -> usize {
        let number = class.number() as usize;
        let count = self.filter.tables[chain][number].count;
        // The kernel may write a number byte by byte, while programs read it: only its last byte may change.
        self.spare[chain][number].min(0xff - (count & 0xff)) as usize
    }

    /// Takes a rule's boxes out of the tables of a chain. `others` gives those of all other rules of the chain that may be
    /// the same as one for packets that can not be read, in order, with their orders and counters; nothing if they are not
    /// known. Of what is said of such packets, only the first rule's is there.
    pub fn remove<O: Iterator<Item = (Entry, u32, u32)>>(
        &mut self,
        chain: usize,
        boxes: &[Entry],
        others: impl Fn(&Entry) -> Option<O>,
    ) -> Option<Amendment> {
        if ask_sets(boxes) {
            return None;
        }
        let mut heirs = Vec::new();
        for class in Class::ALL.into_iter().filter(|class| class.is_dim()) {
            for entry in of_class(boxes, class).into_iter().filter(|entry| entry.ruling == Ruling::Unreadable) {
                if self.tables(chain, class).any(|home| self.holds(class, home, &entry)) {
                    let heir = others(&entry)?.find_map(|other| heir(&entry, other));
                    heirs.extend(heir.map(|heir| (class, heir)));
                }
            }
        }
        let mut homes = Vec::with_capacity(heirs.len());
        for (class, heir) in &heirs {
            homes.push(self.home(chain, *class, heir)?);
        }
        let mut desk = Desk::new(self);
        // The heirs first: in between, both are there, and say the same.
        for ((class, heir), home) in heirs.iter().zip(homes) {
            desk.insert(chain, *class, home, heir);
        }
        for class in Class::ALL {
            for entry in of_class(boxes, class) {
                desk.remove(chain, class, &entry);
            }
        }
        Some(desk.close())
    }

    fn tables(&self, chain: usize, class: Class) -> impl Iterator<Item = u32> + use<> {
        let Tables { first, count, .. } = self.filter.tables[chain][class.number() as usize];
        first..first + count
    }

    /// The table for an entry: of those that take it, the one whose run is shortest.
    fn home(&self, chain: usize, class: Class, entry: &Entry) -> Option<u32> {
        let item = Item::new(entry, class.is_ipv6());
        let homes = self.tables(chain, class).filter(|home| self.mask(*home).takes(&item, class.is_ipv6()));
        let lengths = homes.map(|home| (self.run(class, self.slot(class, home, &item).0).len(), home));
        lengths.min_by_key(|(length, _)| *length).filter(|(length, _)| *length < LONGEST).map(|(_, home)| home)
    }

    fn mask(&self, home: u32) -> Mask {
        let line = &self.words[home as usize * WORDS..][..WORDS];
        let mut address = [0; table::MIXED];
        address.copy_from_slice(&line[..table::MIXED]);
        Mask { address, mixed: line[table::MIXED] }
    }

    /// The word that leads to the run of an entry, and which bit of it tells of such.
    fn slot(&self, class: Class, home: u32, item: &Item) -> (usize, u64) {
        let slots = self.words[home as usize * WORDS + table::SLOTS];
        let (first, shift) = (slots as u32, (slots >> 32) as u32);
        let tag = self.mask(home).tag(item, class.is_ipv6());
        (first as usize * WORDS + place(tag, shift) as usize, trace(tag, shift))
    }

    /// The entries that a slot leads to.
    fn run(&self, class: Class, slot: usize) -> Vec<Row> {
        let (words, numbers) = (words(class) as usize, addresses(class) + word::NUMBERS);
        let mut rows = Vec::new();
        let unit = self.words[slot] as u32 as usize;
        if unit == 0 {
            return rows;
        }
        let mut at = unit * word::WORDS_V4 as usize;
        loop {
            let mut row = [0; WORDS];
            row[..words].copy_from_slice(&self.words[at..][..words]);
            let last = row[numbers] & word::LAST != 0;
            row[numbers] &= !word::LAST;
            rows.push(row);
            if last {
                return rows;
            }
            at += words;
        }
    }

    fn holds(&self, class: Class, home: u32, entry: &Entry) -> bool {
        let item = Item::new(entry, class.is_ipv6());
        self.mask(home).takes(&item, class.is_ipv6())
            && self.run(class, self.slot(class, home, &item).0).iter().any(|row| order(class, row) == entry.order)
    }
}

fn ask_sets(boxes: &[Entry]) -> bool {
    boxes.iter().any(|entry| entry.sets.iter().any(Option::is_some))
}

/// What boxes are for packets of a class, each once.
fn of_class(boxes: &[Entry], class: Class) -> Vec<Entry> {
    let family = if class.is_ipv6() { 6 } else { 4 };
    let mut found: Vec<Entry> = Vec::new();
    for entry in boxes.iter().filter(|entry| entry.is_for(family)) {
        let entry = if class.is_dim() { entry.dimmed() } else { Some(*entry) };
        found.extend(entry.filter(|entry| !found.contains(entry)));
    }
    found
}

/// What another rule's box says of packets that can not be read, if it is the same.
fn heir(entry: &Entry, (other, order, counter): (Entry, u32, u32)) -> Option<Entry> {
    // Most differ here, and the copy is large.
    if other.value[..key::REST] != entry.value[..key::REST] {
        return None;
    }
    let other = other.dimmed()?;
    let heir = Entry { order, counter, ..*entry };
    (Entry { order, counter, ..other } == heir).then_some(heir)
}

fn order(class: Class, row: &Row) -> u32 {
    (row[addresses(class) + word::NUMBERS] >> 32) as u32
}

/// Where an image is changed.
struct Desk<'i> {
    image: &'i mut Image,
    amendment: Amendment,
}

impl<'i> Desk<'i> {
    fn new(image: &'i mut Image) -> Self {
        let amendment = Amendment { fresh: image.words.len(), ..Amendment::default() };
        Self { image, amendment }
    }

    fn lead(&mut self, at: usize, to: u64) {
        self.image.words[at] = to;
        self.amendment.leads.push((at, to));
    }

    /// Appends lines by a builder.
    fn build<T>(&mut self, make: impl FnOnce(&mut Builder) -> T) -> T {
        let mut builder = Builder::behind(std::mem::take(&mut self.image.words));
        let done = make(&mut builder);
        self.image.words = builder.into_words();
        done
    }

    /// A table more, for an entry that none takes. There is room.
    fn open(&mut self, chain: usize, class: Class, entry: &Entry) -> Option<u32> {
        let item = Item::new(entry, class.is_ipv6());
        let known: Vec<_> = self.image.tables(chain, class).map(|home| self.image.mask(home)).collect();
        let mask = fresh_mask(&item, class.is_ipv6(), |mask| known.contains(mask))?;
        let slots = self.build(|builder| Slots::<()>::new(SLOTS).write(builder, |_, _| 0));
        let number = class.number() as usize;
        let Tables { first, count, .. } = self.image.filter.tables[chain][number];
        let home = first + count;
        let at = home as usize * WORDS;
        for (word, value) in mask.address.into_iter().enumerate() {
            self.lead(at + word, value);
        }
        self.lead(at + table::MIXED, mask.mixed);
        self.lead(at + table::SLOTS, slots);
        // Of no rule yet.
        self.lead(at + table::FIRST, u64::from(u32::MAX));
        self.image.filter.tables[chain][number].count += 1;
        self.image.spare[chain][number] -= 1;
        self.amendment.headed = true;
        Some(home)
    }

    fn insert(&mut self, chain: usize, class: Class, home: u32, entry: &Entry) {
        let item = Item::new(entry, class.is_ipv6());
        let (slot, trace) = self.image.slot(class, home, &item);
        let mut rows = self.image.run(class, slot);
        let unit = self.build(|builder| {
            let mut rests = Rests { known: HashMap::new(), sets: &[] };
            let row = entry_words(builder, &mut rests, entry, &item, class);
            let behind = rows.partition_point(|row| order(class, row) <= entry.order);
            rows.insert(behind, row);
            write_rows(builder, &mut rows, class)
        });
        let Tables { first, screen, .. } = self.image.filter.tables[chain][class.number() as usize];
        screen::tell(screen, home - first, &item, class.is_ipv6(), |word| {
            let told = self.image.words[word];
            if told & screen::bit(home - first) == 0 {
                self.lead(word, told | screen::bit(home - first));
            }
        });
        // Tables are asked until what was found is before all that is in them and in those behind.
        for table in self.image.tables(chain, class).take_while(|table| *table <= home) {
            let first = table as usize * WORDS + table::FIRST;
            if self.image.words[first] > entry.order.into() {
                self.lead(first, entry.order.into());
            }
        }
        let traces = self.image.words[slot] & !u64::from(u32::MAX);
        self.lead(slot, traces | trace | u64::from(unit));
    }

    fn remove(&mut self, chain: usize, class: Class, entry: &Entry) {
        let CatchAll { order: caught, .. } = &mut self.image.filter.tables[chain][class.number() as usize].catch_all;
        if *caught == u64::from(entry.order) {
            *caught |= Search::NONE;
            self.amendment.headed = true;
            return;
        }
        let item = Item::new(entry, class.is_ipv6());
        for home in self.image.tables(chain, class) {
            if !self.image.mask(home).takes(&item, class.is_ipv6()) {
                continue;
            }
            let (slot, _) = self.image.slot(class, home, &item);
            let mut rows = self.image.run(class, slot);
            let before = rows.len();
            rows.retain(|row| order(class, row) != entry.order);
            if rows.len() == before {
                continue;
            }
            let traces = self.image.words[slot] & !u64::from(u32::MAX);
            let to = if rows.is_empty() {
                0
            } else {
                traces | u64::from(self.build(|builder| write_rows(builder, &mut rows, class)))
            };
            self.lead(slot, to);
        }
    }

    fn close(self) -> Amendment {
        self.amendment
    }
}
