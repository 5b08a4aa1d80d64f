//! At tc, on the skb: checksums to be filled in, segments to be cut and devices without XDP are no obstacle here.

#![expect(unsafe_code, reason = "packet bytes are reached through the bounds that the verifier checks")]

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{bpf_fib_lookup, bpf_redirect, bpf_skb_get_xfrm_state, bpf_skb_load_bytes},
    programs::TcContext,
};
use dataplane_common::{
    Reason,
    abi::{EgressPermit, Handoff, Ifindex, KernelLookup},
    decide::{self, Vlan},
    wire::{self, Be16, Beginning, Bytes, Chain, EtherType, Header, Tag, Tags, Walk},
};

use super::{
    gather::{TRANSPORT, gather},
    hide::hide,
};
use crate::{
    egress_permit::{self, Disposition},
    features, fib_lookup,
    flow_lookup::{self, Query},
    maps,
    packet::{ChainsDone, Hook, Tier},
    packet_log, pipeline, rewrite, tables,
    trace::emit,
    verdict::{Egress, Outcome},
};

/// `PACKET_LOOPBACK` (`include/uapi/linux/if_packet.h`): this machine's copy of a group packet it sent, without link header.
const LOOPBACK: u32 = 5;
/// `PACKET_HOST`: for the device's own link address, as it is at this moment.
pub(super) const HOST: u32 = 0;

/// An skb.
pub struct Skb<'a> {
    context: &'a TcContext,
    /// XDP may have handed it over.
    behind: bool,
}

impl<'a> Skb<'a> {
    /// One that XDP has not seen.
    #[inline(always)]
    pub const fn new(context: &'a TcContext) -> Self {
        Self { context, behind: false }
    }
}

impl Bytes for Skb<'_> {
    #[inline(always)]
    fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        let start = self.context.data() + offset;
        if start + size_of::<T>() > self.context.data_end() {
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
        Walk::from_raw(walk_skb(self.context.skb.skb, chain.payload as u32, chain.protocol as u32, end as u32))
    }

    #[inline(always)]
    fn beginning(&self, at: usize, left: usize) -> Beginning {
        Beginning::from_raw(beginning_of_skb(self.context.skb.skb, at as u32, left as u32))
    }

    #[inline(always)]
    fn tags(&self, first: EtherType, stripped: Tag) -> Tags {
        Tags::from_raw(tags_of_skb(self.context.skb.skb, u32::from(first.0.raw()), u32::from(stripped.raw())))
    }
}

impl Hook for Skb<'_> {
    const TIER: Tier = Tier::Tc;

    #[inline(always)]
    fn ifindex(&self) -> Ifindex {
        // SAFETY: the context is the program's own.
        unsafe { (*self.context.skb.skb).ifindex }
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.context.len() as usize
    }

    #[inline(always)]
    fn is_scattered(&self) -> bool {
        false
    }

    #[inline(always)]
    fn segment_size(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { (*self.context.skb.skb).gso_size as usize }
    }

    #[inline(always)]
    fn stripped_vlan(&self) -> Vlan {
        // SAFETY: the context is the program's own.
        let present = unsafe { (*self.context.skb.skb).vlan_present };
        // SAFETY: as above.
        let control = unsafe { (*self.context.skb.skb).vlan_tci };
        // SAFETY: as above.
        let kind = unsafe { (*self.context.skb.skb).vlan_proto };
        let kind = EtherType(Be16::from_bytes((kind as u16).to_ne_bytes()));
        if present == 0 { Vlan::NONE } else { Vlan::new(kind, control as u16) }
    }

    #[inline(always)]
    fn log_packet(&self, chain: u32) {
        log_skb(self.context.skb.skb, chain);
    }

    #[inline(always)]
    fn kernel_lookup(&self) {
        kernel_lookup_skb(self.context.skb.skb);
    }

    #[inline(always)]
    fn look_up_flow(&self, at: usize, left: usize, query: u64) {
        flow_of_skb(self.context.skb.skb, at as u32, left as u32, query);
    }

    #[inline(always)]
    fn is_marked(&self) -> bool {
        // SAFETY: the context is the program's own.
        unsafe { (*self.context.skb.skb).mark != 0 }
    }

    #[inline(always)]
    fn is_ours(&self) -> bool {
        // SAFETY: the context is the program's own.
        unsafe { (*self.context.skb.skb).pkt_type == HOST }
    }

    #[inline(always)]
    fn macvlan(&self, ifindex: Ifindex) -> u64 {
        macvlan_skb(self.context.skb.skb, ifindex)
    }

    #[inline(always)]
    fn proxied(&self, ifindex: Ifindex, places: u64, route: u32) -> u32 {
        proxied_skb(self.context.skb.skb, ifindex, places, route)
    }

    #[inline(always)]
    fn is_unwrapped(&self) -> bool {
        unwrapped_skb(self.context.skb.skb) != 0
    }

    #[inline(always)]
    fn is_for_client(&self, at: usize, ipv6: bool) -> bool {
        client_of_skb(self.context.skb.skb, at as u32, u32::from(ipv6)) != 0
    }

    #[inline(always)]
    fn quoted_flow(&self, at: usize, ipv6: bool, flow: u32) -> u32 {
        quoted_flow_of_skb(self.context.skb.skb, at as u32, u32::from(ipv6), flow)
    }

    #[inline(always)]
    fn trace(&self, reason: u32, oif: Ifindex) {
        trace_skb(self.context.skb.skb, reason, oif);
    }

    #[inline(always)]
    fn chains_done(&self) -> ChainsDone {
        // Read anew each time, so that it is one path for the verifier; the packet loses it when its headers are moved.
        if self.behind { ChainsDone::from_state(maps::chains_done()) } else { ChainsDone::NONE }
    }
}

/// Judges an skb of a port without XDP.
#[inline(always)]
pub fn run(context: &TcContext) -> i32 {
    judge(context, false, rewrite::skb)
}

/// Settles what XDP left open, and judges what it could not mark.
#[inline(always)]
pub fn run_behind_xdp(context: &TcContext) -> i32 {
    let state = handoff_of_skb(context.skb.skb);
    if state & Handoff::STATE == Handoff::JUDGED {
        stamp(context.skb.skb, EgressPermit::from_raw(state >> 16));
        return TC_ACT_UNSPEC;
    }
    if state == Handoff::HIDDEN {
        return hide(context);
    }
    maps::store_chains_done(state);
    judge(context, true, rewrite::marked_skb)
}

/// Judges an skb and does what the verdict says.
#[inline(always)]
fn judge(context: &TcContext, behind: bool, rewrite: impl Fn(&TcContext, &Egress) -> bool) -> i32 {
    // SAFETY: the context is the program's own.
    let kind = unsafe { (*context.skb.skb).pkt_type };
    if kind == LOOPBACK {
        return TC_ACT_UNSPEC;
    }
    gather(context);
    let skb = Skb { context, behind };
    let Some((slot, port)) = maps::port(skb.ifindex()) else { return TC_ACT_UNSPEC };
    let verdict = pipeline::run(&skb, port);
    let bytes = skb.length() as u64;
    let reason = match verdict {
        Outcome::Transmit(egress) => {
            emit::forwarded(&skb, &egress);
            if rewrite(context, &egress) {
                maps::count(slot, Reason::Forwarded, bytes);
                egress.adjacency.mark_used();
                if features::FORWARD.on() || features::FLOWS.on() {
                    stamp(context.skb.skb, maps::egress_classes().map_or(EgressPermit::NONE, EgressPermit::any));
                }
                // SAFETY: a helper without pointers.
                return unsafe { bpf_redirect(egress.adjacency.device, 0) } as i32;
            }
            Reason::NoEgress
        }
        // There is no tier below but the kernel; the pipeline does not defer here.
        Outcome::Defer(_) => Reason::NoEgress,
        Outcome::Stop(reason) => reason,
    };
    conclude_skb(context.skb.skb, slot, egress_permit::judge(&skb, reason).raw()).cast_signed()
}

/// Counts an skb that was judged; gives the action. A global function: there are many ways to this end.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conclude_skb(skb: *mut __sk_buff, slot: u32, end: u32) -> u32 {
    let context = TcContext::new(skb);
    let skb = Skb::new(&context);
    let end = Disposition::from_raw(end).withhold_unknown_link(|| is_unknown_link_skb(context.skb.skb));
    let reason = end.reason();
    end.log(&skb);
    stamp(context.skb.skb, end.permit());
    maps::count_number(slot, reason, skb.length() as u64);
    emit::end(&skb, reason);
    if !Reason::drops(reason) {
        return TC_ACT_UNSPEC.cast_unsigned();
    }
    let action = if decide::is_for_raw_sockets(&skb) { hide(&context) } else { TC_ACT_SHOT };
    action.cast_unsigned()
}

/// Writes the permit of a packet for tc egress. It overwrites what others have written there.
#[inline(always)]
pub fn stamp(skb: *mut __sk_buff, permit: EgressPermit) {
    if features::FORWARD.on() || features::FLOWS.on() {
        // SAFETY: the context is the program's own.
        unsafe { (*skb).tc_index = permit.raw() };
    }
}

/// See [`egress_permit::is_unknown_link`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_unknown_link_skb(raw: *mut __sk_buff) -> u32 {
    let lookup = |query: &mut KernelLookup| {
        // SAFETY: the context is the program's own, and the parameters have the layout and length that the helper takes.
        unsafe { bpf_fib_lookup(raw.cast(), (&raw mut query.params).cast(), fib_lookup::LENGTH, 0) }
    };
    u32::from(egress_permit::is_unknown_link(lookup))
}

/// A global function: the verifier looks at it once, not once for every path that goes on from it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_skb(skb: *mut __sk_buff, payload: u32, protocol: u32, end: u32) -> u64 {
    let context = TcContext::new(skb);
    let skb = Skb::new(&context);
    let chain = Chain { payload: payload as usize, protocol: u64::from(protocol), fragment: 0 };
    let end = end as usize;
    let walk = wire::walk(&skb, chain, end);
    match walk.outcome() {
        Ok(chain) if context.data_end() - context.data() < end.min(chain.payload + TRANSPORT) => Walk::TRUNCATED.raw(),
        _ => walk.raw(),
    }
}

/// A global function, as the walk.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn client_of_skb(context: *mut __sk_buff, at: u32, ipv6: u32) -> u32 {
    let context = TcContext::new(context);
    u32::from(decide::is_for_client(&Skb::new(&context), at as usize, ipv6 != 0))
}

/// A global function, as the walk.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn beginning_of_skb(context: *mut __sk_buff, at: u32, left: u32) -> u64 {
    let context = TcContext::new(context);
    wire::beginning(&Skb::new(&context), at as usize, left as usize).raw()
}

/// A global function, as the walk.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn quoted_flow_of_skb(context: *mut __sk_buff, at: u32, ipv6: u32, flow: u32) -> u32 {
    let context = TcContext::new(context);
    decide::quoted_flow(&Skb::new(&context), at as usize, ipv6 != 0, flow)
}

/// A global function, as the walk: so the verifier sees tags as numbers, and not a path for each that there may be.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tags_of_skb(context: *mut __sk_buff, first: u32, stripped: u32) -> u64 {
    let first = EtherType(Be16::from_bytes((first as u16).to_ne_bytes()));
    let stripped = Tag::from_raw(stripped as u16);
    let context = TcContext::new(context);
    wire::tags(&Skb::new(&context), first, stripped).raw()
}

/// See [`Hook::look_up_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_of_skb(context: *mut __sk_buff, at: u32, left: u32, query: u64) -> u32 {
    flow_lookup::look_up(&Skb::new(&TcContext::new(context)), at as usize, left as usize, Query::from_raw(query));
    0
}

/// Runs the kernel's route lookup. A global function, as the walk: so the verifier looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kernel_lookup_skb(raw: *mut __sk_buff) -> u32 {
    let context = TcContext::new(raw);
    let run = |query: &mut KernelLookup, flags| {
        // SAFETY: the context is the program's own, and the parameters have the layout and length that the helper takes.
        unsafe { bpf_fib_lookup(raw.cast(), (&raw mut query.params).cast(), fib_lookup::LENGTH, flags) }
    };
    fib_lookup::lookup(&Skb::new(&context), run);
    0
}

/// See [`Hook::macvlan`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn macvlan_skb(skb: *mut __sk_buff, ifindex: u32) -> u64 {
    tables::macvlan(&Skb { context: &TcContext::new(skb), behind: false }, ifindex)
}

/// See [`Hook::proxied`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn proxied_skb(skb: *mut __sk_buff, ifindex: u32, places: u64, route: u32) -> u32 {
    let context = TcContext::new(skb);
    tables::proxied(&Skb::new(&context), ifindex, places, route)
}

/// Whether a security association led here. A global function, for the room that the answer takes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unwrapped_skb(skb: *mut __sk_buff) -> u32 {
    let mut state = [0_u32; 7];
    let size = size_of_val(&state) as u32;
    // SAFETY: the context is the program's own, and there is room for a `struct bpf_xfrm_state`.
    let found = unsafe { bpf_skb_get_xfrm_state(skb, 0, (&raw mut state).cast(), size, 0) };
    u32::from(found == 0)
}

/// Puts the frame, and the rules that log or reject it, into the ring.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn log_skb(skb: *mut __sk_buff, chain: u32) -> u32 {
    // SAFETY: the context is the program's own.
    let length = unsafe { (*skb).len };
    // SAFETY: the helper writes the given number of bytes, which are there.
    packet_log::emit(chain, length, |bytes, count| unsafe { bpf_skb_load_bytes(skb.cast(), 0, bytes, count) == 0 });
    0
}

/// Puts the frame and its verdict into the ring, if a subscriber wants it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trace_skb(skb: *mut __sk_buff, reason: u32, oif: u32) -> u32 {
    // SAFETY: the context is the program's own.
    let length = unsafe { (*skb).len };
    // SAFETY: as above.
    let port = unsafe { (*skb).ifindex };
    let tier = Tier::Tc as u32;
    // SAFETY: the helper writes the given number of bytes, which are there.
    let load = |bytes, count| unsafe { bpf_skb_load_bytes(skb.cast(), 0, bytes, count) == 0 };
    emit::emit((port, reason, oif, tier), length, load);
    0
}

/// The state that XDP handed over ([`Handoff::state`]); 0: none. A global function: one path for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn handoff_of_skb(skb: *mut __sk_buff) -> u32 {
    let context = TcContext::new(skb);
    // SAFETY: the context is the program's own.
    let (start, end) = unsafe { ((*skb).data_meta as usize, context.data()) };
    if start + size_of::<Handoff>() > end {
        return 0;
    }
    // SAFETY: inside the metadata area, as just checked; the kernel keeps it aligned to four bytes.
    let handoff = unsafe { &*(start as *const Handoff) };
    if handoff.magic == Handoff::MAGIC { handoff.state } else { 0 }
}
