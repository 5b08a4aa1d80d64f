//! The only place that writes packet bytes: link addresses, TTL or hop limit, and the IPv4 header checksum.

#![expect(unsafe_code, reason = "packet bytes are written through the bounds that the verifier checks")]

use core::mem::offset_of;

use aya_ebpf::{
    helpers::{bpf_csum_update, bpf_skb_store_bytes},
    programs::{TcContext, XdpContext},
};
use dataplane_common::{
    abi::Adjacency,
    decide::{Family as _, V6},
    wire::{Be16, Ethernet, Ipv4, Ipv6, Mac, decrement_ttl},
};

use crate::pipeline::Way;

/// Where the network header begins.
const NETWORK: usize = size_of::<Ethernet>();

/// Rewrites a frame for its way; `false` when it is too short, which the pipeline has ruled out.
#[inline(always)]
pub fn frame(context: &XdpContext, way: &Way) -> bool {
    let (start, end) = (context.data(), context.data_end());
    if way.family == u64::from(V6::NUMBER) {
        if start + NETWORK + size_of::<Ipv6>() > end {
            return false;
        }
        // SAFETY: inside the packet, as just checked; nothing else refers into it.
        let header = unsafe { &mut *((start + NETWORK) as *mut Ipv6) };
        header.hop_limit -= 1;
    } else {
        if start + NETWORK + size_of::<Ipv4>() > end {
            return false;
        }
        // SAFETY: inside the packet, as just checked; nothing else refers into it.
        let header = unsafe { &mut *((start + NETWORK) as *mut Ipv4) };
        header.ttl -= 1;
        header.checksum = decrement_ttl(header.checksum);
    }
    address(start, way.adjacency);
    true
}

/// Rewrites an skb for its way; `false` when it can not be written, and then nothing was.
///
/// Never through pointers: to a program that writes through them the verifier adds a prologue that copies every cloned skb,
/// and the copy has lost what XDP said about it. One `tcpdump` on the port, and each packet would be judged and counted twice.
#[inline(always)]
pub fn skb(context: &TcContext, way: &Way) -> bool {
    let (start, end) = (context.data(), context.data_end());
    if way.family == u64::from(V6::NUMBER) {
        if start + NETWORK + size_of::<Ipv6>() > end {
            return false;
        }
        // SAFETY: inside the packet, as just checked; nothing is written while the reference lives.
        let header = unsafe { &*((start + NETWORK) as *const Ipv6) };
        let old = Be16::from_bytes([header.next_header, header.hop_limit]);
        let next = [header.next_header, header.hop_limit - 1];
        let new = Be16::from_bytes(next);
        if !store(context, NETWORK + offset_of!(Ipv6, next_header), &next) {
            return false;
        }
        // A device may have summed up the whole packet (CHECKSUM_COMPLETE). IPv4 makes good for its TTL in its own
        // checksum; IPv6 has none.
        // SAFETY: the context is the program's own.
        unsafe { bpf_csum_update(context.skb.skb, u32::from(!old.raw()) + u32::from(new.raw())) };
    } else {
        if start + NETWORK + size_of::<Ipv4>() > end {
            return false;
        }
        // SAFETY: inside the packet, as just checked; nothing is written while the reference lives.
        let header = unsafe { &*((start + NETWORK) as *const Ipv4) };
        let [high, low] = decrement_ttl(header.checksum).raw().to_ne_bytes();
        let next = [header.ttl - 1, header.protocol, high, low];
        if !store(context, NETWORK + offset_of!(Ipv4, ttl), &next) {
            return false;
        }
    }
    // What could be written once can be written again.
    // SAFETY: destination and source are neighbours in an `Adjacency`, as they are in the frame.
    let addresses = unsafe { &*(&raw const way.adjacency.destination).cast::<[u8; 2 * size_of::<Mac>()]>() };
    store(context, 0, addresses)
}

/// Writes bytes into an skb.
#[inline(always)]
fn store<const N: usize>(context: &TcContext, offset: usize, bytes: &[u8; N]) -> bool {
    // SAFETY: the context is the program's own, and the bytes are as many as is said.
    unsafe { bpf_skb_store_bytes(context.skb.skb, offset as u32, bytes.as_ptr().cast(), N as u32, 0) == 0 }
}

/// Writes both link addresses, as three words: a copy of the whole would become a loop over bytes.
#[inline(always)]
#[expect(clippy::cast_ptr_alignment, reason = "both are accessed as what they are: unaligned")]
fn address(start: usize, adjacency: &Adjacency) {
    let from = (&raw const adjacency.destination).cast::<u32>();
    let to = start as *mut u32;
    for word in 0..2 * size_of::<Mac>() / size_of::<u32>() {
        // SAFETY: destination and source are neighbours in an `Adjacency`.
        let value = unsafe { from.wrapping_add(word).read_unaligned() };
        // SAFETY: they are in the frame too, whose bounds the caller has checked.
        unsafe { to.wrapping_add(word).write_unaligned(value) };
    }
}
