//! The verdict cache in front of a search.

#![expect(unsafe_code, reason = "functions with a name of their own, which stay global")]

use dataplane_common::abi::{self, Ifindex, NO_ROW, Recall, VerdictSet, WAYS, verdict_row};

use super::conclude;
use crate::{features, maps};

/// No row has been found: the chain is to be searched.
pub const MISSED: u32 = 4;

/// What a row says of the current packet, as a [`super::ChainVerdict`], or [`MISSED`]. A global function, as the search.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn recall_v4(generation: u32, chain: u32, oif: Ifindex, bytes: u64) -> u32 {
    features::jump_pad();
    recall::<false>(generation, chain, oif, bytes).unwrap_or(MISSED)
}

/// See [`recall_v4`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn recall_v6(generation: u32, chain: u32, oif: Ifindex, bytes: u64) -> u32 {
    features::jump_pad();
    recall::<true>(generation, chain, oif, bytes).unwrap_or(MISSED)
}

#[inline(always)]
fn recall<const IPV6: bool>(generation: u32, chain: u32, oif: Ifindex, bytes: u64) -> Option<u32> {
    let key = maps::key()?;
    key.recall.row = NO_ROW;
    if key.recall.pause != 0 {
        key.recall.pause -= 1;
        return None;
    }
    key.set_oif(oif);
    let filter = maps::filter(generation);
    let stamp = abi::stamp(generation, chain, key, filter.transport, IPV6);
    let hash = abi::verdict_hash(key, stamp, IPV6);
    let (place, tag) = (maps::verdict_place(hash, &key.recall), u64::from(hash >> 16));
    let set = maps::verdict_set(place)?;
    let way = VerdictSet::row_with(set.rows, tag);
    key.recall.stamp = stamp;
    if way >= WAYS {
        see(set, place, tag, &mut key.recall);
        key.recall.missed();
        return None;
    }
    let row = maps::verdict_row(place * WAYS + way)?;
    let address = |at: usize| row[verdict_row::ADDRESS + at] ^ key.address[at];
    let mut differs = row[verdict_row::STAMP] ^ stamp | address(0);
    if IPV6 {
        differs |= address(1) | address(2) | address(3);
    }
    differs |= row[verdict_row::MIXED] ^ key.mixed | row[verdict_row::LINKS] ^ abi::links(key);
    if differs != 0 {
        key.recall.row = place * WAYS + way;
        key.recall.missed();
        return None;
    }
    let found = row[verdict_row::RULE];
    key.recall.hit();
    key.search.rule = found & 0xffff_ffff;
    key.search.best = found >> 63 << 32;
    key.search.bytes = bytes;
    key.search.quiet = 0;
    if features::LOGGING.on() {
        key.search.log_rules = [0; 2];
    }
    Some(conclude(&key.search, filter, chain) as u32)
}

/// A flow that has no row is noted as seen, or gets a row, when its rule is found.
#[inline(always)]
fn see(set: &mut VerdictSet, place: u32, tag: u64, recall: &mut Recall) {
    let [first, second] = set.seen;
    if !VerdictSet::has_seen([first, second], tag) {
        // Not always: else of more flows in turn than are remembered none would be seen again.
        if recall.turn & 3 != 3 {
            set.seen = VerdictSet::seeing([first, second], tag);
        }
        return;
    }
    let free = VerdictSet::row_with(set.rows, 0);
    let way = if free < WAYS { free } else { recall.turn % WAYS };
    let (word, shift) = (way as usize / 4, 16 * (way % 4));
    set.rows[word & 1] = set.rows[word & 1] & !(0xffff << shift) | tag << shift;
    recall.row = place * WAYS + way;
}

/// Writes what a search has found into the row of the current packet, if it gets one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn remember() -> u32 {
    let Some(key) = maps::key() else { return 0 };
    let place = key.recall.row;
    if place == NO_ROW {
        return 0;
    }
    let (Some(rule), Some(row)) = (abi::verdict_of(&key.search), maps::verdict_row(place)) else { return 0 };
    row[verdict_row::STAMP] = key.recall.stamp;
    row[verdict_row::ADDRESS] = key.address[0];
    row[verdict_row::ADDRESS + 1] = key.address[1];
    row[verdict_row::ADDRESS + 2] = key.address[2];
    row[verdict_row::ADDRESS + 3] = key.address[3];
    row[verdict_row::MIXED] = key.mixed;
    row[verdict_row::LINKS] = abi::links(key);
    row[verdict_row::RULE] = rule;
    1
}
