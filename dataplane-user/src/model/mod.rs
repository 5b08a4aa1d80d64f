//! The state of the kernel: links, addresses, neighbours, routes and settings. Pure: events go in, nothing comes out.

mod abstraction;
mod address;
mod bridge;
mod difference;
mod established;
mod event;
mod expression;
mod extension;
mod family;
mod ipsec;
mod link;
mod neighbour;
mod netconf;
mod netfilter;
mod obstacle;
mod open_socket;
mod own_table;
mod peer;
mod port;
mod protocol;
mod rib;
mod route;
mod rule;
mod table_order;
mod taker;
mod touched;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::{IpAddr, Ipv6Addr};

use dataplane_common::abi::Ifindex;

pub use address::Address;
pub use bridge::{Bridge, BridgePort, FDB_HOSTS, Fdb, FdbEntry};
pub use difference::Missed;
pub use established::obstacles;
pub use event::{Event, Snapshot};
pub use expression::{
    Comparison, Expression, Extension, NetfilterElement, NetfilterRule, NetfilterSet, NetfilterTable, NetfilterVerdict,
    Register, Source,
};
pub use family::{Family, IpVersion, Prefix};
pub use ipsec::{Ipsec, Pairs};
pub use link::{AttachedXdp, Layer3, Link, Macvlan, TcPlace, Vlan, XdpFeatures, XdpMode};
pub use neighbour::{Neighbour, NeighbourState};
pub use netconf::{Netconf, NetconfScope};
pub use netfilter::{Netfilter, NetfilterChain, NetfilterHook};
pub use obstacle::{Obstacle, ObstacleKind, ObstacleKinds};
pub use open_socket::{OpenSocket, STATE_CLOSE, STATE_LISTEN};
pub use own_table::{
    ChainKind, DELIVERY_MARK, OWN_RULES, OwnChain, OwnCount, OwnDynamic, OwnRule, OwnSet, OwnTable, OwnUpdate, Place,
    Step, TABLE_DELIVERY,
};
pub use port::{Attachment, Mode, ModeChoice, UnknownMode, choose};
pub use protocol::{PROTOCOLS, protocol_name};
pub use rib::{Candidates, Listing, Routes};
pub use route::{
    NextHop, NextHopFlags, Placement, Route, RouteInfo, RouteType, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN,
};
pub use rule::{
    ACTION_BLACKHOLE, ACTION_GOTO, ACTION_NOTHING, ACTION_PROHIBIT, ACTION_TABLE, ACTION_UNREACHABLE, Meets,
    RouteSource, RoutingRule, RoutingRules,
};
pub use table_order::{Action, TableOrder, TableStep};
pub use touched::{Touched, TouchedRoutes};

/// The kernel's state, as far as it was announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// By index.
    pub links: BTreeMap<Ifindex, Link>,
    /// On all links.
    pub addresses: BTreeSet<Address>,
    /// By link and address.
    pub neighbours: BTreeMap<(Ifindex, IpAddr), Neighbour>,
    /// Hosts behind members of bridges.
    pub fdb: Fdb,
    /// The default ones included.
    pub routing_rules: RoutingRules,
    /// By family and scope.
    pub netconf: BTreeMap<(IpVersion, NetconfScope), Netconf>,
    /// By link; a kernel before 6.3 lists none.
    pub features: BTreeMap<Ifindex, XdpFeatures>,
    /// The handler that gets the frames of a link before IP, by the name of a function of the kernel; empty: none. For links
    /// that are not in here it is not known.
    pub handlers: BTreeMap<Ifindex, String>,
    /// Policies of `IPsec`.
    pub ipsec: Ipsec,
    /// IPv6 addresses elsewhere that the kernel answers for, by link (`ip neigh add proxy`).
    pub proxies: BTreeSet<(Ifindex, Ipv6Addr)>,
    /// Disciplines that shape, rank or drop what a link sends.
    pub qdiscs: BTreeMap<Ifindex, Vec<String>>,
    /// Programs of others at tc egress, as far as they were looked for.
    pub egress_programs: BTreeMap<Ifindex, Vec<String>>,
    /// Rules of netfilter that forwarded packets would meet.
    pub netfilter: Netfilter,
    /// Of all tables.
    pub routes4: Routes<u32>,
    /// Of all tables.
    pub routes6: Routes<u128>,
    /// Whether a program reads IPv4 packets from a raw socket, as DHCP clients do.
    pub raw_readers: bool,
    /// Links whose other end, in another namespace, may be handed packets: no program here sees them on their way through the
    /// link.
    pub peers: BTreeSet<Ifindex>,
    /// Whether own rules are in a table of netfilter, seen there already or not.
    pub own_rules: bool,
}

impl Model {
    /// Takes in what was announced. Taking in the same again changes nothing.
    pub fn apply(&mut self, event: Event) {
        self.follow(event, &mut Touched::default());
    }

    /// Takes in what was announced, and adds to `touched` what that changed.
    pub fn follow(&mut self, event: Event, touched: &mut Touched) {
        match event {
            Event::Neighbour(neighbour) => {
                let key = (neighbour.ifindex, neighbour.address);
                if self.neighbours.insert(key, neighbour) != Some(neighbour) {
                    touched.neighbours.insert(key);
                }
            }
            Event::NeighbourGone(ifindex, address) => {
                let key = (ifindex, address);
                touched.neighbours.extend(self.neighbours.remove(&key).map(|_| key));
            }
            Event::Fdb(entry) => {
                if self.fdb.follow(entry) {
                    touched.hosts.insert((entry.bridge, entry.mac));
                }
            }
            Event::Route4(route, placement) => insert(route, placement, &mut self.routes4, &mut touched.routes4),
            Event::Route4Gone(route) => remove(&route, &mut self.routes4, &mut touched.routes4),
            Event::Route6(route, placement) => insert(route, placement, &mut self.routes6, &mut touched.routes6),
            Event::Route6Gone(route) => remove(&route, &mut self.routes6, &mut touched.routes6),
            Event::Snapshot(snapshot) | Event::Compared(snapshot, _) => self.replace(snapshot, touched),
            other => {
                touched.links = true;
                self.follow_link(other, touched);
            }
        }
    }

    /// Takes in news about what there is little of.
    fn follow_link(&mut self, event: Event, touched: &mut Touched) {
        match event {
            Event::Link(link) => {
                self.links.insert(link.ifindex, link);
            }
            Event::LinkGone(ifindex) => self.forget_link(ifindex, touched),
            Event::Address(address) => {
                self.addresses.insert(address);
            }
            Event::AddressGone(address) => {
                self.addresses.remove(&address);
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
            Event::BridgePort(ifindex, port) => {
                if let Some(member) = self.links.get_mut(&ifindex) {
                    member.bridge_port = Some(port);
                }
            }
            Event::Features(ifindex, features) => {
                self.features.insert(ifindex, features);
            }
            Event::FeaturesGone(ifindex) => {
                self.features.remove(&ifindex);
            }
            Event::Handlers(handlers) => self.handlers = handlers,
            other => self.follow(other, touched),
        }
    }

    fn replace(&mut self, snapshot: Snapshot, touched: &mut Touched) {
        match snapshot {
            Snapshot::Neighbours(all) => {
                let all: BTreeMap<_, _> = all.into_iter().map(|one| ((one.ifindex, one.address), one)).collect();
                let changed = |key: &&(Ifindex, IpAddr)| all.get(key) != self.neighbours.get(key);
                touched.neighbours.extend(all.keys().chain(self.neighbours.keys()).filter(changed));
                self.neighbours = all;
            }
            Snapshot::Fdb(entries) => touched.hosts.extend(self.fdb.replace(entries)),
            Snapshot::Routes4(routes) => exchange(routes, &mut self.routes4, &mut touched.routes4),
            Snapshot::Routes6(routes) => exchange(routes, &mut self.routes6, &mut touched.routes6),
            other => touched.links |= self.replace_links(other),
        }
    }

    /// Says whether anything changed.
    fn replace_links(&mut self, snapshot: Snapshot) -> bool {
        match snapshot {
            Snapshot::Links(links) => {
                put(&mut self.links, links.into_iter().map(|link| (link.ifindex, link)).collect())
            }
            Snapshot::Addresses(addresses) => put(&mut self.addresses, addresses.into_iter().collect()),
            Snapshot::RoutingRules(rules) => put(&mut self.routing_rules, rules.into_iter().collect()),
            Snapshot::Netconf(all) => {
                let before = mem::take(&mut self.netconf);
                for netconf in all {
                    self.merge_netconf(netconf);
                }
                self.netconf != before
            }
            Snapshot::Features(all) => put(&mut self.features, all.into_iter().collect()),
            Snapshot::Ipsec(all) => put(&mut self.ipsec, all),
            Snapshot::Proxies(all) => put(&mut self.proxies, all),
            Snapshot::Qdiscs(all) => put(&mut self.qdiscs, all),
            Snapshot::Netfilter(netfilter) => put(&mut self.netfilter, netfilter),
            Snapshot::Neighbours(_) | Snapshot::Fdb(_) | Snapshot::Routes4(_) | Snapshot::Routes6(_) => false,
        }
    }

    fn merge_netconf(&mut self, netconf: Netconf) {
        self.netconf.entry((netconf.version, netconf.scope)).or_insert(netconf).merge(&netconf);
    }

    fn forget_link(&mut self, ifindex: Ifindex, touched: &mut Touched) {
        self.links.remove(&ifindex);
        self.features.remove(&ifindex);
        self.qdiscs.remove(&ifindex);
        self.peers.remove(&ifindex);
        self.egress_programs.remove(&ifindex);
        touched.hosts.extend(self.fdb.forget(ifindex));
        self.addresses.retain(|address| address.ifindex != ifindex);
        let gone = self.neighbours.extract_if(.., |(on, _), _| *on == ifindex);
        touched.neighbours.extend(gone.map(|(key, _)| key));
        for version in [IpVersion::V4, IpVersion::V6] {
            self.netconf.remove(&(version, NetconfScope::Interface(ifindex)));
        }
    }

    /// The same machine with nothing but its own addresses.
    #[must_use]
    pub fn local_only(&self) -> Self {
        Self {
            links: self.links.clone(),
            addresses: self.addresses.clone(),
            routes4: self.routes4.only(TABLE_LOCAL),
            routes6: self.routes6.only(TABLE_LOCAL),
            ..Self::default()
        }
    }

    /// The link of a name.
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.names().any(|known| known == name))
    }

    /// What the driver of a link offers to XDP; nothing if it is not known.
    pub fn features(&self, ifindex: Ifindex) -> XdpFeatures {
        self.features.get(&ifindex).copied().unwrap_or_default()
    }

    /// Whether packets of a family that came in on a link may be forwarded. IPv4: what the interface says; IPv6: what
    /// `all` says, or `force_forwarding` of the interface (`ip6_forward` in `net/ipv6/ip6_output.c`), unless the interface has no
    /// IPv6.
    pub fn forwarding(&self, version: IpVersion, ifindex: Ifindex) -> bool {
        let interface = self.netconf.get(&(version, NetconfScope::Interface(ifindex)));
        match version {
            IpVersion::V4 => interface.and_then(|conf| conf.forwarding).unwrap_or_default(),
            // `ip6_rcv_core` in `net/ipv6/ip6_input.c` has dropped it before.
            IpVersion::V6 if self.links.get(&ifindex).is_some_and(|link| link.no_ipv6) => false,
            IpVersion::V6 => {
                let all = self.netconf.get(&(version, NetconfScope::All)).and_then(|conf| conf.forwarding);
                all.unwrap_or_default() || interface.and_then(|conf| conf.force_forwarding).unwrap_or_default()
            }
        }
    }

    /// Whether the kernel takes packets to neighbours for which it is a proxy, instead of forwarding them (`ip6_forward`).
    pub fn proxies_neighbours(&self) -> bool {
        let all = self.netconf.get(&(IpVersion::V6, NetconfScope::All)).and_then(|conf| conf.proxy_ndp);
        all.unwrap_or_default() && !self.proxies.is_empty()
    }

    /// Whether a packet of a family that came in on a link would meet rules of netfilter when it is forwarded.
    pub fn meets_netfilter(&self, version: IpVersion, link: &Link) -> bool {
        self.own_rules || self.netfilter.meets(version, &self.devices_of(link))
    }

    /// A link, and what is under it: what comes in through a VLAN or macvlan device came in through these.
    pub fn crossed<'a>(&'a self, link: &'a Link) -> Vec<&'a Link> {
        let mut devices = vec![link];
        while let Some(below) = devices.last().and_then(|device| self.under(device)).filter(|_| devices.len() < 4) {
            devices.push(below);
        }
        devices
    }

    /// Their names.
    pub(super) fn devices_of<'a>(&'a self, link: &'a Link) -> Vec<&'a str> {
        self.crossed(link).into_iter().map(|device| device.name.as_str()).collect()
    }

    /// The link under a VLAN or macvlan device, if it is in this namespace.
    pub fn under(&self, link: &Link) -> Option<&Link> {
        let on_another = link.vlan.is_some() || link.macvlan.is_some();
        let parent = link.parent.filter(|_| on_another && link.parent_netns.is_none());
        parent.and_then(|parent| self.links.get(&parent))
    }

    /// Whether what leaves through a link meets nothing between the stack and the driver that XDP would pass by: no
    /// discipline that shapes, no classifier or program at tc egress, no rule of netfilter.
    pub fn leaves_plainly(&self, link: &Link) -> bool {
        self.in_front_of(link).next().is_none() && !self.netfilter.meets_on_the_way_out(&link.name)
    }

    /// What is at tc between the stack and the driver of a link: `qdisc htb`, `filter flower`, `program NAME`.
    pub fn in_front_of(&self, link: &Link) -> impl Iterator<Item = &str> {
        let found = [&self.qdiscs, &self.egress_programs].into_iter().filter_map(|all| all.get(&link.ifindex));
        found.flatten().map(String::as_str)
    }

    /// `rp_filter` in force: the larger one of `all` and the interface (`IN_DEV_RPFILTER`). IPv6 has none.
    pub fn rp_filter(&self, ifindex: Ifindex) -> u8 {
        [NetconfScope::All, NetconfScope::Interface(ifindex)]
            .into_iter()
            .filter_map(|scope| self.netconf.get(&(IpVersion::V4, scope))?.rp_filter)
            .max()
            .unwrap_or_default()
    }

    /// What a link is to routing: the VRF that it belongs to, or itself.
    pub fn domain<'a>(&'a self, link: &'a Link) -> &'a Link {
        let master = link.master.and_then(|master| self.links.get(&master));
        master.filter(|master| master.kind.as_deref() == Some("vrf")).unwrap_or(link)
    }

    /// Where the routes of packets come from that come in through a link.
    pub fn route_source(&self, version: IpVersion, link: &Link) -> RouteSource {
        match version {
            IpVersion::V4 => self.source_of::<u32>(link),
            IpVersion::V6 => self.source_of::<u128>(link),
        }
    }

    /// Whether there ever was reason for the kernel to look at every IPv4 source (`fib4_has_custom_rules`).
    pub fn looks_at_sources(&self) -> bool {
        !self.routing_rules.of(IpVersion::V4).cloned().eq(RoutingRule::defaults(IpVersion::V4))
    }
}

/// Says whether that is something else.
fn put<T: PartialEq>(place: &mut T, new: T) -> bool {
    let changed = *place != new;
    *place = new;
    changed
}

fn insert<A: Family>(route: Route<A>, placement: Placement, to: &mut Routes<A>, touched: &mut TouchedRoutes<A>) {
    let (table, prefix) = (route.table, route.destination);
    if to.insert(route, placement) {
        touched.add(table, prefix);
    }
}

fn remove<A: Family>(route: &Route<A>, from: &mut Routes<A>, touched: &mut TouchedRoutes<A>) {
    if from.remove(route) {
        touched.add(route.table, route.destination);
    }
}

fn exchange<A: Family>(mut new: Routes<A>, old: &mut Routes<A>, touched: &mut TouchedRoutes<A>) {
    if old.is_empty() {
        *touched = TouchedRoutes::All;
    } else {
        for (table, prefix) in new.difference(old) {
            touched.add(table, prefix);
        }
    }
    new.succeed(old);
    *old = new;
}

#[cfg(test)]
mod tests;
