//! Indices into maps that stay the same for as long as what they stand for is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Hands out indices by key. One that is given back is used again only after a grace period, because a packet that is being
/// judged right now may still hold it.
#[derive(Clone, Debug)]
pub(super) struct Indices<K> {
    held: BTreeMap<K, u32>,
    /// Claimed since [`Indices::begin`].
    claimed: BTreeSet<u32>,
    free: BTreeSet<u32>,
    /// Never handed out.
    fresh: Range<u32>,
    quarantine: Vec<u32>,
}

impl<K: Ord + Clone> Indices<K> {
    /// Indices from 0 to `limit` - 1.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            held: BTreeMap::new(),
            claimed: BTreeSet::new(),
            free: BTreeSet::new(),
            fresh: 0..limit,
            quarantine: Vec::new(),
        }
    }

    /// Begins a round: what is not claimed before [`Indices::end`] is given back.
    pub(super) fn begin(&mut self) {
        self.claimed.clear();
    }

    /// The index of `key`; `None` if all are in use.
    pub(super) fn claim(&mut self, key: &K) -> Option<u32> {
        let index = if let Some(index) = self.held.get(key) {
            *index
        } else {
            let index = self.free.pop_first().or_else(|| self.fresh.next())?;
            self.held.insert(key.clone(), index);
            index
        };
        self.claimed.insert(index);
        Some(index)
    }

    /// Ends a round.
    pub(super) fn end(&mut self) {
        let Self { held, claimed, quarantine, .. } = self;
        held.retain(|_, index| {
            let keep = claimed.contains(index);
            if !keep {
                quarantine.push(*index);
            }
            keep
        });
    }

    /// What is held now.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.held.iter().map(|(key, index)| (key, *index))
    }

    /// Nobody can hold what was given back before.
    pub(super) fn grace_passed(&mut self) {
        self.free.extend(self.quarantine.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_stay_and_come_back_only_after_grace() {
        let mut indices = Indices::new(3);
        let mut round = |keys: &str, grace: bool| {
            if grace {
                indices.grace_passed();
            }
            indices.begin();
            let found: Vec<_> = keys.chars().map(|key| indices.claim(&key)).collect();
            indices.end();
            found
        };
        assert_eq!(round("abc", false), [Some(0), Some(1), Some(2)]);
        assert_eq!(round("ca", false), [Some(2), Some(0)]);
        assert_eq!(round("cad", false), [Some(2), Some(0), None], "b is in quarantine");
        assert_eq!(round("cad", true), [Some(2), Some(0), Some(1)]);
    }
}
