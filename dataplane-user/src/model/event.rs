//! The events of netlink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use dataplane_common::abi::Ifindex;

use super::{
    Address, BridgePort, FdbEntry, IpVersion, Ipsec, Link, Neighbour, Netconf, NetconfScope, Netfilter, Placement,
    Route, Routes, RoutingRule, Touched, XdpFeatures,
};

/// One change, or a whole table of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All of a kind: replaces what was known of it.
    Snapshot(Snapshot),
    /// The same, listed for a comparison: it must be as it was announced, but for what was announced meanwhile.
    Compared(Snapshot, Touched),
    /// A link is there, or changed.
    Link(Link),
    /// A link is gone, with its addresses, neighbours and settings.
    LinkGone(Ifindex),
    /// An address is there.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A neighbour is there, or changed.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Ifindex, IpAddr),
    /// A bridge knows a host, or knows it no more.
    Fdb(FdbEntry),
    /// A member of a bridge says something else of that.
    BridgePort(Ifindex, BridgePort),
    /// A routing rule is there.
    RoutingRule(RoutingRule),
    /// A routing rule is gone.
    RoutingRuleGone(RoutingRule),
    /// Settings changed.
    Netconf(Netconf),
    /// Settings are gone: an interface lost a protocol.
    NetconfGone(IpVersion, NetconfScope),
    /// What a driver offers to XDP.
    Features(Ifindex, XdpFeatures),
    /// A driver offers nothing any more: its device is gone.
    FeaturesGone(Ifindex),
    /// The handlers that get the frames of links before IP ([`super::Model::handlers`]).
    Handlers(BTreeMap<Ifindex, String>),
    /// An IPv4 route is there.
    Route4(Route<u32>, Placement),
    /// An IPv4 route is gone.
    Route4Gone(Route<u32>),
    /// An IPv6 route is there, or more of its next hops.
    Route6(Route<u128>, Placement),
    /// An IPv6 route is gone, or some of its next hops.
    Route6Gone(Route<u128>),
}

/// All that the kernel has of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// All links.
    Links(Vec<Link>),
    /// All addresses, both families.
    Addresses(Vec<Address>),
    /// All neighbours, both families.
    Neighbours(Vec<Neighbour>),
    /// All hosts behind bridges.
    Fdb(Vec<FdbEntry>),
    /// All routing rules, both families.
    RoutingRules(Vec<RoutingRule>),
    /// All settings, both families.
    Netconf(Vec<Netconf>),
    /// All XDP features.
    Features(Vec<(Ifindex, XdpFeatures)>),
    /// All policies of `IPsec`.
    Ipsec(Ipsec),
    /// All IPv6 addresses that the kernel answers for.
    Proxies(BTreeSet<(Ifindex, Ipv6Addr)>),
    /// The links whose way out is shaped, with the disciplines and classifiers.
    Qdiscs(BTreeMap<Ifindex, Vec<String>>),
    /// Rules of netfilter that forwarded packets would meet.
    Netfilter(Netfilter),
    /// All IPv4 routes.
    Routes4(Routes<u32>),
    /// All IPv6 routes.
    Routes6(Routes<u128>),
}
