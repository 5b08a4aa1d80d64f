//! Which programs of others see packets on their way out of a link, and which links' other ends, in other namespaces, may be
//! handed packets past none of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Daemon, raw};
use crate::{
    config::PeerChoice,
    kernel::{egress_program_count, foreign_programs},
    model::{Link, TcPlace},
};

/// Programs of others at tc egress of an interface, as far as this process may know their names.
fn named(iface: &str) -> Vec<String> {
    let found = foreign_programs(iface, TcPlace::Egress).unwrap_or_default();
    let named: Vec<_> = found.into_iter().map(|(_, name)| format!("program {name}")).collect();
    if named.is_empty() { vec!["a program at tc egress".to_owned()] } else { named }
}

impl Daemon {
    /// Looks at what would be passed by on the way out of links: programs at tc egress, which come without a word, and
    /// captures; whether these are others than before.
    pub(super) fn look_at_egress(&mut self) -> bool {
        let (mut programs, mut peers) = (BTreeMap::new(), BTreeSet::new());
        let model = self.observed.model();
        let attached = self.plane.attached();
        let own = self.plane.at_egress();
        let taps = raw::taps();
        let is_tapped =
            |link: &Link| taps.as_ref().is_none_or(|taps| taps.contains(&0) || taps.contains(&link.ifindex));
        // All of them: what leaves a VLAN device, macvlan or bridge by the device under it passes by what is on it, at tc as
        // well.
        for link in model.links.values().filter(|link| link.ethernet && !attached.is_empty()) {
            // Where they are not counted, there may be some.
            let Some(count) = egress_program_count(link.ifindex) else { continue };
            if count > usize::from(own.contains(&link.ifindex)) {
                programs.insert(link.ifindex, named(&link.name));
            } else if count == 0 && attached.contains_key(&link.ifindex) && self.may_hand_over(link) && !is_tapped(link)
            {
                // Where our own program is at egress, the link's counters would change with the first rule.
                peers.insert(link.ifindex);
            }
        }
        let peers = self.observed.set_peers(peers);
        self.observed.set_egress_programs(programs) || peers
    }

    /// How packets reach the other end of a port: [`crate::control::row::PortRow::peer`].
    pub(super) fn peer_word(&self, link: &Link) -> &'static str {
        if !link.reaches_another_namespace() {
            return "none";
        }
        self.observed.model().why_not_to_peer(link).unwrap_or("direct")
    }

    fn may_hand_over(&self, link: &Link) -> bool {
        let wanted = self.desired.ports().wanted_with_bridge(link, &self.observed);
        link.reaches_another_namespace() && wanted.is_some_and(|port| port.peer == PeerChoice::Auto)
    }
}
