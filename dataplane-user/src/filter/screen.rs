//! Screens: which tables have something for which addresses.

use std::collections::HashSet;

use dataplane_common::abi::{SCREENED, Screen, WORDS, mask64};

use super::{
    image::{Builder, SPARE},
    tuple::Item,
};

/// A class with fewer tables has no screen: to read it would cost as much as it saves.
const FEW: usize = 4;
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

/// Writes the screen of tables whose entries are given.
pub(super) fn write(builder: &mut Builder, tables: &[Vec<Item>], ipv6: bool) -> Screen {
    if tables.len() < FEW {
        return Screen::default();
    }
    let count: usize = tables.iter().map(Vec::len).sum();
    let [least, most] = WORDS_FOR_ADDRESS;
    let mask = ((4 * count).next_power_of_two().clamp(least, most) - 1) as u16;
    let [destination, source] = SIDES.map(|side| 64 - deepest(tables, side, mask, ipv6));
    let shape = Screen { line: 0, mask, destination, source };
    let groups = (tables.len() as u32 + SPARE).div_ceil(SCREENED);
    let screen = Screen { line: builder.lines(groups * shape.stride()), ..shape };
    for (items, number) in tables.iter().zip(0..) {
        for item in items {
            for word in words(screen, number, item, ipv6) {
                *builder.word(word) |= bit(number);
            }
        }
    }
    screen
}

/// The bit of a table in the words that tell of it.
pub(super) const fn bit(table: u32) -> u64 {
    1 << (table % SCREENED)
}

/// The words that tell of a table with an entry; none when there is no screen.
pub(super) fn words(screen: Screen, table: u32, item: &Item, ipv6: bool) -> Vec<usize> {
    if screen.line == 0 {
        return Vec::new();
    }
    let head = (screen.line + table / SCREENED * screen.stride()) as usize * WORDS;
    let word = |side: usize, address| match side {
        0 => screen.destination(address),
        _ => screen.source(address),
    };
    let of_side = |side| match spread(prefix(item, side, ipv6), [screen.destination, screen.source][side]) {
        Some(addresses) => addresses.map(|address| head + word(side, address) as usize).collect(),
        None => vec![head + side],
    };
    SIDES.map(of_side).concat()
}

/// How many bits to hash so that for addresses of the entries the fewest tables are left.
fn deepest(tables: &[Vec<Item>], side: usize, mask: u16, ipv6: bool) -> u8 {
    let count: usize = tables.iter().map(Vec::len).sum();
    let step = count / ASKED + 1;
    let chosen = |items: &Vec<Item>| items.iter().step_by(step).map(|item| prefix(item, side, ipv6)).collect();
    let tables: Vec<Vec<(u64, u8)>> = tables.iter().map(chosen).collect();
    let left = |depth: &u8| {
        let screen = Screen { mask, destination: 64 - depth, ..Screen::default() };
        let place = |address| screen.destination(address) as usize - WORDS;
        let places = |prefixes: &Vec<(u64, u8)>| -> Option<HashSet<usize>> {
            let spread = prefixes.iter().map(|prefix| spread(*prefix, 64 - depth)).collect::<Option<Vec<_>>>()?;
            Some(spread.into_iter().flatten().map(place).collect())
        };
        // For each word the tables that it tells of, and how many are told of by all.
        let (mut told, mut every) = (vec![0_u64; usize::from(mask) + 1], 0);
        for prefixes in &tables {
            match places(prefixes) {
                Some(places) => {
                    for place in places {
                        told[place] += 1;
                    }
                }
                None => every += 1,
            }
        }
        tables.iter().flatten().map(|(address, _)| told[place(*address)] + every).sum::<u64>()
    };
    let [first, ..] = DEPTHS[usize::from(ipv6)];
    DEPTHS[usize::from(ipv6)].into_iter().min_by_key(left).unwrap_or(first)
}

/// What an entry asks of an address: its first 64 bits, and how many of them count.
fn prefix(item: &Item, side: usize, ipv6: bool) -> (u64, u8) {
    let address = match (ipv6, side) {
        (true, side) => item.address[2 * side],
        (false, 0) => item.address[0],
        (false, _) => item.address[0] << 32,
    };
    let length = item.lengths[side].min(64);
    (address & mask64(length.into()), length)
}

/// The addresses of a prefix, as far as they are hashed; `None` if they are too many.
fn spread((address, length): (u64, u8), shift: u8) -> Option<impl Iterator<Item = u64>> {
    let open = (64 - shift).saturating_sub(length);
    (open <= OPEN).then(|| (0..1_u64 << open).map(move |low| address | low << shift))
}
