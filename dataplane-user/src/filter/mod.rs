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

use std::collections::{HashMap, HashSet};

use dataplane_common::abi::{
    ActionCode, CHAINS, CatchAll, Class, FIELD_WORDS, Filter, KeyFlags, Selector, Span, TRANSPORT_BITS, Tables, WORDS,
    entry as word, extra, field, table,
};
use thiserror::Error;

pub use image::Image;
pub use patch::Patch;
pub use search::{Effort, Found};
pub use self_test::SelfTest;

use crate::lower::filter::{Entry, LoweredFilter, Memberships, key};
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
        for class in Class::ALL {
            let tables = class_tables(&mut builder, &mut extra_fields, &lowered.entries[chain], class);
            filter.tables[chain][class.number() as usize] = tables;
        }
    }
    filter.transport = extra_fields.transport;
    Ok(builder.finish(&filter, sets))
}

/// The tables of one class of packets.
fn class_tables(builder: &mut Builder, extra_fields: &mut ExtraFields<'_>, entries: &[Entry], class: Class) -> Tables {
    let family = if class.is_ipv6() { 6 } else { 4 };
    let ours = entries.iter().filter(|entry| entry.is_for(family));
    let for_unreadable = if class.is_unreadable() { for_unreadable(ours.clone()) } else { Vec::new() };
    let ours: Vec<_> = if class.is_unreadable() { for_unreadable.iter().collect() } else { ours.collect() };
    let mut tuples = Tuples::default();
    let mut items = Vec::with_capacity(ours.len());
    let mut catch_all = None;
    for entry in ours {
        if catch_all.is_none() && entry.is_catch_all() {
            catch_all = Some(CatchAll { order: entry.order.into(), rule: rule_word(entry) });
            continue;
        }
        let item = Item::new(entry, class.is_ipv6());
        tuples.insert(items.len() as u32, &item, class.is_ipv6());
        items.push((entry, item));
    }
    let mut tables = tuples.into_tables();
    let order = |number: u32| items[number as usize].0.order;
    // Tables were filled in the order of the rules.
    let first = |members: &[(u32, u32)]| members.first().map_or(u64::MAX, |(_, number)| order(*number).into());
    tables.sort_by_key(|table| first(&table.members));
    let lines = builder.lines(tables.len() as u32 + FREE_TABLES);
    let mut rows = Vec::new();
    for (place, Filled { mask, tags, members }) in tables.iter().enumerate() {
        let mut slots = Slots::new(slots_for(*tags));
        for (tag, number) in members {
            slots.add(*tag, *number);
        }
        let slots = slots.write(builder, |builder, run| {
            rows.clear();
            for (_, number) in run {
                let (entry, item) = &items[*number as usize];
                rows.push(entry_words(builder, extra_fields, entry, item, class));
            }
            write_rows(builder, &mut rows, class)
        });
        let line = builder.line(lines + place as u32);
        line[..table::MIXED].copy_from_slice(&mask.address);
        line[table::MIXED] = mask.mixed;
        line[table::SLOTS] = slots;
        line[table::FIRST] = first(members);
    }
    let of_table = |table: &Filled| table.members.iter().map(|(_, number)| &items[*number as usize].1).collect();
    let prefilter = prefilter::write(builder, &tables.iter().map(of_table).collect::<Vec<_>>(), class.is_ipv6());
    Tables { first: lines, count: tables.len() as u32, prefilter, catch_all: catch_all.unwrap_or_default() }
}

/// The variants of entries for unreadable packets, each once: many differ only in ports.
fn for_unreadable<'e>(entries: impl Iterator<Item = &'e Entry>) -> Vec<Entry> {
    let mut said = HashSet::new();
    let mut is_news = |entry: &Entry| {
        entry.action_code != ActionCode::Unreadable || said.insert(Entry { order: 0, counter: 0, ..*entry })
    };
    entries.filter_map(|entry| entry.for_unreadable()).filter(|entry| is_news(entry)).collect()
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
