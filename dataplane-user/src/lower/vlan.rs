//! VLAN devices, and macvlan devices: what they are on, and which of them a port leads to.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::{Ifindex, Port, PortFlags, VLANS, VlanKey};

use super::{Problem, port};
use crate::model::{Attachment, Link, Macvlan, Model};

/// The VLAN devices that the ports lead to. One that is a port itself judges its packets itself; those of one that
/// belongs to something else, a bridge for instance, or has an ipvlan device on it, are the kernel's.
pub(super) fn vlans(
    model: &Model,
    ports: &BTreeMap<Ifindex, Attachment>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<VlanKey, Port> {
    let mut found = BTreeMap::new();
    let above = model.links.values().filter(|link| link.takes && link.parent_netns.is_none());
    let taken: BTreeSet<_> = above.filter_map(|link| link.parent).collect();
    let free = |link: &Link| model.aggregate(link).is_none() && (link.promiscuity == 0 || model.taker(link).is_none());
    for link in model.links.values().filter(|link| link.up && !taken.contains(&link.ifindex) && free(link)) {
        let entry = entry(model, ports, link);
        found.extend(entry);
    }
    let left = found.len().saturating_sub(VLANS as usize);
    if left != 0 {
        problems.push(Problem::VlansFull { left });
        found = found.into_iter().take(VLANS as usize).collect();
    }
    found
}

/// What is written for a VLAN device, or a macvlan device.
fn entry(model: &Model, ports: &BTreeMap<Ifindex, Attachment>, link: &Link) -> Option<(VlanKey, Port)> {
    if ports.contains_key(&link.ifindex) {
        return None;
    }
    let parent = model.under(link)?;
    let (key, port) = match link.vlan {
        Some(vlan) => {
            let port = if ports.contains_key(&parent.ifindex) {
                parent
            } else {
                // The second tag of two.
                port_of(model, ports, parent)?
            };
            (VlanKey::new(parent.ifindex, vlan.tag), port)
        }
        None if matches!(link.macvlan, Some(Macvlan::Apart | Macvlan::Bridge)) => {
            let port = if ports.contains_key(&parent.ifindex) {
                parent
            } else {
                // On a VLAN device, with a tag or two.
                port_of(model, ports, parent).or_else(|| port_of(model, ports, model.under(parent)?))?
            };
            (VlanKey::with_address(parent.ifindex, link.mac?), port)
        }
        None => return None,
    };
    let attachment = *ports.get(&port.ifindex)?;
    let mut row = port::port(model, link, attachment);
    // Whether a local stack sends is a matter of what is behind the device.
    let unfinished = port::port(model, port, attachment).flags() & PortFlags::PARTIAL_CHECKSUMS;
    row.flags = ((row.flags() - PortFlags::PARTIAL_CHECKSUMS) | unfinished).bits();
    Some((key, row))
}

/// The port that a VLAN device is on, where the device's packets are what the port's programs say.
fn port_of<'a>(model: &'a Model, ports: &BTreeMap<Ifindex, Attachment>, device: &'a Link) -> Option<&'a Link> {
    device.vlan.filter(|_| device.up && device.master.is_none())?;
    model.under(device).filter(|port| ports.contains_key(&port.ifindex))
}

/// A port has VLAN devices. What leaves checksums to others leaves tags to them, too.
pub(super) fn hide_tags(port: &mut Port) {
    let hidden = port.flags().contains(PortFlags::PARTIAL_CHECKSUMS | PortFlags::TC);
    port.flags = (port.flags() | if hidden { PortFlags::HIDDEN_TAGS } else { PortFlags::empty() }).bits();
}

#[cfg(test)]
mod tests {
    use dataplane_common::abi::{Adjacency, AdjacencyFlags, Features, Tag};

    use super::*;
    use crate::lower::{Lowering, Want, carrier::carrier, sample};
    use crate::model::{Event, Mode, Vlan};

    const CUSTOMER: Tag = Tag::new(false, 10);
    const SERVICE: Tag = Tag::new(true, 20);

    fn device(ifindex: Ifindex, parent: Ifindex, tag: Tag) -> Link {
        Link {
            ifindex,
            name: format!("port{parent}.{}", tag.id()),
            mac: Some(sample::mac(ifindex as u8)),
            mtu: 1496,
            enabled: true,
            up: true,
            kind: Some("vlan".to_owned()),
            ethernet: true,
            parent: Some(parent),
            vlan: Some(Vlan { tag, prioritises: false }),
            ..Link::default()
        }
    }

    /// Links 2 and 3; on 2 a device with a service tag (10), on that one with a customer tag (11), on that a third (12).
    fn model(change: impl Fn(&mut Link)) -> Model {
        let mut model = sample::model();
        for mut link in [device(10, 2, SERVICE), device(11, 10, CUSTOMER), device(12, 11, CUSTOMER)] {
            change(&mut link);
            model.apply(Event::Link(link));
        }
        model
    }

    fn ports(of: &[Ifindex]) -> BTreeMap<Ifindex, Attachment> {
        of.iter().map(|port| (*port, Attachment { mode: Mode::Native, tc: true, follow: true, flows: None })).collect()
    }

    /// A VLAN device becomes a macvlan device.
    fn turn(link: &mut Link, macvlan: Macvlan) {
        (link.kind, link.vlan, link.macvlan) = (Some("macvlan".to_owned()), None, Some(macvlan));
    }

    #[test]
    fn tags_stack_from_the_device_up() {
        let whole = model(|_| {});
        let of = |model: &Model, ifindex: Ifindex| {
            carrier(model, &model.links[&ifindex], None).map(|(device, tags)| (device.ifindex, tags))
        };
        assert_eq!(of(&whole, 2), Some((2, [Tag::NONE; 2])));
        assert_eq!(of(&whole, 10), Some((2, [SERVICE, Tag::NONE])));
        assert_eq!(of(&whole, 11), Some((2, [SERVICE, CUSTOMER])));
        assert_eq!(of(&whole, 12), None, "three tags");
        assert_eq!(of(&model(|link| link.parent_netns = Some(1)), 10), None, "what it is on is elsewhere");
        assert_eq!(of(&model(|link| link.parent = Some(99)), 10), None, "what it is on is gone");
        assert_eq!(of(&model(|link| link.up = link.ifindex != 10), 11), None, "a device below is down");
        let prioritising = model(|link| link.vlan = link.vlan.map(|vlan| Vlan { prioritises: true, ..vlan }));
        assert_eq!(of(&prioritising, 10), None, "whose priority depends on the packet");
    }

    #[test]
    fn ports_lead_to_macvlan_devices_by_their_address() {
        let macvlan = |link: &mut Link| turn(link, Macvlan::Apart);
        let model = model(macvlan);
        let want = Lowering::new(BTreeMap::new()).lower(&model, &ports(&[2]));
        let key = VlanKey::with_address(2, sample::mac(10));
        assert_eq!(want.vlans.keys().collect::<Vec<_>>(), [&key], "the one on the port, and not those on that");
        assert_eq!((want.vlans[&key].ifindex, want.vlans[&key].mac), (10, sample::mac(10)));
        assert!(key.is_address() && want.features.contains(Features::VIRTUAL));
        assert!(!want.features.contains(Features::VLANS));
    }

    #[test]
    fn vlan_devices_lead_to_macvlan_devices_on_them() {
        for (top, tags) in [(11, 1), (12, 2)] {
            let macvlan = |link: &mut Link| {
                if link.ifindex == top {
                    turn(link, Macvlan::Bridge);
                }
            };
            let want = Lowering::new(BTreeMap::new()).lower(&model(macvlan), &ports(&[2]));
            let row = want.vlans.get(&VlanKey::with_address(top - 1, sample::mac(top as u8)));
            assert_eq!(row.map(|row| row.ifindex), Some(top), "behind {tags} tags");
            assert!(want.features.contains(Features::VIRTUAL | Features::VLANS));
        }
    }

    #[test]
    fn ports_lead_to_devices() {
        let (outer, inner) = (VlanKey::new(2, SERVICE), VlanKey::new(10, CUSTOMER));
        let of = |model: &Model, attached: &[Ifindex]| -> Vec<_> {
            let found = vlans(model, &ports(attached), &mut Vec::new());
            found.into_iter().map(|(key, port)| (key, port.ifindex)).collect()
        };
        let whole = model(|_| {});
        assert_eq!(of(&whole, &[2]), [(outer, 10), (inner, 11)]);
        assert_eq!(of(&whole, &[3]), []);
        let third = VlanKey::new(11, CUSTOMER);
        assert_eq!(of(&whole, &[2, 10]), [(inner, 11), (third, 12)], "10 is a port itself, with two tags on it");
        assert_eq!(of(&model(|link| link.up = link.ifindex != 10), &[2]), [], "nothing above one that is down");
        assert_eq!(of(&model(|link| link.master = Some(3)), &[2]), [], "members of something else");
        assert_eq!(of(&model(|link| link.parent_netns = Some(0)), &[2]), []);
        let taken = model(|link| {
            if link.ifindex == 11 {
                (link.kind, link.vlan, link.takes) = (Some("ipvlan".to_owned()), None, true);
            }
        });
        assert_eq!(of(&taken, &[2]), [], "an ipvlan device gets all that comes in through the one it is on");
    }

    #[test]
    fn a_device_has_its_own_address_and_mtu_and_the_checksums_of_its_port() {
        let mut whole = model(|_| {});
        let row = |model: &Model| vlans(model, &ports(&[2]), &mut Vec::new())[&VlanKey::new(2, SERVICE)];
        let device = row(&whole);
        assert_eq!((device.mac, device.mtu), (sample::mac(10), 1496));
        assert!(!device.flags().contains(PortFlags::PARTIAL_CHECKSUMS), "hardware finishes them");
        assert!(device.flags().contains(PortFlags::TC));
        whole.apply(Event::Link(Link { kind: Some("veth".to_owned()), ..whole.links[&2].clone() }));
        assert!(row(&whole).flags().contains(PortFlags::PARTIAL_CHECKSUMS));
    }

    #[test]
    fn a_port_whose_peer_may_hide_tags_is_flagged() {
        let hides = |model: &Model| {
            let port = Lowering::new([].into()).lower(model, &ports(&[2])).ports[&2];
            port.flags().contains(PortFlags::HIDDEN_TAGS)
        };
        let veth = |model: &mut Model| {
            model.apply(Event::Link(Link { kind: Some("veth".to_owned()), ..model.links[&2].clone() }));
        };
        let (mut tagged, mut plain) = (model(|_| {}), sample::model());
        assert!(!hides(&tagged), "hardware shows them");
        veth(&mut tagged);
        veth(&mut plain);
        assert!(hides(&tagged));
        assert!(!hides(&plain), "no device is on it");
    }

    #[test]
    fn a_way_out_of_a_device_is_one_out_of_what_it_is_on() {
        let adjacency = |model: &Model, dev: Ifindex| -> Adjacency {
            let egress = super::super::adjacency::egress(model);
            super::super::adjacency::adjacency(model, &egress, super::super::adjacency::NextHopKey { dev, via: None })
        };
        let both = AdjacencyFlags::XDP_TRANSMIT | AdjacencyFlags::TC_TRANSMIT;
        let whole = model(|_| {});
        let one = adjacency(&whole, 10);
        assert_eq!((one.ifindex, one.device, one.tags, one.mtu), (10, 2, [SERVICE, Tag::NONE], 1496));
        assert_eq!(one.source, sample::mac(10));
        assert_eq!(one.flags() & both, both);
        let two = adjacency(&whole, 11);
        assert_eq!((two.device, two.tags, two.flags() & both), (2, [SERVICE, CUSTOMER], both));
        // With both tags longer than what the kernel lets XDP send: MTU and one tag.
        let long = adjacency(&model(|link| link.mtu = 1500), 11);
        assert_eq!(long.flags() & both, AdjacencyFlags::TC_TRANSMIT);
        assert_eq!(adjacency(&whole, 12).flags() & both, AdjacencyFlags::empty());
        let down = adjacency(&model(|link| link.up = false), 10);
        assert_eq!(down.flags() & both, AdjacencyFlags::empty());
    }

    #[test]
    fn a_way_out_of_a_macvlan_device_is_one_out_of_what_it_is_on() {
        let out_of = |change: &dyn Fn(&mut Link)| {
            let model = model(|link| {
                turn(link, Macvlan::Apart);
                change(link);
            });
            let egress = super::super::adjacency::egress(&model);
            let next_hop = super::super::adjacency::NextHopKey { dev: 10, via: None };
            let found = super::super::adjacency::adjacency(&model, &egress, next_hop);
            (found.device, found.source, found.tags[0], found.flags().contains(AdjacencyFlags::XDP_TRANSMIT))
        };
        let mac = sample::mac(10);
        assert_eq!(out_of(&|_| {}), (2, mac, Tag::NONE, true));
        assert_eq!(out_of(&|link| link.macvlan = Some(Macvlan::Bridge)), (10, mac, Tag::NONE, false));
        assert_eq!(out_of(&|link| link.parent_netns = Some(0)), (10, mac, Tag::NONE, false));
    }

    #[test]
    fn without_devices_the_feature_is_off() {
        let features = |model: &Model, attached: &[Ifindex]| -> Features {
            let want: Want = Lowering::new(BTreeMap::new()).lower(model, &ports(attached));
            want.features & Features::VLANS
        };
        assert_eq!(features(&sample::model(), &[2, 3]), Features::empty());
        assert_eq!(features(&model(|_| {}), &[2]), Features::VLANS);
        assert_eq!(features(&model(|link| link.up = false), &[2]), Features::empty());
    }
}
