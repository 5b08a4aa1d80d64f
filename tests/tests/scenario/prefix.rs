//! Tables of prefixes as the Internet has them: lengths in the proportions of the default-free zone, from a seed.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

/// Prefix lengths and how many of 1000 prefixes have them.
const LENGTHS4: &[(u8, u64)] = &[
    (24, 600),
    (23, 100),
    (22, 115),
    (21, 50),
    (20, 45),
    (19, 30),
    (18, 15),
    (17, 10),
    (16, 20),
    (14, 5),
    (25, 3),
    (32, 7),
];
const LENGTHS6: &[(u8, u64)] =
    &[(48, 470), (44, 130), (40, 100), (32, 130), (36, 60), (46, 50), (29, 30), (64, 20), (127, 5), (128, 5)];

/// Distinct prefixes, the same for the same seed. They are entries of tables only; packets go to the lab's own ranges.
pub struct Prefixes {
    state: u64,
    lengths: &'static [(u8, u64)],
    six: bool,
    known: BTreeSet<(u128, u8)>,
}

impl Prefixes {
    /// Of IPv4, all within 1.0.0.0 to 126.255.255.255.
    pub fn v4(seed: u64) -> Self {
        Self { state: seed, lengths: LENGTHS4, six: false, known: BTreeSet::new() }
    }

    /// Of IPv6, all within `2400::/8`.
    pub fn v6(seed: u64) -> Self {
        Self { state: seed ^ 6, lengths: LENGTHS6, six: true, known: BTreeSet::new() }
    }

    /// So many more.
    pub fn take(&mut self, count: usize) -> Vec<String> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let mut mark = self.next() % 1000;
            let lengths = self.lengths.iter().chain(&self.lengths[..1]);
            let (length, _) = lengths
                .copied()
                .find(|(_, share)| mark.checked_sub(*share).map(|rest| mark = rest).is_none())
                .unwrap_or(self.lengths[0]);
            let bits = (u128::from(self.next()) << 64) | u128::from(self.next());
            let address = if self.six {
                ((bits >> 8) | (0x24 << 120)) & (u128::MAX << (128 - length))
            } else {
                let first = 1 + (bits >> 96) % 126;
                ((first << 24) | (bits & 0x00ff_ffff)) & (u128::from(u32::MAX) << (32 - length))
            };
            if self.known.insert((address, length)) {
                taken.push(if self.six {
                    format!("{}/{length}", Ipv6Addr::from_bits(address))
                } else {
                    format!("{}/{length}", Ipv4Addr::from_bits(address as u32))
                });
            }
        }
        taken
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
