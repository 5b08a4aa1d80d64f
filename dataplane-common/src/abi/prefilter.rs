//! Which tables of the filter can have something for the addresses of a packet.
//!
//! A packet matches rules of few tables, and one lookup costs as much as all that this reads. For each 64 tables of a class the
//! *prefilter* has a word for each hash of an address's first bits: a bit for each table with an entry that matches such
//! addresses. The words of both addresses, combined by AND, are the tables to search. Bits may be set that need not be.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{ADDRESS_WORDS, Key, Lines, WORDS};

/// Tables that one word covers.
pub const TABLES_PER_WORD: u32 = 64;

/// The prefilter of a class: for each 64 tables a line whose first words are the bits that every destination, and every source,
/// has set, and the words of destinations and of sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Prefilter {
    /// Its first line, from the beginning of the generation; 0 when there is none.
    pub line: u32,
    /// Words for each address less one; their number is a power of two, and at least a line's.
    pub mask: u16,
    /// How far the word of the destination is shifted to leave the bits that are hashed.
    pub destination: u8,
    /// Likewise the source.
    pub source: u8,
}

impl Prefilter {
    /// Lines for each 64 tables.
    #[inline(always)]
    pub const fn stride(self) -> u32 {
        1 + 2 * self.half()
    }

    /// Lines of the words of one address.
    #[inline(always)]
    const fn half(self) -> u32 {
        (self.mask as u32 + 1) / WORDS as u32
    }

    /// Which word, counted from the first line of some 64 tables, is that of a destination.
    #[inline(always)]
    pub const fn destination(self, address: u64) -> u32 {
        WORDS as u32 + self.hash(address >> self.destination)
    }

    /// Which word is that of a source.
    #[inline(always)]
    pub const fn source(self, address: u64) -> u32 {
        (1 + self.half()) * WORDS as u32 + self.hash(address >> self.source)
    }

    #[inline(always)]
    const fn hash(self, bits: u64) -> u32 {
        (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 & self.mask as u32
    }

    /// The 64 bits of both addresses that a prefilter can hash, destination first, of words as in [`Key::address`].
    #[inline(always)]
    pub const fn addresses([first, _, third, _]: &[u64; ADDRESS_WORDS], ipv6: bool) -> [u64; 2] {
        [*first, if ipv6 { *third } else { *first << 32 }]
    }

    /// The tables to search among those from number 64 x `group` on, of which there are `count`. Without a prefilter, where
    /// there are fewer than 64, all of them.
    #[inline(always)]
    pub fn candidates<L: Lines>(self, lines: &L, base: u32, (group, count): (u32, u32), key: &Key, ipv6: bool) -> u64 {
        if self.line == 0 {
            return !(!0 << (count & 63));
        }
        let [destination, source] = Self::addresses(&key.address, ipv6);
        let head = base + self.line + group * self.stride();
        let Some(every) = lines.line(head) else { return !0 };
        let word = |word: u32| match lines.line(head + word / WORDS as u32) {
            Some(line) => lines.word(line, word as usize % WORDS),
            None => !0,
        };
        (lines.word(every, 0) | word(self.destination(destination)))
            & (lines.word(every, 1) | word(self.source(source)))
    }
}

/// The number of the lowest bit that is set, by a de Bruijn sequence: programs have no instruction for it.
#[inline(always)]
pub fn lowest(bits: u64) -> u32 {
    u32::from(BIT_OF_RUN[((bits & bits.wrapping_neg()).wrapping_mul(SEQUENCE) >> 58) as usize])
}

/// Each run of six bits is there once.
const SEQUENCE: u64 = 0x03f7_9d71_b4cb_0a89;

/// Which bit leaves which run in front.
static BIT_OF_RUN: [u8; 64] = {
    let mut bits = [0; 64];
    let mut bit = 0_u8;
    while bit < 64 {
        bits[((1_u64 << bit).wrapping_mul(SEQUENCE) >> 58) as usize] = bit;
        bit += 1;
    }
    bits
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bit_is_found() {
        for bit in 0..64 {
            assert_eq!(lowest(1 << bit), bit);
            assert_eq!(lowest(!0 << bit), bit);
        }
    }
}
