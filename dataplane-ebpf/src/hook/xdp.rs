//! At the driver.

#![expect(unsafe_code, reason = "packet bytes are reached through the bounds that the verifier checks")]

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT},
        xdp_md,
    },
    helpers::{bpf_fib_lookup, bpf_xdp_adjust_meta, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use dataplane_common::{
    Reason,
    abi::{Handoff, Ifindex, KernelLookup, PortFlags},
    decide::{self, L3Protocol, Vlan},
    wire::{Beginning, Bytes, Chain, EtherType, Header, Tag, Tags, Walk},
};

use crate::{
    egress_permit::{self, Disposition},
    fib_lookup, maps,
    packet::{ChainsDone, Global as _, Hook, Tier},
    pipeline, rewrite,
    trace::emit,
    verdict::Outcome,
};

/// A frame in a driver's ring.
pub struct Frame<'a>(&'a XdpContext);

impl<'a> Frame<'a> {
    /// The frame of a context.
    #[inline(always)]
    pub const fn new(context: &'a XdpContext) -> Self {
        Self(context)
    }

    /// What the kernel handed over.
    #[inline(always)]
    pub const fn raw(&self) -> *mut xdp_md {
        self.0.ctx
    }

    /// See [`super::tc::Skb::complete`]: a walk that ends outside of the frame has seen that.
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "the other tier looks at the packet")]
    pub const fn complete(&self, walk: Walk, _: usize) -> Walk {
        walk
    }
}

impl Bytes for Frame<'_> {
    #[inline(always)]
    fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        let start = self.0.data() + offset;
        if start + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: a packet is never at address 0; LLVM would check.
        unsafe { core::hint::assert_unchecked(start != 0) };
        // SAFETY: inside the packet, as just checked, which stays where it is until a helper moves it; `Header` promises
        // that every bit pattern is valid at every alignment.
        Some(unsafe { &*(start as *const T) })
    }

    #[inline(always)]
    fn walk(&self, chain: Chain, end: usize) -> Walk {
        Walk::from_raw(self.walked(chain.payload as u32, chain.protocol as u32, end as u32))
    }

    #[inline(always)]
    fn beginning(&self, at: usize, left: usize) -> Beginning {
        Beginning::from_raw(self.begins(at as u32, left as u32))
    }

    #[inline(always)]
    fn tags(&self, first: EtherType, stripped: Tag) -> Tags {
        Tags::from_raw(self.tagged(u32::from(first.0.raw()), u32::from(stripped.raw())))
    }
}

impl Hook for Frame<'_> {
    const TIER: Tier = Tier::Xdp;

    #[inline(always)]
    fn ifindex(&self) -> Ifindex {
        self.0.ingress_ifindex() as Ifindex
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.data_end() - self.0.data()
    }

    #[inline(always)]
    fn total(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) }
    }

    #[inline(always)]
    fn load(&self, bytes: *mut c_void, count: u32) -> bool {
        // SAFETY: the helper writes the given number of bytes, which are there.
        unsafe { bpf_xdp_load_bytes(self.0.ctx, 0, bytes, count) == 0 }
    }

    #[inline(always)]
    fn fib_lookup(&self, query: &mut KernelLookup, flags: u32) -> i64 {
        // SAFETY: the context is the program's own, and the parameters have the layout and length that the helper takes.
        unsafe { bpf_fib_lookup(self.0.ctx.cast(), (&raw mut query.params).cast(), fib_lookup::LENGTH, flags) }
    }

    #[inline(always)]
    fn is_scattered(&self) -> bool {
        self.total() > self.length() as u64
    }

    #[inline(always)]
    fn segment_size(&self) -> usize {
        0
    }

    #[inline(always)]
    fn stripped_vlan(&self) -> Vlan {
        Vlan::NONE
    }

    #[inline(always)]
    fn announces(&self, _: L3Protocol) -> bool {
        true
    }

    #[inline(always)]
    fn is_marked(&self) -> bool {
        false
    }

    #[inline(always)]
    fn is_ours(&self) -> bool {
        false
    }

    #[inline(always)]
    fn is_unwrapped(&self) -> bool {
        false
    }

    #[inline(always)]
    fn chains_done(&self) -> ChainsDone {
        ChainsDone::NONE
    }
}

/// Judges a frame and does what the verdict says.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    let frame = Frame(context);
    let Some((slot, port)) = maps::port(frame.ifindex()) else { return XDP_PASS };
    let verdict = pipeline::run(&frame, port);
    let reason = match verdict {
        Outcome::Transmit(egress) => {
            // The device first: a frame that has been rewritten cannot go back to the kernel.
            let bytes = frame.length() as u64;
            emit::forwarded(&frame, &egress);
            if maps::redirect(egress.adjacency.device) && rewrite::frame(context, &egress) {
                maps::count(slot, Reason::Forwarded, bytes);
                egress.adjacency.mark_used();
                return XDP_REDIRECT;
            }
            Reason::NoEgress
        }
        Outcome::Switch(member) => {
            let bytes = frame.length() as u64;
            if maps::redirect(member as Ifindex) {
                emit::switched(&frame, member as Ifindex);
                maps::count(slot, Reason::Bridged, bytes);
                return XDP_REDIRECT;
            }
            Reason::Taken
        }
        Outcome::Defer(state) => {
            // Also that nothing was done: an skb may still carry what was handed over at another port.
            hand_off(context, state as u32);
            return XDP_PASS;
        }
        Outcome::Stop(reason) => reason,
    };
    let tc = u32::from(port.flags().contains(PortFlags::TC));
    conclude_frame(context.ctx, slot, egress_permit::judge(&frame, reason).raw(), tc)
}

/// Counts and marks a frame that was judged; gives the action. A global function: there are many ways to this end.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conclude_frame(context: *mut xdp_md, slot: u32, end: u32, tc: u32) -> u32 {
    let context = XdpContext::new(context);
    let frame = Frame(&context);
    let bytes = frame.total();
    let end = Disposition::from_raw(end).withhold_unknown_link(|| frame.is_unknown_link());
    let reason = end.reason();
    end.log(&frame);
    let dropped = Reason::drops(reason);
    if dropped && tc != 0 && decide::is_for_raw_sockets(&frame) {
        // A frame that cannot be handed over is judged anew by tc.
        if hand_off(&context, Handoff::HIDDEN) {
            maps::count_number(slot, reason, bytes);
            emit::end(&frame, reason);
        }
        return XDP_PASS;
    }
    // A frame that cannot be handed over is left to tc, which will judge and count it itself.
    if dropped || hand_off(&context, Handoff::JUDGED | end.permit().raw() << 16) || tc == 0 {
        maps::count_number(slot, reason, bytes);
        emit::end(&frame, reason);
    }
    if dropped { XDP_DROP } else { XDP_PASS }
}

/// Leaves word for tc in front of the frame; `false` where the driver has no room for it.
#[inline(always)]
fn hand_off(context: &XdpContext, state: u32) -> bool {
    // SAFETY: the context is the program's own; no reference into the packet is used after this.
    if unsafe { bpf_xdp_adjust_meta(context.ctx, -(size_of::<Handoff>() as u32).cast_signed()) } != 0 {
        return false;
    }
    let ifindex = Frame(context).ifindex();
    let start = context.metadata();
    if start + size_of::<Handoff>() > context.metadata_end() {
        return false;
    }
    // SAFETY: inside the metadata area, as just checked; the kernel keeps it aligned to four bytes.
    unsafe { *(start as *mut Handoff) = Handoff { magic: Handoff::magic(ifindex), state } };
    true
}
