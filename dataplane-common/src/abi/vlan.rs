//! VLAN devices: a port and a tag on it are an interface of their own. So are a port and another link address (macvlan).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Ifindex;
use crate::wire::Mac;
pub use crate::wire::Tag;

/// How many VLAN devices there can be on all ports.
pub const VLANS: u32 = 16_384;

/// Under what a VLAN device is found: what it is on, and its tag there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VlanKey {
    /// The port or, with stacked tags, the outer VLAN device.
    pub ifindex: Ifindex,
    /// [`Tag::raw`], or [`Self::address`].
    pub tag: u32,
}

impl VlanKey {
    /// For a tag on an interface.
    #[inline(always)]
    pub const fn new(ifindex: Ifindex, tag: Tag) -> Self {
        Self { ifindex, tag: tag.raw() as u32 }
    }

    /// For a macvlan device with this link address on an interface.
    pub const fn with_address(ifindex: Ifindex, address: Mac) -> Self {
        Self { ifindex, tag: Self::address(address) }
    }

    /// In place of a tag: a link address, which devices with the same number have to be compared with.
    #[inline(always)]
    pub const fn address(Mac(bytes): Mac) -> u32 {
        let high = u16::from_be_bytes([bytes[0], bytes[1]]) as u32;
        let low = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        low ^ high << 8 | Self::ADDRESS
    }

    /// Whether it is for a link address.
    pub const fn is_address(self) -> bool {
        self.tag & Self::ADDRESS != 0
    }

    /// No tag has this bit.
    const ADDRESS: u32 = 1 << 31;
}
