//! What of the maps is to be different.

use std::collections::BTreeMap;

use dataplane_common::abi::{
    Adjacency, BridgedKey, Ifindex, NeighbourKey, NextHopGroup, Policies, Port, SwitchedHost, SwitchedKey, VlanKey,
};

use super::{TargetChanges, Want, family_state::changes};

/// What of [`Want`] is to be different. `None`: it is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// By slot.
    pub ports: BTreeMap<u32, Option<Port>>,
    /// VLAN devices.
    pub vlans: BTreeMap<VlanKey, Option<Port>>,
    /// Hosts behind members of bridges.
    pub hosts: BTreeMap<BridgedKey, Option<u32>>,
    /// The ways to hosts within their bridges.
    pub switched: BTreeMap<SwitchedKey, Option<SwitchedHost>>,
    /// By index.
    pub groups: BTreeMap<u32, Option<NextHopGroup>>,
    /// By index.
    pub adjacencies: BTreeMap<u32, Option<Adjacency>>,
    /// Neighbours for lookups in the kernel.
    pub neighbours: BTreeMap<NeighbourKey, Option<u32>>,
    /// What policies of `IPsec` may cover, of IPv4 (0) and IPv6 (1): before and after.
    pub policies: BTreeMap<u32, [Policies; 2]>,
    /// IPv4.
    pub fib4: TargetChanges<u32>,
    /// IPv6.
    pub fib6: TargetChanges<u128>,
    /// Whether XDP transmits on a device.
    pub egress: BTreeMap<Ifindex, bool>,
    /// The contents of the tables are not known, so all of them is written.
    pub anew: bool,
}

impl Update {
    /// All of `want`, for maps of which nothing is known.
    pub fn anew(want: &Want) -> Self {
        Self {
            ports: changes(&BTreeMap::new(), &want.ports),
            vlans: changes(&BTreeMap::new(), &want.vlans),
            hosts: changes(&BTreeMap::new(), &want.hosts),
            switched: changes(&BTreeMap::new(), &want.switched),
            groups: changes(&BTreeMap::new(), &want.groups),
            adjacencies: changes(&BTreeMap::new(), &want.adjacencies),
            neighbours: changes(&BTreeMap::new(), &want.neighbours),
            egress: want.egress.iter().map(|dev| (*dev, true)).collect(),
            // Of what is there nothing is known but that it may be read.
            policies: (0..).zip(want.policies.map(|after| [after; 2])).collect(),
            anew: true,
            ..Self::default()
        }
    }

    /// What turns `before` into `after`.
    pub fn between(before: &Want, after: &Want) -> Self {
        let devices = before.egress.symmetric_difference(&after.egress);
        Self {
            ports: changes(&before.ports, &after.ports),
            vlans: changes(&before.vlans, &after.vlans),
            hosts: changes(&before.hosts, &after.hosts),
            switched: changes(&before.switched, &after.switched),
            groups: changes(&before.groups, &after.groups),
            adjacencies: changes(&before.adjacencies, &after.adjacencies),
            neighbours: changes(&before.neighbours, &after.neighbours),
            fib4: before.fib4.difference(&after.fib4),
            fib6: before.fib6.difference(&after.fib6),
            policies: policies(&before.policies, &after.policies),
            egress: devices.map(|dev| (*dev, after.egress.contains(dev))).collect(),
            anew: false,
        }
    }
}

/// Those of a family that are others.
pub(super) fn policies(before: &[Policies; 2], after: &[Policies; 2]) -> BTreeMap<u32, [Policies; 2]> {
    let both = before.iter().zip(after).map(|(before, after)| [*before, *after]);
    (0..).zip(both).filter(|(_, [before, after])| before != after).collect()
}
