//! From nested prefixes to intervals.

use smallvec::SmallVec;

use super::prefix_trie::Bits;
use crate::model::Prefix;

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

/// Routes of a region, ascending.
pub(super) type Routes<A> = SmallVec<[Entry<A>; 8]>;
/// Where intervals begin, and what they map to. Most regions are one block with few routes, and need no memory of their own.
pub(super) type Cuts<A> = SmallVec<[(A, u32); 8]>;
/// The routes around a position, innermost last: where they end, and what they hide.
type Open<A> = SmallVec<[(A, u16); 8]>;

/// Cuts `region` wherever what its addresses map to changes, down to blocks of `resolution` bits: where each interval
/// begins, and what it maps to. `entries` are the routes inside, ascending; `cover` is what lies around them. What a block
/// maps to that has longer routes in it, `escape` says: it is given these routes, the block, and what lies around them.
pub(super) fn sweep<A: Bits>(
    entries: &[Entry<A>],
    region: Prefix<A>,
    resolution: u8,
    cover: u16,
    mut escape: impl FnMut(&[Entry<A>], Prefix<A>, u16) -> u32,
) -> Cuts<A> {
    let mut cuts = Cuts::with_capacity(entries.len() * 2 + 1);
    cuts.push((region.first(), u32::from(cover)));
    let mut open = Open::new();
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

/// Of routes in ascending order those inside `region`, itself included, and the target of the longest around it.
pub(super) fn within<A: Bits>(routes: &[Entry<A>], region: Prefix<A>) -> (&[Entry<A>], u16) {
    let key = |entry: &Entry<A>| (entry.first, entry.length);
    let begin = routes.partition_point(|entry| key(entry) < (region.first(), region.length()));
    let end = routes.partition_point(|entry| entry.first <= region.last());
    let around = (0..region.length()).rev().find_map(|length| {
        let place = routes.binary_search_by_key(&(Prefix::new(region.first(), length).first(), length), key);
        place.ok().map(|place| routes[place].target)
    });
    (&routes[begin..end], around.unwrap_or_default())
}

/// Ends the routes that lie wholly before `position`.
fn close<A: Bits>(open: &mut Open<A>, position: A, current: &mut u16, cuts: &mut Cuts<A>) {
    while let Some((last, hidden)) = open.last().copied().filter(|(last, _)| *last < position) {
        open.pop();
        *current = hidden;
        if let Some(next) = last.next() {
            push(cuts, next, u32::from(hidden));
        }
    }
}

/// Appends a cut; one at the same place is replaced, one that changes nothing left out.
fn push<A: Bits>(cuts: &mut Cuts<A>, start: A, value: u32) {
    if cuts.last().is_some_and(|(last, _)| *last == start) {
        cuts.pop();
    }
    if cuts.last().is_none_or(|(_, before)| *before != value) {
        cuts.push((start, value));
    }
}
