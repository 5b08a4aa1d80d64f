//! Packets that somebody watches: what each has met on its way, and word of those that are watched for.

#![expect(unsafe_code, reason = "room in the ring is memory that nobody has written yet")]

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_ns};
use dataplane_common::{
    Reason,
    abi::{Ifindex, PANES, SIGHTING_BYTES, draw, met, rest},
};

use crate::{features, hook::Hook, maps, pipeline::Way};

/// A packet begins its way. One that nobody will be told of shall cost little.
#[inline(always)]
pub fn begin(port: Ifindex) {
    if !features::TRACING.on() {
        return;
    }
    let (Some(trail), Some(watch)) = (maps::trail(), maps::watch()) else { return };
    trail.chance = draw(trail.chance);
    trail.watched = u32::from(trail.chance >= watch.skips);
    if !watched() {
        return;
    }
    trail.chains = [0; 4];
    trail.target = met::NOTHING;
    trail.adjacency = met::NOTHING;
    trail.panes = 0;
    if let Some(key) = maps::key() {
        key.blank(port);
    }
}

/// Whether anything may ask for the key of the packet at hand.
#[inline(always)]
pub fn keyed() -> bool {
    features::FILTERING.on() || watched()
}

/// Whether somebody may be told of the packet at hand.
#[inline(always)]
pub fn watched() -> bool {
    if !features::TRACING.on() {
        return false;
    }
    let Some(trail) = maps::trail() else { return false };
    // SAFETY: a read of a word that is there; anew, so that nobody knows it before.
    let watched = unsafe { (&raw const trail.watched).read_volatile() };
    watched != 0
}

/// A chain was asked, and the search for its rule is over.
#[inline(always)]
pub fn chain(number: u32) {
    if !features::TRACING.on() {
        return;
    }
    if let (Some(trail), Some(key)) = (maps::trail(), maps::key()) {
        trail.chains[number as usize & 3] = key.search.verdict();
    }
}

/// The route was looked up.
#[inline(always)]
pub fn route(target: u32) {
    if watched() {
        note(0, target);
    }
}

/// A next hop was chosen.
#[inline(always)]
pub fn hop(adjacency: u32) {
    if watched() {
        note(1, adjacency);
    }
}

/// Writes down a target (0) or an adjacency (1). A global function, so that nothing is to be followed behind it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note(what: u32, number: u32) -> u32 {
    if let Some(trail) = maps::trail() {
        if what == 0 {
            trail.target = number;
        } else {
            trail.adjacency = number;
        }
    }
    0
}

/// The packet has come to its end: the number of a reason.
#[inline(always)]
pub fn end<H: Hook>(hook: &H, reason: u32) {
    if watched() {
        hook.show(reason, 0);
    }
}

/// The packet is about to be sent on.
#[inline(always)]
pub fn depart<H: Hook>(hook: &H, way: &Way) {
    if watched() {
        hook.show(Reason::Forwarded as u32, way.adjacency.ifindex);
    }
}

/// Puts the packet at hand into the ring, if somebody watches for it. `load` copies so many bytes from the beginning of the
/// frame. Who is not told for want of room, or because too many were, is counted.
#[inline(always)]
pub fn show(
    (port, reason, oif, tier): (Ifindex, u32, Ifindex, u32),
    length: u32,
    load: impl Fn(*mut c_void, u32) -> bool,
) {
    if shown(reason, oif) == 0 {
        return;
    }
    let (Some(trail), Some(key), Some(watch)) = (maps::trail(), maps::key(), maps::watch()) else { return };
    if !maps::may_show() {
        trail.missed += 1;
        return;
    }
    let Some(mut room) = maps::sighting() else {
        trail.missed += 1;
        return;
    };
    let wanted = if length < watch.bytes { length } else { watch.bytes };
    // One value from here on: the verifier must see its bounds where the helper is called.
    let wanted = u64::from(wanted);
    // SAFETY: a read of a local.
    let mut captured = unsafe { (&raw const wanted).read_volatile() };
    if captured > SIGHTING_BYTES as u64 {
        captured = SIGHTING_BYTES as u64;
    }
    // SAFETY: the room is as large as a sighting, and any bytes are one.
    let sighting = unsafe { &mut *room.as_mut_ptr() };
    // SAFETY: a helper without arguments.
    sighting.time = unsafe { bpf_ktime_get_ns() };
    sighting.panes = trail.panes;
    sighting.reason = reason;
    sighting.port = port;
    sighting.iif = key.rest[rest::IIF];
    sighting.oif = key.rest[rest::OIF];
    sighting.tier = tier;
    sighting.length = length;
    sighting.captured = captured as u32;
    sighting.offset = key.offset;
    sighting.chains = trail.chains;
    sighting.target = trail.target;
    sighting.adjacency = trail.adjacency;
    sighting.reserved = 0;
    // No frame is one byte long; and Linux 6.1 learns no bound from "not 0", which the compiler would make of "at least 1".
    if captured >= 2 && load((&raw mut sighting.bytes).cast(), captured as u32) {
        // The controller looks by itself while somebody watches: to wake it would cost more than all else here.
        room.submit(u64::from(BPF_RB_NO_WAKEUP));
    } else {
        room.discard(0);
    }
}

/// The boxes that show the packet at hand. They are gathered in a map, not in a register: the verifier would follow each
/// combination of them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shown(reason: u32, oif: u32) -> u32 {
    let (Some(trail), Some(key), Some(watch)) = (maps::trail(), maps::key(), maps::watch()) else { return 0 };
    if oif != 0 {
        key.set_oif(oif);
    }
    let mut at = 0;
    while at < PANES {
        if at >= watch.count as usize {
            break;
        }
        let pane = &watch.panes[at & (PANES - 1)];
        if trail.chance >= pane.skips && pane.shows(key, reason) {
            trail.panes |= 1 << at;
        }
        at += 1;
    }
    trail.panes
}
