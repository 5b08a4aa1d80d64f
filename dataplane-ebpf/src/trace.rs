//! Traced packets: the context of each on its path, and the records that subscribers get.

#![expect(unsafe_code, reason = "room in the ring is uninitialised memory")]

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_ns};
use dataplane_common::{
    Reason,
    abi::{Ifindex, TRACE_FILTERS, TRACE_RECORD_BYTES, chain_trace, draw, field},
};

use crate::{features, hook::Hook, maps, pipeline::Egress};

/// A packet begins its path. One that cannot get a record shall cost little.
#[inline(always)]
pub fn begin(port: Ifindex) {
    if !features::TRACING.on() {
        return;
    }
    let (Some(context), Some(config)) = (maps::trace_context(), maps::trace_config()) else { return };
    context.chance = draw(context.chance);
    context.traced = u32::from(context.chance >= config.skips);
    if !traced() {
        return;
    }
    context.chains = [0; 4];
    context.target = chain_trace::NONE;
    context.adjacency = chain_trace::NONE;
    context.filters = 0;
    if let Some(key) = maps::key() {
        key.blank(port);
    }
}

/// Whether the key of the current packet may be needed.
#[inline(always)]
pub fn needs_key() -> bool {
    features::FILTERING.on() || traced()
}

/// Whether the current packet may get a record.
#[inline(always)]
pub fn traced() -> bool {
    if !features::TRACING.on() {
        return false;
    }
    let Some(context) = maps::trace_context() else { return false };
    // SAFETY: a read of a word that is there; from memory, so that the verifier does not know its value.
    let traced = unsafe { (&raw const context.traced).read_volatile() };
    traced != 0
}

/// A chain was evaluated, and the search for its rule is over.
#[inline(always)]
pub fn chain(number: u32) {
    if !features::TRACING.on() {
        return;
    }
    if let (Some(context), Some(key)) = (maps::trace_context(), maps::key()) {
        context.chains[number as usize & 3] = key.search.trace_word();
    }
}

/// The route was looked up.
#[inline(always)]
pub fn route(target: u32) {
    if traced() {
        note(0, target);
    }
}

/// A next hop was chosen.
#[inline(always)]
pub fn hop(adjacency: u32) {
    if traced() {
        note(1, adjacency);
    }
}

/// Writes down a target (0) or an adjacency (1). A global function, so that nothing is to be followed behind it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note(what: u32, number: u32) -> u32 {
    if let Some(context) = maps::trace_context() {
        if what == 0 {
            context.target = number;
        } else {
            context.adjacency = number;
        }
    }
    0
}

/// The packet has come to its end: the number of a reason.
#[inline(always)]
pub fn end<H: Hook>(hook: &H, reason: u32) {
    if traced() {
        hook.trace(reason, 0);
    }
}

/// The packet is about to be sent on.
#[inline(always)]
pub fn forwarded<H: Hook>(hook: &H, egress: &Egress) {
    if traced() {
        hook.trace(Reason::Forwarded as u32, egress.adjacency.ifindex);
    }
}

/// Puts the current packet into the ring, if a subscriber wants it. `load` copies so many bytes from the beginning of the
/// frame. Records that find no room in the ring, or exceed the rate limit, are counted.
#[inline(always)]
pub fn emit(
    (port, reason, oif, tier): (Ifindex, u32, Ifindex, u32),
    length: u32,
    load: impl Fn(*mut c_void, u32) -> bool,
) {
    if matching_filters(reason, oif) == 0 {
        return;
    }
    let (Some(context), Some(key), Some(config)) = (maps::trace_context(), maps::key(), maps::trace_config()) else {
        return;
    };
    if !maps::may_trace() {
        context.missed += 1;
        return;
    }
    let Some(mut room) = maps::trace_record() else {
        context.missed += 1;
        return;
    };
    let wanted = if length < config.bytes { length } else { config.bytes };
    // One value from here on: the verifier must see its bounds where the helper is called.
    let wanted = u64::from(wanted);
    // SAFETY: a read of a local.
    let mut captured = unsafe { (&raw const wanted).read_volatile() };
    if captured > TRACE_RECORD_BYTES as u64 {
        captured = TRACE_RECORD_BYTES as u64;
    }
    // SAFETY: the room is as large as a record, and any bytes are one.
    let record = unsafe { &mut *room.as_mut_ptr() };
    // SAFETY: a helper without arguments.
    record.time = unsafe { bpf_ktime_get_ns() };
    record.filters = context.filters;
    record.reason = reason;
    record.port = port;
    record.iif = key.fields[field::IIF];
    record.oif = key.fields[field::OIF];
    record.tier = tier;
    record.length = length;
    record.captured = captured as u32;
    record.offset = key.offset;
    record.chains = context.chains;
    record.target = context.target;
    record.adjacency = context.adjacency;
    record.reserved = 0;
    // No frame is one byte long; and Linux 6.1 learns no bound from "not 0", which the compiler would make of "at least 1".
    if captured >= 2 && load((&raw mut record.bytes).cast(), captured as u32) {
        // The controller polls while there are subscribers: to wake it would cost more than all else here.
        room.submit(u64::from(BPF_RB_NO_WAKEUP));
    } else {
        room.discard(0);
    }
}

/// The boxes that show the packet at hand. They are gathered in a map, not in a register: the verifier would follow each
/// combination of them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn matching_filters(reason: u32, oif: u32) -> u32 {
    let (Some(context), Some(key), Some(config)) = (maps::trace_context(), maps::key(), maps::trace_config()) else {
        return 0;
    };
    if oif != 0 {
        key.set_oif(oif);
    }
    let mut at = 0;
    while at < TRACE_FILTERS {
        if at >= config.count as usize {
            break;
        }
        let filter = &config.filters[at & (TRACE_FILTERS - 1)];
        if context.chance >= filter.skips && filter.matches(key, reason) {
            context.filters |= 1 << at;
        }
        at += 1;
    }
    context.filters
}
