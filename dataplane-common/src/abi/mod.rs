//! The layout of every map, defined once for both halves.
//!
//! All types are `repr(C)` without padding, their sizes asserted here, so that the controller can write their bytes. A map
//! has one writer: the controller writes ports, routes, adjacencies and rules; the kernel half writes counters.

mod adjacency;
mod control;
mod counter;
mod direct;
mod event;
mod fib;
mod filter;
mod hash;
mod inquiry;
mod key;
mod limit;
mod loss;
mod mark;
mod passage;
mod policy;
mod port;
mod screen;
mod search;
mod set;
mod taker;
mod trace;
mod tree;
mod trial;
mod vlan;

pub use adjacency::{ADJACENCIES, Adjacency, AdjacencyFlags, GROUP_SLOTS, GROUPS, NextHopGroup};
pub use control::{Control, Features, Instruction, Switch};
pub use counter::{Counter, PortCounters, RULE_COUNTERS};
pub use direct::{BLOCK, Block, Blocks, LOCALS, Layout4, NEAR_ENTRIES, Near4, ROOTS, local_bit, lookup4, may_be_local};
pub use event::{EVENT_BYTES, EVENT_RING, Event, told};
pub use fib::{BRANCH, Mixed, Prefixed, RouteKind, SECOND, Target};
pub use filter::{Acts, CHAINS, CatchAll, Filter, QUIET, Ruling, Span, TABLES, Tables, entry, more, table};
pub use hash::{Hash, place, shift, trace};
pub use inquiry::{AF_INET, AF_INET6, Asked, Inquiry, NeighbourKey, answer};
pub use key::{ADDRESS_WORDS, CLASSES, Class, Key, KeyFlags, REST_WORDS, fold, mixed, rest};
pub use limit::{Limit, LimitFlags};
pub use loss::Observer;
pub use mark::Mark;
pub use passage::{Passage, WAY_BITS, WAY_CLASSES, WAYS_OUT, WayFlags, WayOut, Ways};
pub use policy::{COVERS, Cover, Policies};
pub use port::{ELSEWHERE, PORT_PROBES, PORTS, Port, PortFlags, home_slot};
pub use screen::{SCREENED, Screen, lowest};
pub use search::{Answer, Probe, RUN, Search, agrees, ask, differ, mask32, mask64, probe};
pub use set::{
    ELEMENT_WORDS, NAMESAKES, RULE_SETS, SLOT_PROBES, Selector, Sought, element_differs, has, holds, is_element,
    narrow_slot, narrow_tag, pick, seek, set, set_table, sets,
};
pub use taker::Places;
pub use trace::{PANES, Pane, SIGHTING_BYTES, SIGHTING_RING, Sighting, Trail, Watch, draw, met, skips};
pub use tree::{
    INDEX_LINES, Layout6, Line, Lines, NEAR_LINES, NEAR_TREE_LINE, NEAR_TREES, Near, Near6, TREE, TREE_LINE, WORDS,
    lookup6, near6, search_on6, search6, tree_class, tree_lines,
};
pub use trial::Trial;
pub use vlan::{Tag, VLANS, VlanKey};

/// Interface index of the kernel; 0 is none.
pub type Ifindex = u32;

/// Changes whenever the text of these files does: a daemon never adopts maps of another layout.
pub const FINGERPRINT: u64 = fingerprint(&[
    include_bytes!("mod.rs"),
    include_bytes!("adjacency.rs"),
    include_bytes!("control.rs"),
    include_bytes!("counter.rs"),
    include_bytes!("direct.rs"),
    include_bytes!("event.rs"),
    include_bytes!("fib.rs"),
    include_bytes!("filter.rs"),
    include_bytes!("hash.rs"),
    include_bytes!("inquiry.rs"),
    include_bytes!("key.rs"),
    include_bytes!("limit.rs"),
    include_bytes!("loss.rs"),
    include_bytes!("mark.rs"),
    include_bytes!("passage.rs"),
    include_bytes!("policy.rs"),
    include_bytes!("port.rs"),
    include_bytes!("screen.rs"),
    include_bytes!("search.rs"),
    include_bytes!("set.rs"),
    include_bytes!("trace.rs"),
    include_bytes!("tree.rs"),
    include_bytes!("vlan.rs"),
    // The order of the reasons is that of the counters.
    include_bytes!("../reason.rs"),
    include_bytes!("../wire/vlan.rs"),
]);

/// FNV-1a over the files.
const fn fingerprint(files: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut file = 0;
    while file < files.len() {
        let mut byte = 0;
        while byte < files[file].len() {
            hash = (hash ^ files[file][byte] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            byte += 1;
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
    /// One [`super::Near4`], in a section.
    pub const NEAR4: &str = ".bss.near4";
    /// What is in that section.
    pub const NEAR4_SYMBOL: &str = "NEAR4";
    /// [`super::Block`]; see [`super::Layout4`].
    pub const FIB4: &str = "FIB4";
    /// One [`super::Near6`], in a section.
    pub const NEAR6: &str = ".bss.near6";
    /// What is in that section.
    pub const NEAR6_SYMBOL: &str = "NEAR6";
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
    /// Per CPU, one [`super::Asked`].
    pub const ASKED: &str = "ASKED";
    /// Devices that XDP transmits on, by interface index.
    pub const EGRESS: &str = "EGRESS";
    /// [`super::Filter`] by generation.
    pub const FILTERS: &str = ".data.filters";
    /// What is in that section.
    pub const FILTERS_SYMBOL: &str = "FILTERS";
    /// [`super::Line`]; what they hold is said in [`super::Filter`].
    pub const FILTER: &str = "FILTER";
    /// Per CPU, [`super::Counter`] by the counter of a rule.
    pub const RULE_COUNTERS: &str = "RULE_COUNTERS";
    /// One word: the [`super::Observer::id`] of the observer that counts losses.
    pub const ON_WATCH: &str = "ON_WATCH";
    /// Name of the read-only global that holds the words of a [`super::Observer`].
    pub const OBSERVER: &str = "OBSERVER";
    /// Name of the read-only global that holds the words of [`super::Places`].
    pub const PLACES: &str = "PLACES";
    /// [`super::Limit`] by the counter of a rule.
    pub const LIMITS: &str = "LIMITS";
    /// One word: after which moment of `CLOCK_MONOTONIC`, in nanoseconds, the controller is taken for gone; 0 is never.
    pub const HEARTBEAT: &str = "HEARTBEAT";
    /// One [`super::Ways`].
    pub const WAYS: &str = "WAYS";
    /// [`super::WayOut`] by interface index.
    pub const WAYS_OUT: &str = "WAYS_OUT";
    /// Ring of [`super::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// One [`super::Watch`].
    pub const WATCH: &str = "WATCH";
    /// Per CPU, one [`super::Trail`].
    pub const TRAIL: &str = "TRAIL";
    /// Ring of [`super::Sighting`].
    pub const SIGHTINGS: &str = "SIGHTINGS";
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
    Mark = 8;
    Ways = 80;
    WayOut = 8;
    Port = 32;
    VlanKey = 8;
    Inquiry = 64;
    Asked = 176;
    NeighbourKey = 24;
    Policies = 1032;
    Event = 1336;
    Limit = 32;
    Pane = 160;
    Watch = 2608;
    Trail = 48;
    Sighting = 1600;
    Filter = 536;
    Screen = 8;
    Block = 512;
    Line = 64;
    Target = 2;
}
