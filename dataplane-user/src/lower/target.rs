//! What every prefix comes to: a plain table of longest matches, in place of the kernel's three tables.

use std::collections::BTreeMap;

use dataplane_common::abi::Target;

use crate::model::{Family, Prefix};

/// One family's prefixes and their targets. The longest match decides; without one there is no route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets<A: Family>(BTreeMap<Prefix<A>, Target>);

/// Prefixes with new targets, and (`None`) prefixes that are gone.
pub type TargetChanges<A> = BTreeMap<Prefix<A>, Option<Target>>;

impl<A: Family> Targets<A> {
    /// The target of exactly this prefix.
    pub fn get(&self, prefix: Prefix<A>) -> Option<Target> {
        self.0.get(&prefix).copied()
    }

    /// Sets the target of a prefix, or takes the prefix out. Gives what was there.
    pub fn set(&mut self, prefix: Prefix<A>, target: Option<Target>) -> Option<Target> {
        match target {
            Some(target) => self.0.insert(prefix, target),
            None => self.0.remove(&prefix),
        }
    }

    /// All, by address, outer prefixes first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Prefix<A>, Target)> {
        self.0.iter().map(|(prefix, target)| (*prefix, *target))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The longest match.
    pub fn lookup(&self, address: A) -> Target {
        let mut lengths = (0..=A::BITS as u8).rev();
        lengths.find_map(|length| self.get(Prefix::new(address, length))).unwrap_or(Target::NONE)
    }

    /// What turns `self` into `other`.
    pub fn difference(&self, other: &Self) -> TargetChanges<A> {
        let mut changes = TargetChanges::new();
        let (mut ours, mut theirs) = (self.iter().peekable(), other.iter().peekable());
        loop {
            match (ours.peek().copied(), theirs.peek().copied()) {
                (Some((prefix, before)), Some((same, after))) if prefix == same => {
                    if before != after {
                        changes.insert(prefix, Some(after));
                    }
                    ours.next();
                    theirs.next();
                }
                (Some((prefix, _)), other) if other.is_none_or(|(other, _)| prefix < other) => {
                    changes.insert(prefix, None);
                    ours.next();
                }
                (_, Some((prefix, target))) => {
                    changes.insert(prefix, Some(target));
                    theirs.next();
                }
                (_, None) => return changes,
            }
        }
    }
}

impl<A: Family> FromIterator<(Prefix<A>, Target)> for Targets<A> {
    fn from_iter<I: IntoIterator<Item = (Prefix<A>, Target)>>(prefixes: I) -> Self {
        Self(prefixes.into_iter().collect())
    }
}
