//! VLAN devices: a port and a tag on it are an interface of their own.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Ifindex;
pub use crate::wire::Tag;

/// How many VLAN devices there can be on all ports.
pub const VLANS: u32 = 16_384;

/// Under what a VLAN device is found: what it is on, and its tag there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VlanKey {
    /// The port or, with stacked tags, the outer VLAN device.
    pub ifindex: Ifindex,
    /// [`Tag::raw`].
    pub tag: u32,
}

impl VlanKey {
    /// For a tag on an interface.
    #[inline(always)]
    pub const fn new(ifindex: Ifindex, tag: Tag) -> Self {
        Self { ifindex, tag: tag.raw() as u32 }
    }
}
