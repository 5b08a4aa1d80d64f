//! What `IPsec` policies of the kernel may cover, coarsely: by addresses.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ADDRESS_WORDS;

/// How many selectors a family can have.
pub const COVERS: usize = 16;

/// The packets between two networks: in the words of an address ([`crate::decide::Family::fill`]), destination first. IPv4 has
/// the first word alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cover {
    /// The bits that must match.
    pub mask: [u64; ADDRESS_WORDS],
    /// What they must be.
    pub value: [u64; ADDRESS_WORDS],
}

impl Cover {
    /// Whether a packet with these addresses is among them.
    #[inline(always)]
    pub fn contains(&self, words: [u64; ADDRESS_WORDS]) -> bool {
        let mut differs = 0;
        for (word, (mask, value)) in words.iter().zip(self.mask.iter().zip(&self.value)) {
            differs |= (word & mask) ^ value;
        }
        differs == 0
    }
}

/// The selectors of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Policies {
    /// How many there are, or [`Self::ALL`].
    pub count: u64,
    /// The first ones count.
    pub covers: [Cover; COVERS],
}

impl Policies {
    /// All packets are covered: also while the selectors are being written.
    pub const ALL: u64 = u64::MAX;
    /// No packet is covered.
    pub const NONE: Self =
        Self { count: 0, covers: [Cover { mask: [0; ADDRESS_WORDS], value: [0; ADDRESS_WORDS] }; COVERS] };

    /// Whether one of them may cover a packet with these addresses.
    #[inline(always)]
    pub fn may_cover(&self, words: [u64; ADDRESS_WORDS]) -> bool {
        let among = |(at, cover): (usize, &Cover)| (at as u64) < self.count && cover.contains(words);
        self.count == Self::ALL || self.covers.iter().enumerate().any(among)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_count() {
        let net = Cover { mask: [0xffff_ff00_0000_0000, 0, 0, 0], value: [0xc612_0100_0000_0000, 0, 0, 0] };
        let inside = [0xc612_0107_c612_0002, 0, 0, 0];
        let mut policies = Policies::NONE;
        policies.covers[1] = net;
        // The first one, all of whose bits are zero, would cover everything.
        policies.covers[0] = Cover { mask: [u64::MAX; 4], value: [1; 4] };
        for (count, words, expected) in [
            (0, inside, false),
            (1, inside, false),
            (2, inside, true),
            (2, [0xc612_0207_c612_0002, 0, 0, 0], false),
            (Policies::ALL, [0; 4], true),
        ] {
            policies.count = count;
            assert_eq!(policies.may_cover(words), expected, "{count} {words:x?}");
        }
    }
}
