//! The forwarding tables as the kernel half reads them, painted from routes. Pure: the memory may be a map or a vector.
//!
//! A painter keeps its routes ([`Rib`]), so that it knows what lies below a route that goes. One change is made in the live
//! generation: what is new is written first, and the entry that leads to it last, with one aligned store. What nothing leads
//! to any more is used again only after [`Painter::grace_passed`]. Many changes are painted into the idle generation
//! ([`Painter::load`]), and the caller makes it live.

mod direct;
mod rib;
mod size;
mod sweep;
mod tree;

use std::cmp::Reverse;

use dataplane_common::abi::Target;

pub use direct::Direct;
pub use rib::{Bits, Rib};
pub use size::Sizes;
pub use sweep::Entry;
pub use tree::Tree;

use crate::model::Prefix;

/// Where routes of one family become a table.
pub trait Painter {
    /// What it is keyed by.
    type Address: Bits;

    /// The routes it holds.
    fn rib(&self) -> &Rib<Self::Address>;

    /// Replaces all routes, in the idle generation, which nobody may be reading; returns where it begins. From now on it is
    /// the one that changes are made in, so it must go live before the next. Of routes to the same prefix the last counts.
    fn load(&mut self, routes: impl IntoIterator<Item = (Prefix<Self::Address>, Target)>) -> u32;

    /// Adds or replaces a route, in the live generation.
    fn set(&mut self, prefix: Prefix<Self::Address>, target: Target);

    /// Removes a route, in the live generation.
    fn clear(&mut self, prefix: Prefix<Self::Address>);

    /// Nobody reads any more what was taken out of use before: it may be used again. Where room was missing, it is looked
    /// for again.
    fn grace_passed(&mut self);

    /// How many places of the table are left to the kernel, for want of room.
    fn starved(&self) -> usize;

    /// What the live generation says.
    fn lookup(&self, address: Self::Address) -> Target;

    /// Sets and (`None`) clears routes, in the live generation. At every moment an address has its old target or its new one.
    fn change(&mut self, changes: impl IntoIterator<Item = (Prefix<Self::Address>, Option<Target>)>) {
        let (mut sets, mut clears) = (Vec::new(), Vec::new());
        for (prefix, target) in changes {
            match target {
                Some(target) => sets.push((prefix, target)),
                None => clears.push(prefix),
            }
        }
        // Inner routes come before those around them and go after them: an address that has a new route inside another new
        // one never takes the outer.
        sets.sort_by_key(|(prefix, _)| Reverse(prefix.length()));
        clears.sort_by_key(|prefix| prefix.length());
        for (prefix, target) in sets {
            self.set(prefix, target);
        }
        for prefix in clears {
            self.clear(prefix);
        }
    }
}

/// Routes in ascending order, each prefix once.
fn sorted<A: Bits>(routes: impl IntoIterator<Item = (Prefix<A>, Target)>) -> Vec<Entry<A>> {
    let entry = |(prefix, target): (Prefix<A>, Target)| Entry {
        first: prefix.first(),
        length: prefix.length(),
        target: target.raw() as u16,
    };
    let mut entries: Vec<Entry<A>> = routes.into_iter().map(entry).collect();
    if !entries.is_sorted_by_key(|entry| (entry.first, entry.length)) {
        entries.sort_by_key(|entry| (entry.first, entry.length));
    }
    entries.dedup_by(|later, earlier| {
        let same = (later.first, later.length) == (earlier.first, earlier.length);
        if same {
            earlier.target = later.target;
        }
        same
    });
    entries
}

#[cfg(test)]
mod tests;
