//! Hashes of masked keys: what tables and sets have in common.

use super::{Lines, WORDS};

/// The mix of a masked key: the sum of its words, each times a number of its own. None waits for another.
#[derive(Clone, Copy)]
pub struct Hash {
    sum: u64,
    /// For the next word.
    factor: u64,
}

impl Hash {
    /// Of nothing.
    pub const START: Self = Self { sum: 0, factor: 0x9e37_79b9_7f4a_7c15 };

    /// With one more word.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, word: u64) -> Self {
        Self {
            sum: self.sum.wrapping_add(word.wrapping_mul(self.factor)),
            factor: self.factor.wrapping_mul(0xd6e8_feb8_6659_fd93),
        }
    }

    /// Where to look, and what to look for there. Upper bits are the better ones: all below them have a say in them.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.sum >> 32) as u32
    }

    /// A place of which all bits are good: each bit of each word has a say in each of them. [`Self::tag`] is cheaper, and its
    /// lower bits know nothing of the upper bits of words.
    #[inline(always)]
    pub const fn stirred(self) -> u32 {
        ((self.sum ^ self.sum >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
    }
}

/// Word `word` of a line, both counted from the beginning of a generation that starts at `base`.
#[inline(always)]
pub(super) fn word<L: Lines>(lines: &L, line: u32, word: usize) -> u64 {
    match lines.line(line) {
        Some(line) => lines.word(line, word),
        None => 0,
    }
}

/// How far a tag is shifted where there are so many slots, a power of two up to 2^27: what is left is its place and, below it,
/// the five bits of its trace.
pub const fn shift(slots: usize) -> u32 {
    27 - slots.trailing_zeros()
}

/// The place of a tag among slots.
#[inline(always)]
pub const fn slot_index(tag: u32, shift: u32) -> u32 {
    left(tag, shift) >> 5
}

/// The bit in a slot's upper half that stands for a tag.
#[inline(always)]
pub const fn bloom_bit(tag: u32, shift: u32) -> u64 {
    1 << (32 + (left(tag, shift) & 31))
}

#[inline(always)]
const fn left(tag: u32, shift: u32) -> u32 {
    (tag as u64 >> (shift & 63)) as u32
}

/// The number in the slot of a tag, or 0 when nothing with this tag is there. A slot has a number in its lower half, and in
/// the upper half the [`bloom_bit`]s of the tags that it leads to.
#[inline(always)]
pub fn slot<L: Lines>(lines: &L, base: u32, slots: u64, tag: u32) -> u32 {
    let shift = (slots >> 32) as u32;
    let slot_index = slot_index(tag, shift);
    let found = word(lines, base + slots as u32 + slot_index / WORDS as u32, slot_index as usize % WORDS);
    if found & bloom_bit(tag, shift) == 0 { 0 } else { found as u32 }
}
