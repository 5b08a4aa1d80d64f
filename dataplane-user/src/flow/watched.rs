//! Sets of nftables by whose elements rules decide what an established packet meets: elements that come or go are then a change
//! of the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A set: family, table, name.
pub type SetKey = (u8, String, String);

/// Sets that changed while it was not known which ones are watched. Of more, each counts.
const NOTED: usize = 4096;

/// The watched sets, as of the rules that were judged last.
#[derive(Debug, Default)]
pub struct WatchedSets {
    sets: Arc<BTreeSet<SetKey>>,
    /// Others that changed since, and the generation of the last change.
    noted: BTreeMap<SetKey, u32>,
    /// The generation of the last change that found no room there.
    more: Option<u32>,
}

impl WatchedSets {
    /// Elements of a set came or went with a commit, to this generation. Says whether that is a change of the rules, as far as
    /// that is known by now.
    pub fn changed(&mut self, set: SetKey, generation: u32) -> bool {
        if self.sets.contains(&set) {
            return true;
        }
        if self.noted.len() < NOTED || self.noted.contains_key(&set) {
            self.noted.insert(set, generation);
        } else {
            self.more = Some(generation);
        }
        false
    }

    /// Rules of a generation were judged, and by these sets. Gives the generation of a change of one of them since, if there was
    /// one.
    pub fn judged(&mut self, generation: u32, sets: Arc<BTreeSet<SetKey>>) -> Option<u32> {
        let later = |other: u32| other.wrapping_sub(generation).cast_signed() > 0;
        self.sets = sets;
        self.noted.retain(|_, changed| later(*changed));
        let watched = self.noted.iter().filter(|(set, _)| self.sets.contains(*set)).map(|(_, changed)| *changed);
        let more = self.more.take_if(|more| !self.sets.is_empty() && later(*more));
        watched.chain(more).max_by_key(|changed| changed.wrapping_sub(generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> SetKey {
        (1, "t".to_owned(), name.to_owned())
    }

    fn sets(names: &[&str]) -> Arc<BTreeSet<SetKey>> {
        Arc::new(names.iter().map(|name| key(name)).collect())
    }

    #[test]
    fn elements_of_watched_sets_are_rules() {
        let mut watched = WatchedSets::default();
        assert_eq!(watched.judged(5, sets(&["a"])), None);
        assert!(watched.changed(key("a"), 6));
        assert!(!watched.changed(key("b"), 7));
        assert!(!watched.changed((2, "t".to_owned(), "a".to_owned()), 8), "another family");
    }

    #[test]
    fn what_changed_before_it_was_watched_is_known() {
        for (changes, judged, names, expected) in [
            (&[("b", 6)][..], 5, &["b"][..], Some(6)),
            (&[("b", 6), ("c", 7), ("b", 8)], 5, &["b", "c"], Some(8)),
            (&[("b", 5)], 5, &["b"], None),
            (&[("b", 6)], 5, &["c"], None),
            (&[("b", 2)], u32::MAX, &["b"], Some(2)),
        ] {
            let mut watched = WatchedSets::default();
            for (name, generation) in changes {
                assert!(!watched.changed(key(name), *generation));
            }
            assert_eq!(watched.judged(judged, sets(names)), expected, "{changes:?}");
            // What was judged since needs no other look.
            assert_eq!(watched.judged(judged.wrapping_add(9), sets(names)), None, "{changes:?}");
        }
    }

    #[test]
    fn of_too_many_each_counts() {
        let mut watched = WatchedSets::default();
        for number in 0..=NOTED {
            assert!(!watched.changed(key(&number.to_string()), 6));
        }
        assert_eq!(watched.judged(5, sets(&["a"])), Some(6));
    }
}
