//! The devices that take the frames of a link before IP sees them (`rx_handler` of the kernel).

use super::{Link, Model};

/// What a macvlan has there, whose mode says whether it takes what is for the link itself.
const MACVLAN: &str = "macvlan_handle_frame";

impl Model {
    /// The master that a link's frames go to. A VRF only routes them.
    pub fn aggregate(&self, link: &Link) -> Option<String> {
        let master = link.master?;
        match self.links.get(&master) {
            Some(master) if master.kind.as_deref() == Some("vrf") => None,
            Some(master) => Some(named(master)),
            // About to be announced.
            None => Some(format!("the link with index {master}")),
        }
    }

    /// The device that takes the frames of a link before IP sees them, for people; `None`: there is none.
    ///
    /// Its master; else the name of the handler. Where that is not known: a link on it, or the program that has made it
    /// promiscuous, which may be no more than a capture.
    pub fn taker(&self, link: &Link) -> Option<String> {
        if let Some(master) = self.aggregate(link) {
            return Some(master);
        }
        let mut above = self.links.values().filter(|other| {
            other.parent == Some(link.ifindex) && other.parent_netns.is_none() && other.kind.as_deref() != Some("vlan")
        });
        if let Some(taker) = above.clone().find(|other| other.takes) {
            return Some(named(taker));
        }
        let shared = above.any(|other| matches!(other.kind.as_deref(), Some("macvlan" | "macvtap")));
        let promiscuous = link.promiscuity != 0;
        match self.handlers.get(&link.ifindex).map(String::as_str) {
            Some("") => None,
            // Of one that is in mode passthru there is no other; it may be in another namespace.
            Some(MACVLAN) => (promiscuous && !shared).then(|| "a macvlan (passthru) elsewhere".to_owned()),
            Some(handler) => Some(format!("the kernel's {handler}")),
            None => (promiscuous && !shared).then(|| "an unknown program (it is promiscuous)".to_owned()),
        }
    }
}

/// Name and kind.
fn named(link: &Link) -> String {
    match &link.kind {
        Some(kind) => format!("{} ({kind})", link.name),
        None => link.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Event;

    fn link(ifindex: u32, name: &str, kind: &str) -> Link {
        let kind = Some(kind).filter(|kind| !kind.is_empty()).map(str::to_owned);
        Link { ifindex, name: name.to_owned(), kind, ..Link::default() }
    }

    /// The case, the port, another link, the handler of its frames, and the expected result.
    type Row<'a> = (&'a str, &'a Link, Option<Link>, Option<&'a str>, Option<&'a str>);

    #[test]
    fn takers_are_found() {
        let eth = link(2, "eth0", "");
        let on = |other: Link| Link { parent: Some(2), ..other };
        let promiscuous = Link { promiscuity: 1, ..eth.clone() };
        let member = |master| Link { master: Some(master), ..eth.clone() };
        let passthru = Link { takes: true, ..on(link(9, "mv0", "macvlan")) };
        let (vlan, bridging) = (on(link(9, "eth0.5", "vlan")), on(link(9, "vrrp1", "macvlan")));
        let rows: &[Row<'_>] = &[
            ("nobody", &eth, None, Some(""), None),
            ("not told", &eth, None, None, None),
            ("a bridge", &member(9), Some(link(9, "br0", "bridge")), None, Some("br0 (bridge)")),
            (
                "Open vSwitch",
                &member(9),
                Some(link(9, "ovs-system", "openvswitch")),
                None,
                Some("ovs-system (openvswitch)"),
            ),
            ("hardware", &member(9), Some(link(9, "eth1", "")), Some("netvsc_vf_handle_frame"), Some("eth1")),
            ("a master not announced yet", &member(9), None, None, Some("the link with index 9")),
            ("a VRF", &member(9), Some(link(9, "red", "vrf")), Some(""), None),
            ("passthru", &promiscuous, Some(passthru.clone()), Some(MACVLAN), Some("mv0 (macvlan)")),
            ("passthru, not told", &promiscuous, Some(passthru), None, Some("mv0 (macvlan)")),
            ("passthru elsewhere", &promiscuous, None, Some(MACVLAN), Some("a macvlan (passthru) elsewhere")),
            ("macvlans of containers", &eth, None, Some(MACVLAN), None),
            ("a virtual router", &promiscuous, Some(bridging), Some(MACVLAN), None),
            ("a VLAN", &eth, Some(vlan), Some(""), None),
            ("failover", &eth, None, Some("net_failover_handle_frame"), Some("the kernel's net_failover_handle_frame")),
            ("a capture", &promiscuous, None, Some(""), None),
            ("perhaps a capture", &promiscuous, None, None, Some("an unknown program (it is promiscuous)")),
        ];
        for (what, port, other, handler, expected) in rows {
            let mut model = Model::default();
            model.apply(Event::Link((*port).clone()));
            if let Some(other) = other {
                model.apply(Event::Link(other.clone()));
            }
            model.handlers.extend(handler.map(|handler| (2, handler.to_owned())));
            assert_eq!(model.taker(port).as_deref(), *expected, "{what}");
        }
    }
}
