//! How far the count of what is armed has come.

use std::time::Duration;

/// The count of what is armed.
#[derive(Default)]
pub(super) struct Survey {
    /// When it begins again.
    pub(super) due: Duration,
    /// Where it goes on: 64 rows for each number.
    pub(super) next: usize,
    /// What is armed and was carried, as far as it is counted.
    pub(super) sums: [u64; 2],
    /// Of the last time.
    pub(super) last: [u64; 2],
}

impl Survey {
    /// Begins anew, since rows were moved. What was counted last stays until then: these counters never go back.
    pub(super) fn restart(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }
}
