//! Which device transmits what is routed out of a link.

use dataplane_common::abi::Tag;
use dataplane_common::wire::Mac;

use crate::model::{Layer3, Link, Macvlan, Model};

/// Devices on each other, at most: what is announced of them one by one may make a circle for a moment.
const DEVICES: usize = 8;

/// The device that transmits for a link what is for a neighbour, and the tags that it puts in front of a packet, the outermost
/// first: the link itself and none; what is under a VLAN or macvlan device; the member of a bridge that the neighbour is behind.
/// `None` where only the kernel can follow: the device is elsewhere or down, there are more tags than two, their priority
/// depends on the packet, or something on the way shapes or filters.
///
/// A macvlan device in mode bridge may have a neighbour in another namespace, to which what it sends goes
/// (`macvlan_queue_xmit`): it transmits by itself. So does a bridge to a host that it would have to find.
pub(super) fn carrier<'a>(model: &'a Model, link: &'a Link, neighbour: Option<Mac>) -> Option<(&'a Link, [Tag; 2])> {
    let mut tags = [Tag::NONE; 2];
    let mut device = link;
    for _ in 0..DEVICES {
        match device.kind.as_deref() {
            Some("vlan") => {
                let vlan = device.vlan.filter(|vlan| !vlan.prioritises)?;
                if tags[1].is_some() {
                    return None;
                }
                tags = [vlan.tag, tags[0]];
            }
            Some("macvlan") if device.macvlan == Some(Macvlan::Apart) => {}
            Some("bridge") if transmits(model, device) => {
                // A member with a smaller MTU drops what is longer (`is_skb_forwardable`).
                let longest = link.mtu + tags[1].length() as u32;
                let member = neighbour.and_then(|host| model.bridged_to(device, host));
                let member = member.filter(|member| longest <= member.mtu && !is_filtered(model, member));
                return Some((member.unwrap_or(device), tags));
            }
            _ => return Some((device, tags)).filter(|_| may_be_last(model, device)),
        }
        // What leaves by the device under this one passes by what is on this one, at tc as well.
        device = Some(device).filter(|device| model.leaves_plainly(device)).and_then(|device| model.under(device))?;
        if !device.up {
            return None;
        }
    }
    None
}

/// Whether a link can be the last one on the way out.
pub(super) fn may_be_last(model: &Model, link: &Link) -> bool {
    transmits(model, link) || hands_over(model, link)
}

/// Whether a link with an Ethernet header can.
pub(super) fn transmits(model: &Model, link: &Link) -> bool {
    link.up && link.ethernet && model.aggregate(link).is_none() && !is_filtered(model, link)
}

/// Whether a chain of netfilter is at the egress of a link: what tc sends there does not meet it (`nf_skip_egress`, around
/// `sch_handle_ingress` in `net/core/dev.c` of the kernel).
fn is_filtered(model: &Model, link: &Link) -> bool {
    model.netfilter.meets_on_the_way_out(&link.name)
}

/// Whether tc may hand packets to a link without Ethernet header. Where such a device needs the kernel's route with a packet,
/// the kernel would look it up again, without the interface that the packet came in through.
fn hands_over(model: &Model, link: &Link) -> bool {
    let again = link.layer3 == Layer3::Plain || !model.looks_at_interfaces();
    link.up && link.layer3.sends() && again && model.aggregate(link).is_none() && !is_filtered(model, link)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use dataplane_common::abi::{Adjacency, Ifindex};

    use super::*;
    use crate::lower::{Lowering, sample};
    use crate::model::{
        Bridge, BridgePort, Event, FdbEntry, Neighbour, NeighbourState, Netfilter, NetfilterChain, NetfilterHook,
        NextHop, NextHopFlags, Placement, Prefix, RouteType, Snapshot, TABLE_MAIN, Touched, Vlan,
    };

    const HOST: Mac = Mac([2, 0, 0, 0, 9, 9]);
    const TAG: Tag = Tag::new(false, 10);

    fn plain(ifindex: Ifindex, name: &str) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            mac: Some(sample::mac(ifindex as u8)),
            mtu: 1500,
            enabled: true,
            up: true,
            ethernet: true,
            ..Link::default()
        }
    }

    /// Bridge 20 with member 21, behind which the host is; VLAN device 22 on the bridge.
    fn model(change: impl Fn(&mut Link)) -> Model {
        let mut model = Model::default();
        let bridge = Some(Bridge::default());
        let port = Some(BridgePort { forwarding: true, ..BridgePort::default() });
        for mut link in [
            Link { kind: Some("bridge".to_owned()), bridge, ..plain(20, "br0") },
            Link { master: Some(20), bridge_port: port, ..plain(21, "lan0") },
            Link {
                kind: Some("vlan".to_owned()),
                parent: Some(20),
                vlan: Some(Vlan { tag: TAG, prioritises: false }),
                ..plain(22, "br0.10")
            },
        ] {
            change(&mut link);
            model.apply(Event::Link(link));
        }
        model.apply(Event::Fdb(FdbEntry { bridge: 20, mac: HOST, member: Some(21) }));
        model
    }

    fn found(model: &Model, from: Ifindex, host: Option<Mac>) -> Option<(Ifindex, Tag)> {
        carrier(model, &model.links[&from], host).map(|(device, tags)| (device.ifindex, tags[0]))
    }

    /// The case, and what makes it.
    type Row<'a> = (&'a str, &'a dyn Fn(&mut Link));

    #[test]
    fn the_member_that_a_host_is_behind_transmits() {
        let by_member = Some((21, Tag::NONE));
        let by_bridge = Some((20, Tag::NONE));
        let whole = model(|_| {});
        assert_eq!(found(&whole, 20, Some(HOST)), by_member);
        assert_eq!(found(&whole, 22, Some(HOST)), Some((21, TAG)), "behind a tag");
        assert_eq!(found(&whole, 20, None), by_bridge, "a neighbour that is not known");
        assert_eq!(found(&whole, 20, Some(Mac([2, 0, 0, 0, 9, 8]))), by_bridge, "a host that the bridge does not know");
        assert_eq!(found(&whole, 21, Some(HOST)), None, "a route through a member");
        let rows: [Row<'_>; 8] = [
            ("a blocked member", &|link| link.bridge_port = link.bridge_port.map(|_| BridgePort::default())),
            ("a locked member", &|link| {
                link.bridge_port = link.bridge_port.map(|port| BridgePort { special: true, ..port });
            }),
            ("a member that is down", &|link| link.up = link.ifindex != 21),
            ("a member that left", &|link| link.master = None),
            ("VLANs held apart", &|link| {
                link.bridge = link.bridge.map(|bridge| Bridge { filters_vlans: true, ..bridge });
            }),
            ("a capture", &|link| link.promiscuity = u32::from(link.ifindex == 20)),
            ("a smaller member", &|link| link.mtu -= u32::from(link.ifindex == 21)),
            ("a member that is about to be announced", &|link| link.bridge_port = None),
        ];
        for (what, change) in rows {
            assert_eq!(found(&model(change), 20, Some(HOST)), by_bridge, "{what}");
        }
        let mut filtered = model(|_| {});
        let chain = NetfilterChain {
            name: "bridge t c".to_owned(),
            hook: NetfilterHook::Bridge,
            versions: Vec::new(),
            devices: Vec::new(),
            rules: Some(1),
            drops: false,
            translates: false,
            obstacles: Vec::new(),
        };
        filtered.apply(Event::Snapshot(Snapshot::Netfilter(Netfilter { chains: vec![chain], own: None, calls: None })));
        assert_eq!(found(&filtered, 20, Some(HOST)), by_bridge, "rules for bridges");
        let mut moved = model(|_| {});
        moved.apply(Event::Link(Link {
            master: Some(20),
            bridge_port: Some(BridgePort { forwarding: true, ..BridgePort::default() }),
            ..plain(23, "lan1")
        }));
        moved.apply(Event::Fdb(FdbEntry { bridge: 20, mac: HOST, member: Some(23) }));
        assert_eq!(found(&moved, 20, Some(HOST)), Some((23, Tag::NONE)), "a host that has moved");
        moved.apply(Event::LinkGone(23));
        assert_eq!(found(&moved, 20, Some(HOST)), by_bridge, "with its member gone");
    }

    #[test]
    fn a_host_that_moves_rewrites_its_adjacency_alone() {
        let mut model = model(|_| {});
        let member = |ifindex, name: &str| Link {
            master: Some(20),
            bridge_port: Some(BridgePort { forwarding: true, ..BridgePort::default() }),
            ..plain(ifindex, name)
        };
        model.apply(Event::Link(member(23, "lan1")));
        let via = IpAddr::from([198, 18, 1, 2]);
        let state = NeighbourState::REACHABLE;
        model.apply(Event::Neighbour(Neighbour { ifindex: 20, address: via, state, mac: Some(HOST), tended: false }));
        let mut route = sample::plain(TABLE_MAIN, Prefix::new(0xcb00_7100_u32, 24), RouteType::Unicast);
        let flags = NextHopFlags::empty();
        route.next_hops = vec![NextHop { via: Some(via), dev: 20, weight: 1, flags, encap: false }];
        model.apply(Event::Route4(route, Placement::Last));
        let mut lowering = Lowering::new(BTreeMap::new());
        let want = lowering.lower(&model, &BTreeMap::new());
        let devices = |devices: Vec<Option<Adjacency>>| -> Vec<_> {
            devices.into_iter().flatten().filter(|one| one.destination == HOST).map(|one| one.device).collect()
        };
        assert_eq!(devices(want.adjacencies.into_values().map(Some).collect()), [21]);
        for (move_to, expected) in [(Some(23), vec![23]), (Some(23), vec![]), (None, vec![20])] {
            let mut touched = Touched::default();
            model.follow(Event::Fdb(FdbEntry { bridge: 20, mac: HOST, member: move_to }), &mut touched);
            let update = lowering.update(&model, &BTreeMap::new(), &touched);
            assert!(update.fib4.is_empty() && update.groups.is_empty() && update.ports.is_empty(), "{update:?}");
            assert_eq!(devices(update.adjacencies.into_values().collect()), expected, "to {move_to:?}");
        }
    }
}
