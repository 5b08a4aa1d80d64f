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
    write(context.data(), context.data_end(), way).is_some()
}

/// Rewrites an skb for its way; `false` when it can not be written, and then nothing was.
#[inline(always)]
pub fn skb(context: &TcContext, way: &Way) -> bool {
    let Some(change) = write(context.data(), context.data_end(), way) else { return false };
    settle(context, way, change);
    true
}

/// As [`skb`], for packets that XDP may have said something about.
///
/// Never through pointers: to a program that writes through them the verifier adds a prologue that copies every cloned skb,
/// and the copy has lost what XDP said. One `tcpdump` on the port, and each packet would be judged and counted twice. Calls
/// cost, so a port without XDP does not make them.
#[inline(always)]
pub fn marked_skb(context: &TcContext, way: &Way) -> bool {
    let (start, end) = (context.data(), context.data_end());
    if way.family == u64::from(V6::NUMBER) {
        if start + NETWORK + size_of::<Ipv6>() > end {
            return false;
        }
        // SAFETY: inside the packet, as just checked; nothing is written while the reference lives.
        let header = unsafe { &*((start + NETWORK) as *const Ipv6) };
        let old = Be16::from_bytes([header.next_header, header.hop_limit]);
        let next = [header.next_header, header.hop_limit - 1];
        let change = u32::from(!old.raw()) + u32::from(Be16::from_bytes(next).raw());
        if !store(context, NETWORK + offset_of!(Ipv6, next_header), &next) {
            return false;
        }
        settle(context, way, change);
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

/// A device may have summed up the whole packet (`CHECKSUM_COMPLETE`). IPv4 makes good for its TTL in its own checksum; IPv6
/// has none.
#[inline(always)]
fn settle(context: &TcContext, way: &Way, change: u32) {
    if way.family == u64::from(V6::NUMBER) {
        // SAFETY: the context is the program's own.
        unsafe { bpf_csum_update(context.skb.skb, change) };
    }
}

/// Writes the headers. Returns how the sum over the packet changed.
#[inline(always)]
fn write(start: usize, end: usize, way: &Way) -> Option<u32> {
    if way.family == u64::from(V6::NUMBER) {
        if start + NETWORK + size_of::<Ipv6>() > end {
            return None;
        }
        // SAFETY: inside the packet, as just checked; nothing else refers into it.
        let header = unsafe { &mut *((start + NETWORK) as *mut Ipv6) };
        let old = Be16::from_bytes([header.next_header, header.hop_limit]);
        header.hop_limit -= 1;
        let new = Be16::from_bytes([header.next_header, header.hop_limit]);
        address(start, way.adjacency);
        Some(u32::from(!old.raw()) + u32::from(new.raw()))
    } else {
        if start + NETWORK + size_of::<Ipv4>() > end {
            return None;
        }
        // SAFETY: inside the packet, as just checked; nothing else refers into it.
        let header = unsafe { &mut *((start + NETWORK) as *mut Ipv4) };
        header.ttl -= 1;
        header.checksum = decrement_ttl(header.checksum);
        address(start, way.adjacency);
        Some(0)
    }
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
