//! The only place that writes packet bytes: link addresses, VLAN tags, TTL or hop limit, and the IPv4 header checksum.

#![expect(unsafe_code, reason = "packet bytes are written through the bounds that the verifier checks")]

use core::mem::offset_of;

use aya_ebpf::{
    helpers::{
        bpf_csum_update, bpf_skb_change_type, bpf_skb_store_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push,
        bpf_xdp_adjust_head,
    },
    programs::{TcContext, XdpContext},
};
use dataplane_common::{
    abi::{Adjacency, Features, Tag},
    decide::{Family as _, V6},
    wire::{Be16, EtherType, Ethernet, Ipv4, Ipv6, Mac, VlanTag, decrement_ttl},
};

use crate::{features, pipeline::Way};

/// Where the network header begins behind no tag.
const NETWORK: usize = size_of::<Ethernet>();
/// Behind one tag.
const TAGGED: usize = NETWORK + size_of::<VlanTag>();
/// Behind two.
const STACKED: usize = TAGGED + size_of::<VlanTag>();
/// Where the first tag begins, or what the frame carries is said.
const TYPE: usize = offset_of!(Ethernet, ethertype);
/// `PACKET_OTHERHOST` of `linux/if_packet.h`.
const OTHER_HOST: u32 = 3;

/// Whether the tags that a packet came with, or those that it is to have, are any.
#[inline(always)]
fn tags(way: &Way) -> bool {
    features::on(Features::VLANS) && (way.tags != 0 || way.adjacency.tags[0].is_some())
}

/// Rewrites a frame for its way; `false` when there is no room for its tags. It is not too short: the pipeline has ruled
/// that out.
#[inline(always)]
pub fn frame(context: &XdpContext, way: &Way) -> bool {
    if tags(way) {
        return tagged_frame(context, way).is_some();
    }
    write::<NETWORK>(context.data(), context.data_end(), way).is_some()
}

/// As [`frame`], with other tags than it has.
#[inline(always)]
fn tagged_frame(context: &XdpContext, way: &Way) -> Option<u32> {
    let [outer, inner] = way.adjacency.tags;
    let wanted = u64::from(outer.is_some()) + u64::from(inner.is_some());
    if way.tags != wanted {
        let shift = (way.tags as i32 - wanted as i32) * size_of::<VlanTag>() as i32;
        // SAFETY: the context is the program's own; no reference into the packet is used after this.
        if unsafe { bpf_xdp_adjust_head(context.ctx, shift) } != 0 {
            return None;
        }
    }
    let (start, end) = (context.data(), context.data_end());
    let carried = if way.family == u64::from(V6::NUMBER) { EtherType::IPV6 } else { EtherType::IPV4 };
    if inner.is_some() {
        put::<TYPE>(start, end, outer)?;
        put::<{ TYPE + size_of::<VlanTag>() }>(start, end, inner)?;
        name::<{ STACKED - size_of::<EtherType>() }>(start, end, carried)?;
        write::<STACKED>(start, end, way)
    } else if outer.is_some() {
        put::<TYPE>(start, end, outer)?;
        name::<{ TAGGED - size_of::<EtherType>() }>(start, end, carried)?;
        write::<TAGGED>(start, end, way)
    } else {
        name::<TYPE>(start, end, carried)?;
        write::<NETWORK>(start, end, way)
    }
}

/// Writes a tag, with its `EtherType` in front.
#[inline(always)]
fn put<const AT: usize>(start: usize, end: usize, tag: Tag) -> Option<()> {
    name::<AT>(start, end, tag.ethertype())?;
    if start + AT + size_of::<VlanTag>() > end {
        return None;
    }
    // SAFETY: inside the packet, as just checked; nothing else refers into it.
    unsafe { *((start + AT + size_of::<EtherType>()) as *mut Be16) = tag.control() };
    Some(())
}

/// Writes what follows.
#[inline(always)]
fn name<const AT: usize>(start: usize, end: usize, carried: EtherType) -> Option<()> {
    if start + AT + size_of::<EtherType>() > end {
        return None;
    }
    // SAFETY: inside the packet, as just checked; nothing else refers into it.
    unsafe { *((start + AT) as *mut EtherType) = carried };
    Some(())
}

/// Exchanges the tags of an skb. The kernel keeps the outermost beside the packet, not in it.
///
/// Where the kernel has no memory for a second tag, the packet is made one for somebody else, which the kernel drops: with
/// half of its tags it would come in through another VLAN device.
#[inline(always)]
fn exchange_tags(context: &TcContext, way: &Way) -> bool {
    let skb = context.skb.skb;
    let [outer, inner] = way.adjacency.tags;
    let mut done = true;
    // SAFETY: helpers that take the program's own context; no reference into the packet is used after this.
    unsafe {
        if way.tags > 0 {
            done &= bpf_skb_vlan_pop(skb) == 0;
        }
        if way.tags > 1 {
            done &= bpf_skb_vlan_pop(skb) == 0;
        }
        if inner.is_some() {
            done &= bpf_skb_vlan_push(skb, inner.ethertype().0.raw(), inner.id()) == 0;
        }
        if outer.is_some() {
            done &= bpf_skb_vlan_push(skb, outer.ethertype().0.raw(), outer.id()) == 0;
        }
        if !done {
            bpf_skb_change_type(skb, OTHER_HOST);
        }
    }
    done
}

/// Rewrites an skb for its way; `false` when it can not be written, and then nothing was.
#[inline(always)]
pub fn skb(context: &TcContext, way: &Way) -> bool {
    if tags(way) && !exchange_tags(context, way) {
        return false;
    }
    let (start, end) = (context.data(), context.data_end());
    let stacked = features::on(Features::VLANS) && way.adjacency.tags[1].is_some();
    let change = if stacked { write::<TAGGED>(start, end, way) } else { write::<NETWORK>(start, end, way) };
    let Some(change) = change else { return false };
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
    if tags(way) && !exchange_tags(context, way) {
        return false;
    }
    if features::on(Features::VLANS) && way.adjacency.tags[1].is_some() {
        store_headers::<TAGGED>(context, way)
    } else {
        store_headers::<NETWORK>(context, way)
    }
}

/// Writes the headers by calls.
#[inline(always)]
fn store_headers<const NETWORK: usize>(context: &TcContext, way: &Way) -> bool {
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

/// Writes the headers, of which the network header begins at `NETWORK`. Returns how the sum over the packet changed.
#[inline(always)]
fn write<const NETWORK: usize>(start: usize, end: usize, way: &Way) -> Option<u32> {
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
