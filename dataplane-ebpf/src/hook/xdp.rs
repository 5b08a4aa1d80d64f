//! At the driver.

#![expect(unsafe_code, reason = "packet bytes are reached through the bounds that the verifier checks")]

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
    decide::{self, Vlan},
    wire::{self, Be16, Beginning, Bytes, Chain, EtherType, Header, Tag, Tags, Walk},
};

use crate::{
    egress_permit::{self, Disposition},
    fib_lookup,
    flow_lookup::{self, Query},
    maps,
    packet::{ChainsDone, Hook, Tier},
    packet_log, pipeline, rewrite, tables,
    trace::emit,
    verdict::Outcome,
};

/// A frame in a driver's ring.
struct Frame<'a>(&'a XdpContext);

impl Frame<'_> {
    /// Bytes in all of its buffers.
    #[inline(always)]
    fn total(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) }
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
        Walk::from_raw(walk_frame(self.0.ctx, chain.payload as u32, chain.protocol as u32, end as u32))
    }

    #[inline(always)]
    fn beginning(&self, at: usize, left: usize) -> Beginning {
        Beginning::from_raw(beginning_of_frame(self.0.ctx, at as u32, left as u32))
    }

    #[inline(always)]
    fn tags(&self, first: EtherType, stripped: Tag) -> Tags {
        Tags::from_raw(tags_of_frame(self.0.ctx, u32::from(first.0.raw()), u32::from(stripped.raw())))
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
    fn log_packet(&self, chain: u32) {
        log_frame(self.0.ctx, chain);
    }

    #[inline(always)]
    fn kernel_lookup(&self) {
        kernel_lookup_frame(self.0.ctx);
    }

    #[inline(always)]
    fn look_up_flow(&self, at: usize, left: usize, query: u64) {
        flow_of_frame(self.0.ctx, at as u32, left as u32, query);
    }

    #[inline(always)]
    fn is_marked(&self) -> bool {
        false
    }

    #[inline(always)]
    fn is_ours(&self) -> bool {
        false
    }

    /// Such a frame is for tc.
    #[inline(always)]
    fn macvlan(&self, _: Ifindex) -> u64 {
        0
    }

    #[inline(always)]
    fn proxied(&self, ifindex: Ifindex, places: u64, route: u32) -> u32 {
        proxied_frame(self.0.ctx, ifindex, places, route)
    }

    #[inline(always)]
    fn is_unwrapped(&self) -> bool {
        false
    }

    #[inline(always)]
    fn is_for_client(&self, at: usize, ipv6: bool) -> bool {
        client_of_frame(self.0.ctx, at as u32, u32::from(ipv6)) != 0
    }

    #[inline(always)]
    fn quoted_flow(&self, at: usize, ipv6: bool, flow: u32) -> u32 {
        quoted_flow_of_frame(self.0.ctx, at as u32, u32::from(ipv6), flow)
    }

    #[inline(always)]
    fn trace(&self, reason: u32, oif: Ifindex) {
        trace_frame(self.0.ctx, reason, oif);
    }

    #[inline(always)]
    fn chains_done(&self) -> ChainsDone {
        ChainsDone::NONE
    }
}

/// See [`Hook::proxied`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn proxied_frame(context: *mut xdp_md, ifindex: u32, places: u64, route: u32) -> u32 {
    tables::proxied(&Frame(&XdpContext::new(context)), ifindex, places, route)
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
        Outcome::Defer(state) => {
            if state != 0 {
                hand_off(context, state as u32);
            }
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
    let end = Disposition::from_raw(end).withhold_unknown_link(|| is_unknown_link_frame(context.ctx));
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

/// See [`egress_permit::is_unknown_link`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_unknown_link_frame(raw: *mut xdp_md) -> u32 {
    let lookup = |query: &mut KernelLookup| {
        // SAFETY: the context is the program's own, and the parameters have the layout and length that the helper takes.
        unsafe { bpf_fib_lookup(raw.cast(), (&raw mut query.params).cast(), fib_lookup::LENGTH, 0) }
    };
    u32::from(egress_permit::is_unknown_link(lookup))
}

/// A global function: the verifier looks at it once, not once for every path that goes on from it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_frame(context: *mut xdp_md, payload: u32, protocol: u32, end: u32) -> u64 {
    let context = XdpContext::new(context);
    wire::walk(
        &Frame(&context),
        Chain { payload: payload as usize, protocol: u64::from(protocol), fragment: 0 },
        end as usize,
    )
    .raw()
}

/// A global function, as the walk.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn client_of_frame(context: *mut xdp_md, at: u32, ipv6: u32) -> u32 {
    let context = XdpContext::new(context);
    u32::from(decide::is_for_client(&Frame(&context), at as usize, ipv6 != 0))
}

/// A global function, as the walk.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn beginning_of_frame(context: *mut xdp_md, at: u32, left: u32) -> u64 {
    let context = XdpContext::new(context);
    wire::beginning(&Frame(&context), at as usize, left as usize).raw()
}

/// A global function, as the walk.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn quoted_flow_of_frame(context: *mut xdp_md, at: u32, ipv6: u32, flow: u32) -> u32 {
    let context = XdpContext::new(context);
    decide::quoted_flow(&Frame(&context), at as usize, ipv6 != 0, flow)
}

/// A global function, as the walk: so the verifier sees tags as numbers, and not a path for each that there may be.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tags_of_frame(context: *mut xdp_md, first: u32, stripped: u32) -> u64 {
    let first = EtherType(Be16::from_bytes((first as u16).to_ne_bytes()));
    let stripped = Tag::from_raw(stripped as u16);
    let context = XdpContext::new(context);
    wire::tags(&Frame(&context), first, stripped).raw()
}

/// See [`Hook::look_up_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_of_frame(context: *mut xdp_md, at: u32, left: u32, query: u64) -> u32 {
    flow_lookup::look_up(&Frame(&XdpContext::new(context)), at as usize, left as usize, Query::from_raw(query));
    0
}

/// Runs the kernel's route lookup. A global function, as the walk: so the verifier looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kernel_lookup_frame(raw: *mut xdp_md) -> u32 {
    let context = XdpContext::new(raw);
    let run = |query: &mut KernelLookup, flags| {
        // SAFETY: the context is the program's own, and the parameters have the layout and length that the helper takes.
        unsafe { bpf_fib_lookup(raw.cast(), (&raw mut query.params).cast(), fib_lookup::LENGTH, flags) }
    };
    fib_lookup::lookup(&Frame(&context), run);
    0
}

/// Puts the frame, and the rules that log or reject it, into the ring.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn log_frame(context: *mut xdp_md, chain: u32) -> u32 {
    // SAFETY: the context is the program's own.
    let length = unsafe { bpf_xdp_get_buff_len(context) } as u32;
    // SAFETY: the helper writes the given number of bytes, which are there.
    packet_log::emit(chain, length, |bytes, count| unsafe { bpf_xdp_load_bytes(context, 0, bytes, count) == 0 });
    0
}

/// Puts the frame and its verdict into the ring, if a subscriber wants it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trace_frame(context: *mut xdp_md, reason: u32, oif: u32) -> u32 {
    // SAFETY: the context is the program's own.
    let length = unsafe { bpf_xdp_get_buff_len(context) } as u32;
    // SAFETY: as above.
    let port = unsafe { (*context).ingress_ifindex };
    let tier = Tier::Xdp as u32;
    // SAFETY: the helper writes the given number of bytes, which are there.
    let load = |bytes, count| unsafe { bpf_xdp_load_bytes(context, 0, bytes, count) == 0 };
    emit::emit((port, reason, oif, tier), length, load);
    0
}

/// Leaves word for tc in front of the frame; `false` where the driver has no room for it.
#[inline(always)]
fn hand_off(context: &XdpContext, state: u32) -> bool {
    // SAFETY: the context is the program's own; no reference into the packet is used after this.
    if unsafe { bpf_xdp_adjust_meta(context.ctx, -(size_of::<Handoff>() as u32).cast_signed()) } != 0 {
        return false;
    }
    let start = context.metadata();
    if start + size_of::<Handoff>() > context.metadata_end() {
        return false;
    }
    // SAFETY: inside the metadata area, as just checked; the kernel keeps it aligned to four bytes.
    unsafe { *(start as *mut Handoff) = Handoff { magic: Handoff::MAGIC, state } };
    true
}
