//! Groups and adjacencies: who holds them, and what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_common::abi::{ADJACENCIES, GROUPS, Ifindex, RouteKind, Target};

use super::adjacency::{self, Path, Who};
use super::index::Indices;
use super::route::{Leaf, Paths};
use super::side::Sided;
use super::{Update, Want};
use crate::model::{Model, Touched};

/// Which index stands for which path, and for which next hop.
#[derive(Clone, Debug)]
pub(super) struct NextHops {
    groups: Indices<Path>,
    adjacencies: Indices<Who>,
    /// Groups by their path with all ways alive.
    kin: BTreeMap<Path, BTreeSet<u32>>,
    /// Groups that are new, or stand for another path now.
    new: BTreeSet<u32>,
    /// Adjacencies that are new, and not for a group.
    served: BTreeSet<Who>,
}

/// Who holds an adjacency that is not for a group.
const NAMED: usize = 1;

impl NextHops {
    pub(super) fn new() -> Self {
        Self {
            groups: Indices::new(GROUPS),
            adjacencies: Indices::new(ADJACENCIES),
            kin: BTreeMap::new(),
            new: BTreeSet::new(),
            served: BTreeSet::new(),
        }
    }

    /// The target of a leaf, held; `None` if there is no room.
    pub(super) fn hold<A: Sided>(&mut self, leaf: Leaf, paths: &Paths) -> Option<Target> {
        match leaf {
            Leaf::Kind(kind) => Some(Target::new(kind, 0)),
            Leaf::Path(number) => {
                let path = paths.get(number);
                let index = self.groups.get(path).or_else(|| self.enter(path))?;
                self.groups.hold(index, A::SIDE);
                Some(Target::new(RouteKind::Unicast, index))
            }
        }
    }

    /// Gives back what [`NextHops::hold`] gave.
    pub(super) fn release<A: Sided>(&mut self, target: Option<Target>) {
        if let Some(target) = target.filter(|target| target.kind() == RouteKind::Unicast) {
            self.groups.release(target.group(), A::SIDE);
        }
    }

    /// The adjacency of a neighbour that the kernel may name, held; `None` if there is no room.
    pub(super) fn serve(&mut self, who: Who) -> Option<u32> {
        let index = self.adjacencies.get(&who).or_else(|| {
            self.served.insert(who);
            self.adjacencies.enter(who)
        })?;
        self.adjacencies.hold(index, NAMED);
        Some(index)
    }

    /// Gives back what [`NextHops::serve`] gave.
    pub(super) fn dismiss(&mut self, index: u32) {
        self.adjacencies.release(index, NAMED);
    }

    /// A group for a path that has none, with an adjacency for each member.
    fn enter(&mut self, path: &Path) -> Option<u32> {
        let missing = path.hops.iter().filter(|hop| self.adjacencies.get(&hop.who).is_none()).count();
        if missing > self.adjacencies.room() || self.groups.room() == 0 {
            return None;
        }
        let mut last = None;
        for hop in &path.hops {
            last = self.adjacencies.get(&hop.who).or_else(|| self.adjacencies.enter(hop.who));
            if let Some(who) = last {
                self.adjacencies.hold(who, 0);
            }
        }
        // With the number of its adjacency the group need not be looked at (`Control::DIRECT`).
        let index = match last {
            Some(who) if path.is_plain() => self.groups.enter_at(who, path.clone()),
            _ => self.groups.enter(path.clone()),
        }?;
        self.kin.entry(path.revived()).or_default().insert(index);
        self.new.insert(index);
        Some(index)
    }

    /// Where all routes of a path come back with other ways dead or alive, they keep their group: only it changes, and no
    /// prefix. `paths` are all that the family wants from now on.
    pub(super) fn inherit<A: Sided>(&mut self, paths: &Paths) {
        for path in paths.iter() {
            if self.groups.get(path).is_some() {
                continue;
            }
            let kin = self.kin.get(&path.revived()).into_iter().flatten().copied();
            let heir = kin.into_iter().find(|index| {
                let wanted = self.groups.key(*index).is_none_or(|key| paths.has(key));
                !wanted && self.groups.holders(*index)[1 - A::SIDE] == 0
            });
            if let Some(index) = heir {
                self.groups.rename(index, path.clone());
                self.new.insert(index);
            }
        }
    }

    /// Takes back what nobody holds any more.
    pub(super) fn sweep(&mut self, want: &mut Want, update: &mut Update) {
        for (index, path) in self.groups.sweep() {
            for hop in &path.hops {
                let who = self.adjacencies.get(&hop.who);
                if let Some(who) = who {
                    self.adjacencies.release(who, 0);
                }
            }
            let revived = path.revived();
            let kin = self.kin.get_mut(&revived);
            if kin.is_some_and(|kin| kin.remove(&index) && kin.is_empty()) {
                self.kin.remove(&revived);
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
        let mut whos: BTreeMap<u32, Who> = BTreeMap::new();
        if touched.links {
            whos.extend(self.adjacencies.iter().map(|(who, index)| (index, *who)));
        } else {
            let members = new.iter().filter_map(|index| self.groups.key(*index)).flat_map(|path| &path.hops);
            let whos_of = members.map(|hop| hop.who);
            let neighbours = touched.neighbours.iter().map(|(dev, via)| Who { dev: *dev, via: Some(*via) });
            whos.extend(
                whos_of.chain(neighbours).chain(served).filter_map(|who| Some((self.adjacencies.get(&who)?, who))),
            );
        }
        for (index, who) in whos {
            let adjacency = adjacency::adjacency(model, &want.egress, who);
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
            let group = adjacency::group(model, path, |who| self.adjacencies.get(who));
            if want.groups.insert(index, group) != Some(group) {
                update.groups.insert(index, Some(group));
            }
        }
    }

    /// Whether any path has several ways, dead ones included: a link that goes must not cost a program.
    pub(super) fn multipath(&self) -> bool {
        self.groups.iter().any(|(path, _)| path.hops.len() > 1)
    }

    /// Who the adjacencies of these indices stand for, those of whole links left out.
    pub(super) fn whos(&self) -> impl Iterator<Item = (u32, (Ifindex, IpAddr))> {
        self.adjacencies.iter().filter_map(|(who, index)| Some((index, (who.dev, who.via?))))
    }

    pub(super) fn grace_passed(&mut self) {
        self.groups.grace_passed();
        self.adjacencies.grace_passed();
    }
}
