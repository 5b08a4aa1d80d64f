//! Routes, in the order in which the kernel asks them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use bitflags::bitflags;
use dataplane_common::abi::Ifindex;

use super::{Family, Prefix};

/// `RT_TABLE_DEFAULT`.
pub const TABLE_DEFAULT: u32 = 253;
/// `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;
/// `RT_TABLE_LOCAL`.
pub const TABLE_LOCAL: u32 = 255;

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<A> {
    /// In which table.
    pub table: u32,
    /// To where.
    pub destination: Prefix<A>,
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
    /// `RTPROT_*`: who made it.
    pub protocol: u8,
    /// The address that local senders use.
    pub preferred_source: Option<IpAddr>,
    /// The route's own MTU in bytes.
    pub mtu: Option<u32>,
    /// The next-hop object that it follows.
    pub nexthop_id: Option<u32>,
    /// Through whom.
    pub next_hops: Vec<NextHop>,
}

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

impl<A: Family> Route<A> {
    /// Whether both stand at the same place among the routes of a prefix.
    fn same_rank(&self, other: &Self) -> bool {
        self.rank() == other.rank() && self.source == other.source
    }

    /// Position among the routes of a prefix: by TOS downwards, then by metric upwards (`fib_find_alias` in
    /// `net/ipv4/fib_trie.c`, `fib6_add_rt2node` in `net/ipv6/ip6_fib.c`).
    fn rank(&self) -> (Reverse<u8>, u32) {
        (Reverse(self.tos), self.priority)
    }

    /// Whether the kernel would call both the same route: all but the state of the next hops.
    fn same(&self, other: &Self) -> bool {
        self.same_rank(other)
            && self.kind == other.kind
            && self.protocol == other.protocol
            && self.scope == other.scope
            && self.preferred_source == other.preferred_source
            && self.mtu == other.mtu
            && self.nexthop_id == other.nexthop_id
            && self.next_hops.len() == other.next_hops.len()
            && self.next_hops.iter().zip(&other.next_hops).all(|(a, b)| a.same_way(b) && a.weight == b.weight)
    }

    /// The kernel lists siblings beginning with any of them; their order means nothing.
    fn normalise(&mut self) {
        if A::SIBLINGS {
            self.next_hops.sort_by_key(|hop| (hop.dev, hop.via));
        }
    }

    /// Whether both are parts of one IPv6 multipath route.
    fn sibling(&self, other: &Self) -> bool {
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

/// The routes of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes<A> {
    by_prefix: BTreeMap<(u32, Prefix<A>), Vec<Route<A>>>,
}

impl<A: Family> Routes<A> {
    /// From a dump: routes of one prefix come in the kernel's order.
    pub fn from_dump(routes: Vec<Route<A>>) -> Self {
        let mut all = Self { by_prefix: BTreeMap::new() };
        for mut route in routes {
            route.normalise();
            let list = all.by_prefix.entry((route.table, route.destination)).or_default();
            let position = list.iter().rposition(|other| other.rank() <= route.rank()).map_or(0, |last| last + 1);
            list.insert(position, route);
        }
        all
    }

    /// Enters an announced route. Doing it again changes nothing.
    pub fn insert(&mut self, mut route: Route<A>, placement: Placement) {
        route.normalise();
        let list = self.by_prefix.entry((route.table, route.destination)).or_default();
        let rank = list.iter().position(|other| other.same_rank(&route));
        let known = list.iter().position(|other| other.same(&route) || (A::SIBLINGS && other.sibling(&route)));
        if let Some(known) = known {
            list[known] = route;
        } else if let (Placement::Replace, Some(first)) = (placement, rank) {
            list[first] = route;
        } else if placement == Placement::First && !A::SIBLINGS {
            let position = list.iter().position(|other| other.rank() >= route.rank()).unwrap_or(list.len());
            list.insert(position, route);
        } else {
            let position = list.iter().position(|other| other.rank() > route.rank()).unwrap_or(list.len());
            list.insert(position, route);
        }
    }

    /// Takes out a route that is gone, or those of its next hops that are. Doing it again changes nothing.
    pub fn remove(&mut self, route: &Route<A>) {
        let key = (route.table, route.destination);
        let Some(list) = self.by_prefix.get_mut(&key) else { return };
        if let Some(position) = list.iter().position(|other| other.same(route)) {
            list.remove(position);
        } else if A::SIBLINGS {
            for other in list.iter_mut().filter(|other| other.sibling(route)) {
                other.next_hops.retain(|hop| !route.next_hops.iter().any(|gone| gone.same_way(hop)));
            }
            list.retain(|other| !(other.next_hops.is_empty() && other.same_rank(route) && other.kind == route.kind));
        }
        if list.is_empty() {
            self.by_prefix.remove(&key);
        }
    }

    /// The prefixes of one table, each with its routes in the order in which the kernel asks them.
    pub fn table(&self, table: u32) -> impl Iterator<Item = (Prefix<A>, &[Route<A>])> {
        self.by_prefix
            .range((table, Prefix::all())..)
            .take_while(move |((number, _), _)| *number == table)
            .map(|((_, prefix), routes)| (*prefix, routes.as_slice()))
    }

    /// All routes, by table and prefix.
    pub fn iter(&self) -> impl Iterator<Item = &Route<A>> {
        self.by_prefix.values().flatten()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_prefix.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_prefix.is_empty()
    }
}
