//! The forwarding tables as the kernel half reads them, painted from routes. Pure: the memory may be a map or a vector.
//!
//! A painter keeps its routes ([`PrefixTrie`]), so that it knows what lies below a route that goes. One change is made in the
//! live generation: what is new is written first, and the entry that leads to it last, with one aligned store. What nothing
//! leads to any more is used again only after [`Painter::grace_passed`]. Many changes are painted into the idle generation
//! ([`Painter::load`]), and the caller makes it live.

mod direct;
mod memory;
mod prefix_trie;
mod size;
mod sweep;
mod tree;

use dataplane_common::abi::Target;
use smallvec::SmallVec;

pub use direct::DirectTable;
pub use memory::{ChainedMemory, Memory};
pub use prefix_trie::{Bits, PrefixTrie};
pub use size::TableSizes;
pub use sweep::Entry;
pub use tree::RangeTree;

use crate::model::Prefix;

/// Where routes of one family become a table.
pub trait Painter {
    /// What it is keyed by.
    type Address: Bits;

    /// The routes it holds.
    fn trie(&self) -> &PrefixTrie<Self::Address>;

    /// Replaces all routes, in the idle generation, which no program may be reading; returns what
    /// [`dataplane_common::abi::Control`] must say for it. From now on it is the one that changes are made in, so it must go
    /// live before the next. Of routes to the same prefix the last counts.
    fn load(&mut self, routes: impl IntoIterator<Item = (Prefix<Self::Address>, Target)>) -> u32;

    /// Remembers that a prefix has another target, or (`None`) none any more. Whether that is new.
    fn enter(&mut self, prefix: Prefix<Self::Address>, target: Option<Target>) -> bool;

    /// The least that can be painted by itself with `prefix` in it.
    fn region(&self, prefix: Prefix<Self::Address>) -> Prefix<Self::Address>;

    /// Makes a region of the live generation say what the routes say.
    fn repaint(&mut self, region: Prefix<Self::Address>);

    /// Sets and (`None`) clears routes, in the live generation. At every moment an address has its old target or its new one,
    /// because nothing is painted before all is known.
    fn change(&mut self, changes: impl IntoIterator<Item = (Prefix<Self::Address>, Option<Target>)>) {
        let changes = changes.into_iter().filter_map(|(prefix, target)| self.enter(prefix, target).then_some(prefix));
        let changes: SmallVec<[Prefix<Self::Address>; 4]> = changes.collect();
        let mut regions: SmallVec<[_; 4]> = changes.into_iter().map(|prefix| self.region(prefix)).collect();
        // Outer ones come first, and what lies inside them right behind.
        regions.sort_unstable();
        regions.dedup_by(|region, outer| outer.length() <= region.length() && outer.contains(region.first()));
        for region in regions {
            self.repaint(region);
        }
    }

    /// A grace period has passed: what was taken out of use before it may be used again. Routes that had no room are tried
    /// again.
    fn grace_passed(&mut self);

    /// How many places of the table are left to the kernel, for want of room.
    fn overflowed(&self) -> usize;

    /// What the live generation says.
    fn lookup(&mut self, address: Self::Address) -> Target;
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
