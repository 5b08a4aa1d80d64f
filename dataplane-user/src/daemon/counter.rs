//! Which rule has which counter.

use std::cmp::Reverse;

use dataplane_common::abi::RULE_COUNTERS;

/// The counters that no rule has, and those that change hands.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    /// The next to be given last.
    free: Vec<u32>,
    /// Given since the last commit to rules that begin at zero, though they may have counted for others.
    stale: Vec<u32>,
    /// Of rules that are taken out: packets may count there until the commit is through.
    leaving: Vec<u32>,
    /// This one and those behind it have never counted.
    clean: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Self::new([])
    }
}

impl Counters {
    /// All but those that rules have already. What the others hold is not known.
    pub(super) fn new(taken: impl IntoIterator<Item = u32>) -> Self {
        let mut free = vec![true; RULE_COUNTERS as usize];
        for counter in taken {
            if let Some(free) = free.get_mut(counter as usize) {
                *free = false;
            }
        }
        let free = (0..RULE_COUNTERS).rev().filter(|counter| free[*counter as usize]).collect();
        Self { free, stale: Vec::new(), leaving: Vec::new(), clean: RULE_COUNTERS }
    }

    /// Nothing has ever counted in the map: it was made just now.
    pub(super) fn are_zero(&mut self) {
        self.stale.clear();
        // Rules that stand already count from now on, and so may those that were given and cleared.
        let mut clean = RULE_COUNTERS;
        for counter in &self.free {
            if *counter + 1 != clean {
                break;
            }
            clean = *counter;
        }
        self.clean = clean;
    }

    /// One for a new rule; none when all are taken.
    pub(super) fn take(&mut self) -> Option<u32> {
        let counter = self.free.pop()?;
        if counter < self.clean {
            self.stale.push(counter);
        } else {
            self.clean = counter + 1;
        }
        Some(counter)
    }

    /// The rule goes.
    pub(super) fn leave(&mut self, counter: u32) {
        self.leaving.push(counter);
    }

    /// Those that must be cleared before anything counts there.
    pub(super) fn stale(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.stale)
    }

    /// The commit is through: what left is free.
    pub(super) fn settle(&mut self) {
        // The lowest go first again.
        self.leaving.sort_unstable_by_key(|counter| Reverse(*counter));
        self.free.append(&mut self.leaving);
    }

    /// The change that led to `other` failed, but may have been live for a moment.
    pub(super) fn tainted_by(&mut self, other: &Self) {
        self.clean = self.clean.max(other.clean);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_have_counted_is_cleared() {
        let mut counters = Counters::new([1]);
        counters.are_zero();
        assert_eq!([counters.take(), counters.take(), counters.take()], [Some(0), Some(2), Some(3)]);
        assert_eq!(counters.stale(), [0], "it is below one that a rule had, and nobody knows more");
        counters.leave(2);
        assert_eq!(counters.take(), Some(4), "packets may still count at the other");
        counters.settle();
        assert_eq!(counters.take(), Some(2));
        assert_eq!(counters.stale(), [2]);
    }

    #[test]
    fn what_a_failed_change_took_may_have_counted() {
        let mut counters = Counters::default();
        counters.are_zero();
        let mut failed = counters.clone();
        assert_eq!(failed.take(), Some(0));
        counters.tainted_by(&failed);
        assert_eq!(counters.take(), Some(0));
        assert_eq!(counters.stale(), [0]);
        assert_eq!(counters.take(), Some(1));
        assert_eq!(counters.stale(), [0; 0]);
    }

    #[test]
    fn in_a_map_that_was_taken_over_all_may_have_counted() {
        let mut counters = Counters::new(0..RULE_COUNTERS - 1);
        assert_eq!(counters.take(), Some(RULE_COUNTERS - 1));
        assert_eq!(counters.stale(), [RULE_COUNTERS - 1]);
        assert_eq!(counters.take(), None);
    }
}
