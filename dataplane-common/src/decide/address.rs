//! What addresses alone decide: martians, multicast, broadcast and scopes.

use core::hint::cold_path;

use crate::{Reason, abi::PortFlags, wire::Address6};

/// Where a packet belongs, by its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressClass {
    /// The routing table says.
    Routed,
    /// To this machine and others: the kernel's, once it has met chain input.
    Group(Reason),
    /// Not on this wire.
    Martian(Reason),
}

/// How far a packet may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Anywhere.
    Global,
    /// Not off its link: the kernel answers.
    Link,
}

/// 127.0.0.0/8.
const fn is_loopback(address: u32) -> bool {
    address >> 24 == 127
}

/// 224.0.0.0/4.
const fn is_multicast(address: u32) -> bool {
    address >> 28 == 0xe
}

/// 0.0.0.0 alone (`ipv4_is_zeronet`): the rest of 0.0.0.0/8 is unicast to Linux since 5.3.
const fn is_this_network(address: u32) -> bool {
    address == 0
}

/// Whether the first eight bits already rule out everything special: 1 to 223, and not 127.
#[inline(always)]
const fn is_plain(address: u32) -> bool {
    let first = address >> 24;
    first.wrapping_sub(1) < 223 && first != 127
}

/// In the order of `ip_route_input_rcu` and `ip_route_input_slow` (`net/ipv4/route.c`).
#[inline(always)]
pub(super) fn classify_v4(source: u32, destination: u32, flags: PortFlags) -> AddressClass {
    if is_plain(source) && is_plain(destination) {
        return AddressClass::Routed;
    }
    cold_path();
    if is_multicast(destination) {
        return AddressClass::Group(Reason::Multicast);
    }
    if is_multicast(source) || source == u32::MAX {
        return AddressClass::Martian(Reason::MartianSource);
    }
    if destination == u32::MAX || (source == 0 && destination == 0) {
        return AddressClass::Group(Reason::Broadcast);
    }
    if is_this_network(source) {
        return AddressClass::Martian(Reason::MartianSource);
    }
    if is_this_network(destination) {
        return AddressClass::Martian(Reason::MartianDestination);
    }
    if !flags.contains(PortFlags::ROUTE_LOCALNET) {
        if is_loopback(destination) {
            return AddressClass::Martian(Reason::MartianDestination);
        }
        if is_loopback(source) {
            return AddressClass::Martian(Reason::MartianSource);
        }
    }
    AddressClass::Routed
}

/// `::1`.
const LOOPBACK: Address6 = Address6 { high: 0, low: 1 };

/// `ff00::/8`.
const fn is_multicast_v6(address: Address6) -> bool {
    address.high >> 56 == 0xff
}

/// `fe80::/10`.
const fn is_link_local(address: Address6) -> bool {
    address.high >> 54 == 0x3fa
}

/// Whether the first eight bits already rule out everything special: 1 to 253.
#[inline(always)]
const fn is_plain_v6(address: Address6) -> bool {
    (address.high >> 56).wrapping_sub(1) < 253
}

/// As `ip6_rcv_core` (`net/ipv6/ip6_input.c`): RFC 4291 sections 2.5.3, 2.7 and 2.7.1.
#[inline(always)]
pub(super) fn classify_v6(source: Address6, destination: Address6) -> AddressClass {
    if is_plain_v6(source) && is_plain_v6(destination) {
        return AddressClass::Routed;
    }
    cold_path();
    if source == LOOPBACK || is_multicast_v6(source) {
        return AddressClass::Martian(Reason::MartianSource);
    }
    if destination == LOOPBACK {
        return AddressClass::Martian(Reason::MartianDestination);
    }
    if is_multicast_v6(destination) {
        let scope = (destination.high >> 48) as u8 & 0x0f;
        return if scope <= 1 {
            AddressClass::Martian(Reason::MartianDestination)
        } else {
            AddressClass::Group(Reason::Multicast)
        };
    }
    if is_link_local(destination) {
        // Whose it is depends on the link, which the table does not know.
        return AddressClass::Group(Reason::LinkScope);
    }
    AddressClass::Routed
}

/// As `ip6_forward` (`net/ipv6/ip6_output.c`): RFC 4291 section 2.5.6. A destination of link scope has its place already.
#[inline(always)]
pub(super) fn scope_v6(source: Address6) -> Scope {
    if is_plain_v6(source) {
        return Scope::Global;
    }
    cold_path();
    // The unspecified source may go back to its own link only (`ip6_forward`).
    if source == Address6::default() || is_link_local(source) { Scope::Link } else { Scope::Global }
}
