//! One route, and what makes two of them the same.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};

use bitflags::bitflags;
use dataplane_common::abi::Ifindex;

use super::{Family, Prefix};

/// `RT_TABLE_DEFAULT`.
pub const TABLE_DEFAULT: u32 = 253;
/// `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;
/// `RT_TABLE_LOCAL`.
pub const TABLE_LOCAL: u32 = 255;

/// One route, as it is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<A: Family> {
    /// In which table.
    pub table: u32,
    /// To where.
    pub destination: Prefix<A>,
    /// All the rest.
    pub info: RouteInfo<A>,
}

/// What a route says apart from its prefix. Many routes say the same, as in the kernel (`fib_info`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteInfo<A: Family> {
    /// From where (IPv6 only); everywhere: all addresses.
    pub source: Prefix<A>,
    /// Only for packets with this TOS; 0: for all.
    pub tos: u8,
    /// Metric; lower ones win.
    pub priority: u32,
    /// What becomes of the packet.
    pub kind: RouteType,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `RTPROT_*`: its origin.
    pub protocol: u8,
    /// The address that local senders use.
    pub preferred_source: Option<IpAddr>,
    /// The route's own MTU in bytes.
    pub mtu: Option<u32>,
    /// Whether it is in force whatever else is known (`mtu lock`).
    pub mtu_locked: bool,
    /// The next-hop object that it follows.
    pub nexthop_id: Option<u32>,
    /// The gateway.
    pub next_hops: Vec<NextHop>,
}

impl<A: Family> Deref for Route<A> {
    type Target = RouteInfo<A>;

    fn deref(&self) -> &RouteInfo<A> {
        &self.info
    }
}

impl<A: Family> DerefMut for Route<A> {
    fn deref_mut(&mut self) -> &mut RouteInfo<A> {
        &mut self.info
    }
}

/// `RTPROT_KERNEL`: made with an address.
const BY_KERNEL: u8 = 2;

/// `RTN_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteType {
    /// To a next hop.
    Unicast,
    /// To this machine.
    Local,
    /// To all on a link.
    Broadcast,
    /// To this machine as one of several.
    Anycast,
    /// To a group.
    Multicast,
    /// Dropped silently.
    Blackhole,
    /// Answered with host unreachable.
    Unreachable,
    /// Answered with administratively prohibited.
    Prohibit,
    /// On to the next table.
    Throw,
    /// Something else.
    Other(u8),
}

impl RouteType {
    /// As `ip route` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Local => "local",
            Self::Broadcast => "broadcast",
            Self::Anycast => "anycast",
            Self::Multicast => "multicast",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
            Self::Throw => "throw",
            Self::Other(_) => "other",
        }
    }
}

impl RouteType {
    /// Whether it ends packets without delivering them.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Blackhole | Self::Unreachable | Self::Prohibit)
    }
}

impl From<u8> for RouteType {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            2 => Self::Local,
            3 => Self::Broadcast,
            4 => Self::Anycast,
            5 => Self::Multicast,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            9 => Self::Throw,
            other => Self::Other(other),
        }
    }
}

/// One way of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// The gateway, of either family; none: the destination is on the link.
    pub via: Option<IpAddr>,
    /// The way out; 0: none.
    pub dev: Ifindex,
    /// Its share, from 1.
    pub weight: u32,
    /// What the kernel says about it.
    pub flags: NextHopFlags,
    /// Packets get wrapped on the way (`RTA_ENCAP`).
    pub encap: bool,
}

bitflags! {
    /// `RTNH_F_*` of `include/uapi/linux/rtnetlink.h`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct NextHopFlags: u8 {
        /// Not used: the link is down, or has no carrier and the operator wants such routes ignored.
        const DEAD = 1;
        /// The gateway is on the link although no prefix says so.
        const ONLINK = 4;
        /// The link has no carrier.
        const LINKDOWN = 16;
    }
}

impl NextHop {
    /// Whether both are the same way, whatever its weight and state.
    pub fn same_way(&self, other: &Self) -> bool {
        self.via == other.via && self.dev == other.dev
    }
}

impl<A: Family> RouteInfo<A> {
    /// Whether it makes addresses this machine's that did not come with an address of an interface.
    pub fn makes_local(&self) -> bool {
        let local = [RouteType::Local, RouteType::Broadcast, RouteType::Anycast, RouteType::Multicast];
        local.contains(&self.kind) && self.protocol != BY_KERNEL
    }

    /// Whether it is in force: routes without a way of their own always are; others as long as one way is.
    pub fn is_alive(&self) -> bool {
        self.kind.is_end()
            || self.kind == RouteType::Throw
            || self.next_hops.is_empty()
            || self.next_hops.iter().any(|hop| !hop.flags.contains(NextHopFlags::DEAD))
    }

    /// Whether both stand at the same place among the routes of a prefix.
    pub(super) fn same_rank(&self, other: &Self) -> bool {
        self.rank() == other.rank() && self.source == other.source
    }

    /// Position among the routes of a prefix: by TOS downwards, then by metric upwards (`fib_find_alias` in
    /// `net/ipv4/fib_trie.c`, `fib6_add_rt2node` in `net/ipv6/ip6_fib.c`).
    pub(super) fn rank(&self) -> (Reverse<u8>, u32) {
        (Reverse(self.tos), self.priority)
    }

    /// Whether the kernel would call both the same route: all but the state of the next hops.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.same_rank(other)
            && self.kind == other.kind
            && self.protocol == other.protocol
            && self.scope == other.scope
            && self.preferred_source == other.preferred_source
            && self.mtu == other.mtu
            && self.mtu_locked == other.mtu_locked
            && self.nexthop_id == other.nexthop_id
            && self.next_hops.len() == other.next_hops.len()
            && self.next_hops.iter().zip(&other.next_hops).all(|(a, b)| a.same_way(b) && a.weight == b.weight)
    }

    /// The kernel lists siblings beginning with any of them; their order means nothing.
    pub(super) fn normalise(&mut self) {
        if A::SIBLINGS {
            self.next_hops.sort_by_key(|hop| (hop.dev, hop.via));
        }
    }

    /// Whether both are parts of one IPv6 multipath route.
    pub(super) fn sibling(&self, other: &Self) -> bool {
        self.same_rank(other)
            && self.kind == other.kind
            && self.nexthop_id == other.nexthop_id
            && (self.next_hops.iter().any(|hop| other.next_hops.iter().any(|theirs| hop.same_way(theirs)))
                || (self.next_hops.is_empty() && other.next_hops.is_empty()))
    }
}

/// Where the kernel put a new route: the flags of its announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In front of those of its rank (`NLM_F_CREATE`).
    First,
    /// Behind those of its rank (`NLM_F_APPEND`).
    Last,
    /// In place of the first of its rank (`NLM_F_REPLACE`).
    Replace,
}
