//! What the data plane does in the kernel, as a trait: the controller is tested without one.

use std::{collections::BTreeMap, path::Path};

use dataplane_common::abi::{Counter, EgressClasses, EgressLink, Features, Ifindex, Limit, PortCounters, TraceConfig};

use crate::{
    diff::Change,
    fib::TableSizes,
    filter::{Image, Patch, SelfTest},
    kernel::{
        Batch, FlowMaps, Hook, LinkError, ObjectError, Rings, Staged, TableError, TestRun, TestRunError, Verified,
    },
    lower::Want,
    model::OwnTable,
    netlink::GateRule,
    retired::Grace,
};

/// The BPF side of the kernel: maps, programs, and where these are attached.
pub(in crate::daemon) trait Plane {
    // Apply.

    /// Makes one change of the maps.
    fn apply(&mut self, change: &Change<'_>) -> Result<(), TableError>;
    /// Removes VLANs and neighbours that are not wanted, whatever is there.
    fn keep(&mut self, want: &Want) -> Result<(), TableError>;
    /// Returns when all packets are through that were judged before.
    fn wait(&mut self) -> Grace;

    // Commit.

    /// Writes the tables of the filter that are not live.
    fn stage(&mut self, image: &Image) -> Result<Staged, TableError>;
    /// Runs packets through them, and holds what comes out to what the rules say.
    fn verify(&mut self, staged: Staged, tests: &[SelfTest]) -> anyhow::Result<Verified>;
    /// Makes them live.
    fn flip(&mut self, verified: Verified) -> Result<(), TableError>;
    /// Writes a limit.
    fn write_limit(&mut self, counter: u32, limit: &Limit) -> Result<(), TableError>;
    /// Removes a limit.
    fn remove_limit(&mut self, counter: u32) -> Result<(), TableError>;

    // Patch.

    /// Changes the tables of the filter that are live.
    fn patch(&mut self, image: &Image, patch: &Patch) -> Result<(), TableError>;

    // Grow.

    /// What the tables were made with.
    fn sizes(&self) -> TableSizes;
    /// How often they were made.
    fn epoch(&self) -> u64;
    /// How many places of the tables of IPv4 and IPv6 found no room.
    fn overflowed(&self) -> [usize; 2];
    /// Makes larger tables, which hold what is given, and programs for these hooks that read them. Attached ports have those
    /// of before until they are attached again; then follows [`Self::settle`] or [`Self::take_back`].
    fn grow(&mut self, sizes: TableSizes, hooks: &[Hook], want: &Want, image: &Image) -> anyhow::Result<()>;
    /// Loads programs with other features, in the same way.
    fn load(&mut self, features: Features, hooks: &[Hook]) -> anyhow::Result<()>;
    /// Drops the programs and tables of before.
    fn settle(&mut self) -> anyhow::Result<()>;
    /// The programs and tables of before take their place again.
    fn take_back(&mut self);
    /// What the programs can do.
    fn features(&self) -> Features;
    /// Loads the programs of these hooks, where they are not.
    fn ready(&mut self, hooks: &[Hook]) -> Result<(), ObjectError>;

    /// Where the maps of connections are pinned; none where there is no kernel.
    fn flow_place(&self) -> Option<&Path>;
    /// These maps.
    fn flow_maps(&self) -> Result<FlowMaps, TableError>;

    // Attach and detach.

    /// Many links may be made, until what this gives is dropped.
    fn begin_batch(&self) -> Batch {
        Batch::default()
    }

    /// Attaches a program to a link, in place of the one that is there.
    fn attach(&mut self, ifindex: Ifindex, name: &str, hook: Hook) -> Result<(), LinkError>;
    /// Detaches what is attached there.
    fn detach(&mut self, ifindex: Ifindex, hook: Hook) -> Result<(), LinkError>;
    /// What is attached where, by this daemon or an earlier one.
    fn attached(&self) -> Vec<(Ifindex, Hook)>;
    /// The mode that an earlier daemon attached a port in.
    fn attached_mode(&self, ifindex: Ifindex) -> &'static str;
    /// An earlier daemon's state cannot be trusted: what it attached is kept as it is, or all is dropped.
    fn hold(&mut self, attached: bool);
    /// Removes what earlier daemons left; `trusted`: that all was dropped holds no longer.
    fn clear_away(&mut self, trusted: bool);
    /// Writes which links wait until they are ports.
    fn gate(&mut self, step: GateStep<'_>) -> Result<(), String>;
    /// The name of the table that says it.
    fn gate_name(&self) -> &str;

    // Own rules in nftables.

    /// Writes the table, or takes it away.
    fn table(&mut self, step: TableStep<'_>) -> Result<(), String>;
    /// Whether it was deleted since it was written, as far as its number says.
    fn is_table_gone(&mut self) -> bool;
    /// The number of the socket that writes it; none while there is none.
    fn table_port(&mut self) -> Option<u32>;
    /// Whether there is a kernel to write it to.
    fn writes_tables(&self) -> bool;

    // Dry run.

    /// Programs like those in use, which touch nothing, to run packets on.
    fn dry_run(&mut self, features: Features) -> Result<TestRun, TestRunError>;

    // What is read, and single rows.

    /// `Control::mirror`.
    fn mirror(&self) -> u32;
    /// Until when the maps are trusted.
    fn write_heartbeat(&mut self, until: u64) -> Result<(), TableError>;
    /// What is watched for.
    fn write_watch(&mut self, watch: &TraceConfig) -> Result<(), TableError>;
    /// How many packets found no room in the ring of those that are watched for.
    fn missed(&self) -> Result<u64, TableError>;
    /// The rings, for who takes them first.
    fn rings(&mut self) -> Result<Option<Rings>, TableError>;
    /// The counters of a slot.
    fn port_counters(&self, slot: u32) -> Result<PortCounters, TableError>;
    /// Clears them.
    fn clear_port_counters(&mut self, slot: u32) -> Result<(), TableError>;
    /// The counter of a rule.
    fn rule_counter(&self, counter: u32) -> Result<Counter, TableError>;
    /// Clears it.
    fn clear_rule_counter(&mut self, counter: u32) -> Result<(), TableError>;
    /// Whether an adjacency was used since this was called last.
    fn take_used(&mut self, adjacency: u32) -> bool;
    /// The ways out as they are: what all share, and each.
    fn egress_classes(&self) -> Result<(EgressClasses, BTreeMap<Ifindex, EgressLink>), TableError>;
    /// Writes what all share.
    fn write_egress_classes(&mut self, ways: &EgressClasses) -> Result<(), TableError>;
    /// Writes one, or removes it.
    fn write_egress_link(&mut self, ifindex: Ifindex, way: Option<&EgressLink>) -> Result<(), TableError>;
    /// Begins or ends to count what is lost behind redirects.
    fn observe_losses(&mut self, observe: bool);
    /// Whether that is done, or why not; `None`: it was not begun.
    fn losses(&self) -> Option<Result<(), &str>>;
    /// Others that take frames of a link; none where that is not known any more.
    fn rx_handlers(&mut self) -> Option<BTreeMap<Ifindex, String>>;
    /// Puts pins back that somebody removed.
    fn mend_pins(&mut self);
    /// Why that cannot be done, and how many were put back.
    fn pins(&self) -> (Option<&str>, usize);
    /// The BPF file system.
    fn root(&self) -> &Path;
    /// Lets go of memory that is at hand.
    fn rest(&mut self);
}

/// A change of the table of own rules.
#[derive(Clone, Copy, Debug)]
pub(in crate::daemon) enum TableStep<'a> {
    /// All of it.
    Write(&'a OwnTable),
    /// There is no table.
    Remove,
    /// Elements of a set that rules fill: whether they are put there, and of each the bytes of its fields.
    Elements(&'a str, bool, &'a [Vec<Vec<u8>>]),
}

/// A change of the table of links that wait.
#[derive(Clone, Copy, Debug)]
pub(in crate::daemon) enum GateStep<'a> {
    /// All of it: the rules, and the links that are ready.
    Write(&'a [GateRule], &'a [Ifindex]),
    /// These links are ready.
    Admit(&'a [Ifindex]),
    /// These are not any more.
    Dismiss(&'a [Ifindex]),
    /// There is no table.
    Remove,
}
