//! From nested prefixes to intervals.

use crate::model::Prefix;

use super::rib::Bits;

/// A route, its target as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<A> {
    /// First address of its prefix.
    pub first: A,
    /// Length of its prefix.
    pub length: u8,
    /// [`dataplane_common::abi::Target::raw`].
    pub target: u16,
}

impl<A: Bits> Entry<A> {
    /// Its prefix.
    pub fn prefix(&self) -> Prefix<A> {
        Prefix::new(self.first, self.length)
    }
}

/// Cuts `region` wherever what its addresses map to changes, down to blocks of `resolution` bits: where each interval
/// begins, and what it maps to. `entries` are the routes inside, ascending; `cover` is what lies around them. What a block
/// maps to that has longer routes in it, `escape` says: it is given these routes, the block, and what lies around them.
pub(super) fn sweep<A: Bits>(
    entries: &[Entry<A>],
    region: Prefix<A>,
    resolution: u8,
    cover: u16,
    mut escape: impl FnMut(&[Entry<A>], Prefix<A>, u16) -> u32,
) -> Vec<(A, u32)> {
    let mut cuts = Vec::with_capacity(entries.len() * 2 + 1);
    cuts.push((region.first(), u32::from(cover)));
    // The routes around the position, innermost last: where they end, and what they hide.
    let mut open: Vec<(A, u16)> = Vec::new();
    let mut current = cover;
    let mut rest = entries;
    while let Some((entry, others)) = rest.split_first() {
        close(&mut open, entry.first, &mut current, &mut cuts);
        if entry.length <= resolution {
            open.push((entry.prefix().last(), current));
            current = entry.target;
            push(&mut cuts, entry.first, u32::from(current));
            rest = others;
            continue;
        }
        let block = Prefix::new(entry.first, resolution);
        let count = rest.iter().position(|entry| entry.first > block.last()).unwrap_or(rest.len());
        let (inside, behind) = rest.split_at(count);
        push(&mut cuts, block.first(), escape(inside, block, current));
        if let Some(next) = block.last().next().filter(|next| *next <= region.last()) {
            push(&mut cuts, next, u32::from(current));
        }
        rest = behind;
    }
    while let Some((last, hidden)) = open.pop() {
        current = hidden;
        if let Some(next) = last.next().filter(|next| *next <= region.last()) {
            push(&mut cuts, next, u32::from(current));
        }
    }
    cuts
}

/// Ends the routes that lie wholly before `position`.
fn close<A: Bits>(open: &mut Vec<(A, u16)>, position: A, current: &mut u16, cuts: &mut Vec<(A, u32)>) {
    while let Some((last, hidden)) = open.pop_if(|(last, _)| *last < position) {
        *current = hidden;
        if let Some(next) = last.next() {
            push(cuts, next, u32::from(hidden));
        }
    }
}

/// Appends a cut; one at the same place is replaced, one that changes nothing left out.
fn push<A: Bits>(cuts: &mut Vec<(A, u32)>, start: A, value: u32) {
    cuts.pop_if(|(last, _)| *last == start);
    if cuts.last().is_none_or(|(_, before)| *before != value) {
        cuts.push((start, value));
    }
}
