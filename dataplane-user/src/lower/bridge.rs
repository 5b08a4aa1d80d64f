//! What comes in through members of a bridge for the bridge itself: through which members, and from which hosts.
//!
//! The bridge is a port, too, in mode tc: what a member leaves to it is judged there. What a member has judged it lets pass, so
//! all of its members have to be ports.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::{BridgedKey, Ifindex, Port, PortFlags, VlanKey};
use dataplane_common::wire::Mac;

use super::{Lowering, Problem, Update, family_state::changes, port};
use crate::model::{Attachment, Link, Mode, Model, Touched};

/// Members whose frames for their bridges are taken before these see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entrances {
    /// By bridge: the members, and after how many hundredths of a second it sees a frame of a host again.
    bridges: BTreeMap<Ifindex, (BTreeSet<Ifindex>, u32)>,
}

impl Entrances {
    /// Those that there are.
    pub(super) fn new(model: &Model, ports: &BTreeMap<Ifindex, Attachment>) -> Self {
        let mut bridges = BTreeMap::<Ifindex, (BTreeSet<Ifindex>, u32)>::new();
        for member in ports.keys().filter_map(|ifindex| model.links.get(ifindex)) {
            let Some(bridge) = bridge_of(model, ports, member) else { continue };
            if is_whole(model, ports, bridge) && model.is_plain_entrance(member) {
                let ageing = bridge.bridge.map_or(0, |bridge| bridge.ageing);
                let entrance = bridges.entry(bridge.ifindex).or_default();
                entrance.0.insert(member.ifindex);
                entrance.1 = (ageing / 4).max(1);
            }
        }
        Self { bridges }
    }

    /// The members, by bridge.
    pub(super) fn members(&self) -> impl Iterator<Item = (Ifindex, &BTreeSet<Ifindex>)> {
        self.bridges.iter().map(|(bridge, (members, _))| (*bridge, members))
    }

    /// The rows of members for frames to the bridge: to its address, and to the member's own (`br_handle_frame`,
    /// `net/bridge/br_input.c`).
    pub(super) fn rows(&self, model: &Model, ports: &BTreeMap<Ifindex, Attachment>) -> BTreeMap<VlanKey, Port> {
        let mut rows = BTreeMap::new();
        for (bridge, (members, _)) in &self.bridges {
            let bridge = &model.links[bridge];
            for member in members {
                let (attachment, member) = (ports[member], &model.links[member]);
                let below = port::port(model, member, attachment).flags();
                let mut row = port::port(model, bridge, attachment);
                // Whether a local stack sends is a matter of what is behind the member; what the member meets, this does, too.
                let of_member = PortFlags::PARTIAL_CHECKSUMS | PortFlags::FOLLOW_V4 | PortFlags::FOLLOW_V6;
                let flags = (row.flags() - PortFlags::PARTIAL_CHECKSUMS) | (below & of_member) | PortFlags::BRIDGED;
                row.flags = flags.bits();
                for mac in [member.mac, bridge.mac].into_iter().flatten() {
                    rows.insert(VlanKey::with_address(member.ifindex, mac), Port { mac, ..row });
                }
            }
        }
        rows
    }

    /// All hosts whose frames are taken, with the time after which the bridge sees one again.
    pub(super) fn hosts(&self, model: &Model) -> BTreeMap<BridgedKey, u32> {
        let host = |(bridge, mac, member): (Ifindex, Mac, Ifindex)| {
            let (members, period) = self.bridges.get(&bridge)?;
            members.contains(&member).then(|| (BridgedKey::new(member, mac), *period))
        };
        model.fdb.iter().filter_map(host).collect()
    }

    /// The rows that a host behind a bridge may have, and what they should be.
    pub(super) fn rows_of<'a>(
        &'a self,
        model: &'a Model,
        (bridge, mac): (Ifindex, Mac),
    ) -> impl Iterator<Item = (BridgedKey, Option<u32>)> + 'a {
        let behind = model.fdb.member(bridge, mac);
        let rows = self.bridges.get(&bridge).into_iter();
        rows.flat_map(move |(members, period)| {
            members
                .iter()
                .map(move |member| (BridgedKey::new(*member, mac), Some(*period).filter(|_| behind == Some(*member))))
        })
    }
}

impl Lowering {
    /// Hosts behind bridges that came, moved or went; all of them where members did.
    pub(super) fn update_hosts(&mut self, model: &Model, touched: &Touched, ports_touched: bool, update: &mut Update) {
        if ports_touched {
            let wanted = self.entrances.hosts(model);
            update.hosts = changes(&self.want.hosts, &wanted);
            self.want.hosts = wanted;
            return;
        }
        for host in &touched.hosts {
            for (key, wanted) in self.entrances.rows_of(model, *host) {
                let before = match wanted {
                    Some(period) => self.want.hosts.insert(key, period),
                    None => self.want.hosts.remove(&key),
                };
                if before != wanted {
                    update.hosts.insert(key, wanted);
                }
            }
        }
    }
}

/// The flags that a port has as a bridge, or as a member of one.
pub(super) fn flags(model: &Model, ports: &BTreeMap<Ifindex, Attachment>, link: &Link) -> PortFlags {
    let mut flags = PortFlags::empty();
    flags.set(PortFlags::BRIDGED, bridge_of(model, ports, link).is_some());
    flags.set(PortFlags::JUDGED_BELOW, link.bridge.is_some() && is_whole(model, ports, link));
    flags
}

/// The problem of a port whose frames another device takes, unless that is a bridge which is a port, too.
pub(super) fn taken(model: &Model, ports: &BTreeMap<Ifindex, Attachment>, link: &Link) -> Option<Problem> {
    let by = model.taker(link).filter(|_| bridge_of(model, ports, link).is_none())?;
    Some(Problem::Taken { by, port: link.name.clone() })
}

/// The bridge that a port is a member of, if that is a port, too.
pub(super) fn bridge_of<'a>(
    model: &'a Model,
    ports: &BTreeMap<Ifindex, Attachment>,
    member: &Link,
) -> Option<&'a Link> {
    model.bridge_of(member).filter(|bridge| ports.contains_key(&bridge.ifindex))
}

/// Whether all members of a bridge are ports with tc, which mark what they have judged.
pub(super) fn is_whole(model: &Model, ports: &BTreeMap<Ifindex, Attachment>, bridge: &Link) -> bool {
    let has_tc = |link: &Link| ports.get(&link.ifindex).is_some_and(|attachment| attachment.tc);
    let mut members = model.links.values().filter(|link| link.master == Some(bridge.ifindex));
    ports.get(&bridge.ifindex).is_some_and(|attachment| attachment.mode == Mode::Tc)
        && has_tc(bridge)
        && members.all(has_tc)
}

#[cfg(test)]
mod tests {
    use dataplane_common::abi::Features;

    use super::*;
    use crate::lower::{Want, sample};
    use crate::model::{Bridge, BridgePort, Event, FdbEntry};

    const HOST: Mac = Mac([2, 0, 0, 0, 9, 9]);
    const BRIDGE: Ifindex = 20;
    const MEMBERS: [Ifindex; 2] = [2, 3];

    /// Links 2 and 3 are members of bridge 20; the host is behind 2.
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
        model.apply(Event::Fdb(FdbEntry { bridge: BRIDGE, mac: HOST, member: Some(2) }));
        model
    }

    fn ports(of: &[Ifindex]) -> BTreeMap<Ifindex, Attachment> {
        let mode = |ifindex| if ifindex == BRIDGE { Mode::Tc } else { Mode::Native };
        let attachment = |ifindex| Attachment { mode: mode(ifindex), tc: true, follow: true, flows: None };
        of.iter().map(|ifindex| (*ifindex, attachment(*ifindex))).collect()
    }

    fn want(model: &Model, of: &[Ifindex]) -> Want {
        Lowering::new([].into()).lower(model, &ports(of))
    }

    fn row(want: &Want, ifindex: Ifindex) -> Port {
        *want.ports.values().find(|port| port.ifindex == ifindex).expect("a port")
    }

    #[test]
    fn frames_for_a_bridge_come_in_through_it_at_its_members() {
        let want = want(&model(|_| {}), &[BRIDGE, 2, 3]);
        let rows: Vec<_> = want.vlans.iter().map(|(key, port)| (*key, port.ifindex, port.mac)).collect();
        let entrance = |member, mac| (VlanKey::with_address(member, mac), BRIDGE, mac);
        let model = model(|_| {});
        let of = |ifindex: Ifindex| model.links[&ifindex].mac.expect("an address");
        let mut expected: Vec<_> = MEMBERS
            .into_iter()
            .flat_map(|member| [entrance(member, of(BRIDGE)), entrance(member, of(member))])
            .collect();
        expected.sort_by_key(|(key, ..)| *key);
        assert_eq!(rows, expected);
        assert_eq!(want.hosts, [(BridgedKey::new(2, HOST), 7_500)].into());
        assert!(want.features.contains(Features::BRIDGES) && !want.features.contains(Features::VIRTUAL));
        assert!(row(&want, BRIDGE).flags().contains(PortFlags::JUDGED_BELOW));
        assert!(row(&want, 2).flags().contains(PortFlags::BRIDGED | PortFlags::RX_HANDLER));
        assert_eq!(want.problems, []);
    }

    /// The case, and what makes it.
    type Row<'a> = (&'a str, &'a dyn Fn(&mut Link));

    #[test]
    fn the_bridge_gets_what_needs_more_than_its_table() {
        let rows: [Row<'_>; 7] = [
            ("VLANs held apart", &|link| link.bridge = link.bridge.map(|one| Bridge { filters_vlans: true, ..one })),
            ("hosts that are forgotten at once", &|link| {
                link.bridge = link.bridge.map(|one| Bridge { ageing: 0, ..one });
            }),
            ("a capture", &|link| link.promiscuity = u32::from(link.ifindex == BRIDGE)),
            ("a bridge that is down", &|link| link.up = link.ifindex != BRIDGE),
            ("blocked members", &|link| link.bridge_port = link.bridge_port.map(|_| BridgePort::default())),
            ("locked members", &|link| {
                link.bridge_port = link.bridge_port.map(|port| BridgePort { special: true, ..port });
            }),
            ("a member in another bridge", &|link| link.master = link.master.map(|_| 21)),
        ];
        for (what, change) in rows {
            let want = want(&model(change), &[BRIDGE, 2, 3]);
            assert!(want.vlans.is_empty() && want.hosts.is_empty(), "{what}: {:?}", want.vlans);
        }
        for of in [&[2, 3][..], &[BRIDGE, 2], &[BRIDGE]] {
            let want = want(&model(|_| {}), of);
            assert!(want.vlans.is_empty() && want.hosts.is_empty(), "{of:?}");
            assert!(want.ports.values().all(|port| !port.flags().contains(PortFlags::JUDGED_BELOW)), "{of:?}");
            assert_eq!(want.features.contains(Features::BRIDGES), of == [BRIDGE, 2], "{of:?}");
        }
    }

    #[test]
    fn a_host_that_moves_changes_its_rows_alone() {
        let mut model = model(|_| {});
        let mut lowering = Lowering::new([].into());
        lowering.lower(&model, &ports(&[BRIDGE, 2, 3]));
        for (to, expected) in [
            (Some(3), vec![(2, None), (3, Some(7_500))]),
            (Some(3), vec![]),
            (None, vec![(3, None)]),
            (Some(9), vec![]),
            (Some(2), vec![(2, Some(7_500))]),
        ] {
            let mut touched = Touched::default();
            model.follow(Event::Fdb(FdbEntry { bridge: BRIDGE, mac: HOST, member: to }), &mut touched);
            let update = lowering.update(&model, &ports(&[BRIDGE, 2, 3]), &touched);
            let expected = expected.into_iter().map(|(member, period)| (BridgedKey::new(member, HOST), period));
            assert_eq!(update.hosts, expected.collect(), "to {to:?}");
            assert!(update.ports.is_empty() && update.vlans.is_empty(), "{update:?}");
            let anew = Lowering::new([].into()).lower(&model, &ports(&[BRIDGE, 2, 3]));
            assert_eq!(lowering.want().hosts, anew.hosts, "to {to:?}");
        }
    }
}
