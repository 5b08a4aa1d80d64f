//! At tc, on the skb: checksums to be filled in, segments to be cut and devices without XDP are no obstacle here.

#![expect(unsafe_code, reason = "packet bytes are reached through the bounds that the verifier checks")]

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{bpf_fib_lookup, bpf_skb_get_xfrm_state, bpf_skb_load_bytes},
    programs::TcContext,
};
use dataplane_common::{
    Reason,
    abi::{EgressPermit, Handoff, Ifindex, KernelLookup, PortFlags},
    decide::{self, L3Protocol, Vlan},
    wire::{Be16, Beginning, Bytes, Chain, EtherType, Header, Tag, Tags, Walk},
};

use super::{
    gather::{TRANSPORT, gather},
    hide::{HOST, hide},
};
use crate::{
    crossing,
    egress_permit::{self, Disposition},
    features, fib_lookup, maps,
    packet::{ChainsDone, Global as _, Hook, Tier},
    pipeline, rewrite,
    trace::emit,
    verdict::{Egress, Outcome},
};

/// `PACKET_LOOPBACK` (`include/uapi/linux/if_packet.h`): this machine's copy of a group packet it sent, without link header.
const LOOPBACK: u32 = 5;

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

    /// What the kernel handed over.
    #[inline(always)]
    pub const fn raw(&self) -> *mut __sk_buff {
        self.context.skb.skb
    }

    /// A walk whose transport header is in the bytes that can be read, up to `end`; else one that is cut off.
    #[inline(always)]
    pub fn complete(&self, walk: Walk, end: usize) -> Walk {
        match walk.outcome() {
            Ok(chain) if self.context.data_end() - self.context.data() < end.min(chain.payload + TRANSPORT) => {
                Walk::TRUNCATED
            }
            _ => walk,
        }
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
    fn total(&self) -> u64 {
        self.length() as u64
    }

    #[inline(always)]
    fn load(&self, bytes: *mut c_void, count: u32) -> bool {
        // SAFETY: the helper writes the given number of bytes, which are there.
        unsafe { bpf_skb_load_bytes(self.context.skb.skb.cast(), 0, bytes, count) == 0 }
    }

    #[inline(always)]
    fn fib_lookup(&self, query: &mut KernelLookup, flags: u32) -> i64 {
        let skb = self.context.skb.skb.cast();
        // SAFETY: the context is the program's own, and the parameters have the layout and length that the helper takes.
        unsafe { bpf_fib_lookup(skb, (&raw mut query.params).cast(), fib_lookup::LENGTH, flags) }
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
    fn announces(&self, l3: L3Protocol) -> bool {
        // SAFETY: the context is the program's own.
        let kind = unsafe { (*self.context.skb.skb).protocol };
        let kind = EtherType(Be16::from_bytes((kind as u16).to_ne_bytes()));
        // In a test run the kernel takes two bytes of the packet for its protocol.
        features::DRY_RUN.on() || L3Protocol::from(kind) == l3
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
    fn is_unwrapped(&self) -> bool {
        unwrapped_skb(self.context.skb.skb) != 0
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
    // What `IPsec` has unwrapped comes in through the bridge once more, with the mark of the packet that it was in.
    if features::BRIDGES.on()
        && port.flags().contains(PortFlags::JUDGED_BELOW)
        && is_judged_skb(context.skb.skb) != 0
        && !(features::IPSEC.on() && skb.is_unwrapped())
    {
        return TC_ACT_UNSPEC;
    }
    let verdict = pipeline::run(&skb, port);
    let bytes = skb.length() as u64;
    let reason = match verdict {
        Outcome::Transmit(egress) => {
            emit::forwarded(&skb, &egress);
            let crosses = crossing::is_needed(&egress);
            if if crosses { crossing::rewrite(context, &egress) } else { rewrite(context, &egress) } {
                maps::count(slot, Reason::Forwarded, bytes);
                egress.adjacency.mark_used();
                if features::FORWARD.on() || features::FLOWS.on() {
                    stamp(context.skb.skb, maps::egress_classes().map_or(EgressPermit::NONE, EgressPermit::any));
                }
                return crossing::send(context, &egress);
            }
            Reason::NoEgress
        }
        Outcome::Switch(member) => {
            emit::switched(&skb, member as Ifindex);
            maps::count(slot, Reason::Bridged, bytes);
            stamp(context.skb.skb, EgressPermit::NONE);
            return crossing::pass(member as Ifindex);
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
    let end = Disposition::from_raw(end).withhold_unknown_link(|| skb.is_unknown_link());
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
    if features::FORWARD.on() || features::FLOWS.on() || features::BRIDGES.on() {
        // SAFETY: the context is the program's own.
        unsafe { (*skb).tc_index = permit.raw() };
    }
}

/// Whether the member of a bridge that it came in through has judged it. A global function: one path for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_judged_skb(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the context is the program's own.
    let permit = EgressPermit::from_raw(u32::from(unsafe { (*skb).tc_index } as u16));
    u32::from(egress_permit::is_judged(permit))
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
    // SAFETY: the context is the program's own.
    let ifindex = unsafe { (*skb).ifindex };
    if handoff.magic == Handoff::magic(ifindex) { handoff.state } else { 0 }
}
