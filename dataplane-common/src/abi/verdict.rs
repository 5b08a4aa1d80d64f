//! The verdict cache: what the search of a chain found for the last flows, so that their next packets need none.
//!
//! Each CPU has *sets* of eight *rows*. A row is a cache line: all that the search reads of a packet, and the rule that it found.
//! It holds for one generation of the filter. A set knows its rows by 16 bits of a hash each, and the last flows that it has
//! seen once: a flow gets a row when it is seen for the second time, so that a flood of others takes no row away.
//!
//! A search that reads more of a packet than a row has leaves none ([`super::extra::BEYOND`]); nor does one that meets a rule
//! which counts and continues, has a limit, logs or rejects.

use super::{ActionCode, Acts, Hash, Key, Search, field};

/// Rows of a set.
pub const WAYS: u32 = 8;
/// Bits of [`super::field::TRANSPORT`] that a row has room for.
pub const TRANSPORT_BITS: u32 = 0x00ff_ffff;
/// What a look-up that found its row is worth against one that found none.
const GAIN: u32 = 8;
/// Look-ups without a row before the cache is left alone.
const PATIENCE: u32 = 1 << 18;
/// Packets for which it is then left alone.
const PAUSE: u32 = 1 << 23;
/// Sets that are in use at least, less one.
const FEWEST: u32 = (1 << 9) - 1;
/// Sets of a CPU at most.
pub const VERDICT_SETS: u32 = 1 << 14;
/// What a look-up that found none weighs against one that found its row, for how many sets are in use.
const PRESSURE: u32 = 16;
/// Look-ups that found their row after which half of the sets may be enough.
const SHRINK: u64 = 1 << 24;
/// There is no row.
pub const NO_ROW: u32 = u32::MAX;

/// Which words of a row are what. Addresses of IPv4 take the first of their words.
pub mod verdict_row {
    /// Generation `<< 32`, then what [`super::stamp`] says.
    pub const STAMP: usize = 0;
    /// [`crate::abi::Key::address`].
    pub const ADDRESS: usize = 1;
    /// [`crate::abi::Key::mixed`].
    pub const MIXED: usize = 5;
    /// Way in `<< 32`, way out.
    pub const LINKS: usize = 6;
    /// The lower half of the rule's word [`crate::abi::entry::RULE`], or [`NOTHING`].
    pub const RULE: usize = 7;
    /// No rule was found: the policy decides.
    pub const NOTHING: u64 = 1 << 63;
}

/// The rows of a set, and the flows that were seen once: a 16-bit tag each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VerdictSet {
    /// Of the rows, in their order.
    pub rows: [u64; 2],
    /// The last that had no row, the last of all in the lowest bits.
    pub seen: [u64; 2],
}

impl VerdictSet {
    /// The row with a tag, or [`WAYS`].
    #[inline(always)]
    pub const fn row_with(rows: [u64; 2], tag: u64) -> u32 {
        let (first, second) = (lanes_with(rows[0], tag), lanes_with(rows[1], tag));
        if first != 0 {
            return lowest_lane(first);
        }
        if second != 0 {
            return 4 + lowest_lane(second);
        }
        WAYS
    }

    /// Whether a tag is among those seen.
    #[inline(always)]
    pub const fn has_seen(seen: [u64; 2], tag: u64) -> bool {
        lanes_with(seen[0], tag) | lanes_with(seen[1], tag) != 0
    }

    /// Those seen, with one more.
    #[inline(always)]
    pub const fn seeing(seen: [u64; 2], tag: u64) -> [u64; 2] {
        [seen[0] << 16 | tag, seen[1] << 16 | seen[0] >> 48]
    }
}

/// In each 16 bits that are the tag, the highest one; above the lowest of these also in some that are not.
#[inline(always)]
const fn lanes_with(word: u64, tag: u64) -> u64 {
    const ONES: u64 = 0x0001_0001_0001_0001;
    let differs = word ^ tag.wrapping_mul(ONES);
    differs.wrapping_sub(ONES) & !differs & (ONES << 15)
}

/// Which 16 bits the lowest bit is in, of those that [`lanes_with`] sets.
#[inline(always)]
const fn lowest_lane(lanes: u64) -> u32 {
    // Bit 0, 16, 32 or 48 moves the number 0 to 3 into the two highest bits.
    const NUMBERS: u64 = 1 << 46 | 2 << 30 | 3 << 14;
    (((lanes & lanes.wrapping_neg()) >> 15).wrapping_mul(NUMBERS) >> 62) as u32
}

/// What a CPU's look-ups have come to, and the one at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Recall {
    /// Word [`verdict_row::STAMP`] of the packet at hand.
    pub stamp: u64,
    /// The row to write when its rule is found, or [`NO_ROW`].
    pub row: u32,
    /// Look-ups without a row, less those that found theirs, by what each is worth.
    pub misses: u32,
    /// Packets until the cache is looked up again; 0 while it is.
    pub pause: u32,
    /// Look-ups without a row: which row is given away next.
    pub turn: u32,
    /// Sets in use, less one, as far as there are more than the fewest: see [`Recall::sets`].
    pub mask: u32,
    /// Look-ups without a row since there were as many sets, less those that found theirs, by what each weighs.
    pub pressure: u32,
    /// Look-ups that found their row.
    pub hits: u64,
}

impl Recall {
    /// A look-up found its row.
    #[inline(always)]
    pub const fn hit(&mut self) {
        self.misses = self.misses.saturating_sub(GAIN);
        self.pressure = self.pressure.saturating_sub(1);
        self.hits = self.hits.wrapping_add(1);
        if self.hits & (SHRINK - 1) == 0 {
            self.mask >>= 1;
        }
    }

    /// The sets in use, less one, of so many, less one. The flows at hand are to take few pages of memory: what a look-up
    /// costs is to find the page.
    #[inline(always)]
    #[must_use]
    pub const fn sets(&self, all: u32) -> u32 {
        (self.mask | FEWEST) & all
    }

    /// A look-up found none. Where that happens often, twice as many sets are in use.
    #[inline(always)]
    pub const fn missed(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        self.pressure += PRESSURE;
        let sets = (self.mask | FEWEST) + 1;
        if self.pressure >= sets * WAYS / 4 * PRESSURE {
            self.pressure = 0;
            // Where there are fewer, more do no harm.
            self.mask = (2 * sets - 1) & (VERDICT_SETS - 1);
        }
        self.misses += 1;
        if self.misses >= PATIENCE {
            self.misses = 0;
            self.pause = PAUSE;
        }
    }
}

/// The word [`verdict_row::STAMP`] of a packet: the generation, and what of the packet is in no other word. `transport` is the
/// mask of [`super::Filter::transport`].
#[inline(always)]
pub const fn stamp(generation: u32, chain: u32, key: &Key, transport: u32, ipv6: bool) -> u64 {
    let flags = key.flags.bits() & 0xf;
    // A row that was never written has no stamp.
    let of_packet = flags << 28 | (chain & 3) << 26 | (ipv6 as u32) << 25 | 1 << 24;
    let of_packet = of_packet | key.fields[field::TRANSPORT] & transport & TRANSPORT_BITS;
    (generation as u64) << 32 | of_packet as u64
}

/// Way in and way out of a packet.
#[inline(always)]
pub const fn links(key: &Key) -> u64 {
    (key.fields[field::IIF] as u64) << 32 | key.fields[field::OIF] as u64
}

/// Where a packet's row is looked for: the lower bits say in which set, the upper 16 are its tag.
#[inline(always)]
pub const fn verdict_hash(key: &Key, stamp: u64, ipv6: bool) -> u32 {
    // Another generation writes its rows over those of before.
    let mut hash = Hash::START.with(key.mixed).with(key.address[0]).with(stamp & 0xffff_ffff);
    if ipv6 {
        hash = hash.with(key.address[1]).with(key.address[2]).with(key.address[3]);
    }
    hash.stirred()
}

/// The word [`verdict_row::RULE`] of what a search has found, if a row may have it: all tables were searched, for one rule, which
/// does nothing but decide, by what a row has of a packet.
#[inline(always)]
pub fn verdict_of(search: &Search) -> Option<u64> {
    let unfinished = search.left != 0 || search.table < search.end;
    if unfinished || search.from != 0 || search.beyond != 0 {
        return None;
    }
    if search.is_empty() {
        return Some(verdict_row::NOTHING);
    }
    if !Acts::of(search.rule).is_empty() || ActionCode::of(search.rule) == ActionCode::Continue {
        return None;
    }
    Some(search.rule & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_knows_its_rows() {
        let tags: [u64; 8] = [0x8000, 1, 0xffff, 0x7fff, 2, 0x8001, 3, 0x1234];
        let word = |tags: &[u64]| tags.iter().rev().fold(0, |word, tag| word << 16 | tag);
        let rows = [word(&tags[..4]), word(&tags[4..])];
        for (row, tag) in (0..).zip(tags) {
            assert_eq!(VerdictSet::row_with(rows, tag), row, "{tag:x}");
        }
        for other in [0, 0x7ffe, 0xfffe, 0x1233] {
            assert_eq!(VerdictSet::row_with(rows, other), WAYS, "{other:x}");
        }
        // A tag beside one that is one more: a borrow must not find it.
        assert_eq!(VerdictSet::row_with([0x0006_0005, 0], 5), 0);
        assert_eq!(VerdictSet::row_with([0x0005_0004, 0], 5), 1);
    }

    #[test]
    fn eight_flows_are_remembered_as_seen() {
        let seen = (1..=9).fold([0; 2], VerdictSet::seeing);
        assert!(!VerdictSet::has_seen(seen, 1));
        assert!((2..=9).all(|tag| VerdictSet::has_seen(seen, tag)));
    }

    #[test]
    fn a_cache_that_finds_nothing_is_left_alone() {
        let mut recall = Recall::default();
        for _ in 1..PATIENCE {
            recall.missed();
        }
        assert_eq!(recall.pause, 0);
        recall.missed();
        assert_eq!(recall.pause, PAUSE);
        recall.pause = 0;
        for _ in 0..2 * PATIENCE {
            (0..GAIN).for_each(|_| recall.missed());
            recall.hit();
        }
        assert_eq!(recall.pause, 0, "one in nine is enough");
    }

    #[test]
    fn the_sets_in_use_are_as_many_as_the_flows_at_hand_take() {
        const ALL: u32 = VERDICT_SETS - 1;
        let mut recall = Recall::default();
        assert_eq!(recall.sets(ALL), FEWEST);
        assert_eq!(recall.sets(3), 3, "there may be fewer");
        // One look-up in twenty finds no row: no more sets.
        for _ in 0..1 << 18 {
            recall.missed();
            (0..20).for_each(|_| recall.hit());
        }
        assert_eq!(recall.sets(ALL), FEWEST);
        // One in five.
        let mut misses = 0;
        while recall.sets(ALL) < ALL {
            recall.missed();
            (0..4).for_each(|_| recall.hit());
            misses += 1;
        }
        assert!(misses < 8 * ALL, "{misses}");
        (0..1 << 20).for_each(|_| recall.missed());
        assert_eq!(recall.sets(ALL), ALL);
        // What has become enough is tried again and again.
        let mut last = recall.sets(ALL);
        while last > FEWEST {
            (0..SHRINK).for_each(|_| recall.hit());
            assert_eq!(recall.sets(ALL), last / 2);
            last /= 2;
        }
        (0..SHRINK).for_each(|_| recall.hit());
        assert_eq!(recall.sets(ALL), FEWEST);
    }

    #[test]
    fn only_a_search_for_one_rule_that_decides_leaves_a_row() {
        let found = Search { best: 5, rule: 7 << 32 | 1 << 24 | 9, ..Search::default() };
        assert_eq!(verdict_of(&found), Some(1 << 24 | 9));
        assert_eq!(verdict_of(&Search { best: Search::NONE, ..found }), Some(verdict_row::NOTHING));
        for (what, search) in [
            ("tables are left", Search { left: 1, ..found }),
            ("more tables are left", Search { end: 1, ..found }),
            ("a rule before it has counted", Search { from: 1, ..found }),
            ("it has read what a row has not", Search { beyond: 1, ..found }),
            ("it logs", Search { rule: 2 << 28 | 9, ..found }),
            ("it continues", Search { rule: 2 << 24 | 9, ..found }),
        ] {
            assert_eq!(verdict_of(&search), None, "{what}");
        }
    }
}
