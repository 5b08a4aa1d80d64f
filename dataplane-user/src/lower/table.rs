//! A forwarding table as sorted cuts of the address space.

use dataplane_common::abi::Target;

use crate::model::{Family, Prefix};

/// One family's table: where each interval begins, and what it maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<A> {
    cuts: Vec<(A, Target)>,
}

impl<A: Family> Default for Table<A> {
    fn default() -> Self {
        Self { cuts: vec![(A::default(), Target::NONE)] }
    }
}

impl<A: Family> Table<A> {
    /// From ascending cuts, the first of them at address 0.
    pub(super) fn new(cuts: Vec<(A, Target)>) -> Self {
        Self { cuts }
    }

    /// Where each interval begins, ascending, and what it maps to.
    pub fn cuts(&self) -> &[(A, Target)] {
        &self.cuts
    }

    /// What the kernel half would find.
    pub fn lookup(&self, address: A) -> Target {
        let behind = self.cuts.partition_point(|(start, _)| *start <= address);
        self.cuts[behind - 1].1
    }

    /// The routes that answer alike: each interval as the largest prefixes that it is made of, ascending. Where nothing
    /// matches there is none.
    pub fn prefixes(&self) -> impl Iterator<Item = (Prefix<A>, Target)> + Clone {
        let ends = self.cuts[1..].iter().map(|(start, _)| Some(*start)).chain([None]);
        let matching = self.cuts.iter().zip(ends).filter(|((_, target), _)| *target != Target::NONE);
        matching.flat_map(|((start, target), end)| parts(*start, end).map(|prefix| (prefix, *target)))
    }
}

/// The largest prefixes that make up what lies from `start` up to `end`, or to the last address.
fn parts<A: Family>(start: A, end: Option<A>) -> impl Iterator<Item = Prefix<A>> + Clone {
    let mut next = Some(start);
    std::iter::from_fn(move || {
        let start = next.take().filter(|start| end.is_none_or(|end| *start < end))?;
        // The largest that begins here and does not go beyond the end.
        let aligned = A::BITS - start.widen().trailing_zeros().min(A::BITS);
        let room = end.map_or(0, |end| A::BITS - (end.widen() - start.widen()).ilog2());
        let prefix = Prefix::new(start, aligned.max(room) as u8);
        next = prefix.last().next();
        Some(prefix)
    })
}
