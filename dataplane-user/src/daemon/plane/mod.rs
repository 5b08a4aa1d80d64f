//! The data plane: what is written into the kernel, and what is attached there.

mod apply;
mod attach;
mod commit;
mod egress;
#[cfg(test)]
pub(super) mod fake;
mod gate;
mod kernel;
mod own_table;
mod patch;
mod port;
mod rows;
mod rx_handler;
mod verbs;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use dataplane_common::abi::{Counter, Features, Ifindex, Limit, PortCounters, TraceConfig};

use super::{desired::Desired, neighbour::Whose, observed::Observed, packets::Packets};
use crate::{
    filter::Image,
    kernel::{FlowMaps, Hook, Rings, TableError, TestRun, TestRunError},
    lower::{Lowering, Problem, Want},
};
use commit::Committed;
use egress::EgressState;
use gate::PortGate;
use own_table::TableState;

pub(super) use kernel::KernelPlane;
pub(super) use port::{Attached, Counted, Planned, Ports};
pub(super) use verbs::Plane;

/// What the other owners know, and the data plane depends on.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    observed: &'a Observed,
    desired: &'a Desired,
    /// What programs must be able to, for those who watch packets.
    watched: Features,
}

impl<'a> Facts<'a> {
    pub(super) fn new(observed: &'a Observed, desired: &'a Desired, packets: &Packets) -> Self {
        Self { observed, desired, watched: packets.features() }
    }
}

/// What is written, and what it is written to.
pub(super) struct DataPlane {
    /// What the maps are to hold of routes and ports.
    lowering: Lowering,
    /// The filter that is live.
    committed: Committed,
    /// A write failed, or none was tried: it is not known what the maps hold.
    dirty: bool,
    /// Why the maps could not be written, the last time.
    unwritten: Option<String>,
    /// What the operator has been told.
    problems: Vec<Problem>,
    /// Links whose packets wait.
    port_gate: PortGate,
    /// What the kernel decides of own rules.
    table: TableState,
    live: Live,
}

/// What is in the kernel: steps change it while what they write is borrowed.
struct Live {
    kernel: Box<dyn Plane>,
    /// The tables of the filter as last written.
    image: Image,
    ports: Ports,
    /// Ways out for packets that the kernel forwards.
    egress_state: EgressState,
    /// How many places of the tables the largest ones have no room for.
    exhausted: [usize; 2],
    /// Whether programs came or went since the mirror was told.
    relinked: bool,
}

impl DataPlane {
    /// `slots`: those of ports of an earlier daemon, which go on.
    pub(super) fn new(kernel: Box<dyn Plane>, slots: BTreeMap<Ifindex, u32>) -> Self {
        let live = Live {
            kernel,
            image: Image::default(),
            ports: Ports::new(slots.clone()),
            egress_state: EgressState::default(),
            exhausted: [0; 2],
            relinked: false,
        };
        Self {
            lowering: Lowering::new(slots),
            committed: Committed::default(),
            dirty: true,
            unwritten: None,
            problems: Vec::new(),
            port_gate: PortGate::default(),
            table: TableState::default(),
            live,
        }
    }

    /// Takes over ports of an earlier daemon that were left alone so far.
    pub(super) fn adopt(&mut self, slots: &BTreeMap<Ifindex, u32>) {
        self.lowering = Lowering::new(slots.clone());
        self.live.ports.adopt_slots(slots.clone());
        self.dirty = true;
    }

    /// What the maps are to hold.
    pub(super) fn want(&self) -> &Want {
        self.lowering.want()
    }

    /// Adjacencies by index, and whose they are.
    pub(super) fn next_hops(&self) -> impl Iterator<Item = (u32, Whose)> {
        self.lowering.next_hops()
    }

    /// Those that were used since this was called last.
    pub(super) fn take_used(&mut self) -> impl Iterator<Item = Whose> {
        let kernel = &mut self.live.kernel;
        self.lowering.next_hops().filter(move |(index, _)| kernel.take_used(*index)).map(|(_, whose)| whose)
    }

    /// What is attached, by index.
    pub(super) fn attached(&self) -> &BTreeMap<Ifindex, Attached> {
        self.live.ports.attached()
    }

    /// The ports.
    pub(super) fn ports(&self) -> &Ports {
        &self.live.ports
    }

    /// The ports, to be changed.
    pub(super) fn ports_mut(&mut self) -> &mut Ports {
        &mut self.live.ports
    }

    /// The slot of a port.
    pub(super) fn slot(&self, ifindex: Ifindex) -> Option<u32> {
        self.want().ports.iter().find(|(_, port)| port.ifindex == ifindex).map(|(slot, _)| *slot)
    }

    /// What the loaded programs can do.
    pub(super) fn features(&self) -> Features {
        self.live.kernel.features()
    }

    /// For which tables something was made that reads them, for [`super::epoch::PerEpoch`].
    pub(super) fn epoch(&self) -> u64 {
        self.live.kernel.epoch()
    }

    /// Whether programs came or went since this was called last.
    pub(super) fn take_relinked(&mut self) -> bool {
        std::mem::take(&mut self.live.relinked)
    }

    /// It is not known what the maps hold.
    pub(super) fn doubt(&mut self) {
        self.dirty = true;
    }

    /// Whether the maps do not hold what they should.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Why the maps could not be written, the last time.
    pub(super) fn unwritten(&self) -> Option<&String> {
        self.unwritten.as_ref()
    }

    /// Whether the rules that are live are not those that are wanted.
    pub(super) fn is_stale(&self) -> bool {
        self.committed.is_stale()
    }

    /// Why the maps do not hold what they should.
    pub(super) fn amiss(&self) -> Option<String> {
        let stale = || self.is_stale().then(|| "the rules could not be written".to_owned());
        self.live.ports.postponed().values().next().or(self.unwritten.as_ref()).cloned().or_else(stale)
    }

    /// What is left to the kernel, and why.
    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Limits by the counters of the rules that are live.
    pub(super) fn limits(&self) -> &BTreeMap<u32, Limit> {
        self.committed.limits()
    }

    /// Begins to hold what an earlier daemon left: it stays, or all is dropped.
    pub(super) fn hold(&mut self, attached: bool) {
        self.live.kernel.hold(attached);
    }

    /// Removes what earlier daemons left. `trusted`: that all was dropped holds no longer.
    pub(super) fn clear_away(&mut self, trusted: bool) {
        self.live.drop_stale_links();
        self.live.kernel.clear_away(trusted);
    }

    /// The links that have a program of ours at tc egress.
    pub(super) fn at_egress(&self) -> BTreeSet<Ifindex> {
        let attached = self.live.kernel.attached().into_iter();
        attached.filter(|(_, hook)| *hook == Hook::TcEgress).map(|(ifindex, _)| ifindex).collect()
    }

    /// The mode that an earlier daemon attached a port in.
    pub(super) fn attached_mode(&self, ifindex: Ifindex) -> &'static str {
        self.live.kernel.attached_mode(ifindex)
    }

    /// Programs like those in use, to run packets on.
    pub(super) fn dry_run(&mut self, features: Features) -> Result<TestRun, TestRunError> {
        self.live.kernel.dry_run(features)
    }

    /// The counters of a slot.
    pub(super) fn port_counters(&self, slot: u32) -> Result<PortCounters, TableError> {
        self.live.kernel.port_counters(slot)
    }

    /// The counter of a rule.
    pub(super) fn rule_counter(&self, counter: u32) -> Result<Counter, TableError> {
        self.live.kernel.rule_counter(counter)
    }

    /// How many packets found no room in the ring of those that are watched for.
    pub(super) fn missed(&self) -> Result<u64, TableError> {
        self.live.kernel.missed()
    }

    /// The rings, for who takes them first.
    pub(super) fn rings(&mut self) -> Result<Option<Rings>, TableError> {
        self.live.kernel.rings()
    }

    /// Sums over ports that are no more.
    pub(super) fn retired(&self) -> &Counted {
        self.live.ports.retired()
    }

    /// Says until when the maps are trusted.
    pub(super) fn write_heartbeat(&mut self, until: u64) -> Result<(), TableError> {
        self.live.kernel.write_heartbeat(until)
    }

    /// Says what is watched for, and loads programs that look, or that do not.
    pub(super) fn watch(&mut self, watch: &TraceConfig, facts: Facts<'_>) -> anyhow::Result<()> {
        self.live.kernel.write_watch(watch)?;
        let features = self.features().difference(Features::TRACING) | facts.watched;
        self.live.load(features, facts)
    }

    /// Whether losses behind redirects are counted, or why not.
    pub(super) fn losses(&self) -> Option<Result<(), &str>> {
        self.live.kernel.losses()
    }

    /// Others that take frames of ports; none where that is not known any more.
    pub(super) fn rx_handlers(&mut self) -> Option<BTreeMap<Ifindex, String>> {
        if self.attached().is_empty() { None } else { self.live.kernel.rx_handlers() }
    }

    /// Puts pins back that somebody removed.
    pub(super) fn mend_pins(&mut self) {
        self.live.kernel.mend_pins();
    }

    /// Why that cannot be done, and how many were put back.
    pub(super) fn pins(&self) -> (Option<&str>, usize) {
        self.live.kernel.pins()
    }

    /// Where the maps of connections are pinned; none where there is no kernel.
    pub(super) fn flow_place(&self) -> Option<PathBuf> {
        self.live.kernel.flow_place().map(Path::to_owned)
    }

    /// These maps.
    pub(super) fn flow_maps(&self) -> Result<FlowMaps, TableError> {
        self.live.kernel.flow_maps()
    }

    /// The BPF file system.
    pub(super) fn root(&self) -> &Path {
        self.live.kernel.root()
    }

    /// Lets go of memory that is at hand.
    pub(super) fn rest(&mut self) {
        self.live.kernel.rest();
    }
}
