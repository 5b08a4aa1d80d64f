//! Changes of tables that are live: a rule more or less.
//!
//! What is new is written where nothing was; then one word leads to it. So a packet meets a run as it was or as it will be.
//! The boxes of a rule never overlap: a packet meets one of them at most, and the rule is there for it or it is not.
//!
//! Nothing is taken away from tables but what leads to it. The next [`super::build`] makes them small again.

use std::collections::HashMap;

use dataplane_common::abi::{
    ActionCode, CatchAll, Class, Search, TABLES, Tables, WORDS, bloom_bit, entry as word, slot_index, table,
};

use super::{
    ExtraFields, Image, Row, addresses, entry_words,
    image::{Builder, Slots},
    of_class, prefilter, set,
    tuple::{Item, Mask, fresh_mask},
    words, write_rows,
};
use crate::lower::filter::{Elements, Entry, key};

/// Runs that are longer than this are shared out better by building anew.
const LONGEST: usize = 64;
/// Slots of a table that is opened.
const SLOTS: usize = 64;

/// What to write into the generation that is live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Where what is new begins: all of the image from there on is written first.
    pub appended_from: usize,
    /// Then these words, one after the other: where, and what.
    pub pointer_writes: Vec<(usize, u64)>,
    /// At last where the tables are, if that has changed: a number by one byte.
    pub header_changed: bool,
}

impl Image {
    /// Puts a rule's boxes into the tables of a chain, with the sets that it is the first to match. No other rule has their
    /// orders. `None`, and nothing changed, where one fits into no table, or would be one too many: those need a new build.
    pub fn insert(&mut self, chain: usize, boxes: &[Entry], sets: &[Elements]) -> Option<Patch> {
        if sets.iter().any(|set| set.tables.len() > TABLES as usize) {
            return None;
        }
        let mut placed = Vec::new();
        for class in Class::ALL {
            let entries = each_of_class(boxes, class);
            let unplaced = entries.iter().filter(|entry| self.table_line(chain, class, entry).is_none()).count();
            if unplaced > self.room(chain, class) {
                return None;
            }
            placed.extend(entries.into_iter().map(|entry| (class, entry)));
        }
        let mut editor = Editor::new(self);
        for set in sets {
            let tables = editor.build(|builder| set::write(builder, set)).ok()?;
            editor.image.sets.push(tables);
        }
        for (class, entry) in &placed {
            let table_line =
                editor.image.table_line(chain, *class, entry).or_else(|| editor.open(chain, *class, entry))?;
            editor.insert(chain, *class, table_line, entry);
        }
        Some(editor.close())
    }

    /// How many tables can be opened.
    fn room(&self, chain: usize, class: Class) -> usize {
        let number = class.number() as usize;
        let count = self.filter.tables[chain][number].count;
        // The kernel may write a number byte by byte, while programs read it: only its last byte may change.
        self.free_tables[chain][number].min(0xff - (count & 0xff)) as usize
    }

    /// Takes a rule's boxes out of the tables of a chain. `others` gives those of all other rules of the chain that may be the
    /// same as one for unreadable packets, in order, with their orders and counters. For unreadable packets, only the first
    /// rule's variant is in the tables. `None`, and nothing changed, where another's variant fits into no table.
    pub fn remove<O: Iterator<Item = (Entry, u32, u32)>>(
        &mut self,
        chain: usize,
        boxes: &[Entry],
        others: impl Fn(&Entry) -> O,
    ) -> Option<Patch> {
        let mut replacements = Vec::new();
        for class in Class::ALL.into_iter().filter(|class| class.is_unreadable()) {
            for entry in
                each_of_class(boxes, class).into_iter().filter(|entry| entry.action_code == ActionCode::Unreadable)
            {
                if self.tables(chain, class).any(|table_line| self.holds(class, table_line, &entry)) {
                    let replacement = others(&entry).find_map(|other| replacement(&entry, other));
                    replacements.extend(replacement.map(|replacement| (class, replacement)));
                }
            }
        }
        let mut tables = Vec::with_capacity(replacements.len());
        for (class, replacement) in &replacements {
            tables.push(self.table_line(chain, *class, replacement)?);
        }
        let mut editor = Editor::new(self);
        // The heirs first: in between, both are there, and say the same.
        for ((class, replacement), table_line) in replacements.iter().zip(tables) {
            editor.insert(chain, *class, table_line, replacement);
        }
        for class in Class::ALL {
            for entry in each_of_class(boxes, class) {
                editor.remove(chain, class, &entry);
            }
        }
        Some(editor.close())
    }

    fn tables(&self, chain: usize, class: Class) -> impl Iterator<Item = u32> + use<> {
        let Tables { first, count, .. } = self.filter.tables[chain][class.number() as usize];
        first..first + count
    }

    /// The table for an entry: of those that take it, the one whose run is shortest.
    fn table_line(&self, chain: usize, class: Class, entry: &Entry) -> Option<u32> {
        let item = Item::new(entry, class.is_ipv6());
        let tables =
            self.tables(chain, class).filter(|table_line| self.mask(*table_line).takes(&item, class.is_ipv6()));
        let lengths =
            tables.map(|table_line| (self.run(class, self.slot(class, table_line, &item).0).len(), table_line));
        lengths
            .min_by_key(|(length, _)| *length)
            .filter(|(length, _)| *length < LONGEST)
            .map(|(_, table_line)| table_line)
    }

    fn mask(&self, table_line: u32) -> Mask {
        let line = &self.words[table_line as usize * WORDS..][..WORDS];
        let mut address = [0; table::MIXED];
        address.copy_from_slice(&line[..table::MIXED]);
        Mask { address, mixed: line[table::MIXED] }
    }

    /// The word that points to the run of an entry, and its bloom bit.
    fn slot(&self, class: Class, table_line: u32, item: &Item) -> (usize, u64) {
        let slots = self.words[table_line as usize * WORDS + table::SLOTS];
        let (first, shift) = (slots as u32, (slots >> 32) as u32);
        let tag = self.mask(table_line).tag(item, class.is_ipv6());
        (first as usize * WORDS + slot_index(tag, shift) as usize, bloom_bit(tag, shift))
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

    fn holds(&self, class: Class, table_line: u32, entry: &Entry) -> bool {
        let item = Item::new(entry, class.is_ipv6());
        self.mask(table_line).takes(&item, class.is_ipv6())
            && self.run(class, self.slot(class, table_line, &item).0).iter().any(|row| order(class, row) == entry.order)
    }
}

/// What boxes are for packets of a class, each once.
fn each_of_class(boxes: &[Entry], class: Class) -> Vec<Entry> {
    let family = if class.is_ipv6() { 6 } else { 4 };
    let mut found: Vec<Entry> = Vec::new();
    for entry in boxes.iter().filter(|entry| entry.is_for(family)) {
        found.extend(of_class(entry, class).filter(|entry| !found.contains(entry)));
    }
    found
}

/// The variant of another rule's box for unreadable packets, if it is the same.
fn replacement(entry: &Entry, (other, order, counter): (Entry, u32, u32)) -> Option<Entry> {
    // Most differ here, and the copy is large.
    if other.value[..key::FIELDS] != entry.value[..key::FIELDS] {
        return None;
    }
    let other = other.for_unreadable()?;
    let replacement = Entry { order, counter, ..*entry };
    (Entry { order, counter, ..other } == replacement).then_some(replacement)
}

fn order(class: Class, row: &Row) -> u32 {
    (row[addresses(class) + word::NUMBERS] >> 32) as u32
}

/// Where an image is changed.
struct Editor<'i> {
    image: &'i mut Image,
    patch: Patch,
}

impl<'i> Editor<'i> {
    fn new(image: &'i mut Image) -> Self {
        let patch = Patch { appended_from: image.words.len(), ..Patch::default() };
        Self { image, patch }
    }

    fn write_pointer(&mut self, at: usize, to: u64) {
        self.image.words[at] = to;
        self.patch.pointer_writes.push((at, to));
    }

    /// Appends lines by a builder.
    fn build<T>(&mut self, make: impl FnOnce(&mut Builder) -> T) -> T {
        let mut builder = Builder::appending_to(std::mem::take(&mut self.image.words));
        let done = make(&mut builder);
        self.image.words = builder.into_words();
        done
    }

    /// A table more, for an entry that none takes. There is room.
    fn open(&mut self, chain: usize, class: Class, entry: &Entry) -> Option<u32> {
        let item = Item::new(entry, class.is_ipv6());
        let known: Vec<_> = self.image.tables(chain, class).map(|table_line| self.image.mask(table_line)).collect();
        let mask = fresh_mask(&item, class.is_ipv6(), |mask| known.contains(mask))?;
        let slots = self.build(|builder| Slots::<()>::new(SLOTS).write(builder, |_, _| 0));
        let number = class.number() as usize;
        let Tables { first, count, .. } = self.image.filter.tables[chain][number];
        let table_line = first + count;
        let at = table_line as usize * WORDS;
        for (word, value) in mask.address.into_iter().enumerate() {
            self.write_pointer(at + word, value);
        }
        self.write_pointer(at + table::MIXED, mask.mixed);
        self.write_pointer(at + table::SLOTS, slots);
        // Of no rule yet.
        self.write_pointer(at + table::FIRST, u64::from(u32::MAX));
        self.image.filter.tables[chain][number].count += 1;
        self.image.free_tables[chain][number] -= 1;
        self.patch.header_changed = true;
        Some(table_line)
    }

    fn insert(&mut self, chain: usize, class: Class, table_line: u32, entry: &Entry) {
        let item = Item::new(entry, class.is_ipv6());
        let (slot, bloom_bit) = self.image.slot(class, table_line, &item);
        let mut rows = self.image.run(class, slot);
        let transport = self.image.filter.transport;
        let sets = std::mem::take(&mut self.image.sets);
        let unit = self.build(|builder| {
            let mut extra_fields = ExtraFields { known: HashMap::new(), sets: &sets, transport, is_live: true };
            let row = entry_words(builder, &mut extra_fields, entry, &item, class);
            let behind = rows.partition_point(|row| order(class, row) <= entry.order);
            rows.insert(behind, row);
            write_rows(builder, &mut rows, class)
        });
        self.image.sets = sets;
        let Tables { first, prefilter, .. } = self.image.filter.tables[chain][class.number() as usize];
        prefilter::set(prefilter, table_line - first, &item, class.is_ipv6(), |word| {
            let bits = self.image.words[word];
            if bits & prefilter::bit(table_line - first) == 0 {
                self.write_pointer(word, bits | prefilter::bit(table_line - first));
            }
        });
        // Tables are searched until the match comes before all that is in them and in those behind.
        for table in self.image.tables(chain, class).take_while(|table| *table <= table_line) {
            let first = table as usize * WORDS + table::FIRST;
            if self.image.words[first] > entry.order.into() {
                self.write_pointer(first, entry.order.into());
            }
        }
        let traces = self.image.words[slot] & !u64::from(u32::MAX);
        self.write_pointer(slot, traces | bloom_bit | u64::from(unit));
    }

    fn remove(&mut self, chain: usize, class: Class, entry: &Entry) {
        let CatchAll { order: caught, .. } = &mut self.image.filter.tables[chain][class.number() as usize].catch_all;
        if *caught == u64::from(entry.order) {
            *caught |= Search::NONE;
            self.patch.header_changed = true;
            return;
        }
        let item = Item::new(entry, class.is_ipv6());
        for table_line in self.image.tables(chain, class) {
            if !self.image.mask(table_line).takes(&item, class.is_ipv6()) {
                continue;
            }
            let (slot, _) = self.image.slot(class, table_line, &item);
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
            self.write_pointer(slot, to);
        }
    }

    fn close(self) -> Patch {
        self.patch
    }
}
