//! Want versus have: the changes, in an order that is safe while packets are being judged.

use dataplane_common::abi::{Adjacency, Features, Ifindex, NextHopGroup, Port};

use crate::lower::{Table, Want};

/// One write to a map. Tables are borrowed: they are large, and written as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// `Control::mirror`.
    Mirror(u32),
    /// A device that XDP may transmit on.
    AddEgress(Ifindex),
    /// An adjacency, by index.
    Adjacency(u32, Adjacency),
    /// A group, by index.
    Group(u32, NextHopGroup),
    /// The spare generation of IPv4, then the flip.
    Fib4(&'a Table<u32>),
    /// The spare generation of IPv6, then the flip.
    Fib6(&'a Table<u128>),
    /// A program with other features, then its swap. What it reads is written before it runs.
    Features(Features),
    /// A port, by slot.
    Port(u32, Port),
    /// A slot that becomes free.
    RemovePort(u32),
    /// A group that no route names any more.
    RemoveGroup(u32),
    /// An adjacency that no group names any more.
    RemoveAdjacency(u32),
    /// A device that no adjacency names any more, or that takes no frames any more.
    RemoveEgress(Ifindex),
}

/// Changes in the order in which they are to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// First to last.
    pub steps: Vec<Change<'a>>,
}

impl Changes<'_> {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// What turns `have` into `want`. Whatever is named is written before what names it, and removed after. A family that must
/// go back to the kernel goes first, one that may be mirrored comes once all that it needs is there.
pub fn diff<'a>(have: &Want, want: &'a Want) -> Changes<'a> {
    let mut steps = Vec::new();
    let kept = have.mirror & want.mirror;
    if kept != have.mirror {
        steps.push(Change::Mirror(kept));
    }
    steps.extend(want.egress.difference(&have.egress).copied().map(Change::AddEgress));
    let written = |index, old: Option<&Adjacency>, new: &Adjacency| (old != Some(new)).then_some(Change::Adjacency(index, *new));
    steps.extend(want.adjacencies.iter().filter_map(|(index, new)| written(*index, have.adjacencies.get(index), new)));
    let written = |index, old: Option<&NextHopGroup>, new: &NextHopGroup| (old != Some(new)).then_some(Change::Group(index, *new));
    steps.extend(want.groups.iter().filter_map(|(index, new)| written(*index, have.groups.get(index), new)));
    steps.extend((have.fib4 != want.fib4).then_some(Change::Fib4(&want.fib4)));
    steps.extend((have.fib6 != want.fib6).then_some(Change::Fib6(&want.fib6)));
    if kept != want.mirror {
        steps.push(Change::Mirror(want.mirror));
    }
    // A port may need a feature, but no feature needs a port.
    steps.extend((have.features != want.features).then_some(Change::Features(want.features)));
    let written = |slot, old: Option<&Port>, new: &Port| (old != Some(new)).then_some(Change::Port(slot, *new));
    steps.extend(want.ports.iter().filter_map(|(slot, new)| written(*slot, have.ports.get(slot), new)));

    steps.extend(have.ports.keys().filter(|slot| !want.ports.contains_key(slot)).copied().map(Change::RemovePort));
    steps.extend(have.groups.keys().filter(|index| !want.groups.contains_key(index)).copied().map(Change::RemoveGroup));
    let unnamed = have.adjacencies.keys().filter(|index| !want.adjacencies.contains_key(index));
    steps.extend(unnamed.copied().map(Change::RemoveAdjacency));
    steps.extend(have.egress.difference(&want.egress).copied().map(Change::RemoveEgress));
    Changes { steps }
}

