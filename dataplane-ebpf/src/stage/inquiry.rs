//! The kernel's own lookup, for ports where routing rules or a VRF have a say: `bpf_fib_lookup`.
//!
//! It answers as `ip_route_input_slow` and `ip6_route_input` would, for most packets; the others are left to the kernel. What
//! it does not do is done here: the way back to the source, and the MTU of IPv4 routes (`ip_mtu_from_fib_result` looks at
//! those only that are locked).

use dataplane_common::{
    abi::{Control, Features, NeighbourKey, Port, PortFlags, RouteKind, answer},
    decide::{Datagram, Frame, Readable, Transport},
    wire::{Be16, protocol},
};

use crate::{
    features,
    hook::Hook,
    maps,
    pipeline::Named,
    tables::{self, Routed},
};

/// `BPF_FIB_LOOKUP_DIRECT`.
const DIRECT: u32 = 1;
/// Asks for the MTU without being refused for the length: then the way out is told, too.
const LEAST: u16 = 1;
/// `net.ipv4.conf.*.rp_filter`: only the way back will do.
const STRICT: u8 = 1;

/// Whether the kernel is asked about packets of this port.
#[inline(always)]
pub fn asks<F: Routed>(control: Control, port: &Port) -> bool {
    features::on(Features::INQUIRIES)
        && port.flags().contains(F::INQUIRES)
        && control.mirror & F::MIRROR != 0
}

/// Where the kernel would send the packet: [`RouteKind::Kernel`] where it does not say.
#[inline(always)]
pub fn ask<F: Routed, H: Hook>(
    hook: &H,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
    transport: Transport,
) -> RouteKind {
    let Some(inquiry) = maps::inquiry() else { return RouteKind::Kernel };
    if hook.is_marked() || !is_plain::<F>(frame, packet, transport) {
        return RouteKind::Kernel;
    }
    let (source_port, destination_port) = ports(packet, transport);
    inquiry.family = F::SOCKET as u8;
    inquiry.protocol = packet.protocol as u8;
    inquiry.source_port = source_port;
    inquiry.destination_port = destination_port;
    inquiry.length = LEAST;
    inquiry.ifindex = port.domain;
    inquiry.service = F::service(hook, frame, packet);
    inquiry.source = F::words(packet.source);
    inquiry.destination = F::words(packet.destination);
    match hook.inquire(flags(port)) {
        answer::SUCCESS | answer::NO_NEIGHBOUR => RouteKind::Unicast,
        answer::BLACKHOLE => RouteKind::Blackhole,
        answer::UNREACHABLE => RouteKind::Unreachable,
        answer::PROHIBIT => RouteKind::Prohibit,
        // Only a VRF has addresses of this machine that the mirror does not know.
        answer::NOT_FORWARDED if tables::answered(port.domain) == NeighbourKey::OURS => RouteKind::Local,
        _ => RouteKind::Kernel,
    }
}

/// The next hop in the answer to [`ask`].
#[inline(always)]
pub fn named() -> Named {
    let Some(inquiry) = maps::inquiry() else { return Named::NOTHING };
    let (ifindex, length) = (inquiry.ifindex, inquiry.length);
    let mtu = if length == LEAST { 0 } else { u64::from(length) };
    Named { ifindex: u64::from(ifindex), adjacency: u64::from(tables::answered(ifindex)), mtu }
}

/// Whether the kernel, too, would take the packet from this port (`fib_validate_source`); else it must say.
#[inline(always)]
pub fn settles<F: Routed, H: Hook>(
    hook: &H,
    control: Control,
    port: &Port,
    packet: &Datagram<F::Address>,
    named: &Named,
) -> bool {
    if F::NUMBER != 4 {
        return true;
    }
    if port.route_mtu != 0 && packet.length > port.route_mtu as usize {
        return false;
    }
    if matches!(
        F::lookup(control, packet.source).kind(),
        RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast
    ) {
        return false;
    }
    let Some(inquiry) = maps::inquiry() else { return false };
    let in_vrf = port.flags().contains(PortFlags::IN_VRF);
    (inquiry.source_port, inquiry.destination_port) = (inquiry.destination_port, inquiry.source_port);
    inquiry.family = F::SOCKET as u8;
    inquiry.length = LEAST;
    inquiry.ifindex = if in_vrf { port.domain } else { named.ifindex as u32 };
    inquiry.service = (packet.dscp << 2) as u32;
    inquiry.source = F::words(packet.destination);
    inquiry.destination = F::words(packet.source);
    let code = hook.inquire(flags(port));
    let Some(inquiry) = maps::inquiry() else { return false };
    matches!(code, answer::SUCCESS | answer::NO_NEIGHBOUR)
        && (port.rp_filter != STRICT || inquiry.ifindex == port.ifindex)
}

#[inline(always)]
fn flags(port: &Port) -> u32 {
    if port.flags().contains(PortFlags::IN_VRF) { DIRECT } else { 0 }
}

/// Whether what we tell the kernel is what it would see itself (`__skb_flow_dissect`, which its rules and its choice among
/// equal paths ask).
#[inline(always)]
fn is_plain<F: Routed>(frame: &Frame, packet: &Datagram<F::Address>, transport: Transport) -> bool {
    // Behind extension headers it looks elsewhere.
    if F::NUMBER == 6 && packet.payload != frame.offset + IPV6_HEADER {
        return false;
    }
    // It takes these for ports.
    if matches!(packet.protocol, protocol::ESP | protocol::AH) {
        return false;
    }
    if packet.is_fragment() {
        return packet.protocol != protocol::ICMP;
    }
    match transport.readable {
        Readable::Broken => false,
        // An error takes the path of the packet that it is about.
        Readable::Icmp => !F::is_error(transport.icmp >> 8),
        Readable::Ports | Readable::Nothing => true,
    }
}

/// Bytes of the fixed header.
const IPV6_HEADER: usize = 40;

/// As the kernel sees them: a fragment has none.
#[inline(always)]
fn ports<A>(packet: &Datagram<A>, transport: Transport) -> (Be16, Be16) {
    if packet.is_fragment() {
        return (Be16::default(), Be16::default());
    }
    (Be16::from_bytes((transport.source as u16).to_be_bytes()), Be16::from_bytes((transport.destination as u16).to_be_bytes()))
}
