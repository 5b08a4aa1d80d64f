//! The comparison of the mirror with the kernel, now and then: an announcement that never came must not matter for long.

use std::time::Duration;

use super::Daemon;
use crate::{
    control::row::{MirrorRow, MirrorState},
    model::{Event, Missed},
    netlink::Mirror,
};

/// Between two comparisons. SIGHUP asks for one at once.
pub(super) const COMPARE: Duration = Duration::from_mins(5);

/// The counts of all comparisons.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResyncStats {
    resyncs: u64,
    mended: u64,
}

impl Daemon {
    /// Takes in what the kernel said, and counts what its announcements had missed.
    pub(super) fn on_events(&mut self, events: Vec<Event>, mirror: &mut Mirror) {
        let mut missed = Missed::default();
        let gated = self.sees_gate();
        for event in events {
            if let Event::Compared(listed, announced) = &event {
                missed.join(self.model.missed(listed, announced));
            }
            self.model.follow(event, &mut self.touched);
        }
        if gated == Some(true) && self.sees_gate() == Some(false) {
            self.note_gate_deleted();
        }
        if missed.count != 0 {
            let examples = missed.examples.join("; ");
            tracing::warn!("the mirror had missed {} changes of the kernel, mended now: {examples}", missed.count);
        }
        if self.touched.links && self.loading.is_none() {
            self.update_rx_handlers();
        }
        self.resync_stats.mended += missed.count as u64;
        self.resync_stats.resyncs += u64::from(mirror.compared());
    }

    /// How far the mirror is, and how well it follows.
    pub(super) fn mirror_row(&self) -> MirrorRow {
        let (state, (routes4, routes6)) = match self.loading {
            Some(so_far) => (MirrorState::Loading, so_far),
            None => (MirrorState::Live, (0, 0)),
        };
        let (known4, known6) = (self.model.routes4.len(), self.model.routes6.len());
        MirrorRow {
            state,
            routes4: known4.max(routes4) as u64,
            routes6: known6.max(routes6) as u64,
            resyncs: self.resync_stats.resyncs,
            mended: self.resync_stats.mended,
            probes: self.probes.sent,
        }
    }
}
