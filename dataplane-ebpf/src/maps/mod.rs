//! The maps. `dataplane_common::abi` defines their layout, and says who writes each of them.

#![expect(unsafe_code, reason = "map elements are reached through pointers")]

mod bridge;
mod element;
mod fib;
mod flow;
mod verdict;

use core::{mem::offset_of, ops::Deref, ptr::NonNull};

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, xdp_action::XDP_REDIRECT},
    btf_maps::{Array, DevMapHash, HashMap, PerCpuArray, RingBuf},
    helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_map_lookup_elem, bpf_redirect_map},
    macros::btf_map,
    maps::ring_buf::RingBufEntry,
};
use dataplane_common::{
    Reason,
    abi::{
        self, Adjacency, Control, Counter, EgressClasses, EgressLink, Filter, Ifindex, KernelLookup, Key, Limit,
        LimitFlags, Line, Lines, NeighbourKey, NextHopGroup, PORT_PROBES, PacketEvent, Policies, Port, PortCounters,
        Target, TraceConfig, TraceContext, TraceRecord, VLANS as VLAN_DEVICES, VlanKey, WORDS,
    },
};

use self::element::{Index, find};
use crate::features;

pub use bridge::{is_refresh_due, learned_host, switched_host};
pub use fib::{Table4, Table6};
pub use flow::{FlowState, Flows, Row, flow_context, flow_state, moment, store_moment};
pub use verdict::{verdict_place, verdict_row, verdict_set};

/// The controller writes these through its memory; how many elements there are is set when the map is made.
const MAPPED: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;

/// In a section of its own, which the loader makes a map of its own, and pins as the others: an address that programs know,
/// where an element of an array would have to be looked up.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.control")]
static mut CONTROL: Control = Control { fib4: 0, fib6: 0, filter: 0, mirror: 0 };
/// As `CONTROL`. The loader makes this map and the next ones by itself, for the controller to write them as memory.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.ports")]
static mut PORTS: [Port; abi::PORTS as usize] = [Port::FREE; abi::PORTS as usize];
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.adjacent")]
static mut ADJACENCIES: [Adjacency; abi::ADJACENCIES as usize] = [Adjacency::NONE; abi::ADJACENCIES as usize];
/// Not allocated in advance: what is removed is then freed, and used again, only when no program can still read it.
#[btf_map]
static VLANS: HashMap<VlanKey, Port, { VLAN_DEVICES as usize }, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static COUNTERS: PerCpuArray<PortCounters, { abi::PORTS as usize + 1 }> = PerCpuArray::new();
#[btf_map]
static GROUPS: Array<NextHopGroup, { abi::GROUPS as usize }> = Array::new();
/// In a section, as `CONTROL`.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.filters")]
static mut FILTERS: [Filter; 2] = [Filter::EMPTY; 2];
#[btf_map]
static FILTER: Array<Line, 2, MAPPED> = Array::new();
#[btf_map]
static RULE_COUNTERS: PerCpuArray<Counter, { abi::RULE_COUNTERS as usize }> = PerCpuArray::new();
#[btf_map]
static LIMITS: HashMap<u32, Limit, { abi::RULE_COUNTERS as usize }, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static PACKET_EVENTS: RingBuf<PacketEvent, { abi::PACKET_EVENT_RING }> = RingBuf::new();
#[btf_map]
static EGRESS: DevMapHash<{ abi::PORTS as usize }> = DevMapHash::new();

/// By next hop, which adjacency that is, where the kernel says the next hop. Not allocated in advance, as above.
#[btf_map]
static NEIGHBOURS: HashMap<NeighbourKey, u32, { 2 * abi::ADJACENCIES as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();
/// What policies may cover, by family.
#[btf_map]
static POLICIES: Array<Policies, 2> = Array::new();
/// Parameters and results of the kernel's lookup: too large for the stack.
#[btf_map]
static KERNEL_LOOKUP: PerCpuArray<KernelLookup, 1> = PerCpuArray::new();
/// Until when the controller is taken to be there.
#[btf_map]
static HEARTBEAT: Array<u64, 1> = Array::new();
/// Whether the controller was gone, and the tick of the kernel's timer in which that was checked: the first CPU in each tick
/// checks it. The last bit is set when it was gone.
static mut LIVENESS: u64 = 0;
/// What subscribers of traced packets want.
#[btf_map]
static TRACE_CONFIG: Array<TraceConfig, 1> = Array::new();
/// What the packet at hand has met.
#[btf_map]
static TRACE_CONTEXT: PerCpuArray<TraceContext, 1> = PerCpuArray::new();
#[btf_map]
static TRACE_RECORDS: RingBuf<TraceRecord, { abi::TRACE_RING }> = RingBuf::new();

/// The classes of ways out.
#[btf_map]
static EGRESS_CLASSES: Array<EgressClasses, 1> = Array::new();
/// Which link is of which class. Not allocated in advance, as above.
#[btf_map]
static EGRESS_LINKS: HashMap<u32, EgressLink, { abi::EGRESS_LINKS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Which observer of losses counts: of two daemons in turn, one.
#[btf_map]
static ACTIVE_OBSERVER: Array<u64, 1> = Array::new();

/// The fields of the current packet that rules match: too large for the stack. A program runs to its end before another of ours
/// can begin on the same CPU.
#[btf_map]
static KEY: PerCpuArray<Key, 1> = PerCpuArray::new();

/// The element of an array that only the controller writes.
#[inline(always)]
fn lookup<T, const N: usize, const F: usize>(map: &'static Array<T, N, F>, index: u32) -> Option<&'static T> {
    // SAFETY: elements of arrays stay where they are.
    find(map, index).map(|element| unsafe { element.as_ref() })
}

/// Room for the key of the packet at hand.
#[inline(always)]
pub fn key() -> Option<&'static mut Key> {
    // SAFETY: the slot is this CPU's own, and each program takes it once.
    find::<_, Key>(&KEY, 0).map(|key| unsafe { &mut *key.as_ptr() })
}

/// Room for the kernel's lookup of the current packet.
#[inline(always)]
pub fn kernel_lookup() -> Option<&'static mut KernelLookup> {
    // SAFETY: the slot is this CPU's own, and no reference outlives the next call.
    find::<_, KernelLookup>(&KERNEL_LOOKUP, 0).map(|query| unsafe { &mut *query.as_ptr() })
}

/// Keeps which chains the packet at hand has met.
#[inline(always)]
pub fn store_chains_done(state: u32) {
    if let Some(query) = kernel_lookup() {
        query.chains_done = u64::from(state);
    }
}

/// What was kept; nothing where there is no such place.
#[inline(always)]
pub fn chains_done() -> u32 {
    let Some(query) = find::<_, KernelLookup>(&KERNEL_LOOKUP, 0) else { return 0 };
    // SAFETY: the slot is this CPU's own.
    let chains_done = unsafe { &raw const (*query.as_ptr()).chains_done };
    // SAFETY: as above; no reference to it is kept.
    (unsafe { chains_done.read_volatile() }) as u32
}

/// The target of the current packet. Read from memory, so that the verifier does not know its value.
#[inline(always)]
pub fn found_target(query: &KernelLookup) -> Target {
    // SAFETY: a word of a structure that is there.
    Target::from_raw(unsafe { (&raw const query.target).read_volatile() } as u32)
}

/// What is found by a [`NeighbourKey`], in words of its size.
#[inline(always)]
pub fn neighbour(key: [u64; 3]) -> Option<u32> {
    // SAFETY: the key is as long as the map's, and the values are words, which stay until no program runs any more.
    let found = unsafe { bpf_map_lookup_elem((&raw const NEIGHBOURS).cast_mut().cast(), (&raw const key).cast()) };
    // SAFETY: as above.
    NonNull::new(found.cast::<u32>()).map(|index| unsafe { index.as_ptr().read_volatile() })
}

/// What policies may cover of a family, 4 or 6.
#[inline(always)]
pub fn policies(family: u32) -> Option<&'static Policies> {
    lookup(&POLICIES, u32::from(family == 6))
}

/// The live generations that packets of a family, 4 or 6, use.
#[inline(always)]
pub fn control(family: u32) -> Control {
    let read = |offset: usize| {
        let word = (&raw const CONTROL).cast::<u32>().wrapping_byte_add(offset);
        // SAFETY: a word of a static. The controller writes it while it is read; those that change together are one.
        unsafe { word.read_volatile() }
    };
    Control {
        fib4: if family == 4 { read(offset_of!(Control, fib4)) } else { 0 },
        fib6: if family == 6 { read(offset_of!(Control, fib6)) } else { 0 },
        filter: read(offset_of!(Control, filter)),
        mirror: read(offset_of!(Control, mirror)),
    }
}

/// The port with this index, and its slot.
#[inline(always)]
pub fn port(ifindex: Ifindex) -> Option<(u32, &'static Port)> {
    let home = abi::home_slot(ifindex);
    for probe in 0..PORT_PROBES {
        let slot = (home + probe) & (abi::PORTS - 1);
        let port = (&raw const PORTS).cast::<Port>().wrapping_add(slot as usize);
        // SAFETY: there are as many as the mask leaves slots; the controller writes a port before its index.
        let port = unsafe { &*port };
        if port.ifindex == ifindex {
            return Some((slot, port));
        }
    }
    None
}

/// The VLAN device with this key: a [`VlanKey`], both halves in one word of the stack.
#[inline(always)]
pub fn vlan(key: u64) -> Option<&'static Port> {
    // SAFETY: the key is as long as the map's, and the values are ports, which stay until no program runs any more.
    let port = unsafe { bpf_map_lookup_elem((&raw const VLANS).cast_mut().cast(), (&raw const key).cast()) };
    // SAFETY: as above.
    NonNull::new(port.cast::<Port>()).map(|port| unsafe { port.as_ref() })
}

/// The tables of the filter. The controller writes them meanwhile, so each word is read once.
pub struct Arena;

impl Lines for Arena {
    type Line = NonNull<u64>;

    #[inline(always)]
    fn line(&self, line: u32) -> Option<NonNull<u64>> {
        find::<_, u64>(&FILTER, line)
    }

    #[inline(always)]
    fn word(&self, line: NonNull<u64>, slot: usize) -> u64 {
        let word = line.as_ptr().wrapping_add(slot & (WORDS - 1));
        // SAFETY: the line was found, and has this many words.
        unsafe { word.read_volatile() }
    }
}

/// A next-hop group.
#[inline(always)]
pub fn group(index: u32) -> Option<&'static NextHopGroup> {
    lookup(&GROUPS, index)
}

/// An adjacency, in its place.
#[derive(Clone, Copy)]
pub struct Adjacent(NonNull<Adjacency>);

impl Deref for Adjacent {
    type Target = Adjacency;

    #[inline(always)]
    fn deref(&self) -> &Adjacency {
        // SAFETY: elements of arrays stay where they are.
        unsafe { self.0.as_ref() }
    }
}

impl Adjacent {
    /// Marks it as used. Most packets find it marked: the cache line, which all CPUs read, is not written for them.
    #[inline(always)]
    pub fn mark_used(self) {
        if features::DRY_RUN.on() {
            return;
        }
        // SAFETY: elements of arrays stay where they are.
        let used = unsafe { &raw mut (*self.0.as_ptr()).used };
        // SAFETY: a half word of an element. Others may write the same meanwhile, or the controller zero.
        if unsafe { used.read_volatile() } == 0 {
            // SAFETY: as above.
            unsafe { used.write_volatile(1) };
        }
    }
}

/// An adjacency.
#[inline(always)]
pub fn adjacency(index: u32) -> Option<Adjacent> {
    if index >= abi::ADJACENCIES {
        return None;
    }
    let adjacency = (&raw mut ADJACENCIES).cast::<Adjacency>().wrapping_add(index as usize);
    // SAFETY: no static is at address 0; LLVM would check.
    Some(Adjacent(unsafe { NonNull::new_unchecked(adjacency) }))
}

/// One generation of the filter.
#[inline(always)]
pub fn filter(generation: u32) -> &'static Filter {
    let filter = (&raw const FILTERS).cast::<Filter>().wrapping_add(generation as usize & 1);
    // SAFETY: the controller writes a generation before it makes that live.
    unsafe { &*filter }
}

/// Counts a packet at a port.
#[inline(always)]
pub fn count(slot: u32, reason: Reason, bytes: u64) {
    count_number(slot, reason as u32, bytes);
}

/// The same, with the number of a reason.
#[inline(always)]
pub fn count_number(slot: u32, reason: u32, bytes: u64) {
    if let Some(counters) = find::<_, PortCounters>(&COUNTERS, slot) {
        // SAFETY: the index is below the number of reasons, which the array has room for.
        let counter = unsafe { &raw mut (*counters.as_ptr()).reasons[reason as usize & 63] };
        // SAFETY: the slot is this CPU's own.
        unsafe { add(counter, bytes) };
    }
}

/// Counts packets under another reason. Their bytes are not known here, and stay where they are.
#[inline(always)]
pub fn recount(slot: u32, from: Reason, to: Reason, packets: u64) {
    if let Some(counters) = find::<_, PortCounters>(&COUNTERS, slot) {
        // SAFETY: the slot is this CPU's own.
        let reasons = unsafe { &mut (*counters.as_ptr()).reasons };
        let before = &mut reasons[from as usize & 63].packets;
        // Counters that were cleared meanwhile have nothing to give.
        let moved = if *before < packets { *before } else { packets };
        *before -= moved;
        reasons[to as usize & 63].packets += moved;
    }
}

/// Whether the controller is to be taken for gone. The coarse clock is as old as the last tick of a timer, and costs a read of
/// memory that all CPUs share.
#[inline(always)]
pub fn expired() -> bool {
    let Some(until) = find::<_, u64>(&HEARTBEAT, 0) else { return false };
    // SAFETY: the element was found; the controller writes it as one word.
    let until = unsafe { until.as_ptr().read_volatile() };
    // SAFETY: a helper without arguments.
    until != 0 && unsafe { bpf_ktime_get_coarse_ns() } > until
}

/// What was found out about the controller in this tick: whether it was `gone` is known, and it is so.
#[inline(always)]
pub fn liveness_is(gone: bool) -> bool {
    let liveness = &raw const LIVENESS;
    // SAFETY: one word, which other CPUs write as a whole.
    unsafe { liveness.read_volatile() == (tick() << 1 | u64::from(gone)) }
}

/// Keeps what was found out.
#[inline(always)]
pub fn store_liveness(gone: bool) {
    let liveness = &raw mut LIVENESS;
    // SAFETY: as above.
    unsafe { liveness.write_volatile(tick() << 1 | u64::from(gone)) };
}

/// The tick of the kernel's timer: the verifier turns the call into a load.
#[inline(always)]
pub fn tick() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_jiffies64() }
}

/// Whether this observer of losses is the one that counts.
#[inline(always)]
pub fn is_active_observer(observer: u64) -> bool {
    lookup(&ACTIVE_OBSERVER, 0).is_some_and(|id| *id == observer)
}

/// Counts a packet at a rule.
#[inline(always)]
pub fn count_rule(index: u32, bytes: u64) {
    if let Some(counter) = find::<_, Counter>(&RULE_COUNTERS, index) {
        // SAFETY: the slot is this CPU's own.
        unsafe { add(counter.as_ptr(), bytes) };
    }
}

/// Whether the rule with a counter holds for a packet at this moment, as its limit says; takes the packet out of the bucket,
/// unless it may never meet the rule.
#[inline(always)]
pub fn within(counter: u32, bytes: u64, quiet: bool) -> bool {
    find::<_, Limit>(&LIMITS, counter).is_some_and(|limit| take(limit, bytes, quiet))
}

/// Takes a packet out of a bucket; whether the limit holds for it.
#[inline(always)]
fn take(limit: NonNull<Limit>, bytes: u64, quiet: bool) -> bool {
    // SAFETY: the element was found, and stays until no program runs that found it.
    let Limit { cost, depth, flags, .. } = unsafe { *limit.as_ptr() };
    // SAFETY: as above.
    let full = unsafe { &raw mut (*limit.as_ptr()).full };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let limit = Limit { full: 0, cost, depth, flags, reserved: 0 };
    let over = flags & LimitFlags::OVER.bits() != 0;
    // Rust has no compare-and-exchange for this machine: CPUs that take at the same moment may take one token between them.
    // SAFETY: as above; other CPUs write it as one word.
    let Some(next) = limit.take(unsafe { full.read_volatile() }, now, bytes) else { return over };
    if !quiet {
        // SAFETY: as above.
        unsafe { full.write_volatile(next) };
    }
    !over
}

/// The classes of ways out.
#[inline(always)]
pub fn egress_classes() -> Option<&'static EgressClasses> {
    lookup(&EGRESS_CLASSES, 0)
}

/// A link as a way out.
#[inline(always)]
pub fn egress_link(ifindex: Ifindex) -> Option<&'static EgressLink> {
    let index = Index(ifindex);
    // SAFETY: the key is as long as the map's, and the values are of its type, which stay until no program runs any more.
    let link = unsafe { bpf_map_lookup_elem((&raw const EGRESS_LINKS).cast_mut().cast(), (&raw const index.0).cast()) };
    // SAFETY: as above.
    NonNull::new(link.cast::<EgressLink>()).map(|link| unsafe { link.as_ref() })
}

/// Room for an event; none while the ring is full.
#[inline(always)]
pub fn event() -> Option<RingBufEntry<PacketEvent>> {
    PACKET_EVENTS.reserve(0)
}

/// What the packet at hand has met so far.
#[inline(always)]
pub fn trace_context() -> Option<&'static mut TraceContext> {
    // SAFETY: the slot is this CPU's own, and each function takes it once.
    find::<_, TraceContext>(&TRACE_CONTEXT, 0).map(|trace_context| unsafe { &mut *trace_context.as_ptr() })
}

/// What subscribers of traced packets want.
#[inline(always)]
pub fn trace_config() -> Option<&'static TraceConfig> {
    lookup(&TRACE_CONFIG, 0)
}

/// Whether the rate limit allows one more record at this moment.
#[inline(always)]
pub fn may_trace() -> bool {
    find::<_, Limit>(&TRACE_CONFIG, 0).is_some_and(|limit| take(limit, 1, false))
}

/// Room for a record; none while the ring is full.
#[inline(always)]
pub fn trace_record() -> Option<RingBufEntry<TraceRecord>> {
    TRACE_RECORDS.reserve(0)
}

/// # Safety
///
/// `counter` must be valid, and it must have no other writer meanwhile.
#[inline(always)]
unsafe fn add(counter: *mut Counter, bytes: u64) {
    // SAFETY: promised by the caller.
    let counter = unsafe { &mut *counter };
    counter.packets += 1;
    counter.bytes += bytes;
}

/// Prepares the transmission of the current frame; `false` when the device is not (or no longer) in the map.
#[inline(always)]
pub fn redirect(ifindex: Ifindex) -> bool {
    // SAFETY: the map is a device map.
    let action = unsafe { bpf_redirect_map((&raw const EGRESS).cast_mut().cast(), u64::from(ifindex), 0) };
    action == i64::from(XDP_REDIRECT)
}
