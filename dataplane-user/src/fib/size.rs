//! How large the forwarding tables are made.

use dataplane_common::abi::{BRANCH, Features, GROUPS, Layout4, Layout6};

/// Sizes that maps are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Of `FIB4`.
    pub ipv4: Layout4,
    /// Of `FIB6`.
    pub ipv6: Layout6,
    /// Elements of `GROUPS`.
    pub groups: u32,
}

impl Sizes {
    /// For a machine with few routes: 2.6 MB in all.
    pub const SMALL: Self = Self {
        ipv4: Layout4 { wide: false, groups: 1024 },
        ipv6: Layout6 { wide: false, escapes: 2048, lines: 8192 },
        groups: 4096,
    };
    /// For all of the Internet: 84 MB for IPv4, 27 MB for IPv6, 4.5 MB for groups.
    pub const FULL: Self = Self {
        ipv4: Layout4 { wide: true, groups: 1 << 14 },
        ipv6: Layout6 { wide: true, escapes: BRANCH as u32, lines: 1 << 17 },
        groups: GROUPS,
    };

    /// What the program must know of them.
    pub fn features(self) -> Features {
        let mut features = Features::empty();
        features.set(Features::WIDE_FIB4, self.ipv4.wide);
        features.set(Features::WIDE_FIB6, self.ipv6.wide);
        features
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self::SMALL
    }
}
