//! What the kernel said: links, addresses, neighbours, routes and settings. Pure: events go in, nothing comes out.

mod address;
mod difference;
mod event;
mod family;
mod link;
mod neighbour;
mod netconf;
mod port;
mod route;
mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_common::abi::Ifindex;

pub use address::Address;
pub use event::{Event, Snapshot};
pub use family::{Family, IpVersion, Prefix};
pub use link::{AttachedXdp, Link, Vlan, XdpFeatures, XdpMode};
pub use neighbour::{Neighbour, NeighbourState};
pub use netconf::{Netconf, NetconfScope};
pub use port::{Attachment, Mode, ModeChoice, UnknownMode, choose};
pub use route::{NextHop, NextHopFlags, Placement, Route, RouteType, Routes, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
pub use rule::{ACTION_TABLE, RoutingRule};

/// The kernel's state, as far as it was announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// By index.
    pub links: BTreeMap<Ifindex, Link>,
    /// On all links.
    pub addresses: BTreeSet<Address>,
    /// By link and address.
    pub neighbours: BTreeMap<(Ifindex, IpAddr), Neighbour>,
    /// The default ones included.
    pub routing_rules: BTreeSet<RoutingRule>,
    /// By family and scope.
    pub netconf: BTreeMap<(IpVersion, NetconfScope), Netconf>,
    /// By link; a kernel before 6.3 tells of none.
    pub features: BTreeMap<Ifindex, XdpFeatures>,
    /// Of all tables.
    pub routes4: Routes<u32>,
    /// Of all tables.
    pub routes6: Routes<u128>,
}

impl Model {
    /// Takes in what was announced. Taking in the same again changes nothing.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Snapshot(snapshot) => self.replace(snapshot),
            Event::Link(link) => {
                self.links.insert(link.ifindex, link);
            }
            Event::LinkGone(ifindex) => self.forget_link(ifindex),
            Event::Address(address) => {
                self.addresses.insert(address);
            }
            Event::AddressGone(address) => {
                self.addresses.remove(&address);
            }
            Event::Neighbour(neighbour) => {
                self.neighbours.insert((neighbour.ifindex, neighbour.address), neighbour);
            }
            Event::NeighbourGone(ifindex, address) => {
                self.neighbours.remove(&(ifindex, address));
            }
            Event::RoutingRule(rule) => {
                self.routing_rules.insert(rule);
            }
            Event::RoutingRuleGone(rule) => {
                self.routing_rules.remove(&rule);
            }
            Event::Netconf(netconf) => self.merge_netconf(netconf),
            Event::NetconfGone(version, scope) => {
                self.netconf.remove(&(version, scope));
            }
            Event::Features(ifindex, features) => {
                self.features.insert(ifindex, features);
            }
            Event::FeaturesGone(ifindex) => {
                self.features.remove(&ifindex);
            }
            Event::Route4(route, placement) => self.routes4.insert(route, placement),
            Event::Route4Gone(route) => self.routes4.remove(&route),
            Event::Route6(route, placement) => self.routes6.insert(route, placement),
            Event::Route6Gone(route) => self.routes6.remove(&route),
        }
    }

    fn replace(&mut self, snapshot: Snapshot) {
        match snapshot {
            Snapshot::Links(links) => self.links = links.into_iter().map(|link| (link.ifindex, link)).collect(),
            Snapshot::Addresses(addresses) => self.addresses = addresses.into_iter().collect(),
            Snapshot::Neighbours(all) => {
                self.neighbours = all.into_iter().map(|one| ((one.ifindex, one.address), one)).collect();
            }
            Snapshot::RoutingRules(rules) => self.routing_rules = rules.into_iter().collect(),
            Snapshot::Netconf(all) => {
                self.netconf.clear();
                for netconf in all {
                    self.merge_netconf(netconf);
                }
            }
            Snapshot::Features(all) => self.features = all.into_iter().collect(),
            Snapshot::Routes4(routes) => self.routes4 = Routes::from_dump(routes),
            Snapshot::Routes6(routes) => self.routes6 = Routes::from_dump(routes),
        }
    }

    fn merge_netconf(&mut self, netconf: Netconf) {
        self.netconf.entry((netconf.version, netconf.scope)).or_insert(netconf).merge(&netconf);
    }

    fn forget_link(&mut self, ifindex: Ifindex) {
        self.links.remove(&ifindex);
        self.features.remove(&ifindex);
        self.addresses.retain(|address| address.ifindex != ifindex);
        self.neighbours.retain(|(on, _), _| *on != ifindex);
        for version in [IpVersion::V4, IpVersion::V6] {
            self.netconf.remove(&(version, NetconfScope::Interface(ifindex)));
        }
    }

    /// The same machine with nothing but its own addresses.
    #[must_use]
    pub fn local_only(&self) -> Self {
        let local4 = self.routes4.iter().filter(|route| route.table == TABLE_LOCAL).cloned().collect();
        let local6 = self.routes6.iter().filter(|route| route.table == TABLE_LOCAL).cloned().collect();
        Self {
            links: self.links.clone(),
            addresses: self.addresses.clone(),
            routes4: Routes::from_dump(local4),
            routes6: Routes::from_dump(local6),
            ..Self::default()
        }
    }

    /// The link of a name.
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// What the driver of a link offers to XDP; nothing if it is not known.
    pub fn features(&self, ifindex: Ifindex) -> XdpFeatures {
        self.features.get(&ifindex).copied().unwrap_or_default()
    }

    /// Whether packets of a family that came in on a link may be forwarded. IPv4: what the interface says; IPv6: what
    /// `all` says, or `force_forwarding` of the interface (`ip6_forward` in `net/ipv6/ip6_output.c`).
    pub fn forwarding(&self, version: IpVersion, ifindex: Ifindex) -> bool {
        let interface = self.netconf.get(&(version, NetconfScope::Interface(ifindex)));
        match version {
            IpVersion::V4 => interface.and_then(|conf| conf.forwarding).unwrap_or_default(),
            IpVersion::V6 => {
                let all = self.netconf.get(&(version, NetconfScope::All)).and_then(|conf| conf.forwarding);
                all.unwrap_or_default() || interface.and_then(|conf| conf.force_forwarding).unwrap_or_default()
            }
        }
    }

    /// `rp_filter` in force: the larger one of `all` and the interface (`IN_DEV_RPFILTER`). IPv6 has none.
    pub fn rp_filter(&self, ifindex: Ifindex) -> u8 {
        [NetconfScope::All, NetconfScope::Interface(ifindex)]
            .into_iter()
            .filter_map(|scope| self.netconf.get(&(IpVersion::V4, scope))?.rp_filter)
            .max()
            .unwrap_or_default()
    }

    /// Whether the rules of a family are others than those of a new namespace. VRF's own rule does not count: it takes
    /// only packets of VRF devices.
    pub fn policy_routing(&self, version: IpVersion) -> bool {
        !self.routing_rules.iter().filter(|rule| rule.version == version && !rule.l3mdev).eq(RoutingRule::defaults(
            version,
        )
        .collect::<BTreeSet<_>>()
        .iter())
    }

    /// Whether a link belongs to a master of one of these kinds.
    pub fn enslaved(&self, link: &Link, kinds: &[&str]) -> bool {
        link.master
            .and_then(|master| self.links.get(&master)?.kind.as_deref())
            .is_some_and(|kind| kinds.contains(&kind))
    }
}

#[cfg(test)]
mod tests;
