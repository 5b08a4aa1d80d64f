//! The Internet checksum (RFC 1071), only ever updated, never recomputed over a payload (RFC 1624).

use super::Be16;

/// A ones'-complement sum in the making; 32-bit words, all of them in the same byte order, may be added in any order.
#[must_use]
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Of words of eight bytes, in the same way. The lower halves are what is left of the whole without the upper ones: fewer
    /// instructions than to cut each word.
    #[inline(always)]
    pub const fn of([a, b, c, d]: [u64; 4]) -> Self {
        let upper = (a >> 32) + (b >> 32) + (c >> 32) + (d >> 32);
        let whole = a.wrapping_add(b).wrapping_add(c).wrapping_add(d);
        Self(whole.wrapping_sub(upper << 32) + upper)
    }

    /// Adds four bytes.
    #[inline(always)]
    pub const fn add(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// The 16-bit sum, in the byte order of the words; not complemented.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        fold(self.0)
    }

    /// Whether this is a number, in ones' complement: there 0 and 0xffff are the same. [`Self::fold`] gives 0 where all words
    /// are, and 0xffff else.
    #[inline(always)]
    pub const fn equals(self, number: u16) -> bool {
        is_multiple(self.0 + 0xffff - number as u64)
    }
}

/// Whether 0xffff divides a number. Times the inverse of 0xffff (modulo 2^64) its multiples become the smallest numbers: fewer
/// instructions than to fold.
#[inline(always)]
const fn is_multiple(number: u64) -> bool {
    const QUOTIENT: u64 = u64::MAX / 0xffff;
    const INVERSE: u64 = QUOTIENT.wrapping_neg();
    number.wrapping_mul(INVERSE) <= QUOTIENT
}

/// Folds a sum of words into 16 bits.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The header checksum after the TTL went down by one.
///
/// Exactly `ip_decrease_ttl()` of the kernel: adding `0x0100` in network order with an end-around carry, so that the
/// result is the kernel's bit for bit. As there, of the words as they lie in memory: the sum is the same in both orders.
#[inline(always)]
pub const fn decrement_ttl(checksum: Be16) -> Be16 {
    let sum = checksum.raw() as u32 + 0x0100_u16.to_be() as u32;
    Be16::from_bytes(((sum + (sum >= 0xffff) as u32) as u16).to_ne_bytes())
}
