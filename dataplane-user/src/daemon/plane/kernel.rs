//! The verbs of the data plane, as the kernel does them.

mod larger;

use std::{collections::BTreeMap, path::Path};

use dataplane_common::abi::{Counter, EgressClasses, EgressLink, Features, Ifindex, Limit, PortCounters, TraceConfig};

use super::{
    rows, rx_handler,
    verbs::{GateStep, Plane, TableStep},
    verify,
};
use crate::{
    daemon::{epoch::PerEpoch, pin::PinHealth},
    diff::Change,
    fib::TableSizes,
    filter::{Image, Patch, SelfTest},
    kernel::{
        Batch, Bpffs, FlowMaps, Hook, LinkError, Links, Object, ObjectError, PinDirs, Pins, Rings, SelfTester, Staged,
        TableError, Tables, TestRun, TestRunError, TxErrorMonitor, Verified, grace,
    },
    lower::Want,
    netlink::{Gate, OwnTableSocket},
    retired::Grace,
};
use larger::Former;

/// Maps, programs, and where these are attached.
pub(in crate::daemon) struct KernelPlane {
    bpffs: Bpffs,
    object: Object,
    tables: Tables,
    /// What the tables of routes and rules were made with.
    sizes: TableSizes,
    /// Where their maps are pinned; how often they were made anew.
    pin_dirs: PinDirs,
    generation: u32,
    /// What [`Plane::load`] and [`Plane::grow`] took the place of.
    former: Option<Former>,
    /// Programs that were in use before with these tables, and other features.
    spare: Option<Object>,
    pins: Pins,
    pin_health: PinHealth,
    links: Links,
    tx_errors: TxErrorMonitor,
    /// Whether losses behind redirects are counted, or why not; `None` while they need not be.
    tx_error_status: Option<Result<(), String>>,
    rx_handlers: rx_handler::RxWatch,
    /// The program that tries the tables of a commit.
    self_tester: PerEpoch<SelfTester>,
    gate: Gate,
    /// Opened when it is needed.
    own_table: Option<OwnTableSocket>,
}

impl KernelPlane {
    /// Makes fresh maps beside those that an earlier daemon left. Programs are loaded for the first port that needs them.
    pub(in crate::daemon) fn new(
        bpffs: Bpffs,
        links: Links,
        pin_dirs: PinDirs,
        features: Features,
    ) -> anyhow::Result<Self> {
        let (sizes, generation) = (TableSizes::SMALL, 0);
        let mut object = Object::open(features, sizes, &pin_dirs)?;
        let tables = Tables::take(&mut object, sizes)?;
        let mut pins = Pins::default();
        pins.hold(&pin_dirs)?;
        Ok(Self {
            object,
            tables,
            sizes,
            pin_dirs,
            generation,
            former: None,
            spare: None,
            pins,
            pin_health: PinHealth::default(),
            links,
            tx_errors: TxErrorMonitor::new(bpffs.links()),
            tx_error_status: None,
            rx_handlers: rx_handler::RxWatch::default(),
            self_tester: PerEpoch::default(),
            gate: Gate::of(&bpffs.links()),
            own_table: None,
            bpffs,
        })
    }

    fn mend(&mut self) -> anyhow::Result<usize> {
        self.bpffs.mend()?;
        let mut mended = self.pins.mend()? + self.links.mend()?;
        if matches!(self.tx_error_status, Some(Ok(()))) && !self.tx_errors.are_observed() {
            mended += 1;
            self.observe();
        }
        if self.rx_handlers.is_unpinned() {
            self.rx_handlers.renew(self.sizes, &self.pin_dirs)?;
            mended += 1;
        }
        Ok(mended)
    }

    fn observe(&mut self) {
        let done = self.tx_errors.observe(self.sizes, &self.pin_dirs).map_err(|error| error.to_string());
        if let Err(error) = &done {
            tracing::warn!(
                "frames that an egress device does not take count as forwarded, not as redirect_failed: {error}"
            );
        }
        self.tx_error_status = Some(done);
    }
}

impl Plane for KernelPlane {
    fn apply(&mut self, change: &Change<'_>) -> Result<(), TableError> {
        rows::write(&mut self.tables, change)
    }

    fn keep(&mut self, want: &Want) -> Result<(), TableError> {
        self.tables.keep_vlans(&want.vlans)?;
        self.tables.bridged.keep(&want.hosts)?;
        self.tables.switched.keep(&want.switched)?;
        self.tables.keep_neighbours(&want.neighbours)
    }

    fn wait(&mut self) -> Grace {
        grace()
    }

    fn stage(&mut self, image: &Image) -> Result<Staged, TableError> {
        self.tables.routing.stage_filter(image)
    }

    fn verify(&mut self, staged: Staged, tests: &[SelfTest]) -> anyhow::Result<Verified> {
        let (epoch, sizes, place) = (self.epoch(), self.sizes, &self.pin_dirs);
        verify::verify(&mut self.self_tester, epoch, || SelfTester::load(sizes, place), staged, tests)
    }

    fn flip(&mut self, verified: Verified) -> Result<(), TableError> {
        self.tables.routing.flip_filter(verified)
    }

    fn write_limit(&mut self, counter: u32, limit: &Limit) -> Result<(), TableError> {
        self.tables.write_limit(counter, limit)
    }

    fn remove_limit(&mut self, counter: u32) -> Result<(), TableError> {
        self.tables.remove_limit(counter)
    }

    fn patch(&mut self, image: &Image, patch: &Patch) -> Result<(), TableError> {
        self.tables.routing.patch_filter(image, patch)
    }

    fn sizes(&self) -> TableSizes {
        self.sizes
    }

    fn epoch(&self) -> u64 {
        self.generation.into()
    }

    fn overflowed(&self) -> [usize; 2] {
        self.tables.routing.overflowed()
    }

    fn grow(&mut self, sizes: TableSizes, hooks: &[Hook], want: &Want, image: &Image) -> anyhow::Result<()> {
        self.mend_pins();
        self.generation += 1;
        self.spare = None;
        // It would hold on to the maps of before.
        self.self_tester.clear();
        let place = self.bpffs.pin_dirs(self.generation)?;
        let larger = self.larger((sizes, &place), hooks, want, image);
        let (object, routing) = larger.inspect_err(|_| self.bpffs.forget_routing(&place))?;
        self.place(object, Some((routing, sizes, place)));
        Ok(())
    }

    fn load(&mut self, features: Features, hooks: &[Hook]) -> anyhow::Result<()> {
        self.mend_pins();
        let mut object = self.with_features(features)?;
        // Before the first port gets them: one that is refused changes nothing.
        object.ready(hooks)?;
        self.place(object, None);
        Ok(())
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        self.forget_former()
    }

    fn take_back(&mut self) {
        let Some(Former { object, tables }) = self.former.take() else { return };
        self.object = object;
        if let Some((routing, sizes, place)) = tables {
            (self.tables.routing, self.sizes) = (routing, sizes);
            self.bpffs.forget_routing(&std::mem::replace(&mut self.pin_dirs, place));
        }
    }

    fn features(&self) -> Features {
        self.object.features()
    }

    fn flow_place(&self) -> Option<&Path> {
        Some(&self.pin_dirs.routing)
    }

    fn flow_maps(&self) -> Result<FlowMaps, TableError> {
        FlowMaps::open(&self.pin_dirs.routing, self.sizes)
    }

    fn ready(&mut self, hooks: &[Hook]) -> Result<(), ObjectError> {
        self.object.ready(hooks)
    }

    fn begin_batch(&self) -> Batch {
        self.links.begin_batch()
    }

    fn attach(&mut self, ifindex: Ifindex, name: &str, hook: Hook) -> Result<(), LinkError> {
        self.links.attach(&mut self.object, ifindex, name, hook)
    }

    fn detach(&mut self, ifindex: Ifindex, hook: Hook) -> Result<(), LinkError> {
        self.links.detach(ifindex, hook)
    }

    fn attached(&self) -> Vec<(Ifindex, Hook)> {
        self.links.list()
    }

    fn attached_mode(&self, ifindex: Ifindex) -> &'static str {
        self.links.mode(ifindex)
    }

    fn hold(&mut self, attached: bool) {
        if let Err(error) = self.bpffs.set_closed(!attached) {
            tracing::error!("{error}");
        }
        if attached && let Err(error) = self.links.hold() {
            tracing::error!("{error}");
        }
        self.bpffs.forget_empty();
    }

    fn clear_away(&mut self, trusted: bool) {
        self.bpffs.forget_others();
        if trusted && let Err(error) = self.bpffs.set_closed(false) {
            tracing::error!("{error}");
        }
    }

    fn gate(&mut self, step: GateStep<'_>) -> Result<(), String> {
        let done = match step {
            GateStep::Write(rules, ready) => self.gate.write(rules, ready),
            GateStep::Admit(links) => self.gate.admit(links),
            GateStep::Dismiss(links) => self.gate.hold_back(links),
            GateStep::Remove => self.gate.remove(),
        };
        done.map_err(|error| error.to_string())
    }

    fn gate_name(&self) -> &str {
        self.gate.name()
    }

    fn table(&mut self, step: TableStep<'_>) -> Result<(), String> {
        let opened = self.own_table.take().map_or_else(OwnTableSocket::open, Ok).map_err(|error| error.to_string())?;
        let socket = self.own_table.insert(opened);
        let done = match step {
            TableStep::Write(table) => socket.write(table),
            TableStep::Remove => socket.remove(),
            TableStep::Elements(set, puts, elements) => socket.change_elements(set, puts, elements),
        };
        done.map_err(|error| error.to_string())
    }

    fn is_table_gone(&mut self) -> bool {
        self.own_table.as_mut().is_some_and(OwnTableSocket::is_gone)
    }

    fn table_port(&mut self) -> Option<u32> {
        self.own_table.as_mut()?.port().ok()
    }

    fn writes_tables(&self) -> bool {
        true
    }

    fn dry_run(&mut self, features: Features) -> Result<TestRun, TestRunError> {
        self.mend_pins();
        TestRun::open(features, self.sizes, &self.pin_dirs)
    }

    fn mirror(&self) -> u32 {
        self.tables.mirror()
    }

    fn write_heartbeat(&mut self, until: u64) -> Result<(), TableError> {
        self.tables.write_heartbeat(until)
    }

    fn write_watch(&mut self, watch: &TraceConfig) -> Result<(), TableError> {
        self.tables.write_watch(watch)
    }

    fn missed(&self) -> Result<u64, TableError> {
        self.tables.missed()
    }

    fn rings(&mut self) -> Result<Option<Rings>, TableError> {
        self.tables.rings()
    }

    fn port_counters(&self, slot: u32) -> Result<PortCounters, TableError> {
        self.tables.port_counters(slot)
    }

    fn clear_port_counters(&mut self, slot: u32) -> Result<(), TableError> {
        self.tables.clear_port_counters(slot)
    }

    fn rule_counter(&self, counter: u32) -> Result<Counter, TableError> {
        self.tables.rule_counter(counter)
    }

    fn clear_rule_counter(&mut self, counter: u32) -> Result<(), TableError> {
        self.tables.clear_rule_counter(counter)
    }

    fn take_used(&mut self, adjacency: u32) -> bool {
        self.tables.take_used(adjacency)
    }

    fn egress_classes(&self) -> Result<(EgressClasses, BTreeMap<Ifindex, EgressLink>), TableError> {
        Ok((self.tables.egress_classes()?, self.tables.egress_links()?))
    }

    fn write_egress_classes(&mut self, classes: &EgressClasses) -> Result<(), TableError> {
        self.tables.write_egress_classes(classes)
    }

    fn write_egress_link(&mut self, ifindex: Ifindex, link: Option<&EgressLink>) -> Result<(), TableError> {
        match link {
            Some(link) => self.tables.write_egress_link(ifindex, link),
            None => self.tables.remove_egress_link(ifindex),
        }
    }

    fn observe_losses(&mut self, observe: bool) {
        if !observe {
            self.tx_errors.end();
            self.tx_error_status = None;
        } else if self.tx_error_status.is_none() {
            self.observe();
        }
    }

    fn losses(&self) -> Option<Result<(), &str>> {
        self.tx_error_status.as_ref().map(|observed| observed.as_ref().copied().map_err(String::as_str))
    }

    fn rx_handlers(&mut self) -> Option<BTreeMap<Ifindex, String>> {
        if self.rx_handlers.is_unpinned() {
            self.mend_pins();
        }
        // Until the pins are there again, what was known holds.
        if self.rx_handlers.is_unpinned() { None } else { self.rx_handlers.read(self.sizes, &self.pin_dirs) }
    }

    fn mend_pins(&mut self) {
        let done = self.mend().map_err(|error| error.to_string());
        self.pin_health.note(done, self.bpffs.root());
    }

    fn pins(&self) -> (Option<&str>, usize) {
        self.pin_health.state()
    }

    fn root(&self) -> &Path {
        self.bpffs.root()
    }

    fn rest(&mut self) {
        if let Err(error) = self.tables.routing.rest() {
            tracing::warn!("memory of the tables cannot be unmapped: {error}");
        }
    }
}
