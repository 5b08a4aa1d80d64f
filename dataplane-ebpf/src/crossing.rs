//! Between devices with and without a link header: an skb loses its header, or gets one.
//!
//! Part of the rewriter. Only by calls: a program that writes through pointers would lose what XDP handed over
//! ([`rewrite::marked_skb`]).

#![expect(unsafe_code, reason = "helpers of the kernel that take the context")]

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{
        bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_head, bpf_skb_change_tail,
        bpf_skb_change_type,
    },
    programs::TcContext,
};
use dataplane_common::{
    abi::{AdjacencyFlags, Ifindex, PortFlags},
    decide::{Family as _, V6, queue_priority},
    wire::{EtherType, Ipv4, Ipv6, LinkHeader},
};

use crate::{
    features, maps,
    rewrite::{self, NETWORK, OTHER_HOST},
    verdict::Egress,
};

/// `PACKET_HOST` of `linux/if_packet.h`.
const HOST: u32 = 0;

/// Whether one end or the other has no link header.
#[inline(always)]
pub fn is_needed(egress: &Egress) -> bool {
    features::NO_ETHERNET.on() && (egress.tags == Egress::BARE || egress.adjacency.link_header() == LinkHeader::None)
}

/// Rewrites an skb for its egress, one end of which has no link header; `false` when it cannot be written.
#[inline(always)]
pub fn rewrite(context: &TcContext, egress: &Egress) -> bool {
    cross_skb(context.skb.skb, egress.index as u32, egress.family as u32, egress.tags as u32) != 0
}

/// Sends an skb; gives the action. A device that answers a packet itself, with ICMP, needs the kernel's route for that.
#[inline(always)]
pub fn send(context: &TcContext, egress: &Egress) -> i32 {
    let device = egress.adjacency.device;
    if features::PEERS.on() && egress.adjacency.flags().contains(AdjacencyFlags::PEER) {
        return hand_to_peer(context.skb.skb, device);
    }
    if features::NO_ETHERNET.on() && egress.adjacency.flags().contains(AdjacencyFlags::WITH_ROUTE) {
        // SAFETY: without parameters the helper looks up the route.
        return unsafe { bpf_redirect_neigh(device, core::ptr::null_mut(), 0, 0) } as i32;
    }
    pass(device)
}

/// Sends an skb as it is; gives the action.
#[inline(always)]
pub fn pass(device: Ifindex) -> i32 {
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(device, 0) as i32 }
}

/// Hands an skb to the other end of a device, which is in another namespace; gives the action. It loses what it would lose on
/// the way through that device (`veth_forward_skb`, `drivers/net/veth.c`, and `skb_scrub_packet`): the type that it had here,
/// mark and priority.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hand_to_peer(skb: *mut __sk_buff, device: u32) -> i32 {
    // SAFETY: the context is the program's own.
    let ifindex = unsafe { (*skb).ifindex };
    // The kernel takes off there what came in front of the packet, and a link header that was just made is not that.
    if maps::port(ifindex).is_none_or(|(_, port)| port.flags().contains(PortFlags::NO_ETHERNET)) {
        return pass(device);
    }
    // SAFETY: the context is the program's own.
    unsafe { bpf_skb_change_type(skb, HOST) };
    // SAFETY: as above.
    unsafe { (*skb).mark = 0 };
    // SAFETY: as above.
    unsafe { (*skb).priority = 0 };
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect_peer(device, 0) as i32 }
}

/// A global function: the verifier looks at it once.
///
/// The kernel takes a link header off by itself when it redirects to a device without one. A packet whose headers have been
/// moved and that cannot be written then gets the type for another host, as in [`rewrite::exchange_skb_tags`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cross_skb(skb: *mut __sk_buff, index: u32, family: u32, tags: u32) -> u32 {
    let Some(adjacency) = maps::adjacency(index) else { return 0 };
    let egress = Egress { adjacency, index: u64::from(index), family: u64::from(family), tags: u64::from(tags) };
    let context = TcContext::new(skb);
    let bare = egress.tags == Egress::BARE;
    if bare {
        // The route is looked up by what is behind a link header.
        let behind =
            adjacency.link_header() == LinkHeader::Ethernet || adjacency.flags().contains(AdjacencyFlags::WITH_ROUTE);
        if !trim(&context, 0, &egress) || behind && !prepend(skb) {
            return 0;
        }
        return finish(&context, if behind { NETWORK } else { 0 }, &egress);
    }
    if features::VLANS.on() && tags != 0 && rewrite::exchange_skb_tags(skb, tags, 0) == 0 {
        return 0;
    }
    if !trim(&context, NETWORK, &egress) {
        return 0;
    }
    finish(&context, NETWORK, &egress)
}

/// Writes the headers; 0: it could not.
#[inline(always)]
fn finish(context: &TcContext, network: usize, egress: &Egress) -> u32 {
    if store(context, network, egress) {
        return 1;
    }
    // SAFETY: the context is the program's own.
    unsafe { bpf_skb_change_type(context.skb.skb, OTHER_HOST) };
    0
}

/// Room for a link header, filled with zero.
#[inline(always)]
fn prepend(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context is the program's own; no reference into the packet is used after this.
    unsafe { bpf_skb_change_head(skb, NETWORK as u32, 0) == 0 }
}

/// Cuts off what is behind the packet, as `ip_rcv_core` and `ip6_rcv_core` do: what pads a short frame would go on through the
/// tunnel. The helper gives up the segments that a packet is to be cut into; such a packet has no padding.
#[inline(always)]
fn trim(context: &TcContext, network: usize, egress: &Egress) -> bool {
    let Some((length, _)) = beginning(context, network, egress) else { return false };
    let end = (network + length) as u32;
    // SAFETY: the context is the program's own.
    let segmented = unsafe { (*context.skb.skb).gso_size } != 0;
    // SAFETY: as above; no reference into the packet is used after this.
    segmented || context.len() <= end || unsafe { bpf_skb_change_tail(context.skb.skb, end, 0) } == 0
}

/// Writes what is to be written, once the headers are in their places.
#[inline(always)]
fn store(context: &TcContext, network: usize, egress: &Egress) -> bool {
    if !rewrite::carry_skb(context, network, egress) || !rewrite::store_ttl(context, network, egress) {
        return false;
    }
    prioritise(context, network, egress);
    if egress.adjacency.link_header() == LinkHeader::None {
        return true;
    }
    put_header(context, egress) && tag(context, egress)
}

/// An Ethernet header without tags, as it is written at once.
#[repr(C)]
struct Written {
    addresses: [u32; 3],
    kind: u16,
}

#[inline(always)]
fn put_header(context: &TcContext, egress: &Egress) -> bool {
    let kind = if egress.family == u64::from(V6::NUMBER) { EtherType::IPV6 } else { EtherType::IPV4 };
    // SAFETY: destination and source are neighbours in an `Adjacency`, as they are in the frame.
    let addresses = unsafe { (&raw const egress.adjacency.destination).cast::<[u32; 3]>().read_unaligned() };
    let header = Written { addresses, kind: kind.0.raw() };
    // SAFETY: as many bytes are there, without a gap in front of the last.
    let bytes = unsafe { &*(&raw const header).cast::<[u8; NETWORK]>() };
    rewrite::store(context, 0, bytes)
}

/// Puts the tags of its egress in front.
#[inline(always)]
fn tag(context: &TcContext, egress: &Egress) -> bool {
    !features::VLANS.on()
        || !egress.adjacency.tags[0].is_some()
        || rewrite::exchange_skb_tags(context.skb.skb, 0, rewrite::both(&egress.adjacency)) != 0
}

/// The priority for queues, as `ip_forward` sets it.
#[inline(always)]
fn prioritise(context: &TcContext, network: usize, egress: &Egress) {
    if egress.family == u64::from(V6::NUMBER) || !egress.adjacency.flags().contains(AdjacencyFlags::PRIORITY) {
        return;
    }
    let Some((_, service)) = beginning(context, network, egress) else { return };
    // SAFETY: the context is the program's own.
    unsafe { (*context.skb.skb).priority = queue_priority(service) };
}

/// How long the packet at `network` says it is, in bytes, and its type of service, of IPv4 alone.
#[inline(always)]
fn beginning(context: &TcContext, network: usize, egress: &Egress) -> Option<(usize, u8)> {
    let (start, end) = (context.data() + network, context.data_end());
    if egress.family == u64::from(V6::NUMBER) {
        if start + size_of::<Ipv6>() > end {
            return None;
        }
        // SAFETY: inside the packet, as just checked; nothing is written while the reference lives.
        let header = unsafe { &*(start as *const Ipv6) };
        return Some((size_of::<Ipv6>() + usize::from(header.payload_length.get()), 0));
    }
    if start + size_of::<Ipv4>() > end {
        return None;
    }
    // SAFETY: as above.
    let header = unsafe { &*(start as *const Ipv4) };
    Some((usize::from(header.total_length.get()), header.service))
}
