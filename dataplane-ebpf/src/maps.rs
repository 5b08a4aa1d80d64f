//! The maps. Their layout is `dataplane_common::abi`; who writes what is said there.

#![expect(unsafe_code, reason = "counters are written through pointers into per-CPU maps")]

use aya_ebpf::{
    btf_maps::{Array, DevMapHash, PerCpuArray},
    macros::btf_map,
};
use dataplane_common::{
    Reason,
    abi::{
        self, Adjacency, Control, Counter, ENTRIES, Entry, Fib4, Fib6, Filter, Ifindex, Key, NextHopGroup, PORT_PROBES, Port,
        PortCounters,
    },
};

#[btf_map]
static CONTROL: Array<Control, 1> = Array::new();
#[btf_map]
static PORTS: Array<Port, { abi::PORTS as usize }> = Array::new();
#[btf_map]
static COUNTERS: PerCpuArray<PortCounters, { abi::PORTS as usize }> = PerCpuArray::new();
#[btf_map]
static FIB4: Array<Fib4, 2> = Array::new();
#[btf_map]
static FIB6: Array<Fib6, 2> = Array::new();
#[btf_map]
static GROUPS: Array<NextHopGroup, { abi::GROUPS as usize }> = Array::new();
#[btf_map]
static ADJACENCIES: Array<Adjacency, { abi::ADJACENCIES as usize }> = Array::new();
#[btf_map]
static FILTERS: Array<Filter, 2> = Array::new();
#[btf_map]
static RULES: Array<Entry, { 2 * ENTRIES as usize }> = Array::new();
#[btf_map]
static RULE_COUNTERS: PerCpuArray<Counter, { abi::RULE_COUNTERS as usize }> = PerCpuArray::new();
#[btf_map]
static EGRESS: DevMapHash<{ abi::PORTS as usize }> = DevMapHash::new();

/// What rules ask of the packet at hand: too large for the stack. A program runs to its end before another of ours can
/// begin on the same CPU.
#[btf_map]
static KEY: PerCpuArray<Key, 1> = PerCpuArray::new();

/// Room for the key of the packet at hand.
#[inline(always)]
pub fn key() -> Option<&'static mut Key> {
    // SAFETY: the slot is this CPU's own, and each program asks for it once.
    KEY.get_ptr_mut(0).map(|key| unsafe { &mut *key })
}

/// Which generations are live.
#[inline(always)]
pub fn control() -> Option<Control> {
    CONTROL.get(0).copied()
}

/// The port with this index, and its slot.
#[inline(always)]
pub fn port(ifindex: Ifindex) -> Option<(u32, &'static Port)> {
    let home = abi::home_slot(ifindex);
    for probe in 0..PORT_PROBES {
        let slot = (home + probe) & (abi::PORTS - 1);
        match PORTS.get(slot) {
            Some(port) if port.ifindex == ifindex => return Some((slot, port)),
            _ => {}
        }
    }
    None
}

/// One generation of the IPv4 table.
#[inline(always)]
pub fn fib4(generation: u32) -> Option<&'static Fib4> {
    FIB4.get(generation)
}

/// One generation of the IPv6 table.
#[inline(always)]
pub fn fib6(generation: u32) -> Option<&'static Fib6> {
    FIB6.get(generation)
}

/// A next-hop group.
#[inline(always)]
pub fn group(index: u32) -> Option<&'static NextHopGroup> {
    GROUPS.get(index)
}

/// An adjacency.
#[inline(always)]
pub fn adjacency(index: u32) -> Option<&'static Adjacency> {
    ADJACENCIES.get(index)
}

/// One generation of the filter.
#[inline(always)]
pub fn filter(generation: u32) -> Option<&'static Filter> {
    FILTERS.get(generation)
}

/// An entry of a generation of the filter.
#[inline(always)]
pub fn entry(generation: u32, index: u32) -> Option<&'static Entry> {
    RULES.get(generation * ENTRIES + index)
}

/// Counts a packet at a port.
#[inline(always)]
pub fn count(slot: u32, reason: Reason, bytes: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the slot is this CPU's own, the index is below the number of reasons, which the array has room for.
        unsafe { add(&raw mut (*counters).reasons[reason as usize & 63], bytes) };
    }
}

/// Counts a packet at a rule.
#[inline(always)]
pub fn count_rule(index: u32, bytes: u64) {
    if let Some(counter) = RULE_COUNTERS.get_ptr_mut(index) {
        // SAFETY: the slot is this CPU's own.
        unsafe { add(counter, bytes) };
    }
}

/// # Safety
///
/// `counter` must be valid, and nobody else may write it meanwhile.
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
    EGRESS.redirect(ifindex, 0).is_ok()
}
