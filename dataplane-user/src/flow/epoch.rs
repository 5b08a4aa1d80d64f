//! When rows that were armed count no longer, and when they may be armed again.
//!
//! What netfilter says may change with each commit, so each commit raises the epoch at once: no row is armed from then on, and
//! each direction comes back with its first packet that the kernel lets through. Where commits follow each other, every one of
//! them would send each flow through the kernel once. So it is the arming that is gathered, and never the disarming: within
//! [`GATHER`] of the moment since which rows may be armed, a raise also says that none may be, until that time is over. Then
//! the flows of a machine with a thousand commits a second are armed ten times a second, and between these their packets take
//! the kernel's way, which decides them by the rules of the moment.

use std::time::Duration;

use dataplane_common::abi::FlowControl;

/// Rows are armed again after so long, while commits go on.
pub const GATHER: Duration = Duration::from_millis(100);

/// The epoch and whether rows are armed in it. Times are since any fixed moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epochs {
    epoch: u32,
    raised: u64,
    /// Since when rows may be armed.
    since: Option<Duration>,
    /// When they may be armed again.
    due: Option<Duration>,
    /// Rules of this generation are not judged yet.
    unjudged: Option<u32>,
    /// Rows are moved.
    paused: bool,
}

impl Epochs {
    /// No row that was armed before counts from now on.
    pub fn raise(&mut self, now: Duration) {
        self.epoch = FlowControl::next_epoch(self.epoch);
        self.raised += 1;
        if self.due.is_some() {
            return;
        }
        match self.since {
            Some(since) if now < since + GATHER => self.due = Some(since + GATHER),
            _ => self.since = Some(now),
        }
    }

    /// Rules have changed, and may forbid that anything is carried past them: no row is armed before they are judged. The
    /// generation is that of nftables.
    pub fn hold(&mut self, generation: u32) {
        self.unjudged = Some(generation);
    }

    /// Rules of a generation, and all before them, forbid nothing. Says whether that changed anything.
    pub fn judged(&mut self, generation: u32) -> bool {
        self.unjudged.take_if(|unjudged| generation.wrapping_sub(*unjudged).cast_signed() >= 0).is_some()
    }

    /// No row is armed before [`Self::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Ends [`Self::pause`].
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Lets rows be armed again if it is time. Says whether that changed anything.
    pub fn tick(&mut self, now: Duration) -> bool {
        let over = self.due.take_if(|due| *due <= now).is_some();
        if over {
            self.since = Some(now);
        }
        over
    }

    /// When [`Self::tick`] is due.
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// The words for the kernel half: the epoch, and the one in which rows are armed.
    pub fn words(&self) -> [u32; 2] {
        let held = self.due.is_some() || self.unjudged.is_some() || self.paused;
        [self.epoch, if held { 0 } else { self.epoch }]
    }

    /// How often it was raised.
    pub fn raised(&self) -> u64 {
        self.raised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_commit_disarms_and_arms_at_once() {
        let mut epochs = Epochs::default();
        for second in 0..5 {
            let before = epochs.words()[0];
            epochs.raise(at(second * 1000));
            let [epoch, arming] = epochs.words();
            assert_ne!(epoch, before, "second {second}");
            assert_eq!(arming, epoch, "second {second}");
        }
    }

    #[test]
    fn nothing_is_armed_under_rules_that_are_not_judged() {
        let mut epochs = Epochs::default();
        epochs.raise(at(0));
        for (generation, judged, holds) in
            [(5, 4, true), (5, 5, false), (5, 6, false), (u32::MAX, 1, false), (1, u32::MAX, true)]
        {
            epochs.hold(generation);
            assert_eq!(epochs.words()[1], 0);
            assert_eq!(epochs.judged(judged), !holds, "{generation} {judged}");
            assert_eq!(epochs.words()[1] == 0, holds, "{generation} {judged}");
        }
    }

    #[test]
    fn a_burst_disarms_each_time_and_arms_ten_times_a_second() {
        let (mut epochs, mut armed, mut last) = (Epochs::default(), 0, 0);
        // A thousand commits, a millisecond apart.
        for ms in 0..1000 {
            epochs.tick(at(ms));
            let before = epochs.words()[0];
            epochs.raise(at(ms));
            let [epoch, arming] = epochs.words();
            assert_ne!(epoch, before, "a commit at {ms} ms left rows armed");
            if arming == epoch {
                armed += 1;
                assert!(ms == 0 || ms - last >= 99, "armed at {last} and {ms} ms");
                last = ms;
            }
        }
        assert!((1..=12).contains(&armed), "armed {armed} times");
        assert_eq!(epochs.raised(), 1000);
        let due = epochs.due().expect("a time to arm again");
        assert!(due <= at(1100) && epochs.tick(due), "{due:?}");
        assert_eq!(epochs.words()[0], epochs.words()[1]);
    }
}
