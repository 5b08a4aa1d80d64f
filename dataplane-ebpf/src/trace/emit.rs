//! The records of traced packets that subscribers get, at the end of the path.

#![expect(unsafe_code, reason = "room in the ring is uninitialised memory")]

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_ns};
use dataplane_common::{
    Reason,
    abi::{FlowTrace, Ifindex, TRACE_FILTERS, TRACE_RECORD_BYTES, field},
    decide::{Family as _, V4, V6},
};

use super::note::traced;
use crate::{
    features, flow_lookup,
    maps::{self, Flows},
    packet::Hook,
    verdict::Egress,
};

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

/// The frame is about to be sent to a member of its bridge.
#[inline(always)]
pub fn switched<H: Hook>(hook: &H, member: Ifindex) {
    if traced() {
        hook.trace(Reason::Bridged as u32, member);
    }
}

/// Puts the current packet into the ring, if a subscriber wants it. Records that find no room in the ring, or exceed the rate
/// limit, are counted.
#[inline(always)]
pub fn emit<H: Hook>(hook: &H, reason: u32, oif: Ifindex) {
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
    let length = hook.total() as u32;
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
    record.port = hook.ifindex();
    record.iif = key.fields[field::IIF];
    record.oif = key.fields[field::OIF];
    record.tier = H::TIER as u32;
    record.length = length;
    record.captured = captured as u32;
    record.offset = key.offset;
    record.chains = context.chains;
    record.target = context.target;
    record.adjacency = context.adjacency;
    record.reserved = 0;
    copy_flow(&mut record.flow, key.family());
    // No frame is one byte long; and Linux 6.1 learns no bound from "not 0", which the compiler would make of "at least 1".
    if captured >= 2 && hook.load((&raw mut record.bytes).cast(), captured as u32) {
        // The controller polls while there are subscribers: to wake it would cost more than all else here.
        room.submit(u64::from(BPF_RB_NO_WAKEUP));
    } else {
        room.discard(0);
    }
}

/// Copies the row of the packet at hand, if it has one.
#[inline(always)]
fn copy_flow(trace: &mut FlowTrace, family: u32) {
    trace.family = 0;
    if !features::FLOWS.on() {
        return;
    }
    if family == V6::NUMBER { copy_row::<V6>(trace) } else { copy_row::<V4>(trace) }
}

#[inline(always)]
fn copy_row<F: Flows>(trace: &mut FlowTrace) {
    let (Some(row), Some(flows)) = (flow_lookup::carrier::<F>(), maps::flow_state()) else { return };
    trace.family = F::NUMBER;
    trace.carried = u32::from(flow_lookup::is_carried());
    trace.epoch = flows.epoch();
    trace.arming = flows.arming();
    trace.lease = flows.lease();
    trace.now = maps::moment();
    for at in 0..F::LAYOUT.words {
        trace.words[at] = row.word(at);
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
