//! What the programs must be loaded with, by what is there.

use std::collections::BTreeSet;

use dataplane_common::{
    abi::{AdjacencyFlags, Control, Features, Port, PortFlags, Tag, VlanKey},
    wire::{LinkHeader, Mac},
};

use super::{Lowering, port};
use crate::model::{Model, RouteInfo, RouteType};

impl Lowering {
    /// Sets the features of what is wanted. Chains and watching add theirs elsewhere.
    pub(super) fn switch_features(&mut self, model: &Model) {
        let want = &mut self.want;
        want.features = port::features(want.ports.values().chain(want.vlans.values()));
        let bare = want.adjacencies.values().any(|adjacency| adjacency.link_header() == LinkHeader::None);
        want.features.set(Features::NO_ETHERNET, bare || want.features.contains(Features::NO_ETHERNET));
        let peer = want.adjacencies.values().any(|adjacency| adjacency.flags().contains(AdjacencyFlags::PEER));
        want.features.set(Features::PEERS, peer);
        let tagged = want.adjacencies.values().any(|adjacency| adjacency.tags[0] != Tag::NONE);
        want.features.set(Features::VLANS, tagged || want.vlans.keys().any(|key| !key.is_address()));
        let is_bridge = |port: &Port| port.flags().contains(PortFlags::BRIDGED);
        let is_virtual = |(key, port): (&VlanKey, &Port)| key.is_address() && !is_bridge(port);
        want.features.set(Features::VIRTUAL, want.vlans.iter().any(is_virtual));
        let switches = |port: &Port| port.flags().contains(PortFlags::SWITCHES);
        want.features.set(Features::SWITCH, want.ports.values().any(switches));
        want.features.set(Features::BRIDGES, want.ports.values().any(is_bridge));
        let ipv6 = model.addresses.iter().any(|address| address.address.is_ipv6() && !address.address.is_loopback());
        want.features.set(Features::IPV6, ipv6);
        if self.custom_local.0 != model.routes4.renewals() {
            let custom = |info: &RouteInfo<u32>| info.kind == RouteType::Local && info.makes_local();
            self.custom_local = (model.routes4.renewals(), model.routes4.infos().any(|(_, info)| custom(info)));
        }
        want.features.set(Features::CUSTOM_LOCAL, self.custom_local.1);
        want.features.set(Features::SOURCES, model.looks_at_sources());
        want.features.set(Features::IPSEC, !model.ipsec.is_empty());
        want.features.set(Features::PROXY_NDP, model.proxies_neighbours());
        want.features.set(Features::MULTIPATH, self.next_hops.multipath());
        want.features.set(Features::MARKS, model.looks_at_marks());
        self.switch_elsewhere(model);
        self.switch_clients(model);
        self.switch_flows(model);
    }

    /// Whether connections may be carried past netfilter: some port's packets meet it, and no rule would see less than it must.
    fn switch_flows(&mut self, model: &Model) {
        let follows = self.want.features.contains(Features::FOLLOW);
        let ignore = self.attached.values().find_map(|attachment| attachment.flows).filter(|_| follows);
        let may = ignore.is_some_and(|ignore| model.flow_obstacles(self.attached.keys().copied(), ignore).is_empty());
        self.want.features.set(Features::FLOWS, may);
    }

    /// Whether addresses are local by tables that only the kernel follows.
    fn switch_elsewhere(&mut self, model: &Model) {
        let want = &mut self.want;
        let renewals = [model.routes4.renewals(), model.routes6.renewals()];
        if self.local_elsewhere.0 != renewals {
            let v4 = model.routes4.infos().any(|(_, info)| info.makes_local());
            let v6 = model.routes6.infos().any(|(_, info)| info.makes_local());
            self.local_elsewhere = (renewals, v4 || v6);
        }
        let vrf = || model.links.values().any(|link| link.kind.as_deref() == Some("vrf"));
        let both = Control::MIRROR_V4 | Control::MIRROR_V6;
        let elsewhere = self.local_elsewhere.1 || (want.mirror & both != both && vrf());
        let left = Features::KERNEL_LOOKUP | Features::MARKS;
        want.features.set(Features::ELSEWHERE, elsewhere && want.features.intersects(left));
    }

    /// Whether a DHCP client may wait for an address that is not there yet: at a port without one, or wherever raw sockets read.
    fn switch_clients(&mut self, model: &Model) {
        let want = &mut self.want;
        let addressed: BTreeSet<_> =
            model.addresses.iter().filter(|one| one.address.is_ipv4()).map(|one| one.ifindex).collect();
        let mut ports = want.ports.values().chain(want.vlans.values());
        let bare = ports.any(|port| {
            let ethernet = !port.flags().contains(PortFlags::NO_ETHERNET) && port.mac != Mac::default();
            ethernet && !addressed.contains(&port.ifindex)
        });
        want.features.set(Features::CLIENTS, bare || model.raw_readers);
    }
}
