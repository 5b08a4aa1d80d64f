//! Ports that have to wait, because the maps cannot be written: no program is attached that does not know its port and rules.

use std::collections::BTreeMap;

use dataplane_common::abi::Ifindex;

use super::{Daemon, port::Attached};
use crate::model::Link;

impl Daemon {
    /// Leaves links alone that should be ports while the maps cannot be written; those that were ports stay as they were.
    pub(super) fn postpone(
        &mut self,
        new: Vec<(Ifindex, Link)>,
        mut former: BTreeMap<Ifindex, Attached>,
        reason: &str,
    ) {
        for (ifindex, link) in new {
            match former.remove(&ifindex) {
                Some(port) => drop(self.ports.attached.insert(ifindex, port)),
                None => drop(self.ports.attached.remove(&ifindex)),
            }
            tracing::debug!("{} is no port yet: {reason}", link.name);
            self.ports.postponed.insert(ifindex, reason.to_owned());
        }
    }

    /// Tries again what could not be written.
    pub(super) fn make_good(&mut self) {
        if self.loading.is_none() && (self.maps_dirty || self.committed.is_stale || !self.ports.postponed.is_empty()) {
            self.follow();
        }
    }
}
