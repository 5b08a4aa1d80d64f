//! VLAN devices: a port and a tag on it are an interface of their own.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Ifindex;
use crate::wire::{Be16, EtherType};

/// How many VLAN devices there can be on all ports.
pub const VLANS: u32 = 16_384;

/// A VLAN tag without its priority, or none. Its text is [`Tag::PRESENT`], maybe [`Tag::SERVICE`], and the identifier.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Tag(u16);

impl Tag {
    /// No tag.
    pub const NONE: Self = Self(0);
    /// Set in every tag.
    const PRESENT: u16 = 0x8000;
    /// 802.1ad rather than 802.1Q.
    const SERVICE: u16 = 0x1000;

    /// A tag with the lower twelve bits of `control`; `service`: of 802.1ad.
    #[inline(always)]
    pub const fn new(service: bool, control: u16) -> Self {
        Self(Self::PRESENT | if service { Self::SERVICE } else { 0 } | control & 0x0fff)
    }

    /// As a number; 0 is none.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Whether there is one.
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// The identifier, 0 to 4095.
    #[inline(always)]
    pub const fn id(self) -> u16 {
        self.0 & 0x0fff
    }

    /// What stands in front of it on the wire.
    #[inline(always)]
    pub const fn ethertype(self) -> EtherType {
        if self.0 & Self::SERVICE != 0 { EtherType::SERVICE_VLAN } else { EtherType::VLAN }
    }

    /// Its control information with priority 0, as on the wire.
    #[inline(always)]
    pub const fn control(self) -> Be16 {
        Be16::new(self.id())
    }
}

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
        Self { ifindex, tag: tag.0 as u32 }
    }
}
