//! The contents of the maps of ports and routes.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::{
    Adjacency, BridgedKey, Features, Ifindex, NeighbourKey, NextHopGroup, Policies, Port, SwitchedHost, SwitchedKey,
    VlanKey,
};

use super::{Problem, Targets};

/// What the maps of ports and routes should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// By slot.
    pub ports: BTreeMap<u32, Port>,
    /// VLAN devices on ports.
    pub vlans: BTreeMap<VlanKey, Port>,
    /// Hosts behind members of bridges whose frames are taken, and after how many hundredths of a second the bridge sees one.
    pub hosts: BTreeMap<BridgedKey, u32>,
    /// The ways to hosts within their bridges.
    pub switched: BTreeMap<SwitchedKey, SwitchedHost>,
    /// By index.
    pub groups: BTreeMap<u32, NextHopGroup>,
    /// By index.
    pub adjacencies: BTreeMap<u32, Adjacency>,
    /// For lookups in the kernel: the adjacency of each neighbour, and our addresses.
    pub neighbours: BTreeMap<NeighbourKey, u32>,
    /// IPv4.
    pub fib4: Targets<u32>,
    /// IPv6.
    pub fib6: Targets<u128>,
    /// What policies of `IPsec` may cover, of IPv4 and of IPv6.
    pub policies: [Policies; 2],
    /// Devices that XDP transmits on.
    pub egress: BTreeSet<Ifindex>,
    /// [`dataplane_common::abi::Control::mirror`].
    pub mirror: u32,
    /// The features that ports and routes need; the filter adds its own.
    pub features: Features,
    /// What could not be done, for the operator. Packets concerned are left to the kernel.
    pub problems: Vec<Problem>,
}

impl Default for Want {
    /// Empty maps.
    fn default() -> Self {
        Self {
            ports: BTreeMap::new(),
            vlans: BTreeMap::new(),
            hosts: BTreeMap::new(),
            switched: BTreeMap::new(),
            groups: BTreeMap::new(),
            adjacencies: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            fib4: Targets::default(),
            fib6: Targets::default(),
            policies: [Policies::NONE; 2],
            egress: BTreeSet::new(),
            mirror: 0,
            features: Features::empty(),
            problems: Vec::new(),
        }
    }
}
