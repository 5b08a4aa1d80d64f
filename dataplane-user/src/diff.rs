//! What is to be different becomes changes, in an order that is safe while packets are being judged.

use dataplane_common::abi::{
    Adjacency, BridgedKey, Control, Features, Ifindex, NeighbourKey, NextHopGroup, Policies, Port, PortFlags,
    SwitchedHost, SwitchedKey, VlanKey,
};

use crate::lower::{TargetChanges, Targets, Update, Want};

/// One write to a map. Tables are borrowed: they are large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// `Control::mirror`.
    Mirror(u32),
    /// A device that XDP may transmit on.
    AddEgress(Ifindex),
    /// What policies may cover of IPv4 (0) or IPv6 (1): before and after.
    Policies(u32, &'a [Policies; 2]),
    /// An adjacency, by index.
    Adjacency(u32, Adjacency),
    /// Which adjacency a neighbour is, where the kernel is asked.
    Neighbour(NeighbourKey, u32),
    /// A neighbour that is no more.
    RemoveNeighbour(NeighbourKey),
    /// A group, by index.
    Group(u32, &'a NextHopGroup),
    /// All of IPv4: the spare generation, then the flip.
    Fib4(&'a Targets<u32>),
    /// All of IPv6: the spare generation, then the flip.
    Fib6(&'a Targets<u128>),
    /// Some IPv4 prefixes.
    Routes4(&'a TargetChanges<u32>),
    /// Some IPv6 prefixes.
    Routes6(&'a TargetChanges<u128>),
    /// A program with other features, then its swap. What it reads is written before it runs.
    Features(Features),
    /// A port, by slot.
    Port(u32, Port),
    /// A VLAN device on a port.
    Vlan(VlanKey, Port),
    /// A host behind a member of a bridge, and the time between its refreshes.
    Host(BridgedKey, u32),
    /// A host that is behind this member no more.
    RemoveHost(BridgedKey),
    /// The member of a bridge that a host is behind.
    Switched(SwitchedKey, SwitchedHost),
    /// A host of a bridge to which no frames are sent any more.
    RemoveSwitched(SwitchedKey),
    /// A VLAN device that is no more.
    RemoveVlan(VlanKey),
    /// A slot that becomes free.
    RemovePort(u32),
    /// A group that no route names any more.
    RemoveGroup(u32),
    /// An adjacency that no group names any more.
    RemoveAdjacency(u32),
    /// A device that no adjacency names any more, or that takes no frames any more.
    RemoveEgress(Ifindex),
}

impl Change<'_> {
    /// Whether it is about routes.
    pub fn is_route(&self) -> bool {
        matches!(self, Self::Fib4(_) | Self::Fib6(_) | Self::Routes4(_) | Self::Routes6(_))
    }

    /// Whether it writes a group.
    pub fn is_group(&self) -> bool {
        matches!(self, Self::Group(..))
    }
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

/// What there is beside what an [`Update`] speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Have {
    /// `Control::mirror`.
    pub mirror: u32,
    /// Of the loaded programs.
    pub features: Features,
}

/// More changes of a table than this, and more than an eighth of it, are cheaper as a table written anew.
const FEW: usize = 4096;

/// The changes of an update that leads to `want`, and from `have` to `goal`. Whatever is named is written before what names it,
/// and removed after. A family that must go back to the kernel goes first, one that may be mirrored comes once all that it
/// needs is there.
pub fn order<'a>(have: Have, goal: Have, update: &'a Update, want: &'a Want) -> Changes<'a> {
    let mut steps = Vec::new();
    // Where rules have a say now, the mirror is wrong until the programs ask the kernel.
    let ready = goal.mirror & !waiting(want, goal.features - have.features);
    // Until they ask for policies, too, all of a family that has some is the kernel's.
    let late = !have.features.contains(Features::IPSEC) && goal.features.contains(Features::IPSEC);
    let ready = if late { ready & !covered(want) } else { ready };
    let kept = have.mirror & ready;
    if kept != have.mirror {
        steps.push(Change::Mirror(kept));
    }
    // The bridge must see where a host is now; and the map may be full.
    let gone = update.hosts.iter().filter(|(_, new)| new.is_none());
    steps.extend(gone.map(|(key, _)| Change::RemoveHost(*key)));
    let hosts = update.hosts.iter().filter_map(|(key, new)| Some((*key, (*new)?)));
    steps.extend(hosts.map(|(key, period)| Change::Host(key, period)));
    let gone = update.switched.iter().filter(|(_, new)| new.is_none());
    steps.extend(gone.map(|(key, _)| Change::RemoveSwitched(*key)));
    let hosts = update.switched.iter().filter_map(|(key, new)| Some((*key, (*new)?)));
    steps.extend(hosts.map(|(key, host)| Change::Switched(key, host)));
    steps.extend(update.policies.iter().map(|(family, both)| Change::Policies(*family, both)));
    steps.extend(update.egress.iter().filter(|(_, sends)| **sends).map(|(dev, _)| Change::AddEgress(*dev)));
    let adjacencies = update.adjacencies.iter().filter_map(|(index, new)| Some((*index, (*new)?)));
    steps.extend(adjacencies.map(|(index, new)| Change::Adjacency(index, new)));
    let neighbours = update.neighbours.iter().filter_map(|(key, new)| Some((*key, (*new)?)));
    steps.extend(neighbours.map(|(key, new)| Change::Neighbour(key, new)));
    let groups = update.groups.iter().filter_map(|(index, new)| Some((*index, new.as_ref()?)));
    steps.extend(groups.map(|(index, new)| Change::Group(index, new)));
    let many = |changes: usize, all: usize| update.anew || (changes > FEW && changes > all / 8);
    if many(update.fib4.len(), want.fib4.len()) {
        steps.push(Change::Fib4(&want.fib4));
    } else if !update.fib4.is_empty() {
        steps.push(Change::Routes4(&update.fib4));
    }
    if many(update.fib6.len(), want.fib6.len()) {
        steps.push(Change::Fib6(&want.fib6));
    } else if !update.fib6.is_empty() {
        steps.push(Change::Routes6(&update.fib6));
    }
    if kept != ready {
        steps.push(Change::Mirror(ready));
    }
    // A port may need a feature, but no feature needs a port.
    steps.extend((have.features != goal.features).then_some(Change::Features(goal.features)));
    let ports = update.ports.iter().filter_map(|(slot, new)| Some((*slot, (*new)?)));
    steps.extend(ports.map(|(slot, new)| Change::Port(slot, new)));

    let vlans = update.vlans.iter().filter_map(|(key, new)| Some((*key, (*new)?)));
    steps.extend(vlans.map(|(key, new)| Change::Vlan(key, new)));
    if ready != goal.mirror {
        steps.push(Change::Mirror(goal.mirror));
    }

    let vlans = update.vlans.iter().filter(|(_, new)| new.is_none());
    steps.extend(vlans.map(|(key, _)| Change::RemoveVlan(*key)));
    let ports = update.ports.iter().filter(|(_, new)| new.is_none());
    steps.extend(ports.map(|(slot, _)| Change::RemovePort(*slot)));
    let groups = update.groups.iter().filter(|(_, new)| new.is_none());
    steps.extend(groups.map(|(index, _)| Change::RemoveGroup(*index)));
    let neighbours = update.neighbours.iter().filter(|(_, new)| new.is_none());
    steps.extend(neighbours.map(|(key, _)| Change::RemoveNeighbour(*key)));
    let adjacencies = update.adjacencies.iter().filter(|(_, new)| new.is_none());
    steps.extend(adjacencies.map(|(index, _)| Change::RemoveAdjacency(*index)));
    steps.extend(update.egress.iter().filter(|(_, sends)| !**sends).map(|(dev, _)| Change::RemoveEgress(*dev)));
    Changes { steps }
}

/// The families for which some port needs a feature that the programs do not have yet.
fn waiting(want: &Want, missing: Features) -> u32 {
    let needs = [
        (Features::KERNEL_LOOKUP, PortFlags::KERNEL_LOOKUP_V4, Control::MIRROR_V4),
        (Features::KERNEL_LOOKUP, PortFlags::KERNEL_LOOKUP_V6, Control::MIRROR_V6),
        (Features::FOLLOW, PortFlags::FOLLOW_V4, Control::MIRROR_V4),
        (Features::FOLLOW, PortFlags::FOLLOW_V6, Control::MIRROR_V6),
    ];
    let ports = || want.ports.values().chain(want.vlans.values()).map(Port::flags);
    let waits = |(feature, flag, _): &(Features, PortFlags, u32)| {
        missing.contains(*feature) && ports().any(|flags| flags.contains(*flag))
    };
    // Until then packets with a mark would be routed as if they had none.
    let marks = if missing.contains(Features::MARKS) { Control::MIRROR_V4 | Control::MIRROR_V6 } else { 0 };
    needs.iter().filter(|need| waits(need)).fold(marks, |bits, (_, _, bit)| bits | bit)
}

/// The families of which policies may cover something.
fn covered(want: &Want) -> u32 {
    let bits = [Control::MIRROR_V4, Control::MIRROR_V6];
    let some = bits.iter().zip(&want.policies).filter(|(_, policies)| policies.count != 0);
    some.fold(0, |bits, (bit, _)| bits | bit)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dataplane_common::abi::{AdjacencyFlags, RouteKind};
    use proptest::prelude::*;

    use super::*;
    use crate::lower::Lowering;
    use crate::lower::sample::{self, Spec, add, attached, spec};
    use crate::model::{Event, Model, XdpFeatures};

    /// The whole way from one to the other.
    fn diff<'a>(have: &Want, want: &'a Want, update: &'a Update) -> Changes<'a> {
        let both = |want: &Want| Have { mirror: want.mirror, features: want.features };
        order(both(have), both(want), update, want)
    }

    /// What a change makes of the maps.
    fn apply(have: &mut Want, change: &Change<'_>) {
        match change {
            Change::Mirror(mirror) => have.mirror = *mirror,
            Change::AddEgress(ifindex) => assert!(have.egress.insert(*ifindex)),
            Change::Adjacency(index, adjacency) => {
                have.adjacencies.insert(*index, *adjacency);
            }
            Change::Group(index, group) => {
                have.groups.insert(*index, **group);
            }
            Change::Fib4(table) => have.fib4 = (*table).clone(),
            Change::Fib6(table) => have.fib6 = (*table).clone(),
            Change::Routes4(changes) => changes.iter().for_each(|(prefix, target)| {
                have.fib4.set(*prefix, *target);
            }),
            Change::Routes6(changes) => changes.iter().for_each(|(prefix, target)| {
                have.fib6.set(*prefix, *target);
            }),
            Change::Neighbour(key, index) => {
                have.neighbours.insert(*key, *index);
            }
            Change::RemoveNeighbour(key) => assert!(have.neighbours.remove(key).is_some()),
            Change::Policies(family, [before, after]) => {
                assert_eq!(have.policies[*family as usize], *before);
                have.policies[*family as usize] = *after;
            }
            Change::Features(features) => have.features = *features,
            Change::Port(slot, port) => {
                have.ports.insert(*slot, *port);
            }
            Change::Vlan(key, port) => {
                have.vlans.insert(*key, *port);
            }
            Change::RemoveVlan(key) => assert!(have.vlans.remove(key).is_some()),
            Change::Host(key, period) => drop(have.hosts.insert(*key, *period)),
            Change::RemoveHost(key) => assert!(have.hosts.remove(key).is_some()),
            Change::Switched(key, host) => drop(have.switched.insert(*key, *host)),
            Change::RemoveSwitched(key) => assert!(have.switched.remove(key).is_some()),
            Change::RemovePort(slot) => assert!(have.ports.remove(slot).is_some()),
            Change::RemoveGroup(index) => assert!(have.groups.remove(index).is_some()),
            Change::RemoveAdjacency(index) => assert!(have.adjacencies.remove(index).is_some()),
            Change::RemoveEgress(ifindex) => assert!(have.egress.remove(ifindex)),
        }
    }

    /// A packet at this moment finds everything that is named.
    fn assert_whole(have: &Want) {
        let targets = have.fib4.iter().map(|row| row.1).chain(have.fib6.iter().map(|row| row.1));
        for target in targets.filter(|target| target.kind() == RouteKind::Unicast) {
            assert!(have.groups.contains_key(&target.group()), "{target:?}");
        }
        let direct = have.groups.iter().all(|(index, group)| group.is_adjacency(*index));
        assert!(direct || have.mirror & Control::DIRECT == 0, "{:?}", have.groups);
        for group in have.groups.values() {
            for member in &group.members[..group.slots as usize] {
                assert!(have.adjacencies.contains_key(&u32::from(*member)), "{group:?}");
            }
        }
        for adjacency in have.adjacencies.values() {
            let sends = adjacency.flags().contains(AdjacencyFlags::XDP_TRANSMIT);
            assert!(!sends || have.egress.contains(&adjacency.device), "{adjacency:?}");
        }
    }

    /// A state of the kernel: routes of both families, which links can transmit, which are attached.
    fn state() -> impl Strategy<Value = (Vec<Spec>, [bool; 2], [bool; 2])> {
        (prop::collection::vec(spec(), 0..12), any::<[bool; 2]>(), any::<[bool; 2]>())
    }

    fn model(specs: &[Spec], transmits: [bool; 2]) -> Model {
        let mut model = sample::model();
        add::<u32>(&mut model, specs);
        add::<u128>(&mut model, specs);
        for (ifindex, transmits) in [2, 3].into_iter().zip(transmits) {
            if !transmits {
                model.apply(Event::Features(ifindex, XdpFeatures::BASIC));
            }
        }
        model
    }

    proptest! {
        #[test]
        fn every_step_is_whole_and_the_last_is_what_was_wanted(states in prop::collection::vec(state(), 1..5)) {
            let mut lowering = Lowering::new([].into());
            let mut have = Want::default();
            for (specs, transmits, attach) in states {
                let model = model(&specs, transmits);
                let mut ports = attached(&model);
                ports.retain(|ifindex, _| attach[*ifindex as usize - 2]);
                let want = lowering.lower(&model, &ports);
                for change in &diff(&have, &want, &Update::between(&have, &want)).steps {
                    apply(&mut have, change);
                    assert_whole(&have);
                }
                have.problems.clone_from(&want.problems);
                prop_assert_eq!(&have, &want);
                prop_assert!(diff(&have, &want, &Update::between(&have, &want)).is_empty());
                lowering.grace_passed(&crate::retired::Grace::passed());
            }
        }
    }

    #[test]
    fn steps_come_in_a_safe_order() {
        let full = Want {
            mirror: 3,
            egress: BTreeSet::from([2]),
            adjacencies: [(0, Adjacency::NONE)].into(),
            groups: [(0, NextHopGroup::EMPTY)].into(),
            ports: [(2, Port::FREE)].into(),
            features: Features::IPV6,
            fib4: {
                let mut model = sample::model();
                add::<u32>(&mut model, &[Spec { gateway: 1, ..ROUTE }]);
                Lowering::new([].into()).lower(&model, &[].into()).fib4
            },
            ..Want::default()
        };
        let empty = Want::default();
        let update = Update::between(&empty, &full);
        let up = [
            Change::AddEgress(2),
            Change::Adjacency(0, Adjacency::NONE),
            Change::Group(0, &NextHopGroup::EMPTY),
            Change::Routes4(&update.fib4),
            Change::Mirror(3),
            Change::Features(Features::IPV6),
            Change::Port(2, Port::FREE),
        ];
        assert_eq!(diff(&empty, &full, &update).steps, up);
        let back = Update::between(&full, &empty);
        let down = [
            Change::Mirror(0),
            Change::Routes4(&back.fib4),
            Change::Features(Features::empty()),
            Change::RemovePort(2),
            Change::RemoveGroup(0),
            Change::RemoveAdjacency(0),
            Change::RemoveEgress(2),
        ];
        assert_eq!(diff(&full, &empty, &back).steps, down);
        assert!(diff(&full, &full, &Update::between(&full, &full)).is_empty());

        let (v4, v6) = (Want { mirror: 1, ..Want::default() }, Want { mirror: 2, ..full.clone() });
        let update = Update::between(&v4, &v6);
        let steps = diff(&v4, &v6, &update).steps;
        let position = |wanted| steps.iter().position(|step| *step == wanted);
        assert_eq!(position(Change::Mirror(0)), Some(0), "IPv4 goes back to the kernel first");
        assert_eq!(position(Change::Mirror(2)), position(Change::Routes4(&update.fib4)).map(|routes| routes + 1));
    }

    const ROUTE: Spec = Spec {
        table: crate::model::TABLE_MAIN,
        address: (2, 0),
        length: 8,
        kind: crate::model::RouteType::Unicast,
        priority: 0,
        gateway: 1,
        dead: false,
    };
}
