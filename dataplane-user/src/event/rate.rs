//! How often something may be done.

use std::time::{Duration, Instant};

/// A token bucket. It begins full.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// When it will be full again; earlier: it is full now.
    full: Instant,
    /// What a token costs.
    cost: Duration,
    /// What the whole bucket costs.
    depth: Duration,
}

impl Bucket {
    /// `rate` times a second, and `burst` times at once.
    pub fn new(rate: u32, burst: u32, now: Instant) -> Self {
        let cost = Duration::from_secs(1) / rate.max(1);
        Self { full: now, cost, depth: cost * burst }
    }

    /// Takes a token; `false` when there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let full = self.full.max(now) + self.cost;
        let held = full <= now + self.depth;
        if held {
            self.full = full;
        }
        held
    }
}
