//! The Internet checksum (RFC 1071), only ever updated, never recomputed over a payload (RFC 1624).

use super::Be16;

/// A ones'-complement sum in the making; 32-bit words, all of them in the same byte order, may be added in any order.
#[must_use]
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
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
/// result is the kernel's bit for bit.
#[inline(always)]
pub const fn decrement_ttl(checksum: Be16) -> Be16 {
    let sum = checksum.get() as u32 + 0x0100;
    Be16::new((sum + (sum >= 0xffff) as u32) as u16)
}
