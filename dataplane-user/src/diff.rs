//! Want versus have: the changes, in an order that is safe while packets are being judged.

use dataplane_common::abi::{Adjacency, Features, Ifindex, NextHopGroup, Port, VlanKey};

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
    Group(u32, &'a NextHopGroup),
    /// The spare generation of IPv4, then the flip.
    Fib4(&'a Table<u32>),
    /// The spare generation of IPv6, then the flip.
    Fib6(&'a Table<u128>),
    /// A program with other features, then its swap. What it reads is written before it runs.
    Features(Features),
    /// A port, by slot.
    Port(u32, Port),
    /// A VLAN device on a port.
    Vlan(VlanKey, Port),
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
    let adjacencies = want.adjacencies.iter().filter(|(index, new)| have.adjacencies.get(index) != Some(new));
    steps.extend(adjacencies.map(|(index, new)| Change::Adjacency(*index, *new)));
    let groups = want.groups.iter().filter(|(index, new)| have.groups.get(index) != Some(new));
    steps.extend(groups.map(|(index, new)| Change::Group(*index, new)));
    steps.extend((have.fib4 != want.fib4).then_some(Change::Fib4(&want.fib4)));
    steps.extend((have.fib6 != want.fib6).then_some(Change::Fib6(&want.fib6)));
    if kept != want.mirror {
        steps.push(Change::Mirror(want.mirror));
    }
    // A port may need a feature, but no feature needs a port.
    steps.extend((have.features != want.features).then_some(Change::Features(want.features)));
    let ports = want.ports.iter().filter(|(slot, new)| have.ports.get(slot) != Some(new));
    steps.extend(ports.map(|(slot, new)| Change::Port(*slot, *new)));

    let vlans = want.vlans.iter().filter(|(key, new)| have.vlans.get(key) != Some(new));
    steps.extend(vlans.map(|(key, new)| Change::Vlan(*key, *new)));

    steps.extend(have.vlans.keys().filter(|key| !want.vlans.contains_key(key)).copied().map(Change::RemoveVlan));
    steps.extend(have.ports.keys().filter(|slot| !want.ports.contains_key(slot)).copied().map(Change::RemovePort));
    steps.extend(have.groups.keys().filter(|index| !want.groups.contains_key(index)).copied().map(Change::RemoveGroup));
    let unnamed = have.adjacencies.keys().filter(|index| !want.adjacencies.contains_key(index));
    steps.extend(unnamed.copied().map(Change::RemoveAdjacency));
    steps.extend(have.egress.difference(&want.egress).copied().map(Change::RemoveEgress));
    Changes { steps }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dataplane_common::abi::{AdjacencyFlags, RouteKind, Target};
    use proptest::prelude::*;

    use super::*;
    use crate::lower::Lowering;
    use crate::lower::sample::{self, Spec, add, attached, spec};
    use crate::model::{Event, Model, XdpFeatures};

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
            Change::Features(features) => have.features = *features,
            Change::Port(slot, port) => {
                have.ports.insert(*slot, *port);
            }
            Change::Vlan(key, port) => {
                have.vlans.insert(*key, *port);
            }
            Change::RemoveVlan(key) => assert!(have.vlans.remove(key).is_some()),
            Change::RemovePort(slot) => assert!(have.ports.remove(slot).is_some()),
            Change::RemoveGroup(index) => assert!(have.groups.remove(index).is_some()),
            Change::RemoveAdjacency(index) => assert!(have.adjacencies.remove(index).is_some()),
            Change::RemoveEgress(ifindex) => assert!(have.egress.remove(ifindex)),
        }
    }

    /// A packet at this moment finds everything that is named.
    fn assert_whole(have: &Want) {
        let targets = have.fib4.cuts().iter().map(|cut| cut.1).chain(have.fib6.cuts().iter().map(|cut| cut.1));
        for target in targets.filter(|target| target.kind() == RouteKind::Unicast) {
            assert!(have.groups.contains_key(&target.group()), "{target:?}");
        }
        for group in have.groups.values() {
            for member in &group.members[..group.slots as usize] {
                assert!(have.adjacencies.contains_key(member), "{group:?}");
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
                for change in &diff(&have, &want).steps {
                    apply(&mut have, change);
                    assert_whole(&have);
                }
                have.problems.clone_from(&want.problems);
                prop_assert_eq!(&have, &want);
                prop_assert!(diff(&have, &want).is_empty());
                lowering.grace_passed();
            }
        }
    }

    #[test]
    fn steps_come_in_a_safe_order() {
        let full = Want {
            mirror: 3,
            egress: BTreeSet::from([2]),
            adjacencies: [(0, Adjacency::default())].into(),
            groups: [(0, NextHopGroup::EMPTY)].into(),
            ports: [(2, Port::default())].into(),
            features: Features::IPV6,
            fib4: {
                let mut model = sample::model();
                add::<u32>(&mut model, &[Spec { gateway: 1, ..ROUTE }]);
                Lowering::new([].into()).lower(&model, &[].into()).fib4
            },
            ..Want::default()
        };
        let empty = Want::default();
        let up = [
            Change::AddEgress(2),
            Change::Adjacency(0, Adjacency::default()),
            Change::Group(0, &NextHopGroup::EMPTY),
            Change::Fib4(&full.fib4),
            Change::Mirror(3),
            Change::Features(Features::IPV6),
            Change::Port(2, Port::default()),
        ];
        assert_eq!(
            full.fib4.cuts().last().map(|cut| cut.1),
            Some(Target::NONE),
            "the route ends before the space does"
        );
        assert_eq!(diff(&empty, &full).steps, up);
        let down = [
            Change::Mirror(0),
            Change::Fib4(&empty.fib4),
            Change::Features(Features::empty()),
            Change::RemovePort(2),
            Change::RemoveGroup(0),
            Change::RemoveAdjacency(0),
            Change::RemoveEgress(2),
        ];
        assert_eq!(diff(&full, &empty).steps, down);
        assert!(diff(&full, &full).is_empty());

        let (v4, v6) = (Want { mirror: 1, ..Want::default() }, Want { mirror: 2, ..full.clone() });
        let steps = diff(&v4, &v6).steps;
        let position = |wanted| steps.iter().position(|step| *step == wanted);
        assert_eq!(position(Change::Mirror(0)), Some(0), "IPv4 goes back to the kernel first");
        assert_eq!(position(Change::Mirror(2)), position(Change::Fib4(&full.fib4)).map(|flip| flip + 1));
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
