//! Nowhere: the controller asks a generation of the filter that is not live yet.

#![expect(unsafe_code, reason = "packet bytes are reached through the bounds that the verifier checks")]

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_PASS},
    programs::XdpContext,
};
use dataplane_common::abi::{KeyFlags, Trial, rest};

use crate::{maps, scan::scan};

/// The frame, if it is a [`Trial`].
#[inline(always)]
fn frame(context: &XdpContext) -> Option<NonNull<Trial>> {
    let start = context.data();
    if start + size_of::<Trial>() > context.data_end() {
        return None;
    }
    NonNull::new(start as *mut Trial)
}

/// Asks, and writes the answer behind the question. Rules are counted in maps that nobody reads.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    let (Some(trial), Some(key)) = (frame(context), maps::key()) else { return XDP_ABORTED };
    // SAFETY: inside the packet. `BPF_PROG_TEST_RUN` puts it 256 bytes into a page, so it is aligned.
    let trial = unsafe { trial.as_ref() };
    key.address = trial.address;
    key.mixed = trial.mixed;
    key.rest = trial.rest;
    key.length = trial.length;
    key.flags = KeyFlags::from_bits_retain(trial.flags);
    // What it says is in the search, too.
    let _finding = scan(key.family() == 6, trial.generation, trial.chain, trial.rest[rest::OIF], 0);
    let (Some(mut trial), Some(key)) = (frame(context), maps::key()) else { return XDP_ABORTED };
    // SAFETY: as above, and the question is not looked at any more.
    let trial = unsafe { trial.as_mut() };
    trial.order = key.search.best;
    trial.rule = key.search.rule;
    XDP_PASS
}
