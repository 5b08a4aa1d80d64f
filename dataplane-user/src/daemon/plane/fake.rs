//! A data plane without a kernel: it keeps what is written, holds the controller to what packets would need, and fails when a
//! test says so.

use std::{
    cell::{RefCell, RefMut},
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    rc::Rc,
};

use dataplane_common::abi::{Counter, EgressClasses, EgressLink, Features, Ifindex, Limit, PortCounters, TraceConfig};
use zerocopy::FromZeros as _;

use super::verbs::{GateStep, Plane, TableStep};
use crate::{
    diff::Change,
    fib::TableSizes,
    filter::{Image, Patch, SelfTest},
    kernel::{FlowMaps, Hook, LinkError, ObjectError, Rings, Staged, TableError, TestRun, TestRunError, Verified},
    lower::Want,
    model::OwnTable,
    retired::Grace,
};

/// What a kernel would hold.
pub(in crate::daemon) struct Kernel {
    pub have: Want,
    pub features: Features,
    pub attached: BTreeSet<(Ifindex, Hook)>,
    /// Links that are gone, whatever the controller has heard.
    pub gone: BTreeSet<Ifindex>,
    /// Verbs that fail.
    pub failing: BTreeSet<&'static str>,
    /// With this verb a link goes.
    pub going: Option<(&'static str, Ifindex)>,
    /// The verbs, in their order.
    pub verbs: Vec<&'static str>,
    /// The table of own rules.
    pub table: Option<OwnTable>,
    sizes: TableSizes,
    epoch: u64,
    former: Option<(Features, TableSizes)>,
    /// Adjacencies that were removed since packets were waited for.
    removed: BTreeSet<u32>,
}

impl Kernel {
    fn does(&mut self, verb: &'static str) -> Result<(), TableError> {
        self.verbs.push(verb);
        if let Some((_, ifindex)) = self.going.take_if(|(at, _)| *at == verb) {
            self.gone.insert(ifindex);
        }
        if self.failing.contains(verb) {
            return Err(TableError::Memory { name: "fake", bytes: 0, error: io::Error::other(verb) });
        }
        Ok(())
    }

    /// How often a verb was used.
    pub(in crate::daemon) fn count(&self, verb: &str) -> usize {
        self.verbs.iter().filter(|one| **one == verb).count()
    }

    fn change(&mut self, change: &Change<'_>) {
        let have = &mut self.have;
        match change {
            Change::Mirror(mirror) => have.mirror = *mirror,
            Change::AddEgress(ifindex) => drop(have.egress.insert(*ifindex)),
            Change::RemoveEgress(ifindex) => drop(have.egress.remove(ifindex)),
            Change::Policies(family, [_, after]) => have.policies[*family as usize] = *after,
            Change::Adjacency(index, adjacency) => {
                assert!(!self.removed.contains(index), "packets may still be on their way to adjacency {index}");
                have.adjacencies.insert(*index, *adjacency);
            }
            Change::RemoveAdjacency(index) => {
                have.adjacencies.remove(index);
                self.removed.insert(*index);
            }
            Change::Group(index, group) => {
                for member in &group.members[..group.slots as usize] {
                    assert!(have.adjacencies.contains_key(&u32::from(*member)), "a group names what is not there");
                }
                have.groups.insert(*index, **group);
            }
            Change::RemoveGroup(index) => drop(have.groups.remove(index)),
            Change::Fib4(targets) => have.fib4.clone_from(targets),
            Change::Fib6(targets) => have.fib6.clone_from(targets),
            Change::Routes4(changes) => changes.iter().for_each(|(prefix, target)| {
                have.fib4.set(*prefix, *target);
            }),
            Change::Routes6(changes) => changes.iter().for_each(|(prefix, target)| {
                have.fib6.set(*prefix, *target);
            }),
            Change::Port(slot, port) => drop(have.ports.insert(*slot, *port)),
            Change::RemovePort(slot) => drop(have.ports.remove(slot)),
            Change::Vlan(key, port) => drop(have.vlans.insert(*key, *port)),
            Change::RemoveVlan(key) => drop(have.vlans.remove(key)),
            Change::Host(key, period) => drop(have.hosts.insert(*key, *period)),
            Change::RemoveHost(key) => drop(have.hosts.remove(key)),
            Change::Switched(key, host) => drop(have.switched.insert(*key, *host)),
            Change::RemoveSwitched(key) => drop(have.switched.remove(key)),
            Change::Neighbour(key, index) => drop(have.neighbours.insert(*key, *index)),
            Change::RemoveNeighbour(key) => drop(have.neighbours.remove(key)),
            Change::Features(_) => panic!("programs are loaded, not written"),
        }
    }
}

/// The plane; a test keeps a copy, to look into the same kernel.
#[derive(Clone)]
pub(in crate::daemon) struct FakePlane(Rc<RefCell<Kernel>>);

impl FakePlane {
    pub(in crate::daemon) fn new() -> Self {
        Self(Rc::new(RefCell::new(Kernel {
            have: Want::default(),
            features: Features::empty(),
            attached: BTreeSet::new(),
            gone: BTreeSet::new(),
            failing: BTreeSet::new(),
            going: None,
            verbs: Vec::new(),
            sizes: TableSizes::SMALL,
            epoch: 0,
            table: None,
            former: None,
            removed: BTreeSet::new(),
        })))
    }

    pub(in crate::daemon) fn kernel(&self) -> RefMut<'_, Kernel> {
        self.0.borrow_mut()
    }
}

impl Plane for FakePlane {
    fn apply(&mut self, change: &Change<'_>) -> Result<(), TableError> {
        let mut kernel = self.kernel();
        kernel.does("apply")?;
        kernel.change(change);
        Ok(())
    }

    fn keep(&mut self, want: &Want) -> Result<(), TableError> {
        let mut kernel = self.kernel();
        kernel.have.vlans.retain(|key, _| want.vlans.contains_key(key));
        kernel.have.hosts.retain(|key, _| want.hosts.contains_key(key));
        kernel.have.switched.retain(|key, _| want.switched.contains_key(key));
        kernel.have.neighbours.retain(|key, _| want.neighbours.contains_key(key));
        Ok(())
    }

    fn wait(&mut self) -> Grace {
        self.kernel().removed.clear();
        Grace::passed()
    }

    fn stage(&mut self, _image: &Image) -> Result<Staged, TableError> {
        self.kernel().does("stage").map(|()| Staged::new(1))
    }

    fn verify(&mut self, staged: Staged, _tests: &[SelfTest]) -> anyhow::Result<Verified> {
        Ok(self.kernel().does("verify").map(|()| staged.verified())?)
    }

    fn flip(&mut self, _verified: Verified) -> Result<(), TableError> {
        self.kernel().does("flip")
    }

    fn write_limit(&mut self, _counter: u32, _limit: &Limit) -> Result<(), TableError> {
        self.kernel().does("limit")
    }

    fn remove_limit(&mut self, _counter: u32) -> Result<(), TableError> {
        Ok(())
    }

    fn patch(&mut self, _image: &Image, _amendment: &Patch) -> Result<(), TableError> {
        self.kernel().does("patch")
    }

    fn sizes(&self) -> TableSizes {
        self.0.borrow().sizes
    }

    fn epoch(&self) -> u64 {
        self.0.borrow().epoch
    }

    fn overflowed(&self) -> [usize; 2] {
        [0; 2]
    }

    fn grow(&mut self, sizes: TableSizes, _hooks: &[Hook], _want: &Want, _image: &Image) -> anyhow::Result<()> {
        let mut kernel = self.kernel();
        kernel.does("grow")?;
        kernel.epoch += 1;
        kernel.former = Some((kernel.features, kernel.sizes));
        kernel.sizes = sizes;
        Ok(())
    }

    fn load(&mut self, features: Features, _hooks: &[Hook]) -> anyhow::Result<()> {
        let mut kernel = self.kernel();
        kernel.does("load")?;
        kernel.former = Some((kernel.features, kernel.sizes));
        kernel.features = features;
        Ok(())
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        self.kernel().former = None;
        Ok(())
    }

    fn take_back(&mut self) {
        let mut kernel = self.kernel();
        if let Some((features, sizes)) = kernel.former.take() {
            (kernel.features, kernel.sizes) = (features, sizes);
        }
    }

    fn features(&self) -> Features {
        self.0.borrow().features
    }

    fn flow_place(&self) -> Option<&Path> {
        None
    }

    fn flow_maps(&self) -> Result<FlowMaps, TableError> {
        Err(TableError::Memory { name: "FLOWS4", bytes: 0, error: io::ErrorKind::Unsupported.into() })
    }

    fn ready(&mut self, _hooks: &[Hook]) -> Result<(), ObjectError> {
        Ok(())
    }

    fn attach(&mut self, ifindex: Ifindex, name: &str, hook: Hook) -> Result<(), LinkError> {
        let mut kernel = self.kernel();
        if kernel.does("attach").is_err() {
            return Err(LinkError::Unsupported(io::Error::other("attach")));
        }
        if kernel.gone.contains(&ifindex) {
            return Err(LinkError::Gone);
        }
        let known = kernel.have.ports.values().any(|port| port.ifindex == ifindex);
        assert!(known || hook == Hook::TcEgress, "a program at {name}, which the maps do not know");
        kernel.attached.insert((ifindex, hook));
        Ok(())
    }

    fn detach(&mut self, ifindex: Ifindex, hook: Hook) -> Result<(), LinkError> {
        self.kernel().attached.remove(&(ifindex, hook));
        Ok(())
    }

    fn attached(&self) -> Vec<(Ifindex, Hook)> {
        self.0.borrow().attached.iter().copied().collect()
    }

    fn attached_mode(&self, _ifindex: Ifindex) -> &'static str {
        "tc"
    }

    fn hold(&mut self, _attached: bool) {}

    fn clear_away(&mut self, _trusted: bool) {}

    fn gate(&mut self, _step: GateStep<'_>) -> Result<(), String> {
        Ok(())
    }

    fn gate_name(&self) -> &'static str {
        "fake"
    }

    fn table(&mut self, step: TableStep<'_>) -> Result<(), String> {
        let mut kernel = self.0.borrow_mut();
        let (verb, table) = match step {
            TableStep::Write(table) => ("table", Some(table.clone())),
            TableStep::Remove => ("table gone", None),
            TableStep::Elements(..) => ("elements", kernel.table.clone()),
        };
        kernel.does(verb).map_err(|error| error.to_string())?;
        kernel.table = table;
        Ok(())
    }

    fn is_table_gone(&mut self) -> bool {
        false
    }

    fn table_port(&mut self) -> Option<u32> {
        None
    }

    fn writes_tables(&self) -> bool {
        false
    }

    fn dry_run(&mut self, _features: Features) -> Result<TestRun, TestRunError> {
        Err(ObjectError::Missing("fake").into())
    }

    fn mirror(&self) -> u32 {
        self.0.borrow().have.mirror
    }

    fn write_heartbeat(&mut self, _until: u64) -> Result<(), TableError> {
        Ok(())
    }

    fn write_watch(&mut self, _watch: &TraceConfig) -> Result<(), TableError> {
        Ok(())
    }

    fn missed(&self) -> Result<u64, TableError> {
        Ok(0)
    }

    fn rings(&mut self) -> Result<Option<Rings>, TableError> {
        Ok(None)
    }

    fn port_counters(&self, _slot: u32) -> Result<PortCounters, TableError> {
        Ok(PortCounters::new_zeroed())
    }

    fn clear_port_counters(&mut self, _slot: u32) -> Result<(), TableError> {
        Ok(())
    }

    fn rule_counter(&self, _counter: u32) -> Result<Counter, TableError> {
        Ok(Counter::new_zeroed())
    }

    fn clear_rule_counter(&mut self, _counter: u32) -> Result<(), TableError> {
        Ok(())
    }

    fn take_used(&mut self, _adjacency: u32) -> bool {
        false
    }

    fn egress_classes(&self) -> Result<(EgressClasses, BTreeMap<Ifindex, EgressLink>), TableError> {
        Ok((EgressClasses::new_zeroed(), BTreeMap::new()))
    }

    fn write_egress_classes(&mut self, _ways: &EgressClasses) -> Result<(), TableError> {
        self.kernel().does("ways")
    }

    fn write_egress_link(&mut self, _ifindex: Ifindex, _way: Option<&EgressLink>) -> Result<(), TableError> {
        Ok(())
    }

    fn observe_losses(&mut self, _observe: bool) {}

    fn losses(&self) -> Option<Result<(), &str>> {
        None
    }

    fn rx_handlers(&mut self) -> Option<BTreeMap<Ifindex, String>> {
        Some(BTreeMap::new())
    }

    fn mend_pins(&mut self) {}

    fn pins(&self) -> (Option<&str>, usize) {
        (None, 0)
    }

    fn root(&self) -> &Path {
        Path::new("/")
    }

    fn rest(&mut self) {}
}
