//! Boxes: ranges of numbers as masked comparisons at their place in a key.

use dataplane_common::abi::{KeyFlags, RULE_SETS, Span};

use super::entry::{Entry, KEY_WORDS, Membership, Memberships, key};

/// Where a field is: the words of a key as one string of bits, most significant first.
#[derive(Clone, Copy, Debug)]
pub(super) struct BitOffset {
    /// First bit.
    start: usize,
    /// How many.
    bits: u32,
}

impl BitOffset {
    pub(super) const FAMILY: Self = Self::at(key::NETWORK, 0, 8);
    pub(super) const PROTOCOL: Self = Self::at(key::NETWORK, 8, 8);
    /// Six bits, at the lower end of their byte.
    pub(super) const DSCP: Self = Self::at(key::NETWORK, 18, 6);
    pub(super) const HOP_LIMIT: Self = Self::at(key::NETWORK, 24, 8);
    pub(super) const IIF: Self = Self::at(key::IIF, 0, 32);
    pub(super) const OIF: Self = Self::at(key::OIF, 0, 32);
    pub(super) const TAGGED: Self = Self::at(key::VLAN_FRAGMENT, 3, 1);
    pub(super) const VLAN: Self = Self::at(key::VLAN_FRAGMENT, 4, 12);
    pub(super) const FRAGMENT: Self = Self::at(key::VLAN_FRAGMENT, 16, 16);
    pub(super) const LINK_DESTINATION: Self = Self::at(key::LINK_DESTINATION, 0, 48);
    pub(super) const LINK_SOURCE: Self = Self::at(key::LINK_MIDDLE, 16, 48);
    pub(super) const TCP_FLAGS: Self = Self::at(key::TRANSPORT, 8, 8);
    pub(super) const ICMP_TYPE: Self = Self::at(key::TRANSPORT, 16, 8);
    pub(super) const ICMP_CODE: Self = Self::at(key::TRANSPORT, 24, 8);
    /// The lowest bit of a link address's first byte: for a group (IEEE 802, section 8.2).
    pub(super) const LINK_GROUP: Self = Self::at(key::LINK_DESTINATION, 7, 1);

    /// An address of 32 or 128 bits, by its first word.
    pub(super) const fn address(word: usize, bits: u32) -> Self {
        Self::at(word, 0, bits)
    }

    const fn at(word: usize, shift: usize, bits: u32) -> Self {
        Self { start: word * 32 + shift, bits }
    }

    /// What a field of this width can hold at most.
    pub(super) const fn last(self) -> u128 {
        u128::MAX >> (128 - self.bits)
    }

    /// The box in which the bits of `mask` are as in `value`.
    pub(super) fn masked(self, value: u128, mask: u128) -> Box {
        let mut boxed = Box::ANY;
        let mask = mask & self.last();
        let value = value & mask;
        // From the end of the field backwards, word by word.
        let end = self.start + self.bits as usize;
        let (mut word, mut skipped, mut done) = ((end - 1) / 32, (32 - end % 32) % 32, 0);
        while done < self.bits as usize {
            boxed.0.mask[word] |= ((mask >> done) as u32) << skipped;
            boxed.0.value[word] |= ((value >> done) as u32) << skipped;
            done += 32 - skipped;
            (word, skipped) = (word.wrapping_sub(1), 0);
        }
        boxed
    }

    /// Boxes that hold exactly the values of the intervals.
    pub(super) fn intervals(self, intervals: &[Interval]) -> Vec<Box> {
        let prefixes = intervals.iter().flat_map(|interval| prefixes(*interval, self.last()));
        prefixes.map(|(value, mask)| self.masked(value, mask)).collect()
    }

    /// Boxes that hold exactly the values that differ from `value` in the bits of `mask`.
    pub(super) fn differing(self, value: u128, mask: u128) -> Vec<Box> {
        // One for each bit that may differ first.
        let counted = (0..self.bits).rev().map(|bit| 1_u128 << bit).filter(|bit| mask & bit != 0);
        counted.map(|bit| self.masked(value ^ bit, mask & !(bit - 1))).collect()
    }
}

/// First and last number inside.
pub(in crate::lower) type Interval = (u128, u128);

/// The same numbers in ascending intervals that neither overlap nor touch.
pub(in crate::lower) fn merged(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
    for (low, high) in intervals {
        match merged.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    merged
}

/// The numbers up to `last` that are in none of the merged intervals.
pub(super) fn complement(intervals: &[Interval], last: u128) -> Vec<Interval> {
    let mut gaps = Vec::with_capacity(intervals.len() + 1);
    let mut next = Some(0);
    for (low, high) in intervals {
        if let Some(first) = next
            && first < *low
        {
            gaps.push((first, low - 1));
        }
        next = high.checked_add(1).filter(|next| *next <= last);
    }
    gaps.extend(next.map(|first| (first, last)));
    gaps
}

/// The fewest blocks, as value and mask, that hold exactly the numbers of an interval.
pub(super) fn prefixes((low, high): Interval, last: u128) -> Vec<(u128, u128)> {
    let mut blocks = Vec::new();
    let mut next = Some(low);
    while let Some(first) = next.filter(|first| *first <= high) {
        // The largest block that begins here and ends inside.
        let mut host = 0;
        while host < last && first & (host << 1 | 1) == 0 && first | (host << 1 | 1) <= high {
            host = host << 1 | 1;
        }
        blocks.push((first, last & !host));
        next = (first | host).checked_add(1);
    }
    blocks
}

/// An entry in the making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Box(pub(super) Entry);

impl Box {
    /// Holds everything.
    pub(super) const ANY: Self = Self(Entry::ANY);

    /// What a set holds, or does not hold.
    pub(super) fn member(membership: Membership) -> Self {
        let mut sets = Memberships::default();
        sets[0] = Some(membership);
        Self(Entry { sets, ..Entry::ANY })
    }

    /// The same, for packets of which this can be read.
    pub(super) fn needing(mut self, flags: KeyFlags) -> Self {
        self.0.needs |= flags;
        self
    }

    /// What is in both; none when nothing is.
    pub(super) fn and(&self, other: &Self) -> Option<Self> {
        let (a, b) = (&self.0, &other.0);
        let mut both = *a;
        for word in 0..KEY_WORDS {
            if (a.value[word] ^ b.value[word]) & a.mask[word] & b.mask[word] != 0 {
                return None;
            }
            both.mask[word] = a.mask[word] | b.mask[word];
            both.value[word] = a.value[word] | b.value[word];
        }
        both.source_port = overlap(a.source_port, b.source_port)?;
        both.destination_port = overlap(a.destination_port, b.destination_port)?;
        both.length = overlap(a.length, b.length)?;
        both.needs = a.needs | b.needs;
        both.sets = joined(a.sets, b.sets);
        Some(Self(both))
    }
}

fn overlap(a: Span, b: Span) -> Option<Span> {
    let (low, high) = (a.low.max(b.low), a.high.min(b.high));
    (low <= high).then_some(Span { low, high })
}

/// The sets of both. How many there may be is seen to before.
fn joined(a: Memberships, b: Memberships) -> Memberships {
    let mut both = Memberships::default();
    let all = a.into_iter().chain(b).flatten();
    both.iter_mut().zip(all.take(RULE_SETS)).for_each(|(offset, set)| *offset = Some(set));
    both
}
