//! The layout of every map, defined once for both halves.
//!
//! All types are `repr(C)` without padding, their sizes asserted here, so that the controller can write their bytes. A map
//! has one writer: the controller writes ports, routes, adjacencies and rules; the kernel half writes counters.

mod adjacency;
mod bridge;
mod control;
mod counter;
mod direct;
mod egress_permit;
mod fib;
mod filter;
pub mod flow;
mod handoff;
mod hash;
mod kernel_lookup;
mod kernel_offsets;
mod key;
mod limit;
mod loss;
mod packet_event;
mod policy;
mod port;
mod prefilter;
mod search;
mod self_test;
mod set;
mod trace;
mod tree;
mod verdict;
mod vlan;

pub use adjacency::{ADJACENCIES, Adjacency, AdjacencyFlags, GROUP_SLOTS, GROUPS, NextHopGroup};
pub use bridge::{BRIDGED_HOSTS, BridgedHost, BridgedKey, SwitchedFlags, SwitchedHost, SwitchedKey};
pub use control::{Control, Features, Instruction, Switch};
pub use counter::{Counter, PortCounters, RULE_COUNTERS};
pub use direct::{
    BASE_ENTRIES, BLOCK, Block, Blocks, Fib4Base, LOCALS, Layout4, ROOTS, local_bit, lookup4, may_be_local,
};
pub use egress_permit::{
    CLASS_BITS, EGRESS_LINKS, EgressClasses, EgressLink, EgressLinkFlags, EgressPermit, MAX_CLASSES,
};
pub use fib::{BRANCH, Mixed, Prefixed, RouteKind, SECOND, Target};
pub use filter::{
    ActionCode, Acts, CHAINS, CatchAll, ChainId, Filter, QUIET, Span, TABLES, Tables, entry, extra, table,
};
pub use flow::{FlowContext, FlowControl};
pub use handoff::Handoff;
pub use hash::{Hash, bloom_bit, shift, slot_index};
pub use kernel_lookup::{AF_INET, AF_INET6, FibLookup, KernelLookup, NeighbourKey, fib_result};
pub use kernel_offsets::KernelOffsets;
pub use key::{ADDRESS_WORDS, CLASSES, Class, FIELD_WORDS, Key, KeyFlags, field, hash_ifindex, mixed};
pub use limit::{Limit, LimitFlags};
pub use loss::Observer;
pub use packet_event::{PACKET_EVENT_BYTES, PACKET_EVENT_RING, PacketEvent, event_kind};
pub use policy::{COVERS, Cover, Policies};
pub use port::{ELSEWHERE, PORT_PROBES, PORTS, Port, PortFlags, home_slot};
pub use prefilter::{Prefilter, TABLES_PER_WORD, lowest};
pub use search::{EntryMatch, Probe, RUN, Search, agrees, differ, mask32, mask64, match_entry, probe, reads_beyond};
pub use self_test::SelfTestFrame;
pub use set::{
    ELEMENT_WORDS, MAX_CHAIN, RULE_SETS, SLOT_PROBES, Selector, Sought, element_differs, has, holds, is_element,
    narrow_hash, narrow_slot, seek, set, set_table, sets,
};
pub use trace::{
    FlowTrace, TRACE_FILTERS, TRACE_RECORD_BYTES, TRACE_RING, TraceConfig, TraceContext, TraceFilter, TraceRecord,
    chain_trace, draw, skips,
};
pub use tree::{
    BASE_LINES, BASE_TREE_LINE, BASE_TREES, BaseLines, Fib6Base, INDEX_LINES, Layout6, Line, Lines, TREE, TREE_LINE,
    WORDS, lookup6, lookup6_base, search_on6, search6, tree_class, tree_lines,
};
pub use verdict::{
    NO_ROW, Recall, TRANSPORT_BITS, VERDICT_SETS, VerdictSet, WAYS, links, stamp, verdict_hash, verdict_of, verdict_row,
};
pub use vlan::{Tag, VLANS, VlanKey};

/// Interface index of the kernel; 0 is none.
pub type Ifindex = u32;

/// Changes whenever the code of these files does: a daemon never adopts maps of another layout.
pub const FINGERPRINT: u64 = fingerprint(&[
    include_bytes!("mod.rs"),
    include_bytes!("adjacency.rs"),
    include_bytes!("bridge.rs"),
    include_bytes!("control.rs"),
    include_bytes!("counter.rs"),
    include_bytes!("direct.rs"),
    include_bytes!("packet_event.rs"),
    include_bytes!("fib.rs"),
    include_bytes!("filter.rs"),
    include_bytes!("flow.rs"),
    include_bytes!("hash.rs"),
    include_bytes!("kernel_lookup.rs"),
    include_bytes!("kernel_offsets.rs"),
    include_bytes!("key.rs"),
    include_bytes!("limit.rs"),
    include_bytes!("loss.rs"),
    include_bytes!("handoff.rs"),
    include_bytes!("egress_permit.rs"),
    include_bytes!("policy.rs"),
    include_bytes!("port.rs"),
    include_bytes!("prefilter.rs"),
    include_bytes!("search.rs"),
    include_bytes!("self_test.rs"),
    include_bytes!("set.rs"),
    include_bytes!("trace.rs"),
    include_bytes!("tree.rs"),
    include_bytes!("verdict.rs"),
    include_bytes!("vlan.rs"),
    // The order of the reasons is that of the counters.
    include_bytes!("../reason.rs"),
    include_bytes!("../wire/vlan.rs"),
]);

/// FNV-1a over the files, without comments and white space, which change no layout.
const fn fingerprint(files: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut file = 0;
    while file < files.len() {
        let bytes = files[file];
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] == b'/' && at + 1 < bytes.len() && bytes[at + 1] == b'/' {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            } else {
                if !bytes[at].is_ascii_whitespace() {
                    hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
                }
                at += 1;
            }
        }
        file += 1;
    }
    hash
}

/// Names of the maps, as both halves know them.
pub mod map {
    /// One [`super::Control`]: a section of the object, whose address programs know.
    pub const CONTROL: &str = ".data.control";
    /// What is in that section.
    pub const CONTROL_SYMBOL: &str = "CONTROL";
    /// [`super::Port`] by slot, in a section.
    pub const PORTS: &str = ".bss.ports";
    /// What is in that section.
    pub const PORTS_SYMBOL: &str = "PORTS";
    /// Per CPU, [`super::PortCounters`] by port slot.
    pub const COUNTERS: &str = "COUNTERS";
    /// VLAN devices as [`super::Port`], by [`super::VlanKey`].
    pub const VLANS: &str = "VLANS";
    /// [`super::BridgedHost`] by [`super::BridgedKey`].
    pub const BRIDGED: &str = "BRIDGED";
    /// [`super::SwitchedHost`] by [`super::SwitchedKey`].
    pub const SWITCHED: &str = "SWITCHED";
    /// One [`super::Fib4Base`], in a section.
    pub const FIB4_BASE: &str = ".bss.base4";
    /// What is in that section.
    pub const FIB4_BASE_SYMBOL: &str = "FIB4_BASE";
    /// [`super::Block`]; see [`super::Layout4`].
    pub const FIB4: &str = "FIB4";
    /// One [`super::Fib6Base`], in a section.
    pub const FIB6_BASE: &str = ".bss.base6";
    /// What is in that section.
    pub const FIB6_BASE_SYMBOL: &str = "FIB6_BASE";
    /// [`super::Line`]; see [`super::Layout6`].
    pub const FIB6: &str = "FIB6";
    /// [`super::NextHopGroup`] by index.
    pub const GROUPS: &str = "GROUPS";
    /// [`super::Adjacency`] by index, in a section.
    pub const ADJACENCIES: &str = ".bss.adjacent";
    /// What is in that section.
    pub const ADJACENCIES_SYMBOL: &str = "ADJACENCIES";
    /// Index of an [`super::Adjacency`], by [`super::NeighbourKey`].
    pub const NEIGHBOURS: &str = "NEIGHBOURS";
    /// [`super::Policies`]: those of IPv4, then those of IPv6.
    pub const POLICIES: &str = "POLICIES";
    /// Per CPU, one [`super::KernelLookup`].
    pub const KERNEL_LOOKUP: &str = "KERNEL_LOOKUP";
    /// Devices that XDP transmits on, by interface index.
    pub const EGRESS: &str = "EGRESS";
    /// [`super::Filter`] by generation.
    pub const FILTERS: &str = ".data.filters";
    /// What is in that section.
    pub const FILTERS_SYMBOL: &str = "FILTERS";
    /// [`super::Line`]; [`super::Filter`] describes what they hold.
    pub const FILTER: &str = "FILTER";
    /// Per CPU, [`super::Counter`] by the counter of a rule.
    pub const RULE_COUNTERS: &str = "RULE_COUNTERS";
    /// One word: the [`super::Observer::id`] of the observer that counts losses.
    pub const ACTIVE_OBSERVER: &str = "ACTIVE_OBSERVER";
    /// Name of the read-only global that holds the words of a [`super::Observer`].
    pub const OBSERVER: &str = "OBSERVER";
    /// Name of the read-only global that holds the words of [`super::KernelOffsets`].
    pub const KERNEL_OFFSETS: &str = "KERNEL_OFFSETS";
    /// [`super::Limit`] by the counter of a rule.
    pub const LIMITS: &str = "LIMITS";
    /// One word: after which moment of `CLOCK_MONOTONIC`, in nanoseconds, the controller is taken for gone; 0 is never.
    pub const HEARTBEAT: &str = "HEARTBEAT";
    /// One [`super::EgressClasses`].
    pub const EGRESS_CLASSES: &str = "EGRESS_CLASSES";
    /// [`super::EgressLink`] by interface index.
    pub const EGRESS_LINKS: &str = "EGRESS_LINKS";
    /// Ring of [`super::PacketEvent`].
    pub const PACKET_EVENTS: &str = "PACKET_EVENTS";
    /// One [`super::TraceConfig`].
    pub const TRACE_CONFIG: &str = "TRACE_CONFIG";
    /// Per CPU, one [`super::TraceContext`].
    pub const TRACE_CONTEXT: &str = "TRACE_CONTEXT";
    /// Ring of [`super::TraceRecord`].
    pub const TRACE_RECORDS: &str = "TRACE_RECORDS";
    /// One [`super::FlowControl`].
    pub const FLOW_CONTROL: &str = "FLOW_CONTROL";
    /// Rows of IPv4 connections ([`super::flow::RowLayout::V4`]).
    pub const FLOWS4: &str = "FLOWS4";
    /// Rows of IPv6 connections ([`super::flow::RowLayout::V6`]).
    pub const FLOWS6: &str = "FLOWS6";
    /// Per CPU, one [`super::FlowContext`].
    pub const FLOW_CONTEXT: &str = "FLOW_CONTEXT";
    /// [`super::VerdictSet`]: so many for each CPU.
    pub const VERDICT_SETS: &str = "VERDICT_SETS";
    /// [`super::Line`]: [`super::WAYS`] for each set, as [`super::verdict_row`] describes them.
    pub const VERDICTS: &str = "VERDICTS";
    /// Name of the read-only global that holds the number of sets of a CPU, less one.
    pub const VERDICT_MASK: &str = "VERDICT_MASK";
    /// Per CPU, one [`super::Key`].
    pub const KEY: &str = "KEY";
}

macro_rules! sizes {
    ($($name:ty = $size:expr;)+) => { $(const _: () = assert!(size_of::<$name>() == $size);)+ };
}

sizes! {
    Adjacency = 32;
    NextHopGroup = 136;
    Control = 16;
    Counter = 16;
    PortCounters = 1024;
    Handoff = 8;
    EgressClasses = 80;
    EgressLink = 8;
    Port = 32;
    VlanKey = 8;
    BridgedKey = 16;
    BridgedHost = 16;
    SwitchedKey = 16;
    SwitchedHost = 16;
    FibLookup = 64;
    KernelLookup = 176;
    NeighbourKey = 24;
    Policies = 1032;
    PacketEvent = 1336;
    Limit = 32;
    TraceFilter = 160;
    TraceConfig = 2608;
    TraceContext = 48;
    TraceRecord = 1752;
    FlowTrace = 152;
    FlowControl = 32;
    FlowContext = 72;
    Filter = 544;
    VerdictSet = 32;
    Recall = 40;
    Prefilter = 8;
    Block = 512;
    Line = 64;
    Target = 2;
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn comments_do_not_change_the_fingerprint() {
        let plain = fingerprint(&[b"pub struct A { b: u32 }"]);
        assert_eq!(fingerprint(&[b"/// A.\npub struct A {\n    b: u32 // c\n}\n"]), plain);
        assert_ne!(fingerprint(&[b"pub struct A { b: u64 }"]), plain);
    }
}
