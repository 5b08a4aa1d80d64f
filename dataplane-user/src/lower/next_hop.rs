//! Groups and adjacencies: their holders, and their contents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_common::abi::{ADJACENCIES, GROUPS, Ifindex, RouteKind, Target};

use super::adjacency::{self, NextHopKey, Path};
use super::family_state::PerFamily;
use super::index::Indices;
use super::route::{FibEntry, Paths};
use super::{Update, Want};
use crate::model::{Model, Touched};
use crate::retired::Grace;

/// Which index stands for which path, and for which next hop.
#[derive(Clone, Debug)]
pub(super) struct NextHops {
    groups: Indices<Path>,
    adjacencies: Indices<NextHopKey>,
    /// Groups by their path with all ways alive.
    reusable: BTreeMap<Path, BTreeSet<u32>>,
    /// Groups that are new, or stand for another path now.
    new: BTreeSet<u32>,
    /// Adjacencies that are new, and not for a group.
    served: BTreeSet<NextHopKey>,
}

/// Holders of an adjacency that are no group.
const SERVED: usize = 1;

impl NextHops {
    pub(super) fn new() -> Self {
        Self {
            groups: Indices::new(GROUPS),
            adjacencies: Indices::new(ADJACENCIES),
            reusable: BTreeMap::new(),
            new: BTreeSet::new(),
            served: BTreeSet::new(),
        }
    }

    /// The target of a leaf, held; `None` if there is no room.
    pub(super) fn acquire<A: PerFamily>(&mut self, entry: FibEntry, paths: &Paths) -> Option<Target> {
        match entry {
            FibEntry::Kind(kind) => Some(Target::new(kind, 0)),
            FibEntry::Path(number) => {
                let path = paths.get(number);
                let index = self.groups.get(path).or_else(|| self.enter(path))?;
                self.groups.acquire(index, A::INDEX);
                Some(Target::new(RouteKind::Unicast, index))
            }
        }
    }

    /// Gives back what [`NextHops::hold`] gave.
    pub(super) fn release<A: PerFamily>(&mut self, target: Option<Target>) {
        if let Some(target) = target.filter(|target| target.kind() == RouteKind::Unicast) {
            self.groups.release(target.group(), A::INDEX);
        }
    }

    /// The adjacency of a neighbour that the kernel may name, held; `None` if there is no room.
    pub(super) fn serve(&mut self, next_hop: NextHopKey) -> Option<u32> {
        let index = self.adjacencies.get(&next_hop).or_else(|| {
            self.served.insert(next_hop);
            self.adjacencies.enter(next_hop)
        })?;
        self.adjacencies.acquire(index, SERVED);
        Some(index)
    }

    /// Gives back what [`NextHops::serve`] gave.
    pub(super) fn release_served(&mut self, index: u32) {
        self.adjacencies.release(index, SERVED);
    }

    /// A group for a path that has none, with an adjacency for each member.
    fn enter(&mut self, path: &Path) -> Option<u32> {
        let missing = path.hops.iter().filter(|hop| self.adjacencies.get(&hop.next_hop).is_none()).count();
        if missing > self.adjacencies.room() || self.groups.room() == 0 {
            return None;
        }
        let mut last = None;
        for hop in &path.hops {
            last = self.adjacencies.get(&hop.next_hop).or_else(|| self.adjacencies.enter(hop.next_hop));
            if let Some(next_hop) = last {
                self.adjacencies.acquire(next_hop, 0);
            }
        }
        // With the number of its adjacency the group need not be looked at (`Control::DIRECT`).
        let index = match last {
            Some(next_hop) if path.is_plain() => self.groups.enter_at(next_hop, path.clone()),
            _ => self.groups.enter(path.clone()),
        }?;
        self.reusable.entry(path.revived()).or_default().insert(index);
        self.new.insert(index);
        Some(index)
    }

    /// Where all routes of a path come back with other ways dead or alive, they keep their group: only it changes, and no
    /// prefix. `paths` are all that the family wants from now on.
    pub(super) fn reuse<A: PerFamily>(&mut self, paths: &Paths) {
        for path in paths.iter() {
            if self.groups.get(path).is_some() {
                continue;
            }
            let reusable = self.reusable.get(&path.revived()).into_iter().flatten().copied();
            let replacement = reusable.into_iter().find(|index| {
                let wanted = self.groups.key(*index).is_none_or(|key| paths.has(key));
                !wanted && self.groups.holders(*index)[1 - A::INDEX] == 0
            });
            if let Some(index) = replacement {
                self.groups.rename(index, path.clone());
                self.new.insert(index);
            }
        }
    }

    /// Takes back groups and adjacencies without a holder.
    pub(super) fn sweep(&mut self, want: &mut Want, update: &mut Update) {
        for (index, path) in self.groups.sweep() {
            for hop in &path.hops {
                let next_hop = self.adjacencies.get(&hop.next_hop);
                if let Some(next_hop) = next_hop {
                    self.adjacencies.release(next_hop, 0);
                }
            }
            let revived = path.revived();
            let reusable = self.reusable.get_mut(&revived);
            if reusable.is_some_and(|reusable| reusable.remove(&index) && reusable.is_empty()) {
                self.reusable.remove(&revived);
            }
            self.new.remove(&index);
            update.groups.extend(want.groups.remove(&index).map(|_| (index, None)));
        }
        for (index, _) in self.adjacencies.sweep() {
            update.adjacencies.extend(want.adjacencies.remove(&index).map(|_| (index, None)));
        }
    }

    /// What groups and adjacencies are to hold. Links matter to all of them, a neighbour to one.
    pub(super) fn fill(&mut self, model: &Model, touched: &Touched, want: &mut Want, update: &mut Update) {
        if touched.links {
            let egress = adjacency::egress(model);
            let sends = egress.iter().chain(&want.egress).map(|dev| (*dev, egress.contains(dev)));
            update.egress.extend(sends.filter(|(dev, sends)| want.egress.contains(dev) != *sends));
            want.egress = egress;
        }
        let (new, served) = (std::mem::take(&mut self.new), std::mem::take(&mut self.served));
        let mut next_hop_keys: BTreeMap<u32, NextHopKey> = BTreeMap::new();
        if touched.links {
            next_hop_keys.extend(self.adjacencies.iter().map(|(next_hop, index)| (index, *next_hop)));
        } else {
            let members = new.iter().filter_map(|index| self.groups.key(*index)).flat_map(|path| &path.hops);
            let keys_of = members.map(|hop| hop.next_hop);
            let neighbours = touched.neighbours.iter().map(|(dev, via)| NextHopKey { dev: *dev, via: Some(*via) });
            // Those of hosts that came, moved or went behind a bridge.
            let hosts: BTreeSet<_> = touched.hosts.iter().map(|(_, host)| *host).collect();
            let neighbour = |one: &NextHopKey| model.neighbours.get(&(one.dev, one.via?))?.resolved();
            let leads_there = |one: &NextHopKey| neighbour(one).is_some_and(|mac| hosts.contains(&mac));
            let next_hops = self.adjacencies.iter().map(|(next_hop, _)| *next_hop);
            let moved = next_hops.filter(|one| !hosts.is_empty() && leads_there(one));
            next_hop_keys.extend(
                keys_of
                    .chain(neighbours)
                    .chain(moved)
                    .chain(served)
                    .filter_map(|next_hop| Some((self.adjacencies.get(&next_hop)?, next_hop))),
            );
        }
        for (index, next_hop) in next_hop_keys {
            let adjacency = adjacency::adjacency(model, &want.egress, next_hop);
            if want.adjacencies.insert(index, adjacency) != Some(adjacency) {
                update.adjacencies.insert(index, Some(adjacency));
            }
        }
        let groups: Vec<u32> = if touched.links {
            self.groups.iter().map(|(_, index)| index).collect()
        } else {
            new.into_iter().collect()
        };
        for index in groups {
            let Some(path) = self.groups.key(index) else { continue };
            let group = adjacency::group(model, path, |next_hop| self.adjacencies.get(next_hop));
            if want.groups.insert(index, group) != Some(group) {
                update.groups.insert(index, Some(group));
            }
        }
    }

    /// Whether any path has several ways, dead ones included: a link that goes must not cost a program.
    pub(super) fn multipath(&self) -> bool {
        self.groups.iter().any(|(path, _)| path.hops.len() > 1)
    }

    /// The next hops of the adjacencies with these indices, those of whole links left out.
    pub(super) fn next_hop_keys(&self) -> impl Iterator<Item = (u32, (Ifindex, IpAddr))> {
        self.adjacencies.iter().filter_map(|(next_hop, index)| Some((index, (next_hop.dev, next_hop.via?))))
    }

    pub(super) fn grace_passed(&mut self, grace: &Grace) {
        self.groups.grace_passed(grace);
        self.adjacencies.grace_passed(grace);
    }
}
