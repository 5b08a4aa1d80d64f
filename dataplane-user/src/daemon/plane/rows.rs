//! The rows of maps that a change is.

use dataplane_common::abi::{Adjacency, NextHopGroup, Port};

use crate::{
    diff::Change,
    kernel::{TableError, Tables},
};

/// Makes a change of the maps. Programs are no rows: see [`super::Plane::load`].
pub(super) fn write(tables: &mut Tables, change: &Change<'_>) -> Result<(), TableError> {
    match change {
        Change::Mirror(mirror) => tables.set_mirror(*mirror)?,
        Change::AddEgress(ifindex) => {
            // A device may vanish, or lose the ability, between its news and this.
            if let Err(error) = tables.add_egress(*ifindex) {
                tracing::warn!("{error}; tc sends packets through it");
            }
        }
        Change::Policies(family, [before, after]) => tables.write_policies(*family, before, after)?,
        Change::RemoveEgress(ifindex) => tables.remove_egress(*ifindex)?,
        Change::Adjacency(index, adjacency) => tables.write_adjacency(*index, adjacency),
        Change::RemoveAdjacency(index) => tables.write_adjacency(*index, &Adjacency::NONE),
        Change::Group(index, group) => tables.routing.write_group(*index, group)?,
        Change::RemoveGroup(index) => tables.routing.write_group(*index, &NextHopGroup::EMPTY)?,
        Change::Fib4(targets) => tables.routing.load_fib4(targets)?,
        Change::Fib6(targets) => tables.routing.load_fib6(targets)?,
        Change::Routes4(changes) => tables.routing.change_fib4(changes),
        Change::Routes6(changes) => tables.routing.change_fib6(changes),
        Change::Port(slot, port) => tables.write_port(*slot, port),
        Change::Vlan(key, port) => tables.write_vlan(*key, port)?,
        Change::Neighbour(key, index) => tables.write_neighbour(*key, *index)?,
        Change::RemoveNeighbour(key) => tables.remove_neighbour(*key)?,
        Change::RemoveVlan(key) => tables.remove_vlan(*key)?,
        Change::Host(key, period) => tables.bridged.write(*key, *period)?,
        Change::RemoveHost(key) => tables.bridged.remove(*key)?,
        Change::Switched(key, host) => tables.switched.write(*key, *host)?,
        Change::RemoveSwitched(key) => tables.switched.remove(*key)?,
        Change::RemovePort(slot) => tables.write_port(*slot, &Port::FREE),
        // Programs are no rows: see [`Plane::load`].
        Change::Features(_) => {}
    }
    Ok(())
}
