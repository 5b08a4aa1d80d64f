//! Ports: which slot, and what is written there.

use std::collections::BTreeMap;

use dataplane_common::abi::{Features, Ifindex, PORT_PROBES, PORTS, Port, PortFlags, home_slot};

use super::Problem;
use crate::model::{Attachment, IpVersion, Link, Mode, Model, RouteSource};
use crate::retired::{Grace, Retired};

/// Slots of ports, the same for as long as a port is attached.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    held: BTreeMap<Ifindex, u32>,
    quarantine: Vec<Retired<u32>>,
}

impl Slots {
    /// Keeps what an earlier daemon had given out.
    pub(super) fn new(held: BTreeMap<Ifindex, u32>) -> Self {
        Self { held, quarantine: Vec::new() }
    }

    /// Slots for exactly these ports; those of others are given back. A port for which there is none is a problem.
    pub(super) fn assign(
        &mut self,
        ports: impl Iterator<Item = Ifindex>,
        problems: &mut Vec<Problem>,
    ) -> &BTreeMap<Ifindex, u32> {
        let before = std::mem::take(&mut self.held);
        let mut missing = Vec::new();
        for ifindex in ports {
            match before.get(&ifindex) {
                Some(slot) => drop(self.held.insert(ifindex, *slot)),
                None => missing.push(ifindex),
            }
        }
        let gone = before.iter().filter(|(ifindex, _)| !self.held.contains_key(ifindex));
        self.quarantine.extend(gone.map(|(_, slot)| Retired::new(*slot)));
        for ifindex in missing {
            let taken = |slot: &u32| {
                self.quarantine.iter().any(|retired| retired.peek() == slot)
                    || self.held.values().any(|held| held == slot)
            };
            let slot =
                (0..PORT_PROBES).map(|probe| (home_slot(ifindex) + probe) & (PORTS - 1)).find(|slot| !taken(slot));
            match slot {
                Some(slot) => drop(self.held.insert(ifindex, slot)),
                None => problems.push(Problem::PortsFull { ifindex }),
            }
        }
        &self.held
    }

    /// A grace period has passed: no packet uses what was given back before.
    pub(super) fn grace_passed(&mut self, grace: &Grace) {
        // Which slots are free follows from which are held, and which are retired.
        for retired in self.quarantine.drain(..) {
            let _free: u32 = grace.release(retired);
        }
    }
}

/// What is written for a port.
pub(super) fn port(model: &Model, link: &Link, attachment: Attachment) -> Port {
    let mut flags = PortFlags::empty();
    // To the kernel a packet comes in through the VRF (`l3mdev_ip_rcv`).
    let domain = model.domain(link);
    let sources = [IpVersion::V4, IpVersion::V6].map(|version| model.route_source(version, link));
    flags.set(PortFlags::KERNEL_LOOKUP_V4, sources[0] != RouteSource::Mirror);
    flags.set(PortFlags::KERNEL_LOOKUP_V6, sources[1] != RouteSource::Mirror);
    flags.set(PortFlags::IN_VRF, domain != link);
    flags.set(PortFlags::FORWARDING_V4, model.forwarding(IpVersion::V4, domain.ifindex));
    flags.set(PortFlags::FORWARDING_V6, model.forwarding(IpVersion::V6, link.ifindex));
    // Rules of netfilter decide on what would be forwarded, behind our own chains.
    flags.set(PortFlags::FOLLOW_V4, attachment.follow && model.meets_netfilter(IpVersion::V4, link));
    flags.set(PortFlags::FOLLOW_V6, attachment.follow && model.meets_netfilter(IpVersion::V6, link));
    flags.set(PortFlags::TC, attachment.tc);
    flags.set(PortFlags::XDP, attachment.mode != Mode::Tc);
    flags.set(PortFlags::PARTIAL_CHECKSUMS, link.kind.is_some() || link.loopback);
    // The loopback device writes an Ethernet header too.
    flags.set(PortFlags::NO_ETHERNET, !link.ethernet && !link.loopback);
    flags.set(PortFlags::LAYER3, link.layer3.receives());
    flags.set(PortFlags::ACCEPT_LOCAL, domain.accept_local);
    // Generic XDP comes once more behind the kernel's IPsec, and does not see that it did.
    let behind = attachment.mode == Mode::Generic && attachment.tc && !model.ipsec.is_empty();
    flags.set(PortFlags::HIDDEN_TAGS, behind || (attachment.tc && may_be_marked(model, link, attachment.mode)));
    let taken = model.taker(link).is_some();
    flags.set(PortFlags::RX_HANDLER, taken);
    flags.set(PortFlags::ROUTE_LOCALNET, domain.route_localnet);
    Port {
        ifindex: link.ifindex,
        flags: flags.bits(),
        // No frame is for the zero address.
        mac: link.mac.filter(|_| !taken).unwrap_or_default(),
        rp_filter: model.rp_filter(domain.ifindex),
        reserved: 0,
        mtu: link.mtu,
        domain: domain.ifindex,
        route_mtu: [0; 2],
    }
}

/// Whether packets may have a mark that XDP does not see, and routing rules look at: a sender in this namespace may have set it,
/// or a device under this one.
fn may_be_marked(model: &Model, link: &Link, mode: Mode) -> bool {
    let stacked = match link.kind.as_deref() {
        // What comes from another namespace has lost it (`skb_scrub_packet`).
        Some("veth") => link.parent_netns.is_none() && link.parent.is_some_and(|peer| model.links.contains_key(&peer)),
        Some(_) => mode == Mode::Generic,
        None => false,
    };
    stacked && mode != Mode::Tc && model.looks_at_marks()
}

/// The features that the ports need.
pub(super) fn features<'a>(ports: impl Iterator<Item = &'a Port>) -> Features {
    let mut features = Features::empty();
    for port in ports {
        let flags = port.flags();
        features.set(Features::RP_FILTER, features.contains(Features::RP_FILTER) || port.rp_filter != 0);
        for (flag, feature) in [
            (PortFlags::PARTIAL_CHECKSUMS, Features::PARTIAL_CHECKSUMS),
            (PortFlags::NO_ETHERNET, Features::NO_ETHERNET),
            (PortFlags::RX_HANDLER, Features::RX_HANDLER),
            (PortFlags::KERNEL_LOOKUP_V4, Features::KERNEL_LOOKUP),
            (PortFlags::KERNEL_LOOKUP_V6, Features::KERNEL_LOOKUP),
            (PortFlags::FOLLOW_V4, Features::FOLLOW),
            (PortFlags::FOLLOW_V6, Features::FOLLOW),
        ] {
            if flags.contains(flag) {
                features |= feature;
            }
        }
    }
    features
}

#[cfg(test)]
mod tests {
    use dataplane_common::wire::Mac;

    use super::*;
    use crate::model::{Event, RoutingRule};

    #[test]
    fn frames_with_an_rx_handler_are_not_ours() {
        let own = Mac([2, 0, 0, 0, 0, 1]);
        let mac = Some(own);
        for (kind, ours) in
            [("bridge", false), ("bond", false), ("openvswitch", false), ("batadv", false), ("vrf", true)]
        {
            let mut model = Model::default();
            let member = Link { ifindex: 5, mac, master: Some(9), ..Link::default() };
            model.apply(Event::Link(Link { ifindex: 9, kind: Some(kind.to_owned()), mac, ..Link::default() }));
            let written = port(&model, &member, Attachment { mode: Mode::Tc, tc: true, follow: true, flows: None });
            assert_eq!(written.mac, if ours { own } else { Mac::default() }, "{kind}");
            assert_eq!(written.flags().contains(PortFlags::RX_HANDLER), !ours, "{kind}");
            assert_eq!(features([written].iter()).contains(Features::RX_HANDLER), !ours, "{kind}");
        }
    }

    #[test]
    fn marks_that_xdp_does_not_see_are_for_tc() {
        let veth = |parent, parent_netns| Link { parent: Some(parent), parent_netns, ..kind("veth") };
        for (link, mode, marks, hidden) in [
            (veth(6, None), Mode::Native, true, true),
            (veth(6, None), Mode::Native, false, false),
            (veth(6, Some(0)), Mode::Native, true, false),
            (veth(9, None), Mode::Native, true, false),
            (veth(6, None), Mode::Tc, true, false),
            (kind("bridge"), Mode::Generic, true, true),
            (kind("tun"), Mode::Native, true, false),
            (Link { ifindex: 5, ..Link::default() }, Mode::Generic, true, false),
        ] {
            let mut model = Model::default();
            model.apply(Event::Link(Link { ifindex: 6, ..Link::default() }));
            let mark = marks.then_some((1, u32::MAX));
            model.apply(Event::RoutingRule(RoutingRule { mark, ..RoutingRule::new(IpVersion::V6, 9, 9) }));
            let written = port(&model, &link, Attachment { mode, tc: true, follow: true, flows: None });
            assert_eq!(written.flags().contains(PortFlags::HIDDEN_TAGS), hidden, "{link:?} {mode:?} {marks}");
        }
    }

    fn kind(kind: &str) -> Link {
        Link { ifindex: 5, kind: Some(kind.to_owned()), ..Link::default() }
    }

    #[test]
    fn slots_probe_stay_and_run_out() {
        let mut problems = Vec::new();
        let mut slots = Slots::new([(5, 6)].into());
        let same_home: Vec<Ifindex> = (0..9).map(|round| 5 + round * PORTS).collect();
        let got = slots.assign(same_home[..8].iter().copied(), &mut problems).clone();
        assert_eq!(got[&5], 6, "kept from before");
        assert_eq!(got[&same_home[1]], 5, "home is free");
        assert_eq!(got[&same_home[2]], 7);
        assert_eq!((got.len(), problems.len()), (8, 0));
        let after = slots.assign(same_home.iter().copied(), &mut problems).clone();
        assert_eq!(after, got);
        assert_eq!(problems, [Problem::PortsFull { ifindex: same_home[8] }]);

        // A slot that was given back is not handed out before the grace period.
        problems.clear();
        slots.assign(same_home[1..].iter().copied(), &mut problems);
        assert_eq!(problems, [Problem::PortsFull { ifindex: same_home[8] }]);
        slots.grace_passed(&Grace::passed());
        problems.clear();
        let last = slots.assign(same_home[1..].iter().copied(), &mut problems);
        assert_eq!((last[&same_home[8]], problems.len()), (6, 0));
    }
}
