//! Changes become map writes and program swaps, in the order that the diff gives.

use anyhow::{Context as _, anyhow};
use dataplane_common::abi::Features;

use super::{DataPlane, Facts, Live};
use crate::{
    config::NetfilterChoice,
    daemon::guard::guarded,
    diff::{Change, Have, order},
    fib::TableSizes,
    lower::{Problem, Update, Want},
    model::{IpVersion, Touched},
    retired::Grace,
};

impl DataPlane {
    /// Lowers what changed.
    pub(in crate::daemon) fn lower(&mut self, touched: &Touched, facts: Facts<'_>) -> Update {
        let attachments = self.live.ports.attachments(facts.desired.flows());
        self.lowering.update(facts.observed.model(), &attachments, touched)
    }

    /// Makes the maps hold what was lowered, when they lack no more than `update`; everything, where that is not known. Says
    /// what could not be done. After a failure everything is written again next time.
    ///
    /// # Errors
    /// Why the maps do not hold what they should.
    pub(in crate::daemon) fn apply(&mut self, update: Update, facts: Facts<'_>) -> Result<(), String> {
        let update = if self.dirty { Update::anew(self.lowering.want()) } else { update };
        let rules = facts.desired.chains().features();
        let done = guarded(|| self.live.write(&update, self.lowering.want(), rules, facts));
        let done = done.unwrap_or_else(|panic| Err(anyhow!("{panic}")));
        self.dirty = done.is_err();
        if let Ok(Some(grace)) = &done {
            self.lowering.grace_passed(grace);
        }
        let done = done.map_err(|error| format!("the maps could not be brought up to date: {error:#}"));
        self.note_written(done.as_ref().err());
        self.note_problems();
        done.map(drop)
    }

    fn note_written(&mut self, unwritten: Option<&String>) {
        if let Some(error) = unwritten.filter(|_| unwritten != self.unwritten.as_ref()) {
            tracing::error!("{error}; the daemon retries each second");
        }
        self.unwritten = unwritten.cloned();
    }

    fn note_problems(&mut self) {
        let full = [IpVersion::V4, IpVersion::V6].into_iter().zip(self.live.kernel.overflowed());
        let full = full.filter(|(_, left)| *left != 0).map(|(version, left)| Problem::RoutesFull { version, left });
        let problems: Vec<_> = self.lowering.want().problems.iter().cloned().chain(full).collect();
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.problems = problems;
    }

    /// Writes ports ahead of all else, where the programs can do what they ask for. Whether that could be.
    pub(in crate::daemon) fn enter_ports(&mut self, update: &Update) -> bool {
        let want = self.lowering.want();
        if self.dirty || update.anew || !self.live.kernel.features().contains(want.features) {
            return false;
        }
        if !update.ports.is_empty() {
            self.live.retire_slots(&want.ports);
            for (slot, port) in update.ports.iter().filter_map(|(slot, port)| Some((*slot, (*port)?))) {
                if let Err(error) = self.live.kernel.apply(&Change::Port(slot, port)) {
                    tracing::error!("{error}");
                    return false;
                }
            }
        }
        true
    }
}

impl Live {
    /// Writes an update. Where something was removed that packets may hold, none of them does afterwards.
    fn write(
        &mut self,
        update: &Update,
        want: &Want,
        rules: Features,
        facts: Facts<'_>,
    ) -> anyhow::Result<Option<Grace>> {
        if !update.ports.is_empty() || update.anew {
            self.retire_slots(&want.ports);
        }
        if update.anew {
            self.kernel.keep(want)?;
        }
        let have = Have { mirror: self.kernel.mirror(), features: self.kernel.features() };
        let goal = Have {
            mirror: want.mirror,
            features: want.features | rules | facts.watched | Self::expected_features(facts),
        };
        let changes = order(have, goal, update, want);
        let flips = changes.steps.iter().any(Change::is_route);
        let mut steps = changes.steps.iter().peekable();
        if let Some(first) = steps.next_if(|step| matches!(step, Change::Mirror(_))) {
            self.step(first, facts)?;
        }
        if flips {
            // The idle generation was live until the last flip: whoever read it then must be done. So must be who read what no
            // longer holds of the mirror.
            self.kernel.wait();
        }
        let mut waited = !flips;
        for step in steps {
            if !waited && matches!(step, Change::RemoveGroup(_) | Change::RemoveAdjacency(_)) {
                // A program that still reads the table of before may be on its way to these.
                self.kernel.wait();
                waited = true;
            }
            self.step(step, facts)?;
        }
        self.make_room(want, facts)?;
        let frees_index = |step: &Change<'_>| {
            matches!(step, Change::RemovePort(_) | Change::RemoveGroup(_) | Change::RemoveAdjacency(_))
        };
        // A program that found a port still counts in its slot, and one that found a neighbour still uses its adjacency.
        let removed = update.anew || changes.steps.iter().any(frees_index);
        Ok(removed.then(|| self.kernel.wait()))
    }

    fn step(&mut self, step: &Change<'_>, facts: Facts<'_>) -> anyhow::Result<()> {
        match step {
            Change::Features(features) => self.load(*features, facts),
            row => Ok(self.kernel.apply(row)?),
        }
    }

    /// Moves routes and rules into larger tables, which are whole before any program reads them; whether these were larger.
    pub(super) fn grow(&mut self, sizes: TableSizes, want: &Want, facts: Facts<'_>) -> anyhow::Result<bool> {
        if sizes == self.kernel.sizes() {
            return Ok(false);
        }
        let hooks = self.hooks_in_use(self.kernel.features(), facts);
        self.kernel.grow(sizes, &hooks, want, &self.image)?;
        self.swap(facts).context("programs that read larger tables could not be put in place")?;
        Ok(true)
    }

    /// Makes the room that the config asks for, and finds some for routes that found none: by painting all anew, without the gaps
    /// that changes have left, and then in larger tables. What has been tried in vain is tried again when something else is left
    /// over.
    fn make_room(&mut self, want: &Want, facts: Facts<'_>) -> anyhow::Result<()> {
        let asked = facts.desired.fib();
        let asked = TableSizes::for_routes(asked.ipv4_routes as usize, asked.ipv6_routes as usize);
        self.grow(flow_room(self.kernel.sizes().joined(asked), want, facts), want, facts)?;
        if self.kernel.overflowed() == self.exhausted {
            return Ok(());
        }
        self.kernel.wait();
        if self.kernel.overflowed()[0] != 0 {
            self.kernel.apply(&Change::Fib4(&want.fib4))?;
        }
        if self.kernel.overflowed()[1] != 0 {
            self.kernel.apply(&Change::Fib6(&want.fib6))?;
        }
        while self.grow(self.kernel.sizes().enlarged_for(self.kernel.overflowed()), want, facts)? {}
        self.exhausted = self.kernel.overflowed();
        Ok(())
    }

    /// Loads the programs with other features and swaps them in at every port.
    pub(super) fn load(&mut self, features: Features, facts: Facts<'_>) -> anyhow::Result<()> {
        if features == self.kernel.features() {
            return Ok(());
        }
        let hooks = self.hooks_in_use(features, facts);
        self.kernel.load(features, &hooks)?;
        self.swap(facts)
    }

    /// Swaps the programs that were loaded in at every port: at all of them, or those of before stay, or come back.
    fn swap(&mut self, facts: Facts<'_>) -> anyhow::Result<()> {
        let Err(error) = self.relink(facts) else { return self.kernel.settle() };
        self.kernel.take_back();
        if let Err(error) = self.relink(facts) {
            tracing::error!("the previous programs could not be restored everywhere: {error:#}");
        }
        Err(error)
    }
}

/// From these sizes, with rows for connections while some may be carried. They stay when rules forbid it for a while.
fn flow_room(sizes: TableSizes, want: &Want, facts: Facts<'_>) -> TableSizes {
    let flows = facts.desired.flows();
    match (flows.netfilter, want.features.contains(Features::FLOWS)) {
        (_, true) => sizes.with_flows(Some(flows.max)),
        (NetfilterChoice::Follow, false) => sizes,
        (NetfilterChoice::Bypass, false) => sizes.with_flows(None),
    }
}
