//! What a traced packet meets on its path: written down where it happens.

#![expect(unsafe_code, reason = "a word of a map is read so that the verifier does not know its value")]

use dataplane_common::abi::{Ifindex, chain_trace, draw};

use crate::{features, flow_lookup, maps};

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
    // Of the packet before.
    if features::FLOWS.on()
        && let Some(flow) = maps::flow_context()
    {
        flow_lookup::begin(flow.as_ptr());
    }
    if let Some(key) = maps::key() {
        key.blank(port);
    }
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
