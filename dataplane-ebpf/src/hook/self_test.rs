//! The self-test: the controller runs a generation of the filter that is not live yet on test packets.

#![expect(unsafe_code, reason = "packet bytes are reached through the bounds that the verifier checks")]

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_PASS},
    programs::XdpContext,
};
use dataplane_common::abi::{KeyFlags, SelfTestFrame, field};

use crate::{maps, scan::scan};

/// The frame, if it is a [`SelfTestFrame`].
#[inline(always)]
fn frame(context: &XdpContext) -> Option<NonNull<SelfTestFrame>> {
    let start = context.data();
    if start + size_of::<SelfTestFrame>() > context.data_end() {
        return None;
    }
    NonNull::new(start as *mut SelfTestFrame)
}

/// Evaluates a chain, and writes the result behind the parameters. Rules are counted in maps that are never read.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    let (Some(self_test), Some(key)) = (frame(context), maps::key()) else { return XDP_ABORTED };
    // SAFETY: inside the packet. `BPF_PROG_TEST_RUN` puts it 256 bytes into a page, so it is aligned.
    let self_test = unsafe { self_test.as_ref() };
    key.address = self_test.address;
    key.mixed = self_test.mixed;
    key.fields = self_test.fields;
    key.length = self_test.length;
    key.flags = KeyFlags::from_bits_retain(self_test.flags);
    // What it says is in the search, too.
    let _finding = scan(key.family() == 6, self_test.generation, self_test.chain, self_test.fields[field::OIF], 0);
    let (Some(mut self_test), Some(key)) = (frame(context), maps::key()) else { return XDP_ABORTED };
    // SAFETY: as above, and the question is not looked at any more.
    let self_test = unsafe { self_test.as_mut() };
    self_test.order = key.search.best;
    self_test.rule = key.search.rule;
    XDP_PASS
}
