//! Single packets that go to the controller, which logs or rejects them.

#![expect(unsafe_code, reason = "room in the ring is uninitialised memory")]

use core::ffi::c_void;

use dataplane_common::abi::{Acts, PACKET_EVENT_BYTES, entry, event_kind, field};

use crate::maps;

/// Sends the packet whose key is in [`maps::key`], once for each of the rules that the last search noted. `load` copies so many
/// bytes from the beginning of the frame. While the ring is full, nothing is sent.
#[inline(always)]
pub fn emit(chain: u32, length: u32, load: impl Fn(*mut c_void, u32) -> bool) {
    let Some(key) = maps::key() else { return };
    let mut number = 0;
    while number < 2 {
        let rule = key.search.log_rules[number];
        if rule == 0 {
            return;
        }
        let Some(mut room) = maps::event() else { return };
        // One value from here on: the verifier must see its bounds where the helper is called.
        let length = u64::from(length);
        // SAFETY: a read of a local.
        let mut captured = unsafe { (&raw const length).read_volatile() };
        if captured > PACKET_EVENT_BYTES as u64 {
            captured = PACKET_EVENT_BYTES as u64;
        }
        let acts = Acts::of(rule.into());
        let mut why = 0;
        if acts.contains(Acts::LOG) {
            why |= event_kind::LOG;
        }
        if acts.contains(Acts::REJECT) {
            why |= event_kind::REJECT;
        }
        // SAFETY: the room is as large as an event, and any bytes are one.
        let event = unsafe { &mut *room.as_mut_ptr() };
        event.counter = rule & entry::COUNTER as u32;
        event.chain = chain as u16;
        event.kind = why;
        event.iif = key.fields[field::IIF];
        event.oif = key.fields[field::OIF];
        event.length = length as u32;
        event.captured = captured as u32;
        event.offset = key.offset;
        event.reserved = 0;
        // No frame is one byte long; and Linux 6.1 learns no bound from "not 0", which the compiler would make of "at least 1".
        if captured >= 2 && load((&raw mut event.bytes).cast(), captured as u32) {
            room.submit(0);
        } else {
            room.discard(0);
        }
        number += 1;
    }
}
