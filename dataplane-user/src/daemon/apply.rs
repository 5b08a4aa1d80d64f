//! Changes become map writes and program swaps, in the order that the diff gives.

use anyhow::anyhow;
use dataplane_common::abi::{Adjacency, Features, NextHopGroup, Port};

use super::{Daemon, guard::guarded};
use crate::{
    diff::{Change, Have, order},
    fib::TableSizes,
    kernel::{GrowableMaps, Object, PinDirs, grace},
    lower::{Lowering, Update, Want},
};

impl Daemon {
    /// Makes the maps hold what was lowered, when they lack no more than `update`. After a failure everything is written
    /// again next time.
    pub(super) fn apply(&mut self, update: &Update) -> anyhow::Result<()> {
        // Steps borrow what was lowered, and change all the rest.
        let lowering = std::mem::replace(&mut self.lowering, Lowering::new([].into()));
        let done = guarded(|| self.write(update, lowering.want())).unwrap_or_else(|panic| Err(anyhow!("{panic}")));
        self.lowering = lowering;
        self.maps_dirty = done.is_err();
        if done.is_ok() {
            self.lowering.grace_passed();
        }
        done
    }

    fn write(&mut self, update: &Update, want: &Want) -> anyhow::Result<()> {
        if !update.ports.is_empty() || update.anew {
            self.retire_slots(&want.ports);
        }
        if update.anew {
            self.tables.keep_vlans(&want.vlans)?;
            self.tables.keep_neighbours(&want.neighbours)?;
        }
        let have = Have { mirror: self.tables.mirror(), features: self.object.features() };
        let goal = Have {
            mirror: want.mirror,
            features: want.features
                | self.chains.features()
                | self.trace_subscribers.features()
                | self.expected_features(),
        };
        let changes = order(have, goal, update, want);
        let flip = |step: &Change<'_>| {
            matches!(step, Change::Fib4(_) | Change::Fib6(_) | Change::Routes4(_) | Change::Routes6(_))
        };
        let flips = changes.steps.iter().any(flip);
        let mut steps = changes.steps.iter().peekable();
        if let Some(first) = steps.next_if(|step| matches!(step, Change::Mirror(_))) {
            self.step(first)?;
        }
        if flips {
            // The idle generation was live until the last flip: whoever read it then must be done. So must be who read what no
            // longer holds of the mirror.
            grace();
        }
        let mut waited = !flips;
        for step in steps {
            if !waited && matches!(step, Change::RemoveGroup(_) | Change::RemoveAdjacency(_)) {
                // Whoever still reads the table of before may be on its way to these.
                grace();
                waited = true;
            }
            self.step(step)?;
        }
        self.make_room(want)?;
        if changes.steps.iter().any(|step| matches!(step, Change::RemovePort(_))) {
            // Whoever found the port still counts in its slot.
            grace();
        }
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
            Change::Policies(family, [before, after]) => self.tables.write_policies(*family, before, after)?,
            Change::RemoveEgress(ifindex) => self.tables.remove_egress(*ifindex)?,
            Change::Adjacency(index, adjacency) => self.tables.write_adjacency(*index, adjacency),
            Change::RemoveAdjacency(index) => self.tables.write_adjacency(*index, &Adjacency::NONE),
            Change::Group(index, group) => self.tables.routing.write_group(*index, group)?,
            Change::RemoveGroup(index) => self.tables.routing.write_group(*index, &NextHopGroup::EMPTY)?,
            Change::Fib4(targets) => self.tables.routing.load_fib4(targets)?,
            Change::Fib6(targets) => self.tables.routing.load_fib6(targets)?,
            Change::Routes4(changes) => self.tables.routing.change_fib4(changes),
            Change::Routes6(changes) => self.tables.routing.change_fib6(changes),
            Change::Port(slot, port) => self.tables.write_port(*slot, port),
            Change::Vlan(key, port) => self.tables.write_vlan(*key, port)?,
            Change::Neighbour(key, index) => self.tables.write_neighbour(*key, *index)?,
            Change::RemoveNeighbour(key) => self.tables.remove_neighbour(*key)?,
            Change::RemoveVlan(key) => self.tables.remove_vlan(*key)?,
            Change::RemovePort(slot) => self.tables.write_port(*slot, &Port::FREE),
            Change::Features(features) => self.load(*features)?,
        }
        Ok(())
    }

    /// Moves routes and rules into larger tables, which are whole before any program reads them; whether these were larger.
    pub(super) fn grow(&mut self, sizes: TableSizes, want: &Want) -> anyhow::Result<bool> {
        if sizes == self.sizes {
            return Ok(false);
        }
        self.mend_pins();
        self.generation += 1;
        let pin_dirs = self.bpffs.pin_dirs(self.generation)?;
        let larger = self.larger(sizes, &pin_dirs, want);
        let (object, routing) = larger.inspect_err(|_| self.bpffs.forget_routing(&pin_dirs))?;
        let before = std::mem::replace(&mut self.tables.routing, routing);
        // It would hold on to the old maps.
        self.self_test = None;
        if let Err(error) = self.swap(object) {
            self.tables.routing = before;
            self.bpffs.forget_routing(&pin_dirs);
            return Err(error.context("programs that read larger tables could not be put in place"));
        }
        self.sizes = sizes;
        self.dry_run = None;
        before.retire()?;
        self.pins.hold(&pin_dirs)?;
        self.pins.forget(&self.pin_dirs.routing);
        self.bpffs.forget_routing(&std::mem::replace(&mut self.pin_dirs, pin_dirs));
        tracing::info!(?sizes, "larger tables");
        Ok(true)
    }

    /// Larger tables with all routes, and programs that read them.
    fn larger(&self, sizes: TableSizes, pin_dirs: &PinDirs, want: &Want) -> anyhow::Result<(Object, GrowableMaps)> {
        let features = self.object.features();
        let mut object = Object::open(features, sizes, pin_dirs)?;
        object.ready(&self.hooks_in_use(features))?;
        let mut routing = GrowableMaps::take(&mut object, sizes)?;
        for (index, group) in &want.groups {
            routing.write_group(*index, group)?;
        }
        routing.load_fib4(&want.fib4)?;
        routing.load_fib6(&want.fib6)?;
        routing.load_filter(&self.image)?;
        routing.continue_from(&self.tables.routing)?;
        Ok((object, routing))
    }

    /// Makes the room that the config asks for, and finds some for routes that found none: by painting all anew, without the
    /// gaps that changes have left, and then in larger tables. What has been tried in vain is tried again when something else
    /// is left over.
    fn make_room(&mut self, want: &Want) -> anyhow::Result<()> {
        let asked = TableSizes::for_routes(self.fib.ipv4_routes as usize, self.fib.ipv6_routes as usize);
        self.grow(self.sizes.joined(asked), want)?;
        if self.tables.routing.overflowed() == self.exhausted {
            return Ok(());
        }
        grace();
        if self.tables.routing.overflowed()[0] != 0 {
            self.tables.routing.load_fib4(&want.fib4)?;
        }
        if self.tables.routing.overflowed()[1] != 0 {
            self.tables.routing.load_fib6(&want.fib6)?;
        }
        while self.grow(self.sizes.enlarged_for(self.tables.routing.overflowed()), want)? {}
        self.exhausted = self.tables.routing.overflowed();
        Ok(())
    }

    /// Loads the programs with other features and swaps them in at every port.
    pub(super) fn load(&mut self, features: Features) -> anyhow::Result<()> {
        if features == self.object.features() {
            return Ok(());
        }
        self.mend_pins();
        let mut object = Object::open(features, self.sizes, &self.pin_dirs)?;
        // Before the first port gets them: one that is refused changes nothing.
        object.ready(&self.hooks_in_use(features))?;
        self.swap(object)
    }

    /// Swaps other programs in at every port: at all of them, or those of before stay, or come back.
    fn swap(&mut self, object: Object) -> anyhow::Result<()> {
        let before = std::mem::replace(&mut self.object, object);
        let Err(error) = self.relink() else { return Ok(()) };
        self.object = before;
        if let Err(error) = self.relink() {
            tracing::error!("the programs of before could not be put back everywhere: {error:#}");
        }
        Err(error)
    }
}
