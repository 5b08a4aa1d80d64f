//! Links whose other ends, in other namespaces, may be handed packets: which programs see these on their way through a link.

use std::collections::BTreeSet;

use dataplane_common::abi::Ifindex;

use super::{Daemon, raw};
use crate::{config::PeerChoice, kernel::has_egress_programs, model::Link};

impl Daemon {
    /// Looks which ports lead to another namespace, with no program in the way; whether these are others than before.
    pub(super) fn look_at_peers(&mut self) -> bool {
        let Some(taps) = raw::taps() else { return self.observed.set_peers(BTreeSet::new()) };
        let model = self.observed.model();
        let ports = self.plane.attached().keys().filter_map(|ifindex| model.links.get(ifindex));
        let free = ports.filter(|link| self.may_hand_over(link) && !taps.contains(&0) && !taps.contains(&link.ifindex));
        // Programs come without a word, also where none can be listed.
        let peers: BTreeSet<Ifindex> =
            free.filter(|link| has_egress_programs(&link.name) == Some(false)).map(|link| link.ifindex).collect();
        self.observed.set_peers(peers)
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
