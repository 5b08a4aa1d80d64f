//! Global functions of both tiers: each is verified once, not once for every path that leads to it. What they take and return are
//! numbers, which the verifier then knows nothing of.

#![expect(unsafe_code, reason = "the linker keeps functions global that have a name of their own")]

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use dataplane_common::{
    abi::PortFlags,
    decide,
    wire::{self, Be16, Chain, EtherType, Tag},
};

use super::{tc::Skb, xdp::Frame};
use crate::{
    egress_permit, fib_lookup,
    flow_lookup::{self, Query},
    packet::{Global, Hook as _},
    packet_log, switching, tables,
    trace::emit,
};

/// Makes [`Global`] for frames and skbs: a method, the names of its two functions, and what these do.
macro_rules! global {
    ($(fn $method:ident($($number:ident: $type:ty),*) -> $result:ty = $frame:ident, $skb:ident: |$packet:ident| $body:expr;)*) => {
        impl Global for Frame<'_> {$(
            #[inline(always)]
            fn $method(&self, $($number: $type),*) -> $result {
                $frame(self.raw(), $($number),*)
            }
        )*}

        impl Global for Skb<'_> {$(
            #[inline(always)]
            fn $method(&self, $($number: $type),*) -> $result {
                $skb(self.raw(), $($number),*)
            }
        )*}

        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $frame(context: *mut xdp_md, $($number: $type),*) -> $result {
                let context = XdpContext::new(context);
                let $packet = &Frame::new(&context);
                $body
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $skb(context: *mut __sk_buff, $($number: $type),*) -> $result {
                let context = TcContext::new(context);
                let $packet = &Skb::new(&context);
                $body
            }
        )*
    };
}

global! {
    fn walked(payload: u32, protocol: u32, end: u32) -> u64 = walk_frame, walk_skb: |packet| {
        let chain = Chain { payload: payload as usize, protocol: u64::from(protocol), fragment: 0 };
        packet.complete(wire::walk(packet, chain, end as usize), end as usize).raw()
    };
    fn begins(at: u32, left: u32) -> u64 = beginning_of_frame, beginning_of_skb: |packet| {
        wire::beginning(packet, at as usize, left as usize).raw()
    };
    fn tagged(first: u32, stripped: u32) -> u64 = tags_of_frame, tags_of_skb: |packet| {
        let first = EtherType(Be16::from_bytes((first as u16).to_ne_bytes()));
        wire::tags(packet, first, Tag::from_raw(stripped as u16)).raw()
    };
    fn client_of(at: u32, ipv6: u32) -> u32 = client_of_frame, client_of_skb: |packet| {
        u32::from(decide::is_for_client(packet, at as usize, ipv6 != 0))
    };
    fn quoted_flow_of(at: u32, ipv6: u32, flow: u32) -> u32 = quoted_flow_of_frame, quoted_flow_of_skb: |packet| {
        decide::quoted_flow(packet, at as usize, ipv6 != 0, flow)
    };
    fn way_in_bridge(member: u32, bridge: u32, flags: u32) -> u64 = way_of_frame, way_of_skb: |packet| {
        switching::way(packet, member, bridge, PortFlags::from_bits_retain(flags))
    };
    fn proxied(ifindex: u32, places: u64, route: u32) -> u32 = proxied_frame, proxied_skb: |packet| {
        tables::proxied(packet, ifindex, places, route)
    };
    fn kernel_lookup() -> u32 = kernel_lookup_frame, kernel_lookup_skb: |packet| {
        fib_lookup::lookup(packet);
        0
    };
    fn flow_of(at: u32, left: u32, query: u64) -> u32 = flow_of_frame, flow_of_skb: |packet| {
        flow_lookup::look_up(packet, at as usize, left as usize, Query::from_raw(query));
        0
    };
    fn is_unknown_link() -> u32 = is_unknown_link_frame, is_unknown_link_skb: |packet| {
        u32::from(egress_permit::is_unknown_link(packet))
    };
    fn log_packet(chain: u32) -> u32 = log_frame, log_skb: |packet| {
        packet_log::emit(chain, packet.total() as u32, |bytes, count| packet.load(bytes, count));
        0
    };
    fn trace(reason: u32, oif: u32) -> u32 = trace_frame, trace_skb: |packet| {
        emit::emit(packet, reason, oif);
        0
    };
}
