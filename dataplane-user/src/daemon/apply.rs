//! Changes become map writes and program swaps, in the order that the diff gives.

use anyhow::Context as _;
use dataplane_common::abi::{Adjacency, Features, Fib4, Fib6, NextHopGroup, Port};
use zerocopy::FromZeros as _;

use super::Daemon;
use crate::{
    diff::{Change, diff},
    kernel::{Object, grace},
    lower::Want,
};

impl Daemon {
    /// Makes the maps hold `want`. What was written when something fails is written again next time.
    pub(super) fn apply(&mut self, want: Want) -> anyhow::Result<()> {
        self.retire_slots(&want.ports);
        let have = std::mem::take(&mut self.have);
        let changes = diff(&have, &want);
        let flips = changes.steps.iter().any(|step| matches!(step, Change::Fib4(_) | Change::Fib6(_)));
        if flips {
            // The idle generation was live until the last flip: whoever read it then must be done.
            grace();
        }
        let mut waited = !flips;
        for step in &changes.steps {
            if !waited && matches!(step, Change::RemoveGroup(_) | Change::RemoveAdjacency(_)) {
                // Whoever still reads the table of before may be on its way to these.
                grace();
                waited = true;
            }
            if let Err(error) = self.step(step) {
                // Nothing is known for certain now: next time everything is written again.
                self.have = Want { ports: have.ports.clone(), ..Want::default() };
                // What may be there has to be known, to be removed.
                let vlans = have.vlans.keys().chain(want.vlans.keys());
                self.have.vlans = vlans.map(|key| (*key, Port::default())).collect();
                self.have.features = self.object.features();
                return Err(error);
            }
        }
        self.have = want;
        self.lowering.grace_passed();
        Ok(())
    }

    fn step(&mut self, step: &Change<'_>) -> anyhow::Result<()> {
        match step {
            Change::Mirror(mirror) => self.tables.set_mirror(*mirror)?,
            Change::AddEgress(ifindex) => {
                // A device may vanish, or lose the ability, between its news and this.
                if let Err(error) = self.tables.add_egress(*ifindex) {
                    tracing::warn!("{error}; packets for it take tc");
                }
            }
            Change::RemoveEgress(ifindex) => self.tables.remove_egress(*ifindex)?,
            Change::Adjacency(index, adjacency) => self.tables.write_adjacency(*index, adjacency)?,
            Change::RemoveAdjacency(index) => self.tables.write_adjacency(*index, &Adjacency::default())?,
            Change::Group(index, group) => self.tables.write_group(*index, group)?,
            Change::RemoveGroup(index) => self.tables.write_group(*index, &NextHopGroup::EMPTY)?,
            Change::Fib4(table) => {
                let mut fib = Fib4::new_box_zeroed().ok().context("no memory for the IPv4 table")?;
                table.write_into(&mut *fib);
                self.tables.flip_fib4(&fib)?;
            }
            Change::Fib6(table) => {
                let mut fib = Fib6::new_box_zeroed().ok().context("no memory for the IPv6 table")?;
                table.write_into(&mut *fib);
                self.tables.flip_fib6(&fib)?;
            }
            Change::Port(slot, port) => self.tables.write_port(*slot, port)?,
            Change::Vlan(key, port) => self.tables.write_vlan(*key, port)?,
            Change::RemoveVlan(key) => self.tables.remove_vlan(*key)?,
            Change::RemovePort(slot) => self.tables.write_port(*slot, &Port::default())?,
            Change::Features(features) => self.load(*features)?,
        }
        Ok(())
    }

    /// Loads the programs with other features and swaps them in at every port.
    pub(super) fn load(&mut self, features: Features) -> anyhow::Result<()> {
        if features == self.object.features() {
            return Ok(());
        }
        self.object = Object::load(features, &self.bpffs.lasting(), &self.bpffs.epoch())?;
        self.relink();
        Ok(())
    }
}
