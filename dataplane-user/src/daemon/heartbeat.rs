//! Word to the data plane that somebody is there who follows the kernel.
//!
//! `CLOCK_MONOTONIC` is not set by anybody, and stands still while the machine sleeps, as the daemon does: its timers go on
//! first thing afterwards, and so does the heart.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::{Daemon, plane::Facts};
use crate::{
    control::row::{Finding, Status},
    netlink::Mirror,
};

/// Between two beats. They come from the ring: one that is stuck is as good as none.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// By how many nanoseconds the clock of this time namespace is ahead of the kernel's own (`time_namespaces(7)`).
pub(super) fn offset() -> i128 {
    let told = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    offset_in(&told).unwrap_or(0)
}

fn offset_in(told: &str) -> Option<i128> {
    let mut words = told.lines().find_map(|line| line.strip_prefix("monotonic"))?.split_whitespace();
    let (seconds, nanoseconds): (i128, i128) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(seconds * 1_000_000_000 + nanoseconds)
}

impl Daemon {
    /// Lets the data plane trust what it was told for another while.
    pub(super) fn beat(&mut self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec) - self.offset;
        let until = match self.desired.heartbeat().after {
            0 => 0,
            after => u64::try_from(now + i128::from(after) * 1_000_000_000).unwrap_or(u64::MAX),
        };
        if let Err(error) = self.plane.write_heartbeat(until) {
            tracing::error!("cannot renew the heartbeat of the data plane: {error}");
        }
    }

    /// What is done each second.
    pub(super) fn tick(&mut self, mirror: &mut Mirror) {
        self.beat();
        self.plane.mend_pins();
        mirror.look_at_netfilter();
        if self.observed.model().fdb.has_room_again() {
            mirror.list_hosts();
        }
        self.metrics_endpoint.retry();
        self.tick_sflow();
        self.follow_flows();
        self.make_good();
        self.packets.keep_dry_run(self.plane.epoch());
        self.prepare_dry_run();
        if !self.leaves_ports() {
            self.plane.retry_gate(Facts::new(&self.observed, &self.desired, &self.packets));
            self.look_at_table();
            self.look_at_delivery();
        }
        self.heap.collect();
        self.store.settle();
        self.plane.rest();
        if self.store.unsaved().is_some() || self.store.has_old_news() {
            self.save();
        }
        let readers = self.observed.look_for_raw_readers();
        let egress = self.look_at_egress();
        if self.update_rx_handlers() || readers || egress {
            self.reconcile_if_touched();
        }
    }

    /// What happens without a daemon.
    pub(super) fn alone(&self) -> Finding {
        let (status, found) = match self.desired.heartbeat().after {
            0 => (Status::Warn, "without a daemon, packets go on to the neighbours of its time, for ever".to_owned()),
            after => (Status::Ok, format!("{after} s after the daemon's end, routed packets are left to the kernel")),
        };
        let fix = if status == Status::Ok { "" } else { "in the config, [heartbeat] after = 60" };
        Finding { check: "heartbeat".to_owned(), status, found, fix: fix.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::offset_in;

    #[test]
    fn offsets_are_read_as_the_kernel_writes_them() {
        for (told, want) in [
            ("monotonic           0         0\nboottime            0         0\n", Some(0)),
            ("monotonic         -10 500000000\nboottime            7         0\n", Some(-9_500_000_000)),
            ("monotonic      100000         1\n", Some(100_000_000_000_001)),
            ("", None),
        ] {
            assert_eq!(offset_in(told), want, "{told}");
        }
    }
}
