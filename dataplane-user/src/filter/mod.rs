//! The tables of the filter as the kernel half reads them, built from what the rules were lowered to.
//!
//! Entries go into tables by the mask of the fields that they match, made coarser where that saves a table (the idea of
//! `TupleMerge`: Daly and others, IEEE/ACM Transactions on Networking, 2019). See [`dataplane_common::abi::Filter`] for how a
//! packet is matched.

mod image;
mod patch;
mod prefilter;
mod search;
mod self_test;
mod set;
mod tuple;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

use dataplane_common::abi::{
    ActionCode, CHAINS, CatchAll, Class, FIELD_WORDS, Filter, KeyFlags, Selector, Span, TRANSPORT_BITS, Tables, WORDS,
    entry as word, extra, field, table,
};
use thiserror::Error;

pub use image::Image;
pub use patch::Patch;
pub use search::{Effort, Found};
pub use self_test::SelfTest;

use crate::{
    lower::filter::{Entry, LoweredFilter, Memberships, key},
    parallel::both,
};
use image::{Builder, FREE_TABLES, Slots, slots_for};
use tuple::{Filled, Item, Tuples};

/// Why tables cannot be built.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BuildError {
    /// A set's elements have too many different masks.
    #[error(
        "a set has elements of {0} different shapes (prefix lengths, and those of ranges, multiplied over its parts), and \
         at most {max} are possible: write prefixes rather than ranges",
        max = dataplane_common::abi::TABLES
    )]
    Shapes(usize),
}

/// Builds the tables of all chains.
///
/// # Errors
/// A set that has no hash table.
pub fn build(lowered: &LoweredFilter) -> Result<Image, BuildError> {
    let mut builder = Builder::default();
    let sets = lowered.sets.iter().map(|set| set::write(&mut builder, set)).collect::<Result<Vec<_>, _>>()?;
    let mut extra_fields = ExtraFields { known: HashMap::new(), sets: &sets, transport: 0, is_live: false };
    let mut filter = Filter { lenient: lowered.lenient.into(), ..Filter::default() };
    for chain in 0..CHAINS {
        filter.policies[chain] = lowered.policies[chain] as u32;
        let entries = &lowered.entries[chain];
        let sorted = |classes: &[Class]| classes.iter().map(|class| Sorted::new(entries, *class)).collect::<Vec<_>>();
        let (readable, unreadable): (Vec<_>, Vec<_>) = Class::ALL.into_iter().partition(|class| !class.is_unreadable());
        let (readable, unreadable) = both(entries.len(), || sorted(&readable), || sorted(&unreadable));
        for sorted in readable.into_iter().chain(unreadable) {
            let class = sorted.class;
            filter.tables[chain][class.number() as usize] = sorted.write(&mut builder, &mut extra_fields);
        }
    }
    filter.transport = extra_fields.transport;
    Ok(builder.finish(&filter, sets))
}

/// What a chain's entries are for packets of a class, in tables by their masks.
struct Sorted<'e> {
    class: Class,
    entries: &'e [Entry],
    /// Which entry, and what tables are searched for.
    items: Vec<(u32, Item)>,
    tables: Vec<Filled>,
    catch_all: Option<CatchAll>,
}

impl<'e> Sorted<'e> {
    fn new(entries: &'e [Entry], class: Class) -> Self {
        let family = if class.is_ipv6() { 6 } else { 4 };
        let mut tuples = Tuples::default();
        let mut items = Vec::new();
        let mut catch_all = None;
        let mut said = Said::default();
        for (place, entry) in (0..).zip(entries).filter(|(_, entry)| entry.is_for(family)) {
            let Some(entry) = of_class(entry, class) else { continue };
            if class.is_unreadable() && !said.is_news(&entry, place, entries) {
                continue;
            }
            if catch_all.is_none() && entry.is_catch_all() {
                catch_all = Some(CatchAll { order: entry.order.into(), rule: rule_word(&entry) });
                continue;
            }
            let item = Item::new(&entry, class.is_ipv6());
            tuples.insert(items.len() as u32, &item, class.is_ipv6());
            items.push((place, item));
        }
        let mut sorted = Self { class, entries, items, tables: Vec::new(), catch_all };
        let mut tables = tuples.into_tables();
        // Tables were filled in the order of the rules.
        tables.sort_by_key(|table| sorted.first(table));
        sorted.tables = tables;
        sorted
    }

    /// The order of the first rule in a table.
    fn first(&self, table: &Filled) -> u64 {
        let order = |number: u32| self.entries[self.items[number as usize].0 as usize].order;
        table.members.first().map_or(u64::MAX, |(_, number)| order(*number).into())
    }

    fn write(self, builder: &mut Builder, extra_fields: &mut ExtraFields<'_>) -> Tables {
        let class = self.class;
        let lines = builder.lines(self.tables.len() as u32 + FREE_TABLES);
        let mut rows = Vec::new();
        for (place, table) in self.tables.iter().enumerate() {
            let mut slots = Slots::new(slots_for(table.tags));
            for (tag, number) in &table.members {
                slots.add(*tag, *number);
            }
            let slots = slots.write(builder, |builder, run| {
                rows.clear();
                for (_, number) in run {
                    let (place, item) = &self.items[*number as usize];
                    let entry = of_class(&self.entries[*place as usize], class);
                    rows.extend(entry.map(|entry| entry_words(builder, extra_fields, &entry, item, class)));
                }
                write_rows(builder, &mut rows, class)
            });
            let line = builder.line(lines + place as u32);
            line[..table::MIXED].copy_from_slice(&table.mask.address);
            line[table::MIXED] = table.mask.mixed;
            line[table::SLOTS] = slots;
            line[table::FIRST] = self.first(table);
        }
        let of_table =
            |table: &Filled| table.members.iter().map(|(_, number)| &self.items[*number as usize].1).collect();
        let prefilter =
            prefilter::write(builder, &self.tables.iter().map(of_table).collect::<Vec<_>>(), class.is_ipv6());
        let count = self.tables.len() as u32;
        Tables { first: lines, count, prefilter, catch_all: self.catch_all.unwrap_or_default() }
    }
}

/// What an entry is for packets of a class; none: they do not match it.
fn of_class(entry: &Entry, class: Class) -> Option<Entry> {
    if class.is_unreadable() { entry.for_unreadable() } else { Some(*entry) }
}

/// The variants for unreadable packets that are there already: many rules differ only in ports.
#[derive(Default)]
struct Said {
    /// The place of the first, by its hash. The variants themselves would take as much memory as all entries.
    first: HashMap<u64, u32>,
    hasher: RandomState,
}

impl Said {
    /// Whether none of those before says the same as this one, which is that of the entry at a place.
    fn is_news(&mut self, entry: &Entry, place: u32, entries: &[Entry]) -> bool {
        if entry.action_code != ActionCode::Unreadable {
            return true;
        }
        let alone = |entry: &Entry| Entry { order: 0, counter: 0, ..*entry };
        let first = *self.first.entry(self.hasher.hash_one(alone(entry))).or_insert(place);
        // Where two hash to the same, both are written, and nothing is lost.
        let before = entries[first as usize].for_unreadable();
        first == place || before.is_none_or(|before| alone(&before) != alone(entry))
    }
}

/// Writes the rows of a run.
fn write_rows(builder: &mut Builder, rows: &mut [Row], class: Class) -> u32 {
    let (words, numbers) = (words(class), addresses(class) + word::NUMBERS);
    if let Some(last) = rows.last_mut() {
        last[numbers] |= word::LAST;
    }
    let unit = builder.units(rows.len() as u32 * words / word::WORDS_V4, class.is_ipv6());
    for (row, index) in rows.iter().zip(0..) {
        builder.write(unit * word::WORDS_V4 + index * words, &row[..words as usize]);
    }
    unit
}

/// Words of an entry.
const fn words(class: Class) -> u32 {
    if class.is_ipv6() { word::WORDS_V6 } else { word::WORDS_V4 }
}

/// Words that addresses take in an entry.
const fn addresses(class: Class) -> usize {
    if class.is_ipv6() { 4 } else { 1 }
}

/// An entry; IPv4 uses half of it.
type Row = [u64; WORDS];

fn entry_words(
    builder: &mut Builder,
    extra_fields: &mut ExtraFields<'_>,
    entry: &Entry,
    item: &Item,
    class: Class,
) -> Row {
    let mut words = [0; WORDS];
    let behind = addresses(class);
    words[..behind].copy_from_slice(&item.address[..behind]);
    let span = |span: Span| u64::from(span.low) << 16 | u64::from(span.high);
    words[behind + word::PORTS] = span(entry.source_port) << 32 | span(entry.destination_port);
    let protocol = item.protocol.map_or(0, |protocol| u64::from(protocol) << 8 | word::PROTOCOL);
    let flags = protocol | u64::from(entry.needs.bits());
    let lengths = if class.is_ipv6() {
        let halves = item.lengths.into_iter().flat_map(|length| [length.min(64), length.saturating_sub(64)]);
        words[word::LENGTHS_V6] = halves.rev().fold(0, |lengths, half| lengths << 8 | u64::from(half));
        0
    } else {
        u64::from(item.lengths[0]) << 24 | u64::from(item.lengths[1]) << 16
    };
    words[behind + word::NUMBERS] = u64::from(entry.order) << 32 | lengths | flags;
    let rest = extra_fields.unit(builder, entry, item.protocol.is_some());
    words[behind + word::RULE] = u64::from(rest) << 32 | rule_word(entry);
    words
}

/// The word [`word::RULE`] of an entry, but for its rest.
fn rule_word(entry: &Entry) -> u64 {
    u64::from(entry.acts.bits()) << 28 | (entry.action_code as u64) << 24 | u64::from(entry.counter) & word::COUNTER
}

/// The fields of entries besides addresses, protocol and ports: many entries share them, so each combination is there once.
struct ExtraFields<'a> {
    known: HashMap<([u64; FIELD_WORDS], Span, Memberships), u32>,
    /// Where the tables of each set are.
    sets: &'a [Tables],
    /// [`Filter::transport`].
    transport: u32,
    /// It is that of a live generation, and stays.
    is_live: bool,
}

impl ExtraFields<'_> {
    /// The unit of an entry's rest, or 0 when it has none.
    fn unit(&mut self, builder: &mut Builder, entry: &Entry, protocol_compared: bool) -> u32 {
        let mut masks = [0; FIELD_WORDS];
        for (at, pair) in masks.iter_mut().enumerate() {
            let mut mask = entry.mask[key::FIELDS + at];
            if key::FIELDS + at == key::NETWORK {
                // The family is that of the class.
                mask &= if protocol_compared { 0x0000_ffff } else { 0x00ff_ffff };
            }
            let [value, mask] = [entry.value[key::FIELDS + at] & mask, mask].map(|word| field::key_order(at, word));
            *pair = u64::from(mask) << 32 | u64::from(value);
        }
        if masks == [0; FIELD_WORDS] && entry.length == Span::FULL && entry.sets.iter().all(Option::is_none) {
            return 0;
        }
        let sets = self.sets;
        let beyond = if self.is_in_verdict_rows(&masks, entry) { 0 } else { extra::BEYOND };
        *self.known.entry((masks, entry.length, entry.sets)).or_insert_with(|| {
            let line = builder.lines(2);
            builder.line(line).copy_from_slice(&masks);
            let mut second = [0; WORDS];
            let mut negated = 0;
            let asked = entry.sets.iter().flatten();
            for (number, set) in asked.clone().enumerate() {
                let Tables { first, count, .. } = sets[set.set as usize];
                second[extra::SETS + 2 * number] = u64::from(first) << 32 | u64::from(count);
                second[extra::SETS + 2 * number + 1] = set.selectors;
                negated |= u64::from(set.negated) << number;
            }
            let length = u64::from(entry.length.low) << 16 | u64::from(entry.length.high);
            second[extra::LENGTH] = beyond | (negated << 8 | asked.count() as u64) << 32 | length;
            builder.line(line + 1).copy_from_slice(&second);
            2 * line
        })
    }

    /// Whether all that a rest matches of a packet is in a row of the verdict cache.
    fn is_in_verdict_rows(&mut self, masks: &[u64; FIELD_WORDS], entry: &Entry) -> bool {
        let mask = |at: usize| (masks[at] >> 32) as u32;
        let transport = mask(field::TRANSPORT);
        let others = [field::VLAN_FRAGMENT, field::LINK_DESTINATION, field::LINK_MIDDLE, field::LINK_SOURCE];
        // DSCP and TTL, of the first; the protocol is in all rows.
        let others = mask(field::NETWORK) & 0xffff | others.into_iter().fold(0, |all, at| all | mask(at));
        let selects_others = |selectors: u64| selectors.to_le_bytes().iter().any(|one| *one > Selector::Oif as u8);
        if others != 0
            || entry.length != Span::FULL
            || entry.sets.iter().flatten().any(|set| selects_others(set.selectors))
            || transport & !TRANSPORT_BITS != 0
        {
            return false;
        }
        if self.is_live {
            return transport & !self.transport == 0;
        }
        self.transport |= transport;
        true
    }
}

/// What a rule that needs nothing to be readable needs.
const _: () = assert!(KeyFlags::all().bits() <= 0xf && ActionCode::Unreadable as u8 <= 0xf);
