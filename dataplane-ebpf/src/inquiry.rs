//! `bpf_fib_lookup`: what the kernel is asked, and what its answers mean.
//!
//! It looks up what `ip_route_input_slow` and `ip6_route_input` would, for most packets; the others are left to the kernel.
//! What it does not do is done here: the way back to the source, and the MTU of routes (`ip_mtu_from_fib_result` and
//! `ip6_mtu_from_fib6` look at those only that are locked): packets longer than the least of all are left to the kernel.

use dataplane_common::{
    abi::{AF_INET, AF_INET6, Asked, Inquiry, NeighbourKey, PortFlags, RouteKind, Target, answer},
    decide::{self, Datagram, Family as _, Readable, Transport, V4},
    wire::{Be16, Ipv6, is_extension, protocol},
};

use crate::{
    hook::Hook,
    maps,
    tables::{NOBODY, Routed as _},
};

/// Bytes of what the kernel is handed.
pub const LENGTH: i32 = 64;
const _: () = assert!(size_of::<Inquiry>() == LENGTH as usize);
/// `BPF_FIB_LOOKUP_DIRECT`: the table of the VRF, and no rules.
const DIRECT: u32 = 1;
/// Asks for the MTU without being refused for the length: then the way out is told, too.
const LEAST: u16 = 1;
/// `net.ipv4.conf.*.rp_filter`: only the way back will do.
const STRICT: u32 = 1;

/// Asks about the packet in [`maps::asked`], with a function that hands an inquiry to the kernel. What is said is left in the
/// same place.
#[inline(always)]
pub fn ask<H: Hook>(hook: &H, lookup: impl Fn(&mut Asked, u32) -> i64) {
    if let Some(asked) = maps::asked() {
        asked.target = u64::from(target(hook, asked, lookup).raw());
    }
}

#[inline(always)]
fn target<H: Hook>(hook: &H, asked: &mut Asked, lookup: impl Fn(&mut Asked, u32) -> i64) -> Target {
    asked.next = u64::from(NOBODY);
    let packet = Datagram {
        source: (),
        destination: (),
        length: asked.length as usize,
        payload: asked.payload as usize,
        protocol: u64::from(asked.protocol),
        ttl: 0,
        fragment: u64::from(asked.fragment),
        detour: None,
    };
    let transport = decide::transport(hook, &packet, asked.offset as usize);
    let service = service(hook, asked);
    if hook.is_marked() || service == NOTHING || !is_plain(asked, &packet, transport) {
        return Target::KERNEL;
    }
    let fragment = packet.is_fragment();
    // As the kernel sees them: a fragment has none.
    let port = |port: u64| if fragment { Be16::default() } else { Be16::from_bytes((port as u16).to_be_bytes()) };
    let flags = if PortFlags::from_bits_retain(asked.flags).contains(PortFlags::IN_VRF) { DIRECT } else { 0 };
    asked.inquiry.family = asked.family as u8;
    asked.inquiry.protocol = asked.protocol as u8;
    asked.inquiry.source_port = port(transport.source);
    asked.inquiry.destination_port = port(transport.destination);
    asked.inquiry.length = LEAST;
    asked.inquiry.ifindex = asked.domain;
    asked.inquiry.service = service;
    asked.inquiry.source = asked.source;
    asked.inquiry.destination = asked.destination;
    match lookup(asked, flags) {
        answer::SUCCESS | answer::NO_NEIGHBOUR => {}
        answer::BLACKHOLE => return Target::new(RouteKind::Blackhole, 0),
        answer::UNREACHABLE => return Target::new(RouteKind::Unreachable, 0),
        answer::PROHIBIT => return Target::new(RouteKind::Prohibit, 0),
        // Only a VRF has addresses of this machine that the mirror does not know.
        answer::NOT_FORWARDED if found(asked, asked.domain) == NeighbourKey::OURS => {
            return Target::new(RouteKind::Local, 0);
        }
        _ => return Target::KERNEL,
    }
    asked.out = u64::from(asked.inquiry.ifindex);
    let mtu = if asked.inquiry.length == LEAST { 0 } else { u64::from(asked.inquiry.length) };
    asked.next = mtu << 32 | u64::from(found(asked, asked.inquiry.ifindex));
    if asked.route_mtu != 0 && asked.length > asked.route_mtu {
        return Target::KERNEL;
    }
    if asked.family == AF_INET && !would_take(asked, lookup, flags) {
        return Target::KERNEL;
    }
    Target::new(RouteKind::Unicast, 0)
}

/// What routes and rules may ask for besides addresses ([`Inquiry::service`]); [`NOTHING`] behind extension headers, where the
/// kernel looks elsewhere for protocol and ports.
#[inline(always)]
fn service<H: Hook>(hook: &H, asked: &Asked) -> u32 {
    if asked.family == AF_INET {
        return asked.dscp << 2;
    }
    match hook.header::<Ipv6>(asked.offset as usize & 0x7fff) {
        // `IPV6_FLOWINFO_MASK`: all but the version.
        Some(header) if !is_extension(u64::from(header.next_header)) => {
            header.version_class_flow.raw() & 0x0fff_ffff_u32.to_be()
        }
        _ => NOTHING,
    }
}

/// No [`Inquiry::service`]: that of another version.
const NOTHING: u32 = u32::MAX;

/// Whether the kernel would take an IPv4 packet from this port (`__fib_validate_source`).
#[inline(always)]
fn would_take(asked: &mut Asked, lookup: impl Fn(&mut Asked, u32) -> i64, flags: u32) -> bool {
    if is_ours(asked.source[0]) {
        return false;
    }
    asked.inquiry.family = AF_INET as u8;
    (asked.inquiry.source_port, asked.inquiry.destination_port) =
        (asked.inquiry.destination_port, asked.inquiry.source_port);
    asked.inquiry.length = LEAST;
    // As if it came in through the way out.
    asked.inquiry.ifindex = if flags == DIRECT { asked.domain } else { asked.out as u32 };
    asked.inquiry.service = asked.dscp << 2;
    asked.inquiry.source = asked.destination;
    asked.inquiry.destination = asked.source;
    matches!(lookup(asked, flags), answer::SUCCESS | answer::NO_NEIGHBOUR)
        && (asked.rp_filter != STRICT || asked.inquiry.ifindex == asked.ifindex)
}

/// Whether what we tell the kernel is what it would see itself (`__skb_flow_dissect`, for its rules and its choice among equal
/// paths).
#[inline(always)]
fn is_plain(asked: &Asked, packet: &Datagram<()>, transport: Transport) -> bool {
    let v6 = asked.family == AF_INET6;
    // It takes what these begin with for ports.
    if matches!(packet.protocol, protocol::ESP | protocol::AH) {
        return false;
    }
    if packet.is_fragment() {
        return packet.protocol != protocol::ICMP;
    }
    match transport.readable {
        Readable::Broken => false,
        // An error takes the path of the packet that it is about (`icmp_is_err`, `icmpv6_is_err`).
        Readable::Icmp if v6 => !matches!(transport.icmp >> 8, 1..=4),
        Readable::Icmp => !matches!(transport.icmp >> 8, 3..=5 | 11 | 12),
        Readable::Ports | Readable::Nothing => true,
    }
}

/// What is found for the address that the kernel has left as destination.
#[inline(always)]
fn found(asked: &Asked, ifindex: u32) -> u32 {
    let family = u32::from(asked.inquiry.family);
    let [a, b, c, d] = asked.inquiry.destination.map(|word| u64::from(u32::from_be(word)));
    let (high, low) = if family == AF_INET { (0, a) } else { (a << 32 | b, c << 32 | d) };
    maps::neighbour([u64::from(family) << 32 | u64::from(ifindex), high, low]).unwrap_or(NOBODY)
}

/// Whether an IPv4 address is none that a host can send from, as far as the mirror knows.
#[inline(always)]
fn is_ours(source: u32) -> bool {
    let control = maps::control(V4::NUMBER);
    let kind = V4::lookup(control, u32::from_be(source)).kind();
    matches!(kind, RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast)
}
