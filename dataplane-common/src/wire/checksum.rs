//! The Internet checksum (RFC 1071), only ever updated, never recomputed over a payload (RFC 1624).

use super::Be16;

/// A ones'-complement sum in the making; 32-bit words may be added in any order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds four bytes, as the machine loads them.
    #[inline(always)]
    pub const fn add(self, raw: u32) -> Self {
        Self(self.0 + raw as u64)
    }

    /// The 16-bit sum, as the machine loads it; not complemented.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        fold(self.0)
    }
}

/// Folds a sum of words into 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// Sum of the 20 fixed bytes of an IPv4 header, as machine words; `0xffff` when its checksum is right.
#[inline(always)]
pub const fn header_sum(words: [u32; 5]) -> u16 {
    Sum(0).add(words[0]).add(words[1]).add(words[2]).add(words[3]).add(words[4]).fold()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decrement_matches_recomputation() {
        for ttl in 1..=255_u8 {
            for filler in [0_u32, 0x1234_5678, 0xffff_ffff, 0xff00_00ff] {
                let header = |ttl: u8, checksum: Be16| {
                    let [low, high] = checksum.raw().to_ne_bytes();
                    [0x4500_0054, filler, u32::from_ne_bytes([ttl, 17, low, high]), filler, 7]
                };
                let seal = |ttl| Be16::new((!header_sum(header(ttl, Be16::default()))).swap_bytes());
                let updated = decrement_ttl(seal(ttl));
                assert_eq!(header_sum(header(ttl - 1, updated)), 0xffff, "ttl {ttl} filler {filler:#x}");
            }
        }
    }
}
