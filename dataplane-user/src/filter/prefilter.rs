//! Screens: which tables have something for which addresses.

use dataplane_common::abi::{Prefilter, TABLES_PER_WORD, WORDS, mask64};

use super::{
    image::{Builder, FREE_TABLES},
    tuple::Item,
};

/// A class with fewer tables has no screen: to read it would cost as much as it saves.
const FEW: usize = 4;
/// Without a prefilter one word covers all tables, also those that are opened in place.
const _: () = assert!((FEW as u32) + FREE_TABLES < TABLES_PER_WORD);
/// How many first bits of an address can be hashed, IPv4 and IPv6.
const DEPTHS: [[u8; 3]; 2] = [[16, 20, 24], [32, 48, 64]];
/// How many bits shorter than that a prefix can be: it has as many words as addresses fit it, so 256.
const OPEN: u8 = 8;
/// Words for each address: at least, and at most.
const WORDS_FOR_ADDRESS: [usize; 2] = [1 << 8, 1 << 16];
/// Of more entries than this, only some choose how many bits are hashed.
const ASKED: usize = 1 << 13;

/// Destination and source.
const SIDES: [usize; 2] = [0, 1];

/// Writes the prefilter of tables whose entries are given.
pub(super) fn write(builder: &mut Builder, tables: &[Vec<&Item>], ipv6: bool) -> Prefilter {
    if tables.len() < FEW {
        return Prefilter::default();
    }
    let count: usize = tables.iter().map(Vec::len).sum();
    let [least, most] = WORDS_FOR_ADDRESS;
    let mask = ((2 * count).next_power_of_two().clamp(least, most) - 1) as u16;
    let [destination, source] = SIDES.map(|side| 64 - deepest(tables, side, mask, ipv6));
    let shape = Prefilter { line: 0, mask, destination, source };
    let groups = (tables.len() as u32 + FREE_TABLES).div_ceil(TABLES_PER_WORD);
    let prefilter = Prefilter { line: builder.lines(groups * shape.stride()), ..shape };
    for (items, number) in tables.iter().zip(0..) {
        for item in items {
            set(prefilter, number, item, ipv6, |word| *builder.word(word) |= bit(number));
        }
    }
    prefilter
}

/// The bit of a table in the words that cover it.
pub(super) const fn bit(table: u32) -> u64 {
    1 << (table % TABLES_PER_WORD)
}

/// Names the words that cover a table with an entry; none when there is no prefilter.
pub(super) fn set(prefilter: Prefilter, table: u32, item: &Item, ipv6: bool, mut each: impl FnMut(usize)) {
    if prefilter.line == 0 {
        return;
    }
    let head = (prefilter.line + table / TABLES_PER_WORD * prefilter.stride()) as usize * WORDS;
    for side in SIDES {
        let (prefix, shift) = (prefix(item, side, ipv6), [prefilter.destination, prefilter.source][side]);
        let word = |address| if side == 0 { prefilter.destination(address) } else { prefilter.source(address) };
        match spread(prefix, shift) {
            Some(addresses) => addresses.for_each(|address| each(head + word(address) as usize)),
            None => each(head + side),
        }
    }
}

/// How many bits to hash so that for addresses of the entries the fewest tables are left.
fn deepest(tables: &[Vec<&Item>], side: usize, mask: u16, ipv6: bool) -> u8 {
    let count: usize = tables.iter().map(Vec::len).sum();
    let step = count / ASKED + 1;
    let chosen = |items: &Vec<&Item>| items.iter().step_by(step).map(|item| prefix(item, side, ipv6)).collect();
    let tables: Vec<Vec<(u64, u8)>> = tables.iter().map(chosen).collect();
    let [first, ..] = DEPTHS[usize::from(ipv6)];
    DEPTHS[usize::from(ipv6)].into_iter().min_by_key(|depth| left(&tables, *depth, mask)).unwrap_or(first)
}

/// How many tables are left for addresses of the entries, all in all, when so many bits are hashed.
fn left(tables: &[Vec<(u64, u8)>], depth: u8, mask: u16) -> u64 {
    let shift = 64 - depth;
    let prefilter = Prefilter { mask, destination: shift, ..Prefilter::default() };
    let place = |address| prefilter.destination(address) as usize - WORDS;
    let words = usize::from(mask) + 1;
    // For each word how many tables it covers, and which of them was the last; and how many tables all words cover.
    let (mut bits, mut last, mut every) = (vec![0_u64; words], vec![0_u32; words], 0);
    for (prefixes, number) in tables.iter().zip(1..) {
        if prefixes.iter().any(|prefix| spread(*prefix, shift).is_none()) {
            every += 1;
            continue;
        }
        for place in prefixes.iter().filter_map(|prefix| spread(*prefix, shift)).flatten().map(place) {
            bits[place] += u64::from(last[place] != number);
            last[place] = number;
        }
    }
    tables.iter().flatten().map(|(address, _)| bits[place(*address)] + every).sum()
}

/// The part of an address that an entry compares: its first 64 bits, and how many of them count.
fn prefix(item: &Item, side: usize, ipv6: bool) -> (u64, u8) {
    let address = Prefilter::addresses(&item.address, ipv6)[side];
    let length = item.lengths[side].min(64);
    (address & mask64(length.into()), length)
}

/// The addresses of a prefix, as far as they are hashed; `None` if they are too many.
fn spread((address, length): (u64, u8), shift: u8) -> Option<impl Iterator<Item = u64>> {
    let open = (64 - shift).saturating_sub(length);
    (open <= OPEN).then(|| (0..1_u64 << open).map(move |low| address | low << shift))
}
