//! The comparison of the mirror with the kernel, now and then: an announcement that never came must not matter for long.

use std::time::Duration;

use super::{Daemon, delivery::may_be_gone, plane::Facts};
use crate::{model::Event, netlink::Mirror};

/// Between two comparisons. SIGHUP asks for one at once.
pub(super) const COMPARE: Duration = Duration::from_mins(5);

/// The counts of all comparisons.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResyncStats {
    pub resyncs: u64,
    pub mended: u64,
}

impl Daemon {
    /// Takes in what the kernel said.
    pub(super) fn on_events(&mut self, events: Vec<Event>, mirror: &mut Mirror) {
        let gated = self.plane.sees_gate(&self.observed);
        let undelivered = may_be_gone(&events);
        self.observed.follow_all(events);
        if gated == Some(true) && self.plane.sees_gate(&self.observed) == Some(false) {
            self.plane.note_gate_deleted(Facts::new(&self.observed, &self.desired, &self.packets));
        }
        mirror.set_table_port(self.plane.table_port());
        if mirror.take_tampered() {
            self.mend_table();
        }
        if undelivered {
            self.look_at_delivery();
        }
        if self.observed.are_links_touched() && !self.observed.is_loading() {
            self.update_rx_handlers();
        }
        self.observed.count_comparisons(mirror);
        self.flows.surveyed = mirror.netfilter_surveyed();
        self.tell_judged();
    }
}
