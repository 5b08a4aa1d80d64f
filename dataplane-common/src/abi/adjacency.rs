//! Next hops: a route names a group, a group names adjacencies, an adjacency says what to write and where to send.
//!
//! Three levels, so that a changed neighbour or a dead link rewrites one entry and no route.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Ifindex, Tag};
use crate::wire::{LinkHeader, Mac};

/// How many next-hop groups there can be at once: as many as targets can name. The map is made with room for those that are
/// needed.
pub const GROUPS: u32 = super::Target::GROUPS;
/// Members of a group, repeated by weight; a power of two.
pub const GROUP_SLOTS: usize = 64;
/// How many adjacencies there can be at once; a member names one with 16 bits.
pub const ADJACENCIES: u32 = 16384;

/// The next hops of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NextHopGroup {
    /// `mtu` of the route, or 0 for the device's; maybe with [`Self::WITHIN_DEVICE`].
    pub mtu: u32,
    /// How many of `members` are in use; 0: the group is empty.
    pub slots: u32,
    /// Indices of adjacencies; a flow takes one by its hash.
    pub members: [u16; GROUP_SLOTS],
}

impl NextHopGroup {
    /// No member: what a deleted group looks like.
    pub const EMPTY: Self = Self { mtu: 0, slots: 0, members: [0; GROUP_SLOTS] };

    /// In `mtu`: the device's is in force where it is less.
    pub const WITHIN_DEVICE: u32 = 1 << 31;

    /// Whether it says no more than the adjacency with this index.
    pub const fn is_adjacency(&self, index: u32) -> bool {
        self.slots == 1 && self.mtu == 0 && self.members[0] as u32 == index
    }

    /// The longest IP packet, in bytes, for a route's `mtu` and a device's.
    #[inline(always)]
    pub fn longest(mtu: u32, device: u32) -> u32 {
        let least = device.min(mtu & !Self::WITHIN_DEVICE);
        if mtu == 0 {
            device
        } else if mtu & Self::WITHIN_DEVICE == 0 {
            mtu
        } else {
            least
        }
    }

    /// The member for a flow, or `None` in an empty group.
    #[inline(always)]
    pub fn member(&self, flow: u32) -> Option<u32> {
        if self.slots == 1 {
            return Some(u32::from(self.members[0]));
        }
        let slot = (u64::from(flow) * u64::from(self.slots)) >> 32;
        if self.slots == 0 { None } else { Some(u32::from(self.members[slot as usize & (GROUP_SLOTS - 1)])) }
    }
}

/// How to reach one next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Adjacency {
    /// The way out as routes and rules know it, maybe a VLAN device; 0: none.
    pub ifindex: Ifindex,
    /// The device that transmits: the one under VLAN devices.
    pub device: Ifindex,
    /// [`AdjacencyFlags`].
    pub flags: u16,
    /// Not 0 if a packet was sent to it since the controller last looked: written once for each time that the controller clears
    /// it, and read by all CPUs in between.
    pub used: u16,
    /// MTU of the way out, in bytes, without the link header.
    pub mtu: u32,
    /// Link address of the next hop.
    pub destination: Mac,
    /// Our link address on the way out.
    pub source: Mac,
    /// Tags to be in front of the packet, the outermost first.
    pub tags: [Tag; 2],
}

bitflags! {
    /// What is known of a next hop.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct AdjacencyFlags: u16 {
        /// The link address is known.
        const RESOLVED = 1 << 0;
        /// The way out takes XDP frames and is in the device map.
        const XDP_TRANSMIT = 1 << 1;
        /// The way out takes skbs from tc: it is up, and what it has in front of a packet is known.
        const TC_TRANSMIT = 1 << 2;
        /// It has no link header, and so no link address: only tc sends there.
        const NO_ETHERNET = 1 << 3;
        /// Packets are to come with the kernel's route: where the device answers one itself, the kernel needs it for that.
        const WITH_ROUTE = 1 << 4;
        /// A packet that changes between devices with and without link header gets a priority for queues
        /// (`net.ipv4.ip_forward_update_priority`).
        const PRIORITY = 1 << 5;
        /// The other end of the device is in another namespace, and tc hands packets to that end.
        const PEER = 1 << 6;
    }
}

impl Adjacency {
    /// An unused entry (all zero: no device, no flags).
    pub const NONE: Self = Self {
        ifindex: 0,
        device: 0,
        flags: 0,
        used: 0,
        mtu: 0,
        destination: Mac([0; 6]),
        source: Mac([0; 6]),
        tags: [Tag::NONE; 2],
    };

    /// [`Adjacency::flags`], typed.
    #[inline(always)]
    pub const fn flags(&self) -> AdjacencyFlags {
        AdjacencyFlags::from_bits_retain(self.flags)
    }

    /// The link address of the next hop, where it has one and that is known.
    pub fn link_address(&self) -> Option<Mac> {
        let known = self.flags().contains(AdjacencyFlags::RESOLVED) && self.link_header() == LinkHeader::Ethernet;
        known.then_some(self.destination)
    }

    /// What is in front of a packet there.
    #[inline(always)]
    pub const fn link_header(&self) -> LinkHeader {
        if self.flags().contains(AdjacencyFlags::NO_ETHERNET) { LinkHeader::None } else { LinkHeader::Ethernet }
    }
}
