//! Next hops: paths become groups, their members adjacencies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane_common::abi::{Adjacency, AdjacencyFlags, GROUP_SLOTS, Ifindex, NextHopGroup, Tag};
use dataplane_common::wire::Mac;

use super::carrier::{carrier, may_be_last, transmits};
use crate::model::{Layer3, Link, Model, XdpFeatures};

/// Bytes of a VLAN tag.
const VLAN_HLEN: u32 = 4;

/// The next hop of an adjacency: the link, and the address on it. Without an address it stands for all addresses of an on-link
/// prefix that have no neighbour entry yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NextHopKey {
    pub(super) dev: Ifindex,
    pub(super) via: Option<IpAddr>,
}

/// One way of a route.
#[expect(clippy::struct_field_names, reason = "a hop of a path has a next hop")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Hop {
    pub(super) next_hop: NextHopKey,
    pub(super) weight: u32,
    /// The kernel does not use it at the moment.
    pub(super) dead: bool,
}

/// The ways of a route, and the route's MTU (0: none). Equal paths share a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Path {
    pub(super) hops: Vec<Hop>,
    pub(super) mtu: u32,
}

impl Path {
    /// The link, if the destination itself is the next hop.
    pub(super) fn on_link(&self) -> Option<Ifindex> {
        let mut living = self.hops.iter().filter(|hop| !hop.dead);
        match (living.next(), living.next()) {
            (Some(Hop { next_hop: NextHopKey { dev, via: None }, .. }), None) => Some(*dev),
            _ => None,
        }
    }

    /// Whether it is one hop, without an MTU.
    pub(super) fn is_plain(&self) -> bool {
        self.hops.len() == 1 && self.mtu == 0
    }

    /// The same path with all its ways alive: what a path has in common with itself when a way dies or comes back.
    pub(super) fn revived(&self) -> Self {
        let hops = self.hops.iter().map(|hop| Hop { dead: false, ..*hop }).collect();
        Self { hops, mtu: self.mtu }
    }
}

/// The links that XDP may transmit on: up, Ethernet, with a driver that says so, no member of an aggregate but of a bridge that
/// is routed through, and nothing in front of the driver that frames would pass by.
pub(super) fn egress(model: &Model) -> BTreeSet<Ifindex> {
    let able = |link: &&Link| {
        (transmits(model, link) || model.is_plain_member(link))
            && model.leaves_plainly(link)
            && !link.loopback
            && model.features(link.ifindex).contains(XdpFeatures::NDO_XMIT)
    };
    model.links.values().filter(able).map(|link| link.ifindex).collect()
}

/// What is known of a next hop. A link that is gone gives the empty adjacency.
pub(super) fn adjacency(model: &Model, egress: &BTreeSet<Ifindex>, next_hop: NextHopKey) -> Adjacency {
    let Some(link) = model.links.get(&next_hop.dev) else { return Adjacency::NONE };
    let mut flags = AdjacencyFlags::empty();
    let neighbour = next_hop.via.and_then(|via| model.neighbours.get(&(next_hop.dev, via))?.resolved());
    let carrier = Some(link).filter(|link| may_be_last(model, link)).and_then(|link| carrier(model, link, neighbour));
    let (device, tags) = carrier.map_or((next_hop.dev, [Tag::NONE; 2]), |(device, tags)| (device.ifindex, tags));
    // XDP may send one tag beyond the MTU, and no more (`xdp_ok_fwd_dev`, `net/core/dev.c` of the kernel).
    let fits = carrier.is_some_and(|(device, [_, inner])| !inner.is_some() || link.mtu + VLAN_HLEN <= device.mtu);
    flags.set(AdjacencyFlags::TC_TRANSMIT, carrier.is_some());
    flags.set(AdjacencyFlags::XDP_TRANSMIT, fits && link.ethernet && egress.contains(&device));
    let ends = neighbour.zip(link.mac).filter(|_| link.ethernet);
    // A device without link header has no neighbours to resolve (`NUD_NOARP`).
    let bare = link.layer3.sends();
    flags.set(AdjacencyFlags::RESOLVED, ends.is_some() || bare);
    flags.set(AdjacencyFlags::NO_ETHERNET, bare);
    flags.set(AdjacencyFlags::WITH_ROUTE, bare && link.layer3 != Layer3::Plain);
    flags.set(AdjacencyFlags::PRIORITY, link.prioritises);
    flags.set(AdjacencyFlags::PEER, device == link.ifindex && model.why_not_to_peer(link).is_none());
    let (destination, source) = ends.unwrap_or((Mac::default(), link.mac.unwrap_or_default()));
    Adjacency { ifindex: next_hop.dev, device, flags: flags.bits(), used: 0, mtu: link.mtu, destination, source, tags }
}

/// The group of a path whose members have these indices. Ways that are dead, or whose link was switched off, have no part
/// in it: the routes stay where they are. Without any way the kernel says what to do.
pub(super) fn group(model: &Model, path: &Path, index: impl Fn(&NextHopKey) -> Option<u32>) -> NextHopGroup {
    let enabled = |hop: &&Hop| !hop.dead && model.links.get(&hop.next_hop.dev).is_none_or(|link| link.enabled);
    let living: Vec<&Hop> = path.hops.iter().filter(enabled).collect();
    let weights: Vec<u32> = living.iter().map(|hop| hop.weight).collect();
    let members = living
        .iter()
        .zip(slots(&weights))
        .flat_map(|(hop, count)| std::iter::repeat_n(index(&hop.next_hop).unwrap_or_default(), count as usize));
    let mut group = NextHopGroup { mtu: path.mtu, ..NextHopGroup::EMPTY };
    for (slot, member) in group.members.iter_mut().zip(members) {
        *slot = member as u16;
        group.slots += 1;
    }
    group
}

/// How many slots each weight gets: as they are, reduced, if they fit; otherwise in proportion, by largest remainder, and
/// at least one each as long as there are enough.
fn slots(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let reduced: Vec<u64> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
    let total: u64 = reduced.iter().sum();
    let room = GROUP_SLOTS as u64;
    if total <= room {
        return reduced.into_iter().map(|weight| weight as u32).collect();
    }
    let least = u32::from(weights.len() <= GROUP_SLOTS);
    let share = |weight: &u64| ((weight * room / total) as u32).max(if *weight == 0 { 0 } else { least });
    let mut slots: Vec<u32> = reduced.iter().map(share).collect();
    let given = slots.iter().sum::<u32>() as usize;
    // One that was lifted to a whole slot has had its remainder.
    let mut by_remainder: Vec<usize> =
        (0..weights.len()).filter(|hop| least == 0 || reduced[*hop] * room >= total).collect();
    by_remainder.sort_by_key(|hop| std::cmp::Reverse(reduced[*hop] * room % total));
    by_remainder.into_iter().take(GROUP_SLOTS.saturating_sub(given)).for_each(|hop| slots[hop] += 1);
    // Slots that the least members got above their share come from those with the most.
    for _ in GROUP_SLOTS..given {
        if let Some(most) = slots.iter_mut().max() {
            *most -= 1;
        }
    }
    slots
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, IpVersion, RoutingRule};

    #[test]
    fn devices_without_link_header_need_no_neighbour() {
        let (resolved, tc) = (AdjacencyFlags::RESOLVED, AdjacencyFlags::TC_TRANSMIT);
        let bare = resolved | AdjacencyFlags::NO_ETHERNET;
        let routed = bare | AdjacencyFlags::WITH_ROUTE;
        for (layer3, up, by_interface, expected) in [
            (Layer3::Plain, true, false, bare | tc),
            (Layer3::Plain, false, false, bare),
            (Layer3::Plain, true, true, bare | tc),
            (Layer3::Answers, true, false, routed | tc),
            (Layer3::Outward, true, false, routed | tc),
            // The kernel would look the route up without the interface.
            (Layer3::Answers, true, true, routed),
            (Layer3::Routed, true, false, AdjacencyFlags::empty()),
            (Layer3::Unknown, true, false, AdjacencyFlags::empty()),
        ] {
            let mut model = Model::default();
            model.apply(Event::Link(Link { ifindex: 3, mtu: 1400, up, layer3, ..Link::default() }));
            if by_interface {
                let iif = Some("eth0".to_owned());
                model.apply(Event::RoutingRule(RoutingRule { iif, ..RoutingRule::new(IpVersion::V6, 9, 9) }));
            }
            let found = adjacency(&model, &[3].into(), NextHopKey { dev: 3, via: None });
            assert_eq!((found.flags(), found.device, found.mtu), (expected, 3, 1400), "{layer3:?} {up} {by_interface}");
            assert_eq!(found.link_address(), None, "{layer3:?}");
        }
    }

    #[test]
    fn weights_become_slots() {
        let rows: &[(&[u32], &[u32])] = &[
            (&[1], &[1]),
            (&[256], &[1]),
            (&[1, 1], &[1, 1]),
            (&[10, 20], &[1, 2]),
            (&[63, 1], &[63, 1]),
            (&[255, 1], &[63, 1]),
            (&[1, 255, 1], &[1, 62, 1]),
            (&[256, 256, 1], &[32, 31, 1]),
            (&[100, 101], &[32, 32]),
            (&[3, 7, 255], &[1, 2, 61]),
            (&[], &[]),
        ];
        for (weights, expected) in rows {
            assert_eq!(slots(weights), *expected, "{weights:?}");
        }
        let many = slots(&[1; 100]);
        assert_eq!(many.iter().sum::<u32>() as usize, GROUP_SLOTS);
    }
}
