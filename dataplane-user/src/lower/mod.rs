//! The model becomes the contents of the maps. Pure: the same model and the same history give the same contents.

mod adjacency;
mod bridge;
mod carrier;
pub mod egress;
mod family_state;
mod features;
pub mod filter;
mod index;
mod kernel_lookup;
mod next_hop;
mod order;
pub mod own_table;
mod policy;
mod port;
mod problem;
mod route;
mod switching;
mod target;
pub mod trace_filter;
mod update;
mod vlan;
mod want;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_common::abi::{Control, Ifindex, Port};

use crate::model::{Attachment, IpVersion, Link, Model, Prefix, RouteSource, TABLE_LOCAL, Touched, TouchedRoutes};
use crate::retired::Grace;
use family_state::{FamilyState, Full, PerFamily, changes};
use next_hop::NextHops;
use route::Paths;

pub use problem::{Problem, Shielded};
pub use target::{TargetChanges, Targets};
pub use update::Update;
pub use want::Want;

/// More prefixes than this are not looked at one by one.
const SINGLE: usize = 50_000;

/// Turns models into [`Want`]s; remembers which index stands for what.
#[derive(Clone, Debug)]
pub struct Lowering {
    slots: port::Slots,
    next_hops: NextHops,
    side4: FamilyState<u32>,
    side6: FamilyState<u128>,
    /// Whether there are local IPv4 routes that the kernel did not make, and at which `Routes::renewals` that was found.
    custom_local: (u64, bool),
    /// The same for routes of both families that make addresses local, in any table.
    local_elsewhere: ([u64; 2], bool),
    /// The least MTU of any route, by family, and at which `Routes::renewals` that was found.
    route_mtu: ([u64; 2], [u32; 2]),
    /// Links that packets can be routed through.
    usable: BTreeSet<Ifindex>,
    /// Those that take less of IPv6 than the device does, and how much.
    narrow: BTreeSet<(Ifindex, u32)>,
    attached: BTreeMap<Ifindex, Attachment>,
    entrances: bridge::Entrances,
    switching: switching::Switching,
    /// Problems with ports.
    problems: Vec<Problem>,
    want: Want,
}

/// More distinct paths than there is room for.
struct NoRoom;

impl Lowering {
    /// For empty maps. Ports in `kept` keep the slots that an earlier daemon gave them, so their counters stay theirs.
    pub fn new(kept: BTreeMap<Ifindex, u32>) -> Self {
        Self {
            slots: port::Slots::new(kept),
            next_hops: NextHops::new(),
            side4: FamilyState::default(),
            side6: FamilyState::default(),
            custom_local: (u64::MAX, false),
            local_elsewhere: ([u64::MAX; 2], false),
            route_mtu: ([u64::MAX; 2], [0; 2]),
            usable: BTreeSet::new(),
            narrow: BTreeSet::new(),
            attached: BTreeMap::new(),
            entrances: bridge::Entrances::default(),
            switching: switching::Switching::default(),
            problems: Vec::new(),
            want: Want::default(),
        }
    }

    /// What the maps should hold for `model` with these `ports` attached, from scratch.
    pub fn lower(&mut self, model: &Model, ports: &BTreeMap<Ifindex, Attachment>) -> Want {
        self.update(model, ports, &Touched::all());
        self.want.clone()
    }

    /// What the maps should hold, as of the last update.
    pub fn want(&self) -> &Want {
        &self.want
    }

    /// Takes in what was `touched` of `model`, and says what that changes.
    pub fn update(&mut self, model: &Model, ports: &BTreeMap<Ifindex, Attachment>, touched: &Touched) -> Update {
        let mut update = Update::default();
        let mut doubtful = BTreeSet::new();
        if touched.links {
            let usable = model.links.keys().copied().filter(|dev| route::usable(model, *dev)).collect();
            let before = std::mem::replace(&mut self.usable, usable);
            doubtful = before.symmetric_difference(&self.usable).copied().collect();
            let narrow = model.links.values().filter_map(|link| Some((link.ifindex, link.narrow_ipv6()?))).collect();
            let before = std::mem::replace(&mut self.narrow, narrow);
            doubtful.extend(before.symmetric_difference(&self.narrow).map(|(dev, _)| *dev));
        }
        self.update_family::<u32>(model, touched, &doubtful, &mut update);
        self.update_family::<u128>(model, touched, &doubtful, &mut update);
        let route_mtu = self.follow_route_mtu(model);
        let ports_touched = touched.links || self.attached != *ports || route_mtu;
        if ports_touched {
            self.attached.clone_from(ports);
            self.update_ports(model, &mut update);
            let policies = policy::policies(&model.ipsec);
            update.policies = update::policies(&self.want.policies, &policies);
            self.want.policies = policies;
        }
        self.update_hosts(model, touched, ports_touched, &mut update);
        self.update_ways(model, touched, ports_touched, &mut update);
        self.update_neighbours(model, touched, ports_touched, &mut update);
        self.next_hops.sweep(&mut self.want, &mut update);
        self.next_hops.fill(model, touched, &mut self.want, &mut update);
        self.conclude(model);
        update
    }

    /// The adjacencies that are next hops of their own, by index: on which link, and which address.
    pub fn next_hops(&self) -> impl Iterator<Item = (u32, (Ifindex, IpAddr))> {
        self.next_hops.next_hop_keys()
    }

    /// No packet that began before the last [`Update`] was written is still being judged: indices that it gave back may be
    /// used again.
    pub fn grace_passed(&mut self, grace: &Grace) {
        self.slots.grace_passed(grace);
        self.next_hops.grace_passed(grace);
    }

    fn update_ports(&mut self, model: &Model, update: &mut Update) {
        let attached = &self.attached;
        let present =
            || attached.iter().filter_map(|(ifindex, attachment)| Some((model.links.get(ifindex)?, *attachment)));
        self.problems.clear();
        let (mut wanted, route_mtu) = (BTreeMap::new(), self.route_mtu.1);
        self.entrances = bridge::Entrances::new(model, attached);
        self.switching = switching::Switching::new(model, &self.entrances);
        let slots = self.slots.assign(present().map(|(link, _)| link.ifindex), &mut self.problems);
        for (link, attachment) in present() {
            if let Some(slot) = slots.get(&link.ifindex) {
                let port = port::port(model, link, attachment);
                let flags = port.flags() | bridge::flags(model, attached, link);
                let port = Port { route_mtu, flags: flags.bits(), ..port };
                wanted.insert(*slot, self.switching.port(model, link, port));
            }
        }
        let mut vlans = vlan::vlans(model, &self.attached, &mut self.problems);
        // Packets come in through the devices on a port as well, of which another VRF may have some.
        let on_ports = vlans.values().filter_map(|device| model.links.get(&device.ifindex));
        let entered: Vec<_> = present().map(|(link, _)| link).chain(on_ports).collect();
        for version in [IpVersion::V4, IpVersion::V6] {
            let left = |link: &&Link| model.route_source(version, link) == RouteSource::Stack;
            self.problems.extend(entered.iter().any(left).then_some(Problem::PolicyRouting(version)));
        }
        self.problems.extend(present().filter_map(|(link, _)| bridge::taken(model, attached, link)));
        vlans.extend(self.entrances.rows(model, attached));
        let shielded = Shielded::by(&model.ipsec).filter(|_| !wanted.is_empty());
        self.problems.extend(shielded.map(Problem::Ipsec));
        for key in vlans.keys().filter(|key| !key.is_address()) {
            if let Some(port) = slots.get(&key.ifindex).and_then(|slot| wanted.get_mut(slot)) {
                vlan::hide_tags(port);
            }
        }
        update.ports = changes(&self.want.ports, &wanted);
        self.want.ports = wanted;
        for port in vlans.values_mut() {
            port.route_mtu = route_mtu;
        }
        update.vlans = changes(&self.want.vlans, &vlans);
        self.want.vlans = vlans;
    }

    /// One family's table. Where it cannot be complete it has local addresses only, and the family's bit in `mirror` is off.
    fn update_family<A: PerFamily>(
        &mut self,
        model: &Model,
        touched: &Touched,
        doubtful: &BTreeSet<Ifindex>,
        update: &mut Update,
    ) {
        let side = A::state(self);
        side.follow(model, &touched.neighbours);
        let reordered = touched.links && side.reorder(model);
        let TouchedRoutes::Some(routes) = A::touched(touched) else {
            side.relist(model);
            return self.update_all::<A>(model, update);
        };
        if let Some(full) = &side.full {
            let local = routes.iter().any(|(table, _)| *table == TABLE_LOCAL);
            if touched.links || local || full.may_fit(A::routes(model)) {
                self.update_all::<A>(model, update);
            }
            return;
        }
        if reordered || side.left != 0 && !touched.neighbours.is_empty() {
            return self.update_all::<A>(model, update);
        }
        let mut prefixes = BTreeSet::new();
        for (table, prefix) in routes.iter().copied().chain(route::through(model, &side.order, doubtful)) {
            if side.order.tables().contains(&table) {
                let depending = route::depending(model, &side.order, &side.hosts, table, prefix);
                prefixes.extend(depending.take(SINGLE.saturating_sub(prefixes.len())));
            }
        }
        let neighbours = touched.neighbours.iter().filter_map(|(_, address)| A::from_ip(*address));
        prefixes.extend(neighbours.map(|address| Prefix::new(address, A::BITS as u8)));
        if prefixes.len() >= SINGLE || self.update_each(model, prefixes, update).is_err() {
            self.update_all::<A>(model, update);
        }
    }

    /// Prefixes one by one. When there is no room for one, those behind it are as they were.
    fn update_each<A: PerFamily>(
        &mut self,
        model: &Model,
        prefixes: BTreeSet<Prefix<A>>,
        update: &mut Update,
    ) -> Result<(), NoRoom> {
        let mut paths = Paths::default();
        for prefix in prefixes {
            let side = A::state(self);
            let target = match route::one(model, &side.order, &side.hosts, &mut paths, prefix) {
                None => None,
                Some(entry) => Some(self.next_hops.acquire::<A>(entry, &paths).ok_or(NoRoom)?),
            };
            let before = A::targets(&mut self.want).set(prefix, target);
            self.next_hops.release::<A>(before);
            if before != target {
                A::changes(update).insert(prefix, target);
            }
        }
        Ok(())
    }

    /// The whole table.
    fn update_all<A: PerFamily>(&mut self, model: &Model, update: &mut Update) {
        let hosts = std::mem::take(&mut A::state(self).hosts);
        let found = self.all_targets::<A>(model, &hosts);
        let side = A::state(self);
        (side.hosts, side.full) = (hosts, None);
        match found {
            Ok((targets, left)) => {
                side.left = left;
                self.exchange(targets, update);
            }
            Err(NoRoom) => self.fall_back_to_kernel::<A>(model, Problem::NextHopsFull(A::VERSION), update),
        }
    }

    /// Local addresses only: packets for this machine must still be known, because they meet other chains.
    fn fall_back_to_kernel<A: PerFamily>(&mut self, model: &Model, problem: Problem, update: &mut Update) {
        let side = A::state(self);
        (side.full, side.left) = (Some(Full::new(problem, A::routes(model))), 0);
        let targets = self.all_targets::<A>(&model.local_only(), &BTreeSet::new());
        self.exchange(targets.map(|(targets, _)| targets).unwrap_or_default(), update);
    }

    /// All targets of a family, held, and how many neighbours had to be left out.
    fn all_targets<A: PerFamily>(
        &mut self,
        model: &Model,
        hosts: &BTreeSet<(A, Ifindex)>,
    ) -> Result<(Targets<A>, usize), NoRoom> {
        let mut paths = Paths::default();
        let (mut leaves, mut cut_out) = (Vec::new(), Vec::new());
        route::all(
            model,
            &A::state(self).order,
            hosts,
            &mut paths,
            |prefix, entry| leaves.push((prefix, entry)),
            |address, entry| {
                cut_out.push((Prefix::new(address, A::BITS as u8), entry));
            },
        );
        self.next_hops.reuse::<A>(&paths);
        // Routes come first: what they need must fit, and neighbours take what room is left.
        let mut found = Vec::with_capacity(leaves.len());
        for (prefix, entry) in leaves {
            let Some(target) = self.next_hops.acquire::<A>(entry, &paths) else {
                for (_, target) in found {
                    self.next_hops.release::<A>(Some(target));
                }
                return Err(NoRoom);
            };
            found.push((prefix, target));
        }
        let mut targets: Targets<A> = found.into_iter().collect();
        let mut left = 0;
        for (prefix, entry) in cut_out {
            match self.next_hops.acquire::<A>(entry, &paths) {
                Some(target) => {
                    let hidden = targets.set(prefix, Some(target));
                    self.next_hops.release::<A>(hidden);
                }
                None => left += 1,
            }
        }
        Ok((targets, left))
    }

    /// Puts other targets in place of those of a family.
    fn exchange<A: PerFamily>(&mut self, targets: Targets<A>, update: &mut Update) {
        let before = std::mem::replace(A::targets(&mut self.want), targets);
        before.iter().for_each(|(_, target)| self.next_hops.release::<A>(Some(target)));
        A::changes(update).extend(before.difference(A::targets(&mut self.want)));
    }

    /// What follows from all of it.
    fn conclude(&mut self, model: &Model) {
        let want = &mut self.want;
        want.mirror = Control::MIRROR_V4 | Control::MIRROR_V6;
        want.problems.clone_from(&self.problems);
        self.side4.judge(want);
        self.side6.judge(want);
        for problem in &self.problems {
            match problem {
                Problem::PolicyRouting(IpVersion::V4) => want.mirror &= !Control::MIRROR_V4,
                Problem::PolicyRouting(IpVersion::V6) => want.mirror &= !Control::MIRROR_V6,
                _ => {}
            }
        }
        if want.groups.iter().all(|(index, group)| group.is_adjacency(*index)) {
            want.mirror |= Control::DIRECT;
        }
        self.switch_features(model);
    }
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
