//! The only place that writes packet bytes: link addresses, TTL or hop limit, and the IPv4 header checksum.

#![expect(unsafe_code, reason = "packet bytes are written through the bounds that the verifier checks")]

use aya_ebpf::{
    helpers::bpf_csum_update,
    programs::{TcContext, XdpContext},
};
use dataplane_common::{
    abi::Adjacency,
    decide::{Family as _, V6},
    wire::{Be16, Ethernet, Ipv4, Ipv6, Mac, decrement_ttl},
};

use crate::pipeline::Way;

/// Rewrites a frame for its way; `false` when it is too short, which the pipeline has ruled out.
#[inline(always)]
pub fn frame(context: &XdpContext, way: &Way) -> bool {
    rewrite(context.data(), context.data_end(), way).is_some()
}

/// Rewrites an skb for its way.
#[inline(always)]
pub fn skb(context: &TcContext, way: &Way) -> bool {
    let Some(change) = rewrite(context.data(), context.data_end(), way) else { return false };
    if way.family == u64::from(V6::NUMBER) {
        // A device may have summed up the whole packet (CHECKSUM_COMPLETE). IPv4 makes good for its TTL in its own
        // checksum; IPv6 has none.
        // SAFETY: the context is the program's own.
        unsafe { bpf_csum_update(context.skb.skb, change) };
    }
    true
}

/// Writes the headers. Returns how the sum over the packet changed.
#[inline(always)]
fn rewrite(start: usize, end: usize, way: &Way) -> Option<u32> {
    const NETWORK: usize = size_of::<Ethernet>();
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
