//! What rules match of the connection that a packet belongs to. Only the kernel knows it.

use std::fmt::{Display, Formatter, Result};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::ast::{Family, Side, Test, Values};
use super::display::Named;
use super::reachability::Reachability;
use super::value::{Mark, Owner, Port, Range};

/// `ct state` as bits of a mask (`NF_CT_STATE_BIT` in `include/uapi/linux/netfilter/nf_conntrack_common.h`).
const STATES: [(&str, u32); 5] = [("invalid", 1), ("established", 2), ("related", 4), ("new", 8), ("untracked", 64)];
/// `ct status` as bits (`IPS_*` there).
const STATUSES: [(&str, u32); 7] =
    [("expected", 1), ("seen-reply", 2), ("assured", 4), ("confirmed", 8), ("snat", 16), ("dnat", 32), ("dying", 512)];

/// Which words a list of bits takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionBits {
    /// `ct state`.
    State,
    /// `ct status`.
    Status,
}

impl ConnectionBits {
    /// The words, with their bits.
    pub const fn names(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::State => &STATES,
            Self::Status => &STATUSES,
        }
    }

    /// As nft spells it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Status => "status",
        }
    }
}

/// The state of a packet that belongs to a connection of which both ends have sent.
pub const ESTABLISHED: u32 = 2;
/// The state of the first packet of a connection.
pub const NEW: u32 = 8;

/// Which way of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// As its first packet.
    Original,
    /// The other way.
    Reply,
}

/// Whose a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnerKind {
    /// `meta skuid`.
    User,
    /// `meta skgid`.
    Group,
}

/// One question about a packet's connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Connection {
    /// `ct state established,related`, `ct status dnat`: any of the bits, or none of them when negated.
    Bits(ConnectionBits, bool, u32),
    /// `ct direction`.
    Direction(Direction),
    /// `ct mark`, of which the bits of a mask count.
    Mark(Marked),
    /// `meta mark`, likewise: what has come in at the driver has none before the kernel gives it one.
    PacketMark(Marked),
    /// `ct original ip saddr` and the like.
    Ipv4(Direction, Side, Test<Range<Ipv4Addr>>),
    /// `ct original ip6 saddr` and the like.
    Ipv6(Direction, Side, Test<Range<Ipv6Addr>>),
    /// `ct original proto-dst` and the like.
    Port(Direction, Side, Test<Range<Port>>),
    /// `socket transparent`: whether the socket of the packet may have foreign addresses.
    Transparent(bool),
    /// `fib ...`.
    Route(Reachability),
    /// `meta skuid`, `meta skgid`: whose the socket is that a packet comes from; holds for no packet without one, negated or not.
    Owner(OwnerKind, Test<Range<Owner>>),
    /// `rt type 0`: whether there is a routing header of type 0.
    RoutingHeader,
}

impl Connection {
    /// The family that it holds for, when that is one.
    pub const fn family(&self) -> Option<Family> {
        match self {
            Self::Ipv4(..) => Some(Family::V4),
            Self::Ipv6(..) | Self::RoutingHeader => Some(Family::V6),
            _ => None,
        }
    }
}

/// `ct mark & MASK VALUE`, `meta mark & MASK VALUE`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Marked {
    mask: u32,
    test: Test<Range<Mark>>,
}

impl Marked {
    /// None when a value has bits outside the mask, or when a range meets a mask that leaves bits out, and for sets.
    pub fn new(mask: u32, test: Test<Range<Mark>>) -> Option<Self> {
        let Values::Listed(ranges) = test.values() else { return None };
        let fits = ranges.iter().all(|range| {
            let (low, high) = range.ends();
            mask == u32::MAX || (low == high && low.0 & !mask == 0)
        });
        fits.then_some(Self { mask, test })
    }

    /// Which bits count.
    pub const fn mask(&self) -> u32 {
        self.mask
    }

    /// What they are compared with.
    pub const fn test(&self) -> &Test<Range<Mark>> {
        &self.test
    }
}

impl Display for Marked {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { mask, test } = self;
        match (*mask, test.negated()) {
            (u32::MAX, _) => test.fmt(f),
            (_, true) => write!(f, "& {mask:#x} {test}"),
            (_, false) => write!(f, "& {mask:#x} == {test}"),
        }
    }
}

impl Display for Connection {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let end = |side: &Side| if *side == Side::Source { "proto-src" } else { "proto-dst" };
        match self {
            Self::Bits(kind, negated, bits) => {
                let names: Vec<_> =
                    kind.names().iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| *name).collect();
                let relation = if *negated { "!= " } else { "" };
                write!(f, "ct {} {relation}{}", kind.word(), names.join(","))
            }
            Self::Direction(direction) => write!(f, "ct direction {}", direction.word()),
            Self::Mark(marked) => write!(f, "ct mark {marked}"),
            Self::PacketMark(marked) => write!(f, "meta mark {marked}"),
            Self::Ipv4(direction, side, test) => write!(f, "ct {} ip {} {test}", direction.word(), side.word()),
            Self::Ipv6(direction, side, test) => write!(f, "ct {} ip6 {} {test}", direction.word(), side.word()),
            Self::Transparent(is) => write!(f, "socket transparent {}", u8::from(*is)),
            Self::Route(asked) => asked.fmt(f),
            Self::Owner(OwnerKind::User, test) => write!(f, "meta skuid {test}"),
            Self::Owner(OwnerKind::Group, test) => write!(f, "meta skgid {test}"),
            Self::RoutingHeader => f.write_str("rt type 0"),
            Self::Port(direction, side, test) => write!(f, "ct {} {} {test}", direction.word(), end(side)),
        }
    }
}
