//! Headers of an skb that lie in several pieces, brought into one.

#![expect(unsafe_code, reason = "helpers of the kernel that take the context")]

use core::arch::asm;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_skb_load_bytes, bpf_skb_pull_data},
    programs::TcContext,
};
use dataplane_common::{
    abi::PortFlags,
    decide::{self, L3Protocol},
    wire::{Bytes as _, Ipv6, is_extension, protocol},
};

use super::tc::Skb;
use crate::{features, maps, packet::Hook as _};

/// Link, network and transport headers with some extension headers: what must lie in one piece to be read. Where extension
/// headers are longer, these are brought into one piece, too.
const HEADERS: usize = 256;

/// Extension headers that are brought into one piece: the walk ends behind them.
const LIMIT: usize = 8;
/// Bytes that are read of a transport header, or of an ICMP error with the header that it quotes.
pub const TRANSPORT: usize = 64;

/// Brings the headers into one piece.
#[inline(always)]
pub fn gather(context: &TcContext) {
    if context.data() + context.len() as usize > context.data_end() {
        gather_skb(context.skb.skb);
    }
    // From here on there is one place where the bytes are: the compiler would keep two, and choose between them as numbers,
    // which to the verifier are none.
    // SAFETY: no instruction.
    unsafe { asm!("", options(nostack)) };
}

/// The same of an skb that is in several pieces. A global function: what it pulls the verifier is to follow once.
///
/// When it fails, what lies in one piece is judged, and what is missing counts as truncated.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gather_skb(raw: *mut __sk_buff) -> u32 {
    let context = TcContext::new(raw);
    let skb = Skb::new(&context);
    pull(&context, HEADERS);
    let bare = features::NO_ETHERNET.on()
        && maps::port(skb.ifindex()).is_some_and(|(_, port)| port.flags().contains(PortFlags::NO_ETHERNET));
    let offset = match decide::frame(&skb, None, skb.stripped_vlan()) {
        _ if bare => 0,
        Ok(frame) if frame.l3 == L3Protocol::Ipv6 => frame.offset & 0x3f,
        _ => return 0,
    };
    let Some(next) = skb.header::<Ipv6>(offset).map(|header| u32::from(header.next_header)) else { return 0 };
    let mut chain = Measured::new(next, (offset + size_of::<Ipv6>()) as u32);
    for _ in 0..=LIMIT {
        chain = Measured(measure_skb(raw, chain.0));
    }
    pull(&context, chain.payload() + TRANSPORT);
    0
}

/// How far a chain of extension headers has been measured: what comes next, and where.
struct Measured(u64);

impl Measured {
    #[inline(always)]
    const fn new(next: u32, payload: u32) -> Self {
        Self((next as u64) << 32 | payload as u64)
    }

    #[inline(always)]
    const fn payload(&self) -> usize {
        (self.0 & 0x7fff) as usize
    }
}

/// One header further, wherever its bytes lie. A global function: its answer is unknown to the verifier, which follows
/// one turn for all.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn measure_skb(skb: *mut __sk_buff, chain: u64) -> u64 {
    let (next, payload) = (chain >> 32, Measured(chain).payload() as u32);
    let mut header = [0_u8; 2];
    // SAFETY: the helper writes as many bytes as requested, which are there.
    if !is_extension(next) || unsafe { bpf_skb_load_bytes(skb.cast(), payload, header.as_mut_ptr().cast(), 2) } != 0 {
        return chain;
    }
    let units = if next == protocol::FRAGMENT { 0 } else { u32::from(header[1]) };
    Measured::new(header[0].into(), payload + (units + 1) * 8).0
}

/// Brings what there is in front of `end` into one piece.
#[inline(always)]
fn pull(context: &TcContext, end: usize) {
    let end = end.min(context.len() as usize);
    if context.data_end() - context.data() < end {
        // SAFETY: the context is the program's own; no reference into the packet is used after this.
        unsafe { bpf_skb_pull_data(context.skb.skb, end as u32) };
    }
}
