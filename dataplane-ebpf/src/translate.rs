//! Address translation of packets that a row of the flow table carries: addresses, ports, and the checksums over them.
//!
//! Part of the rewriter. The kernel's way to the same bytes: `nf_nat_ipv4_manip_pkt` and the like
//! (`net/netfilter/nf_nat_proto.c`).

#![expect(unsafe_code, reason = "packet bytes are written through the bounds that the verifier checks")]

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, xdp_md},
    helpers::{bpf_csum_update, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes},
    programs::XdpContext,
};
use dataplane_common::{
    abi::flow::{changed, new_ports, ports},
    decide::{Family as _, V4, V6},
    wire::{Be16, Be32, Ipv4, Ipv6, Tcp, Udp, protocol},
};

use crate::{
    features, flow_lookup,
    maps::{Flows, Row},
};

/// Both addresses in an IPv4 header: source, destination.
const ADDRESSES4: usize = offset_of!(Ipv4, source);
/// Both addresses in an IPv6 header.
const ADDRESSES6: usize = offset_of!(Ipv6, source);
/// `CSUM_MANGLED_0`: zero would mean that UDP has no checksum.
const MANGLED: u16 = 0xffff;

/// Counts a frame at the row that carries it, and translates it; 0: it is not long enough, and nothing was written. A global
/// function: the verifier looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn translate_frame(context: *mut xdp_md, network: u32, family: u32) -> u32 {
    let context = XdpContext::new(context);
    let network = network as usize & 0x3f;
    let done = if family == V6::NUMBER {
        flow_lookup::carrier::<V6>().and_then(|row| frame_v6(&context, network, row))
    } else {
        flow_lookup::carrier::<V4>().and_then(|row| frame_v4(&context, network, row))
    };
    u32::from(done.is_some())
}

/// Counts a packet; says whether it is to be translated.
#[inline(always)]
fn count<F: Flows>(row: Row) -> bool {
    if !features::DRY_RUN.on() {
        row.count();
    }
    row.word(F::LAYOUT.ports) & ports::TRANSLATES != 0
}

/// Something in a packet, to be written.
#[inline(always)]
fn at<T>(context: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = context.data() + offset;
    (start + size_of::<T>() <= context.data_end()).then_some(start as *mut T)
}

#[inline(always)]
fn frame_v4(context: &XdpContext, network: usize, row: Row) -> Option<()> {
    if !count::<V4>(row) {
        return Some(());
    }
    let (addresses, new) = (row.word(V4::LAYOUT.new_addresses), row.word(V4::LAYOUT.new_ports));
    let header = at::<Ipv4>(context, network)?;
    let by_addresses = new_ports::by_addresses(new);
    transport(context, network + size_of::<Ipv4>(), ports::protocol(row.word(V4::LAYOUT.ports)), new)?;
    // SAFETY: inside the packet, as just checked; nothing else refers into it.
    let header = unsafe { &mut *header };
    header.source = Be32::new(addresses as u32);
    header.destination = Be32::new((addresses >> 32) as u32);
    header.checksum = Be16::new(changed(header.checksum.get(), by_addresses));
    Some(())
}

#[inline(always)]
fn frame_v6(context: &XdpContext, network: usize, row: Row) -> Option<()> {
    if !count::<V6>(row) {
        return Some(());
    }
    let new = row.word(V6::LAYOUT.new_ports);
    let to = at::<[u64; 4]>(context, network + ADDRESSES6)?.cast::<u64>();
    transport(context, network + size_of::<Ipv6>(), ports::protocol(row.word(V6::LAYOUT.ports)), new)?;
    // The row has the destination first, the packet the source.
    for half in 0..4 {
        let word = row.word(V6::LAYOUT.new_addresses + (half ^ 2)).to_be();
        // SAFETY: inside the packet, as just checked.
        unsafe { to.wrapping_add(half).write_unaligned(word) };
    }
    Some(())
}

/// Translates the ports; first of all, since its checks may still fail.
#[inline(always)]
fn transport(context: &XdpContext, offset: usize, number: u64, new: u64) -> Option<()> {
    let change = new_ports::by_addresses(new) + new_ports::by_ports(new);
    let pair = Be32::new(new_ports::pair(new));
    if number == protocol::TCP {
        let header = at::<Tcp>(context, offset)?;
        // SAFETY: inside the packet, as just checked; nothing else refers into it.
        let header = unsafe { &mut *header };
        header.checksum = Be16::new(changed(header.checksum.get(), change));
    } else {
        let header = at::<Udp>(context, offset)?;
        // SAFETY: as above.
        let header = unsafe { &mut *header };
        let old = header.checksum.get();
        if old != 0 {
            let sum = changed(old, change);
            header.checksum = Be16::new(if sum == 0 { MANGLED } else { sum });
        }
    }
    let to = at::<Be32>(context, offset)?;
    // SAFETY: as above.
    unsafe { *to = pair };
    Some(())
}

/// The same of an skb, by the kernel's helpers: its checksum may still have to be filled in, or cover the whole packet. 0: it
/// cannot be written.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn translate_skb(skb: *mut __sk_buff, network: u32, family: u32) -> u32 {
    let done = if family == V6::NUMBER {
        flow_lookup::carrier::<V6>().and_then(|row| skb_v6(skb, network, row))
    } else {
        flow_lookup::carrier::<V4>().and_then(|row| skb_v4(skb, network, row))
    };
    u32::from(done.is_some())
}

#[inline(always)]
fn skb_v4(skb: *mut __sk_buff, network: u32, row: Row) -> Option<()> {
    if !count::<V4>(row) {
        return Some(());
    }
    let (addresses, new) = (row.word(V4::LAYOUT.new_addresses), row.word(V4::LAYOUT.new_ports));
    let change = raw(new_ports::by_addresses(new));
    transport_of_skb(skb, network + size_of::<Ipv4>() as u32, ports::protocol(row.word(V4::LAYOUT.ports)), new)?;
    // SAFETY: the context is the program's own.
    let done = unsafe { bpf_l3_csum_replace(skb, network + offset_of!(Ipv4, checksum) as u32, 0, change, 0) };
    if done != 0 {
        return None;
    }
    store(skb, network + ADDRESSES4 as u32, &addresses.rotate_left(32).to_be())
}

#[inline(always)]
fn skb_v6(skb: *mut __sk_buff, network: u32, row: Row) -> Option<()> {
    if !count::<V6>(row) {
        return Some(());
    }
    let new = row.word(V6::LAYOUT.new_ports);
    transport_of_skb(skb, network + size_of::<Ipv6>() as u32, ports::protocol(row.word(V6::LAYOUT.ports)), new)?;
    // The helper takes the pseudo header for part of IPv4, whose own checksum would make good for the addresses in a sum over
    // the whole packet.
    // SAFETY: the context is the program's own.
    unsafe { bpf_csum_update(skb, raw(new_ports::by_addresses(new)) as u32) };
    let word = |half: usize| row.word(V6::LAYOUT.new_addresses + (half ^ 2)).to_be();
    store(skb, network + ADDRESSES6 as u32, &[word(0), word(1), word(2), word(3)])
}

/// A sum as the machine loads it.
#[inline(always)]
const fn raw(sum: u32) -> u64 {
    (sum as u16).to_be() as u64
}

#[inline(always)]
fn transport_of_skb(skb: *mut __sk_buff, offset: u32, number: u64, new: u64) -> Option<()> {
    let (sum, zero) = if number == protocol::TCP {
        (offset + offset_of!(Tcp, checksum) as u32, 0)
    } else {
        (offset + offset_of!(Udp, checksum) as u32, u64::from(BPF_F_MARK_MANGLED_0))
    };
    let (by_addresses, by_ports) = (raw(new_ports::by_addresses(new)), raw(new_ports::by_ports(new)));
    // SAFETY: the context is the program's own.
    let done = unsafe { bpf_l4_csum_replace(skb, sum, 0, by_addresses, zero | u64::from(BPF_F_PSEUDO_HDR)) };
    // SAFETY: as above.
    if done != 0 || unsafe { bpf_l4_csum_replace(skb, sum, 0, by_ports, zero) } != 0 {
        return None;
    }
    store(skb, offset, &new_ports::pair(new).to_be())
}

/// Writes bytes into an skb.
#[inline(always)]
fn store<T>(skb: *mut __sk_buff, offset: u32, value: &T) -> Option<()> {
    // SAFETY: the context is the program's own, and the number of bytes is right.
    let done = unsafe { bpf_skb_store_bytes(skb, offset, (&raw const *value).cast(), size_of::<T>() as u32, 0) };
    (done == 0).then_some(())
}
