//! Indices into maps that stay the same for as long as what they stand for is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::retired::{Grace, Retired};

/// The holders of an index, counted for each family.
pub(super) type Holders = [u32; 2];

/// Hands out indices by key, and counts their holders. One that is given back is used again only after a grace period, because
/// a packet that is being judged right now may still use it.
#[derive(Clone, Debug)]
pub(super) struct Indices<K> {
    held: BTreeMap<K, u32>,
    slots: Vec<Option<Slot<K>>>,
    /// Without a holder at some time since [`Indices::sweep`].
    idle: BTreeSet<u32>,
    free: BTreeSet<u32>,
    /// Never handed out.
    fresh: Range<u32>,
    quarantine: Vec<Retired<u32>>,
}

#[derive(Clone, Debug)]
struct Slot<K> {
    key: K,
    holders: Holders,
}

impl<K: Ord + Clone> Indices<K> {
    /// Indices from 0 to `limit` - 1.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            held: BTreeMap::new(),
            slots: Vec::new(),
            idle: BTreeSet::new(),
            free: BTreeSet::new(),
            fresh: 0..limit,
            quarantine: Vec::new(),
        }
    }

    /// The index of `key`, if it has one.
    pub(super) fn get(&self, key: &K) -> Option<u32> {
        self.held.get(key).copied()
    }

    /// An index for a key that has none; it has no holder yet. `None` if all are in use.
    pub(super) fn enter(&mut self, key: K) -> Option<u32> {
        let index = self.free.pop_first().or_else(|| self.fresh.next())?;
        Some(self.settle(index, key))
    }

    /// The same, if possible with this index.
    pub(super) fn enter_at(&mut self, index: u32, key: K) -> Option<u32> {
        if self.fresh.contains(&index) {
            self.free.extend(self.fresh.start..=index);
            self.fresh.start = index + 1;
        }
        if self.free.remove(&index) { Some(self.settle(index, key)) } else { self.enter(key) }
    }

    fn settle(&mut self, index: u32, key: K) -> u32 {
        if self.slots.len() <= index as usize {
            self.slots.resize_with(index as usize + 1, || None);
        }
        self.slots[index as usize] = Some(Slot { key: key.clone(), holders: [0; 2] });
        self.held.insert(key, index);
        self.idle.insert(index);
        index
    }

    /// How many keys may still be entered.
    pub(super) fn room(&self) -> usize {
        self.free.len() + self.fresh.len()
    }

    /// One holder more.
    pub(super) fn acquire(&mut self, index: u32, family: usize) {
        self.slot(index).holders[family] += 1;
    }

    /// One holder less.
    pub(super) fn release(&mut self, index: u32, family: usize) {
        let slot = self.slot(index);
        slot.holders[family] -= 1;
        if slot.holders == [0; 2] {
            self.idle.insert(index);
        }
    }

    /// Its holders.
    pub(super) fn holders(&self, index: u32) -> Holders {
        self.slots[index as usize].as_ref().map_or([0; 2], |slot| slot.holders)
    }

    /// Lets an index stand for another key from now on.
    pub(super) fn rename(&mut self, index: u32, key: K) {
        let slot = self.slot(index);
        let before = std::mem::replace(&mut slot.key, key.clone());
        self.held.remove(&before);
        self.held.insert(key, index);
    }

    /// Takes back indices without a holder, and returns them.
    pub(super) fn sweep(&mut self) -> Vec<(u32, K)> {
        let idle = std::mem::take(&mut self.idle);
        let mut gone = Vec::new();
        for index in idle {
            if let Some(slot) = self.slots[index as usize].take_if(|slot| slot.holders == [0; 2]) {
                self.held.remove(&slot.key);
                self.quarantine.push(Retired::new(index));
                gone.push((index, slot.key));
            }
        }
        gone
    }

    /// What is held now.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.held.iter().map(|(key, index)| (key, *index))
    }

    /// The key of an index that is in use.
    pub(super) fn key(&self, index: u32) -> Option<&K> {
        self.slots.get(index as usize)?.as_ref().map(|slot| &slot.key)
    }

    /// A grace period has passed: no packet uses what was given back before.
    pub(super) fn grace_passed(&mut self, grace: &Grace) {
        self.free.extend(self.quarantine.drain(..).map(|retired| grace.release(retired)));
    }

    fn slot(&mut self, index: u32) -> &mut Slot<K> {
        self.slots[index as usize].as_mut().expect("an index in use")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_stay_and_come_back_only_after_grace() {
        let mut indices = Indices::new(3);
        let mut held = Vec::new();
        let mut round = |keys: &str, grace: bool| {
            if grace {
                indices.grace_passed(&Grace::passed());
            }
            let found: Vec<_> = keys.chars().map(|key| indices.get(&key).or_else(|| indices.enter(key))).collect();
            found.iter().flatten().for_each(|index| indices.acquire(*index, 0));
            held.drain(..).for_each(|index| indices.release(index, 0));
            held.extend(found.iter().flatten().copied());
            indices.sweep();
            found
        };
        assert_eq!(round("abc", false), [Some(0), Some(1), Some(2)]);
        assert_eq!(round("ca", false), [Some(2), Some(0)]);
        assert_eq!(round("cad", false), [Some(2), Some(0), None], "b is in quarantine");
        assert_eq!(round("cad", true), [Some(2), Some(0), Some(1)]);
    }

    #[test]
    fn an_index_may_be_wished_for() {
        let mut indices = Indices::new(4);
        let mut enter = |wish: Option<u32>, key| match wish {
            Some(index) => indices.enter_at(index, key),
            None => indices.enter(key),
        };
        assert_eq!([enter(Some(2), 'a'), enter(None, 'b')], [Some(2), Some(0)], "those before it are free");
        assert_eq!([enter(Some(2), 'c'), enter(Some(9), 'd')], [Some(1), Some(3)], "taken, and not there");
        assert_eq!(enter(Some(0), 'e'), None);
    }

    #[test]
    fn an_index_may_stand_for_something_else() {
        let mut indices = Indices::new(2);
        let index = indices.enter('a').expect("room");
        indices.acquire(index, 1);
        indices.rename(index, 'b');
        assert_eq!((indices.get(&'a'), indices.get(&'b'), indices.holders(index)), (None, Some(index), [0, 1]));
        assert_eq!(indices.sweep(), []);
        indices.release(index, 1);
        assert_eq!(indices.sweep(), [(index, 'b')]);
    }
}
