//! DHCP: its clients and servers read raw sockets, which get a packet before IP looks at it, its rules, or whether the address
//! is one of this machine yet.

use crate::wire::{Bytes, Ethernet, IPV4_FRAGMENT_MASK, Ipv4, Ipv6, Udp, protocol};

use super::link::L3Protocol;

/// UDP ports of DHCP, of server and client (RFC 2131), and of `DHCPv6`, of client and server (RFC 8415).
const PORTS: [u16; 4] = [67, 68, 546, 547];

/// Whether the packet of an IP version at `at` is for a DHCP client, which may be on this machine, and have no address yet.
#[inline(always)]
pub fn is_for_client<B: Bytes + ?Sized>(packet: &B, at: usize, ipv6: bool) -> bool {
    port(packet, at & 0x7fff, ipv6).is_some_and(|port| matches!(port, 68 | 546))
}

/// Whether raw sockets that wait for DHCP would read a frame: one that IP drops has come to them before. By the first bytes
/// alone, without tags.
#[inline(always)]
pub fn is_for_raw_sockets<B: Bytes + ?Sized>(packet: &B) -> bool {
    const NETWORK: usize = size_of::<Ethernet>();
    let Some(ethernet) = packet.header::<Ethernet>(0) else { return false };
    let ipv6 = match L3Protocol::from(ethernet.ethertype) {
        L3Protocol::Ipv4 => false,
        L3Protocol::Ipv6 => true,
        _ => return false,
    };
    port(packet, NETWORK, ipv6).is_some_and(|port| PORTS.contains(&port))
}

/// The UDP port that a packet is for, without options and extension headers: no program sends DHCP with such.
#[inline(always)]
fn port<B: Bytes + ?Sized>(packet: &B, at: usize, ipv6: bool) -> Option<u16> {
    let udp = if ipv6 {
        packet.header::<Ipv6>(at).filter(|header| u64::from(header.next_header) == protocol::UDP)?;
        at + size_of::<Ipv6>()
    } else {
        let plain = |header: &&Ipv4| {
            header.version_length == 0x45
                && u64::from(header.protocol) == protocol::UDP
                && header.fragment.get() & IPV4_FRAGMENT_MASK == 0
        };
        packet.header::<Ipv4>(at).filter(plain)?;
        at + size_of::<Ipv4>()
    };
    Some(packet.header::<Udp>(udp)?.destination.get())
}
