//! The only place that writes packet bytes: link addresses, VLAN tags, TTL or hop limit, and the IPv4 header checksum.

#![expect(unsafe_code, reason = "packet bytes are written through the bounds that the verifier checks")]

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::{
        bpf_csum_update, bpf_skb_change_type, bpf_skb_store_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push,
        bpf_xdp_adjust_head,
    },
    programs::{TcContext, XdpContext},
};
use dataplane_common::{
    abi::{Adjacency, Tag},
    decide::{Family as _, V6},
    wire::{Be16, EtherType, Ethernet, Ipv4, Ipv6, Mac, VlanTag, decrement_ttl},
};

use crate::{features, flow_lookup, maps, translate, verdict::Egress};

/// Where the network header begins behind no tag.
pub const NETWORK: usize = size_of::<Ethernet>();
/// Where the first tag begins; without a tag, the `EtherType`.
const TYPE: usize = offset_of!(Ethernet, ethertype);
/// `PACKET_OTHERHOST` of `linux/if_packet.h`.
pub const OTHER_HOST: u32 = 3;

/// Whether the tags that a packet came with, or those that it is to have, are any.
#[inline(always)]
fn tags(egress: &Egress) -> bool {
    features::VLANS.on() && (egress.tags != 0 || egress.adjacency.tags[0].is_some())
}

/// The tags of an adjacency in one word: the outer one on top.
#[inline(always)]
pub fn both(adjacency: &Adjacency) -> u32 {
    u32::from(adjacency.tags[0].raw()) << 16 | u32::from(adjacency.tags[1].raw())
}

/// What [`both`] made one.
#[inline(always)]
const fn apart(tags: u32) -> (Tag, Tag) {
    (Tag::from_raw((tags >> 16) as u16), Tag::from_raw(tags as u16))
}

/// Rewrites a frame for its way; `false` when there is no room for its tags. It is not too short: the pipeline has ruled
/// that out.
#[inline(always)]
pub fn frame(context: &XdpContext, egress: &Egress) -> bool {
    if !tags(egress) {
        return carry_frame(context, NETWORK, egress)
            && write(context.data(), context.data_end(), NETWORK, egress).is_some();
    }
    let v6 = u32::from(egress.family == u64::from(V6::NUMBER));
    let [outer, inner] = egress.adjacency.tags;
    let network = NETWORK + outer.length() + inner.length();
    exchange_frame_tags(context.ctx, egress.tags as u32, both(&egress.adjacency), v6) != 0
        && carry_frame(context, network, egress)
        && write(context.data(), context.data_end(), network, egress).is_some()
}

/// Translates a frame, if a row of the flow table carries it.
#[inline(always)]
fn carry_frame(context: &XdpContext, network: usize, egress: &Egress) -> bool {
    !(features::FLOWS.on() && flow_lookup::is_carried())
        || translate::translate_frame(context.ctx, network as u32, egress.family as u32) != 0
}

/// The same of an skb.
#[inline(always)]
pub fn carry_skb(context: &TcContext, network: usize, egress: &Egress) -> bool {
    !(features::FLOWS.on() && flow_lookup::is_carried())
        || translate::translate_skb(context.skb.skb, network as u32, egress.family as u32) != 0
}

/// Makes room for the tags that a frame is to have, and writes them; 0: there is no room. A global function: the verifier
/// looks at it once, not once for every path that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn exchange_frame_tags(context: *mut xdp_md, came: u32, wanted: u32, v6: u32) -> u32 {
    let l3 = if v6 != 0 { EtherType::IPV6 } else { EtherType::IPV4 };
    u32::from(put_tags(context, came, wanted, l3).is_some())
}

#[inline(always)]
fn put_tags(context: *mut xdp_md, came: u32, wanted: u32, l3: EtherType) -> Option<()> {
    let (outer, inner) = apart(wanted);
    let had = came * size_of::<VlanTag>() as u32;
    let shift = had.wrapping_sub((outer.length() + inner.length()) as u32).cast_signed();
    // SAFETY: the context is the program's own; no reference into the packet is used after this.
    if shift != 0 && unsafe { bpf_xdp_adjust_head(context, shift) } != 0 {
        return None;
    }
    let context = XdpContext::new(context);
    let (start, end) = (context.data(), context.data_end());
    if inner.is_some() {
        put::<TYPE>(start, end, outer)?;
        put::<{ TYPE + size_of::<VlanTag>() }>(start, end, inner)?;
        name::<{ TYPE + 2 * size_of::<VlanTag>() }>(start, end, l3)
    } else if outer.is_some() {
        put::<TYPE>(start, end, outer)?;
        name::<{ TYPE + size_of::<VlanTag>() }>(start, end, l3)
    } else {
        name::<TYPE>(start, end, l3)
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
fn name<const AT: usize>(start: usize, end: usize, l3: EtherType) -> Option<()> {
    if start + AT + size_of::<EtherType>() > end {
        return None;
    }
    // SAFETY: inside the packet, as just checked; nothing else refers into it.
    unsafe { *((start + AT) as *mut EtherType) = l3 };
    Some(())
}

/// Exchanges the tags of an skb; 0: it could not. The kernel keeps the outermost beside the packet, not in it. A global
/// function, as the one for frames.
///
/// Where the kernel has no memory for a second tag, the packet gets the type for another host, which the kernel drops: with
/// half of its tags it would come in through another VLAN device.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn exchange_skb_tags(skb: *mut __sk_buff, came: u32, wanted: u32) -> u32 {
    let (outer, inner) = apart(wanted);
    let mut done = true;
    if came > 0 {
        done &= pop(skb);
    }
    if came > 1 {
        done &= pop(skb);
    }
    if inner.is_some() {
        done &= push(skb, inner);
    }
    if outer.is_some() {
        done &= push(skb, outer);
    }
    if !done {
        // SAFETY: the context is the program's own.
        unsafe { bpf_skb_change_type(skb, OTHER_HOST) };
    }
    u32::from(done)
}

/// Takes the outermost tag off.
#[inline(always)]
fn pop(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context is the program's own; no reference into the packet is used after this.
    unsafe { bpf_skb_vlan_pop(skb) == 0 }
}

/// Puts a tag in front.
#[inline(always)]
fn push(skb: *mut __sk_buff, tag: Tag) -> bool {
    // SAFETY: as above.
    unsafe { bpf_skb_vlan_push(skb, tag.ethertype().0.raw(), tag.id()) == 0 }
}

/// Gives an skb the tags of its egress; returns where the network header then begins, or `None` if it cannot be sent.
#[inline(always)]
fn exchange(context: &TcContext, egress: &Egress) -> Option<usize> {
    if !tags(egress) {
        return Some(NETWORK);
    }
    if exchange_skb_tags(context.skb.skb, egress.tags as u32, both(&egress.adjacency)) == 0 {
        return None;
    }
    Some(NETWORK + egress.adjacency.tags[1].length())
}

/// Rewrites an skb for its egress; `false` when it cannot be written, and then nothing was.
#[inline(always)]
pub fn skb(context: &TcContext, egress: &Egress) -> bool {
    let Some(network) = exchange(context, egress) else { return false };
    if !carry_skb(context, network, egress) {
        return false;
    }
    let Some(change) = write(context.data(), context.data_end(), network, egress) else { return false };
    settle(context, egress, change);
    true
}

/// As [`skb`], for packets that XDP may have handed over.
///
/// Never through pointers: to a program that writes through them the verifier adds a prologue that copies every cloned skb, and
/// the copy has lost the state that XDP handed over. With one `tcpdump` on the port, each packet would be judged and counted
/// twice. Calls cost, so a port without XDP does not make them.
#[inline(always)]
pub fn marked_skb(context: &TcContext, egress: &Egress) -> bool {
    rewrite_marked(context.skb.skb, egress.index as u32, egress.family as u32, egress.tags as u32) != 0
}

/// A global function, so that its stack is free while the chains are evaluated.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rewrite_marked(skb: *mut __sk_buff, index: u32, family: u32, tags: u32) -> u32 {
    let Some(adjacency) = maps::adjacency(index) else { return 0 };
    let egress = Egress { adjacency, index: u64::from(index), family: u64::from(family), tags: u64::from(tags) };
    let context = TcContext::new(skb);
    let done = exchange(&context, &egress)
        .is_some_and(|network| carry_skb(&context, network, &egress) && store_headers(&context, network, &egress));
    u32::from(done)
}

/// Writes the headers by calls.
#[inline(always)]
fn store_headers(context: &TcContext, network: usize, egress: &Egress) -> bool {
    // What could be written once can be written again.
    store_ttl(context, network, egress) && store_addresses(context, egress)
}

/// Writes both link addresses by a call.
#[inline(always)]
fn store_addresses(context: &TcContext, egress: &Egress) -> bool {
    // SAFETY: destination and source are neighbours in an `Adjacency`, as they are in the frame.
    let addresses = unsafe { &*(&raw const egress.adjacency.destination).cast::<[u8; 2 * size_of::<Mac>()]>() };
    store(context, 0, addresses)
}

/// Counts TTL or hop limit down by calls.
#[inline(always)]
pub fn store_ttl(context: &TcContext, network: usize, egress: &Egress) -> bool {
    let (start, end) = (context.data(), context.data_end());
    if egress.family == u64::from(V6::NUMBER) {
        if start + network + size_of::<Ipv6>() > end {
            return false;
        }
        // SAFETY: inside the packet, as just checked; nothing is written while the reference lives.
        let header = unsafe { &*((start + network) as *const Ipv6) };
        let old = Be16::from_bytes([header.next_header, header.hop_limit]);
        let next = [header.next_header, header.hop_limit - 1];
        let change = u32::from(!old.raw()) + u32::from(Be16::from_bytes(next).raw());
        if !store(context, network + offset_of!(Ipv6, next_header), &next) {
            return false;
        }
        settle(context, egress, change);
    } else {
        if start + network + size_of::<Ipv4>() > end {
            return false;
        }
        // SAFETY: inside the packet, as just checked; nothing is written while the reference lives.
        let header = unsafe { &*((start + network) as *const Ipv4) };
        let [high, low] = decrement_ttl(header.checksum).raw().to_ne_bytes();
        let next = [header.ttl - 1, header.protocol, high, low];
        if !store(context, network + offset_of!(Ipv4, ttl), &next) {
            return false;
        }
    }
    true
}

/// A device may have summed up the whole packet (`CHECKSUM_COMPLETE`). IPv4 makes good for its TTL in its own checksum; IPv6
/// has none.
#[inline(always)]
fn settle(context: &TcContext, egress: &Egress, change: u32) {
    if egress.family == u64::from(V6::NUMBER) {
        // SAFETY: the context is the program's own.
        unsafe { bpf_csum_update(context.skb.skb, change) };
    }
}

/// Writes the headers, of which the network header begins at `network`. Returns how the sum over the packet changed.
#[inline(always)]
fn write(start: usize, end: usize, network: usize, egress: &Egress) -> Option<u32> {
    // The verifier does not conclude from behind tags to what is in front of them.
    if start + size_of::<Ethernet>() > end {
        return None;
    }
    if egress.family == u64::from(V6::NUMBER) {
        if start + network + size_of::<Ipv6>() > end {
            return None;
        }
        // SAFETY: inside the packet, as just checked; nothing else refers into it.
        let header = unsafe { &mut *((start + network) as *mut Ipv6) };
        let old = Be16::from_bytes([header.next_header, header.hop_limit]);
        header.hop_limit -= 1;
        let new = Be16::from_bytes([header.next_header, header.hop_limit]);
        address(start, &egress.adjacency);
        Some(u32::from(!old.raw()) + u32::from(new.raw()))
    } else {
        if start + network + size_of::<Ipv4>() > end {
            return None;
        }
        // SAFETY: inside the packet, as just checked; nothing else refers into it.
        let header = unsafe { &mut *((start + network) as *mut Ipv4) };
        header.ttl -= 1;
        header.checksum = decrement_ttl(header.checksum);
        address(start, &egress.adjacency);
        Some(0)
    }
}

/// Writes bytes into an skb.
#[inline(always)]
pub fn store<const N: usize>(context: &TcContext, offset: usize, bytes: &[u8; N]) -> bool {
    // SAFETY: the context is the program's own, and the number of bytes is right.
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
