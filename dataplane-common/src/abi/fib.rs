//! The forwarding information base: what routes say of an address.
//!
//! IPv4 is a table of entries by the first bits ([`super::Layout4`]), IPv6 an index and trees of sorted words behind it
//! ([`super::Layout6`]). An entry is a [`Target`], or with [`BRANCH`] the number of the block or tree that it leads to. Each
//! table has two parts, with both generations in each: the base part has a fixed size and lies in a section, whose address
//! programs know; the dynamic part is an array, as large as the routes need. [`super::Control`] has the live generation and the
//! start of its dynamic part.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::Address6;

/// An address that a table is keyed by, in the host's byte order.
pub trait Prefixed: Copy + Ord + Mixed {
    /// Bits of an address.
    const BITS: u32;
    /// As a number in a type that takes both families.
    fn widen(self) -> u128;
}

/// Something with a well-mixed number, for filters and flow hashes.
pub trait Mixed {
    /// That number.
    fn mix(self) -> u32;
}

impl Prefixed for u32 {
    const BITS: u32 = 32;

    fn widen(self) -> u128 {
        u128::from(self)
    }
}

impl Mixed for u32 {
    #[inline(always)]
    fn mix(self) -> u32 {
        let hash = self.wrapping_mul(0x9e37_79b1);
        (hash ^ (hash >> 15)).wrapping_mul(0x85eb_ca77)
    }
}

impl Prefixed for u128 {
    const BITS: u32 = 128;

    fn widen(self) -> u128 {
        self
    }
}

impl Mixed for Address6 {
    #[inline(always)]
    fn mix(self) -> u32 {
        let half = self.high ^ self.low.rotate_left(23);
        ((half >> 32) as u32 ^ (half as u32).rotate_left(13)).mix()
    }
}

impl Mixed for u128 {
    #[inline(always)]
    fn mix(self) -> u32 {
        Address6::from(self).mix()
    }
}

/// What kind of route matched; the numbers are ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum RouteKind {
    /// Nothing matched, or a throw route did.
    None = 0,
    /// To the next hops of a group.
    Unicast = 1,
    /// An address of this machine, anycast addresses included.
    Local = 2,
    /// A broadcast address.
    Broadcast = 3,
    /// A multicast group.
    Multicast = 4,
    /// Dropped silently.
    Blackhole = 5,
    /// Answered with host unreachable.
    Unreachable = 6,
    /// Answered with administratively prohibited.
    Prohibit = 7,
    /// The mirror cannot decide: the packet is the kernel's.
    Kernel = 8,
}

/// What a lookup finds: a route kind and, for unicast, a next-hop group. 15 bits: below 16 a kind, from
/// there on a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Target(u16);

impl Target {
    /// Nothing matched.
    pub const NONE: Self = Self(0);
    /// The kernel must say.
    pub const KERNEL: Self = Self(RouteKind::Kernel as u16);
    /// The number of the first group.
    const FIRST_GROUP: u16 = 16;
    /// How many groups have a number of their own.
    pub const GROUPS: u32 = (BRANCH - Self::FIRST_GROUP) as u32;

    /// A route of `kind`; `group` counts for unicast only. A group that has no number is the kernel's.
    pub const fn new(kind: RouteKind, group: u32) -> Self {
        match kind {
            RouteKind::Unicast if group < Self::GROUPS => Self(Self::FIRST_GROUP + group as u16),
            RouteKind::Unicast => Self::KERNEL,
            kind => Self(kind as u16),
        }
    }

    /// As a number, for functions that the verifier looks at by themselves, and as it is stored.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0 as u32
    }

    /// From that number.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw as u16)
    }

    /// What kind of route it is.
    #[inline(always)]
    pub const fn kind(self) -> RouteKind {
        // First what nearly every packet has.
        if self.0 >= Self::FIRST_GROUP {
            return RouteKind::Unicast;
        }
        match self.0 {
            0 => RouteKind::None,
            2 => RouteKind::Local,
            3 => RouteKind::Broadcast,
            4 => RouteKind::Multicast,
            5 => RouteKind::Blackhole,
            6 => RouteKind::Unreachable,
            7 => RouteKind::Prohibit,
            _ => RouteKind::Kernel,
        }
    }

    /// Index of the next-hop group.
    #[inline(always)]
    pub const fn group(self) -> u32 {
        self.0.wrapping_sub(Self::FIRST_GROUP) as u32
    }
}

/// In an entry: not a target, but the number of a group (IPv4) or an escape (IPv6).
pub const BRANCH: u16 = 1 << 15;

/// Beside the start of the live generation of a table: it is the second one, also in the base part.
pub const SECOND: u32 = 1 << 31;

/// Which generation is live, 0 or 1.
#[inline(always)]
pub(super) const fn generation(live: u32) -> u32 {
    live >> SECOND.trailing_zeros()
}

/// Where its far part begins.
#[inline(always)]
pub(super) const fn dynamic_start(live: u32) -> u32 {
    live & !SECOND
}
