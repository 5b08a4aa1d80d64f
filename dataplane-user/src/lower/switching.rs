//! Frames between members of a bridge: through which members they are sent, and to which hosts.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::{Ifindex, Port, PortFlags, SwitchedFlags, SwitchedHost, SwitchedKey};
use dataplane_common::{decide, wire::Mac};

use super::{Lowering, Update, adjacency, bridge::Entrances, family_state::changes};
use crate::model::{Link, Model, Touched};

/// Bytes of a tag, which a frame may be longer by.
const VLAN_HEADER: u32 = 4;

/// Members between which frames are sent past their bridges: each as a way out, by bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Switching(BTreeMap<Ifindex, BTreeMap<Ifindex, SwitchedHost>>);

impl Switching {
    /// Those that there are, of bridges whose members are ports.
    pub(super) fn new(model: &Model, entrances: &Entrances) -> Self {
        let egress = adjacency::egress(model);
        let mut bridges = BTreeMap::new();
        for (bridge, members) in entrances.members() {
            let plain = members.iter().filter_map(|member| model.links.get(member));
            let plain = plain.filter(|member| model.why_kernel_switches_at(member) == Some(None));
            let members: BTreeMap<_, _> = plain.map(|member| (member.ifindex, way(model, member, &egress))).collect();
            if !members.is_empty() {
                bridges.insert(bridge, members);
            }
        }
        Self(bridges)
    }

    /// A port, with what it is in its bridge.
    pub(super) fn port(&self, model: &Model, link: &Link, port: Port) -> Port {
        let bridge = link.master.filter(|bridge| self.0.get(bridge).is_some_and(|of| of.contains_key(&link.ifindex)));
        let Some(bridge) = bridge else { return port };
        let mut flags = port.flags() | PortFlags::SWITCHES;
        flags.set(PortFlags::ISOLATED, link.bridge_port.is_some_and(|port| port.isolated));
        flags.set(PortFlags::HEADERS_CHECKED, model.checks_headers(&model.links[&bridge]) != [false; 2]);
        Port { flags: flags.bits(), domain: bridge, ..port }
    }

    /// The ways to all hosts.
    pub(super) fn hosts(&self, model: &Model) -> BTreeMap<SwitchedKey, SwitchedHost> {
        let host = |(bridge, mac, member): (Ifindex, Mac, Ifindex)| {
            Some((SwitchedKey::new(bridge, mac), *self.0.get(&bridge)?.get(&member)?))
        };
        model.fdb.iter().filter_map(host).collect()
    }

    /// The way to a host of a bridge.
    fn host(&self, model: &Model, (bridge, mac): (Ifindex, Mac)) -> Option<SwitchedHost> {
        self.0.get(&bridge)?.get(&model.fdb.member(bridge, mac)?).copied()
    }
}

/// A member as a way out.
fn way(model: &Model, member: &Link, egress: &BTreeSet<Ifindex>) -> SwitchedHost {
    let said = member.bridge_port.unwrap_or_default();
    let mut flags = SwitchedFlags::empty();
    flags.set(SwitchedFlags::XDP_TRANSMIT, egress.contains(&member.ifindex));
    flags.set(SwitchedFlags::ISOLATED, said.isolated);
    flags.set(SwitchedFlags::HAIRPIN, said.hairpin);
    // Packets that netfilter may see are cut to the MTU, or refused (`br_nf_dev_queue_xmit`, `br_netfilter_hooks.c`).
    let checked = model.bridge_of(member).is_some_and(|bridge| model.checks_headers(bridge) != [false; 2]);
    let longest = decide::longest_frame(member.mtu).saturating_sub(if checked { VLAN_HEADER } else { 0 });
    SwitchedHost { member: member.ifindex, longest, flags: flags.bits(), reserved: 0 }
}

impl Lowering {
    /// Hosts of bridges that came, moved or went; all of them where members did.
    pub(super) fn update_ways(&mut self, model: &Model, touched: &Touched, ports_touched: bool, update: &mut Update) {
        if ports_touched {
            let wanted = self.switching.hosts(model);
            update.switched = changes(&self.want.switched, &wanted);
            self.want.switched = wanted;
            return;
        }
        for host in &touched.hosts {
            let (key, wanted) = (SwitchedKey::new(host.0, host.1), self.switching.host(model, *host));
            let before = match wanted {
                Some(way) => self.want.switched.insert(key, way),
                None => self.want.switched.remove(&key),
            };
            if before != wanted {
                update.switched.insert(key, wanted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::abi::Features;

    use super::*;
    use crate::lower::{Want, sample};
    use crate::model::{
        Attachment, Bridge, BridgePort, Event, FdbEntry, IpVersion, Mode, Netfilter, NetfilterChain, NetfilterHook,
    };

    const HOSTS: [Mac; 2] = [Mac([2, 0, 0, 0, 9, 2]), Mac([2, 0, 0, 0, 9, 3])];
    const BRIDGE: Ifindex = 20;
    const MEMBERS: [Ifindex; 2] = [2, 3];

    /// Links 2 and 3 are members of bridge 20, and a host is behind each.
    fn model(change: impl Fn(&mut Link)) -> Model {
        let mut model = sample::model();
        let bridge = Link {
            ifindex: BRIDGE,
            name: "br0".to_owned(),
            mac: Some(sample::mac(20)),
            kind: Some("bridge".to_owned()),
            bridge: Some(Bridge { ageing: 30_000, ..Bridge::default() }),
            ..model.links[&2].clone()
        };
        let bridge_port = Some(BridgePort { forwarding: true, ..BridgePort::default() });
        let members =
            MEMBERS.map(|ifindex| Link { master: Some(BRIDGE), bridge_port, ..model.links[&ifindex].clone() });
        for mut link in [bridge].into_iter().chain(members) {
            change(&mut link);
            model.apply(Event::Link(link));
        }
        for (mac, member) in HOSTS.into_iter().zip(MEMBERS) {
            model.apply(Event::Fdb(FdbEntry { bridge: BRIDGE, mac, member: Some(member) }));
        }
        model
    }

    fn ports() -> BTreeMap<Ifindex, Attachment> {
        let mode = |ifindex| if ifindex == BRIDGE { Mode::Tc } else { Mode::Native };
        let attachment = |ifindex| Attachment { mode: mode(ifindex), tc: true, follow: true, flows: None };
        [BRIDGE, 2, 3].into_iter().map(|ifindex| (ifindex, attachment(ifindex))).collect()
    }

    fn want(model: &Model) -> Want {
        Lowering::new([].into()).lower(model, &ports())
    }

    fn flags(want: &Want, ifindex: Ifindex) -> PortFlags {
        want.ports.values().find(|port| port.ifindex == ifindex).expect("a port").flags()
    }

    #[test]
    fn a_frame_goes_to_the_member_that_its_destination_is_behind() {
        let model = model(|_| {});
        let want = want(&model);
        for (mac, member) in HOSTS.into_iter().zip(MEMBERS) {
            let way = want.switched[&SwitchedKey::new(BRIDGE, mac)];
            let longest = model.links[&member].mtu + 18;
            assert_eq!((way.member, way.longest, way.flags()), (member, longest, SwitchedFlags::XDP_TRANSMIT));
            let port = want.ports.values().find(|port| port.ifindex == member).expect("a port");
            assert_eq!(port.domain, BRIDGE);
            assert!(port.flags().contains(PortFlags::SWITCHES), "{port:?}");
        }
        assert!(!flags(&want, BRIDGE).contains(PortFlags::SWITCHES));
        assert!(want.features.contains(Features::SWITCH));
    }

    #[test]
    fn what_a_member_says_goes_with_it() {
        let of = |change: &dyn Fn(&mut BridgePort)| {
            want(&model(|link| {
                if let Some(port) = link.bridge_port.as_mut().filter(|_| link.ifindex == 3) {
                    change(port);
                }
            }))
        };
        let way = |want: &Want| want.switched[&SwitchedKey::new(BRIDGE, HOSTS[1])].flags();
        let isolated = of(&|port| port.isolated = true);
        assert!(way(&isolated).contains(SwitchedFlags::ISOLATED));
        assert!(
            flags(&isolated, 3).contains(PortFlags::ISOLATED) && !flags(&isolated, 2).contains(PortFlags::ISOLATED)
        );
        assert!(way(&of(&|port| port.hairpin = true)).contains(SwitchedFlags::HAIRPIN));
    }

    /// The case, and what makes it.
    type Row<'a> = (&'a str, &'a dyn Fn(&mut Link));

    #[test]
    fn the_bridge_gets_what_needs_more_than_its_table() {
        let rows: [Row<'_>; 4] = [
            ("VLANs held apart", &|link| link.bridge = link.bridge.map(|one| Bridge { filters_vlans: true, ..one })),
            ("a capture", &|link| link.promiscuity = u32::from(link.ifindex == BRIDGE)),
            ("neigh_suppress", &|link| {
                link.bridge_port = link.bridge_port.map(|port| BridgePort { suppresses: true, ..port });
            }),
            ("switchdev", &|link| link.offloads = true),
        ];
        for (what, change) in rows {
            let want = want(&model(change));
            assert!(want.switched.is_empty() && !want.features.contains(Features::SWITCH), "{what}");
        }
    }

    #[test]
    fn rules_that_see_bridged_packets_keep_them_in_the_kernel() {
        let chain = NetfilterChain {
            name: "inet t c".to_owned(),
            hook: NetfilterHook::Forward,
            versions: vec![IpVersion::V4],
            devices: Vec::new(),
            rules: Some(1),
            drops: false,
            translates: false,
            obstacles: Vec::new(),
        };
        for (calls, of_bridge, chains, switches, checked) in [
            (None, [false; 2], true, true, false),
            (Some([false; 2]), [false; 2], true, true, false),
            (Some([true, false]), [false; 2], true, false, false),
            (Some([false; 2]), [true, false], true, false, false),
            (Some([false, true]), [false; 2], true, true, true),
            (Some([true; 2]), [false; 2], false, true, true),
            // What the bridge says is of no account without `br_netfilter`.
            (None, [true; 2], true, true, false),
        ] {
            let what = format!("{calls:?} {of_bridge:?} {chains}");
            let mut model = model(|link| link.bridge = link.bridge.map(|one| Bridge { calls: of_bridge, ..one }));
            let chains = if chains { vec![chain.clone()] } else { Vec::new() };
            model.netfilter = Netfilter { chains, own: None, calls };
            let want = want(&model);
            assert_eq!(flags(&want, 2).contains(PortFlags::SWITCHES), switches, "{what}");
            assert_eq!(flags(&want, 2).contains(PortFlags::HEADERS_CHECKED), checked, "{what}");
            // Such a packet may not be longer than the MTU, where else a tag's length more is let through.
            if let Some(way) = want.switched.get(&SwitchedKey::new(BRIDGE, HOSTS[0])) {
                assert_eq!(way.longest, model.links[&MEMBERS[0]].mtu + if checked { 14 } else { 18 }, "{what}");
            }
        }
    }

    #[test]
    fn a_host_that_moves_changes_its_row_alone() {
        let mut model = model(|_| {});
        let mut lowering = Lowering::new([].into());
        lowering.lower(&model, &ports());
        for (to, expected) in [(Some(3), Some(Some(3))), (Some(3), None), (None, Some(None)), (Some(2), Some(Some(2)))]
        {
            let mut touched = Touched::default();
            model.follow(Event::Fdb(FdbEntry { bridge: BRIDGE, mac: HOSTS[0], member: to }), &mut touched);
            let update = lowering.update(&model, &ports(), &touched);
            let found = update.switched.get(&SwitchedKey::new(BRIDGE, HOSTS[0]));
            assert_eq!(found.map(|way| way.map(|way| way.member)), expected, "to {to:?}");
            assert!(update.switched.len() <= 1 && update.ports.is_empty(), "{update:?}");
            assert_eq!(
                lowering.want().switched,
                Lowering::new([].into()).lower(&model, &ports()).switched,
                "to {to:?}"
            );
        }
    }
}
