//! Named sets: what their elements are.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::name::LinkPattern;
use super::value::{MacAddress, Mark, Port, Protocol, Range};

/// What one part of an element is; nft's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ItemKind {
    /// `ipv4_addr`.
    Ipv4,
    /// `ipv6_addr`.
    Ipv6,
    /// `ether_addr`.
    Ether,
    /// `inet_proto`.
    Protocol,
    /// `inet_service`.
    Service,
    /// `mark`.
    Mark,
    /// `ifname`.
    Link,
}

impl ItemKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Ipv4, Self::Ipv6, Self::Ether, Self::Protocol, Self::Service, Self::Mark, Self::Link];

    /// As nft spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Ether => "ether_addr",
            Self::Protocol => "inet_proto",
            Self::Service => "inet_service",
            Self::Mark => "mark",
            Self::Link => "ifname",
        }
    }
}

/// The kinds of an element's parts, in their order; at least one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetType(Vec<ItemKind>);

impl SetType {
    /// None without kinds.
    pub fn new(kinds: Vec<ItemKind>) -> Option<Self> {
        (!kinds.is_empty()).then_some(Self(kinds))
    }

    /// The kinds, in their order.
    pub fn kinds(&self) -> &[ItemKind] {
        &self.0
    }
}

impl fmt::Display for SetType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|kind| kind.name()).collect();
        f.write_str(&names.join(" . "))
    }
}

/// One part of an element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// IPv4 addresses.
    Ipv4(Range<Ipv4Addr>),
    /// IPv6 addresses.
    Ipv6(Range<Ipv6Addr>),
    /// Link addresses.
    Ether(Range<MacAddress>),
    /// Protocols.
    Protocol(Range<Protocol>),
    /// Ports.
    Service(Range<Port>),
    /// Marks.
    Mark(Range<Mark>),
    /// Links.
    Link(LinkPattern),
}

impl Item {
    /// What it is.
    pub const fn kind(&self) -> ItemKind {
        match self {
            Self::Ipv4(_) => ItemKind::Ipv4,
            Self::Ipv6(_) => ItemKind::Ipv6,
            Self::Ether(_) => ItemKind::Ether,
            Self::Protocol(_) => ItemKind::Protocol,
            Self::Service(_) => ItemKind::Service,
            Self::Mark(_) => ItemKind::Mark,
            Self::Link(_) => ItemKind::Link,
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(range) => range.fmt(f),
            Self::Ipv6(range) => range.fmt(f),
            Self::Ether(range) => range.fmt(f),
            Self::Protocol(range) => range.fmt(f),
            Self::Service(range) => range.fmt(f),
            Self::Mark(range) => range.fmt(f),
            Self::Link(pattern) => pattern.fmt(f),
        }
    }
}

/// An element of a set: one item for each kind of the set's type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element(pub Vec<Item>);

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&items.join(" . "))
    }
}
