//! Hosts behind members of bridges: whose frames the kernel half may take before the bridge sees them.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Ifindex;
use crate::wire::Mac;

/// How many hosts there can be, behind all members. A neighbour can make up as many as it likes: what comes from others is the
/// kernel's bridge's.
pub const BRIDGED_HOSTS: u32 = 16_384;

/// Under what a host is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BridgedKey {
    /// Its link address, as [`Mac::wide`].
    pub mac: u64,
    /// The member that it is behind.
    pub member: u64,
}

impl BridgedKey {
    /// For a host behind a member.
    pub fn new(member: Ifindex, Mac(mac): Mac) -> Self {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&mac);
        Self { mac: Mac::wide(&bytes, 0), member: member.into() }
    }
}

/// A host that the bridge knows to be behind this member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BridgedHost {
    /// In which tick of the kernel's timer (`jiffies`) a frame of it was left to the bridge last. The kernel half writes it.
    pub refreshed: u64,
    /// After how many ticks the next one is.
    pub period: u64,
}

impl BridgedHost {
    /// Whether a frame is to be left to the bridge in this tick.
    #[inline(always)]
    pub const fn is_due(refreshed: u64, period: u64, tick: u64) -> bool {
        tick.wrapping_sub(refreshed) >= period
    }
}

/// Under what the way to a host of a bridge is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SwitchedKey {
    /// Its link address, as [`Mac::wide`].
    pub mac: u64,
    /// The bridge.
    pub bridge: u64,
}

impl SwitchedKey {
    /// For a host of a bridge.
    pub fn new(bridge: Ifindex, mac: Mac) -> Self {
        let BridgedKey { mac, member } = BridgedKey::new(bridge, mac);
        Self { mac, bridge: member }
    }
}

/// The member of a bridge that a host is behind, as a way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SwitchedHost {
    /// The member.
    pub member: Ifindex,
    /// The longest frame that it takes, in bytes (`is_skb_forwardable` in `net/core/dev.c`).
    pub longest: u32,
    /// [`SwitchedFlags`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

impl SwitchedHost {
    /// [`Self::flags`], typed.
    #[inline(always)]
    pub const fn flags(&self) -> SwitchedFlags {
        SwitchedFlags::from_bits_retain(self.flags)
    }
}

bitflags! {
    /// How a member of a bridge sends.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SwitchedFlags: u32 {
        /// XDP may transmit on it.
        const XDP_TRANSMIT = 1 << 0;
        /// Nothing goes out that came in through another isolated member (`BR_ISOLATED`).
        const ISOLATED = 1 << 1;
        /// What it received may go out through it again (`BR_HAIRPIN_MODE`).
        const HAIRPIN = 1 << 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_due_once_in_a_period() {
        for (refreshed, period, tick, due) in
            [(0, 100, 5_000, true), (5_000, 100, 5_099, false), (5_000, 100, 5_100, true), (u64::MAX, 100, 98, false)]
        {
            assert_eq!(BridgedHost::is_due(refreshed, period, tick), due, "{refreshed} {period} {tick}");
        }
    }

    #[test]
    fn the_key_is_as_the_frame_has_it() {
        let frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
        assert_eq!(BridgedKey::new(7, Mac([2, 0, 0, 0, 0, 9])), BridgedKey { mac: Mac::wide(&frame, 6), member: 7 });
    }
}
