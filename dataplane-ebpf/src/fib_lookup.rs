//! `bpf_fib_lookup`: the parameters of the kernel's lookup, and what its results mean.
//!
//! It looks up what `ip_route_input_slow` and `ip6_route_input` would, for most packets; the others are left to the kernel.
//! What it does not do is done here: the way back to the source, and the MTU of routes (`ip_mtu_from_fib_result` and
//! `ip6_mtu_from_fib6` look at those only that are locked): packets longer than the least of all are left to the kernel.

use dataplane_common::{
    abi::{AF_INET, AF_INET6, FibLookup, KernelLookup, NeighbourKey, PortFlags, RouteKind, Target, fib_result},
    decide::{self, Datagram, Family as _, Readable, Transport, V4},
    wire::{Be16, Ipv6, is_extension, protocol},
};

use crate::{
    features, maps,
    packet::Hook,
    tables::{NO_ADJACENCY, Routed as _},
};

/// Bytes of what the kernel is handed.
pub const LENGTH: i32 = 64;
const _: () = assert!(size_of::<FibLookup>() == LENGTH as usize);
/// `BPF_FIB_LOOKUP_DIRECT`: the table of the VRF, and no rules.
const DIRECT: u32 = 1;
/// Length for a lookup that returns the MTU and the egress link, and does not fail for the length.
const LEAST: u16 = 1;
/// `net.ipv4.conf.*.rp_filter`: only the way back will do.
const STRICT: u32 = 1;

/// Looks up the packet in [`maps::kernel_lookup`]. The result is written to the same place.
#[inline(always)]
pub fn lookup<H: Hook>(hook: &H) {
    if let Some(query) = maps::kernel_lookup() {
        query.target = u64::from(target(hook, query).raw());
    }
}

#[inline(always)]
fn target<H: Hook>(hook: &H, query: &mut KernelLookup) -> Target {
    query.next = u64::from(NO_ADJACENCY);
    let packet = Datagram {
        source: (),
        destination: (),
        length: query.length as usize,
        payload: query.payload as usize,
        protocol: u64::from(query.protocol),
        ttl: 0,
        fragment: u64::from(query.fragment),
        punt: None,
    };
    let transport = decide::transport(hook, &packet, query.offset as usize);
    let service = service(hook, query);
    if hook.is_marked() || service == NOTHING || !is_plain(query, &packet, transport) {
        return Target::KERNEL;
    }
    let fragment = packet.is_fragment();
    // As the kernel sees them: a fragment has none.
    let port = |port: u64| if fragment { Be16::default() } else { Be16::from_bytes((port as u16).to_be_bytes()) };
    let flags = if PortFlags::from_bits_retain(query.flags).contains(PortFlags::IN_VRF) { DIRECT } else { 0 };
    query.params.family = query.family as u8;
    query.params.protocol = query.protocol as u8;
    query.params.source_port = port(transport.source);
    query.params.destination_port = port(transport.destination);
    query.params.length = LEAST;
    query.params.ifindex = query.domain;
    query.params.service = service;
    query.params.source = query.source;
    query.params.destination = query.destination;
    match hook.fib_lookup(query, flags) {
        fib_result::SUCCESS | fib_result::NO_NEIGHBOUR => {}
        fib_result::BLACKHOLE => return Target::new(RouteKind::Blackhole, 0),
        fib_result::UNREACHABLE => return Target::new(RouteKind::Unreachable, 0),
        fib_result::PROHIBIT => return Target::new(RouteKind::Prohibit, 0),
        // A VRF has addresses of this machine that the mirror does not know, and so have tables that rules name. Then this may
        // also be an address without a route, for which chain input is evaluated in vain.
        fib_result::NOT_FORWARDED if features::ELSEWHERE.on() || found(query, query.domain) == NeighbourKey::OURS => {
            return Target::new(RouteKind::Local, 0);
        }
        _ => return Target::KERNEL,
    }
    query.out = u64::from(query.params.ifindex);
    let mtu = if query.params.length == LEAST { 0 } else { u64::from(query.params.length) };
    query.next = mtu << 32 | u64::from(found(query, query.params.ifindex));
    if query.route_mtu != 0 && query.length > query.route_mtu {
        return Target::KERNEL;
    }
    if query.family == AF_INET && !would_take(hook, query, flags) {
        return Target::KERNEL;
    }
    Target::new(RouteKind::Unicast, 0)
}

/// The fields besides addresses that routes and rules may match ([`FibLookup::service`]); [`NOTHING`] behind extension headers,
/// where the kernel finds protocol and ports elsewhere.
#[inline(always)]
fn service<H: Hook>(hook: &H, query: &KernelLookup) -> u32 {
    if query.family == AF_INET {
        return query.dscp << 2;
    }
    match hook.header::<Ipv6>(query.offset as usize & 0x7fff) {
        // `IPV6_FLOWINFO_MASK`: all but the version.
        Some(header) if !is_extension(u64::from(header.next_header)) => {
            header.version_class_flow.raw() & 0x0fff_ffff_u32.to_be()
        }
        _ => NOTHING,
    }
}

/// No [`FibLookup::service`]: that of another version.
const NOTHING: u32 = u32::MAX;

/// Whether the kernel would take an IPv4 packet from this port (`__fib_validate_source`).
#[inline(always)]
fn would_take<H: Hook>(hook: &H, query: &mut KernelLookup, flags: u32) -> bool {
    if is_ours(query.source[0]) {
        return false;
    }
    query.params.family = AF_INET as u8;
    (query.params.source_port, query.params.destination_port) =
        (query.params.destination_port, query.params.source_port);
    query.params.length = LEAST;
    // As if it came in through the way out.
    query.params.ifindex = if flags == DIRECT { query.domain } else { query.out as u32 };
    query.params.service = query.dscp << 2;
    query.params.source = query.destination;
    query.params.destination = query.source;
    matches!(hook.fib_lookup(query, flags), fib_result::SUCCESS | fib_result::NO_NEIGHBOUR)
        && (query.rp_filter != STRICT || query.params.ifindex == query.ifindex)
}

/// Whether our parameters are those that the kernel would find itself (`__skb_flow_dissect`, for its rules and its choice among
/// equal paths).
#[inline(always)]
fn is_plain(query: &KernelLookup, packet: &Datagram<()>, transport: Transport) -> bool {
    let v6 = query.family == AF_INET6;
    // It takes what these begin with for ports.
    if matches!(packet.protocol, protocol::ESP | protocol::AH) {
        return false;
    }
    if packet.is_fragment() {
        return packet.protocol != protocol::ICMP;
    }
    match transport.readable {
        Readable::Broken | Readable::PortsAlone | Readable::PortsAndFlags => false,
        // An error takes the path of the packet that it is about (`icmp_is_err`, `icmpv6_is_err`).
        Readable::Icmp if v6 => !matches!(transport.icmp >> 8, 1..=4),
        Readable::Icmp => !matches!(transport.icmp >> 8, 3..=5 | 11 | 12),
        Readable::Ports | Readable::Nothing => true,
    }
}

/// What is found for the address that the kernel has left as destination.
#[inline(always)]
fn found(query: &KernelLookup, ifindex: u32) -> u32 {
    let family = u32::from(query.params.family);
    let [a, b, c, d] = query.params.destination.map(|word| u64::from(u32::from_be(word)));
    let (high, low) = if family == AF_INET { (0, a) } else { (a << 32 | b, c << 32 | d) };
    maps::neighbour([u64::from(family) << 32 | u64::from(ifindex), high, low]).unwrap_or(NO_ADJACENCY)
}

/// Whether an IPv4 address is none that a host can send from, as far as the mirror knows.
#[inline(always)]
fn is_ours(source: u32) -> bool {
    let control = maps::control(V4::NUMBER);
    let kind = V4::lookup(control, u32::from_be(source)).kind();
    matches!(kind, RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast)
}
