//! Changes become map writes and program swaps, in the order that the diff gives.

use anyhow::Context as _;
use dataplane_common::abi::{Adjacency, Features, Fib4, Fib6, NextHopGroup, Port};
use zerocopy::FromZeros as _;

use super::Daemon;
use crate::{
    diff::{Change, Have, order},
    kernel::{Object, grace},
    lower::{Lowering, Table, Targets, Update, Want},
    model::{Family, IpVersion},
};

/// A table has more intervals than its map has room for.
#[derive(Debug, thiserror::Error)]
#[error("the {version} routes make {found} intervals")]
pub(super) struct TableFull {
    /// Of which family.
    pub version: IpVersion,
    /// How many there are.
    pub found: usize,
}

impl Daemon {
    /// Makes the maps hold what was lowered, when they lack no more than `update`. After a failure everything is written
    /// again next time.
    pub(super) fn apply(&mut self, update: &Update) -> anyhow::Result<()> {
        // Steps borrow what was lowered, and change all the rest.
        let lowering = std::mem::replace(&mut self.lowering, Lowering::new([].into()));
        let done = self.write(update, lowering.want());
        self.lowering = lowering;
        self.behind = done.is_err();
        if done.is_ok() {
            self.lowering.grace_passed();
        }
        done
    }

    fn write(&mut self, update: &Update, want: &Want) -> anyhow::Result<()> {
        if !update.ports.is_empty() || update.anew {
            self.retire_slots(&want.ports);
        }
        let have = Have { mirror: self.tables.mirror(), features: self.object.features() };
        let goal = Have { mirror: want.mirror, features: want.features | self.chains.features() };
        let changes = order(have, goal, update, want);
        let flip = |step: &Change<'_>| {
            matches!(step, Change::Fib4(_) | Change::Fib6(_) | Change::Routes4(_) | Change::Routes6(_))
        };
        let flips = changes.steps.iter().any(flip);
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
            self.step(step, want)?;
        }
        if changes.steps.iter().any(|step| matches!(step, Change::RemovePort(_))) {
            // Whoever found the port still counts in its slot.
            grace();
        }
        Ok(())
    }

    fn step(&mut self, step: &Change<'_>, want: &Want) -> anyhow::Result<()> {
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
            Change::Fib4(_) | Change::Routes4(_) => {
                let mut fib = Fib4::new_box_zeroed().ok().context("no memory for the IPv4 table")?;
                table(&want.fib4)?.write_into(&mut *fib);
                self.tables.flip_fib4(&fib)?;
            }
            Change::Fib6(_) | Change::Routes6(_) => {
                let mut fib = Fib6::new_box_zeroed().ok().context("no memory for the IPv6 table")?;
                table(&want.fib6)?.write_into(&mut *fib);
                self.tables.flip_fib6(&fib)?;
            }
            Change::Port(slot, port) => self.tables.write_port(*slot, port)?,
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

/// The cuts of a table, as its map holds them.
fn table<A: Family>(targets: &Targets<A>) -> Result<Table<A>, TableFull> {
    let cuts = targets.cuts();
    let found = cuts.len();
    Table::new(cuts).ok_or(TableFull { version: A::VERSION, found })
}
