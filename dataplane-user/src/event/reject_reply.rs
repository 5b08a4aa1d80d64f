//! What the sender of a rejected packet is told: the packet that tells it.
//!
//! As the kernel's `reject` does (`net/ipv4/netfilter/nf_reject_ipv4.c`, `net/ipv6/netfilter/nf_reject_ipv6.c`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_common::wire::{
    Be16, Be32, Bytes as _, Ethernet, IPV4_DONT_FRAGMENT, Icmp, Ipv4, Ipv6, Sum, Tcp, Udp, protocol,
};
use zerocopy::IntoBytes as _;

use super::packet::{Network, Packet};
use crate::rule::{RejectWith, Unreachable4, Unreachable6, UnreachableAny};

/// Longest ICMP error (RFC 1812, section 4.3.2.3).
const LONGEST4: usize = 576;
/// Longest `ICMPv6` error (RFC 4443, section 2.4 (c)).
const LONGEST6: usize = 1280;
/// Rest of the header of an ICMP error, of no use here.
const UNUSED: usize = 4;
/// As the kernel's own packets have it by default.
const HOPS: u8 = 64;

const DESTINATION_UNREACHABLE4: u8 = 3;
const DESTINATION_UNREACHABLE6: u8 = 1;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What a sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReply {
    /// A reset of the connection; it speaks for the destination.
    Reset,
    /// Destination unreachable, with this code.
    Unreachable(u8),
}

/// What a rule answers to a packet; `None` when that packet must not be answered (RFC 1122, section 3.2.2; RFC 4443, section
/// 2.4 (e); RFC 9293, section 3.10.7.1).
pub fn answer(packet: &Packet<'_>, with: RejectWith) -> Option<RejectReply> {
    let group = packet.link.header::<Ethernet>(0).is_some_and(|header| header.destination.is_group());
    if group || !is_host(packet.source()) || !is_host(packet.destination()) || packet.fragment_offset() != 0 {
        return None;
    }
    if !is_sound(packet) {
        return None;
    }
    if with == RejectWith::TcpReset {
        let header = packet.transport().header::<Tcp>(0)?;
        let reset = is(packet, protocol::TCP) && !packet.is_fragment() && header.flags & RST == 0;
        return reset.then_some(RejectReply::Reset);
    }
    let code = match packet.network {
        Network::V4(_) => code4(with)?,
        Network::V6(_) => code6(with)?,
    };
    (!is_error(packet)).then_some(RejectReply::Unreachable(code))
}

impl RejectReply {
    /// The packet, from `source`, or from the unspecified address where the kernel is to choose that of IPv4.
    pub fn packet(self, to: &Packet<'_>, source: IpAddr) -> Option<Vec<u8>> {
        match (self, source, to.source()) {
            (Self::Reset, IpAddr::V4(source), IpAddr::V4(destination)) => {
                let tcp = reset(to)?;
                Some(v4(source, destination, protocol::TCP, &checked(&pseudo4(source, destination, &tcp), tcp, 16)))
            }
            (Self::Reset, IpAddr::V6(source), IpAddr::V6(destination)) => {
                let tcp = reset(to)?;
                let pseudo = pseudo6(source, destination, protocol::TCP, tcp.len());
                Some(v6(source, destination, protocol::TCP, &checked(&pseudo, tcp, 16)))
            }
            (Self::Unreachable(code), IpAddr::V4(source), IpAddr::V4(destination)) => {
                let room = LONGEST4 - size_of::<Ipv4>();
                let icmp = checked(&[], unreachable(DESTINATION_UNREACHABLE4, code, to, room), 2);
                Some(v4(source, destination, protocol::ICMP, &icmp))
            }
            (Self::Unreachable(code), IpAddr::V6(source), IpAddr::V6(destination)) => {
                let icmp = unreachable(DESTINATION_UNREACHABLE6, code, to, LONGEST6 - size_of::<Ipv6>());
                let pseudo = pseudo6(source, destination, protocol::ICMPV6, icmp.len());
                Some(v6(source, destination, protocol::ICMPV6, &checked(&pseudo, icmp, 2)))
            }
            _ => None,
        }
    }
}

/// Whether an address is that of one host (RFC 1812, section 4.2.2.11; what a link takes for its broadcast, nobody else knows).
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            // Behind multicast are what is reserved, and the limited broadcast.
            first != 0 && first < 224 && !address.is_loopback()
        }
        IpAddr::V6(address) => !address.is_unspecified() && !address.is_multicast() && !address.is_loopback(),
    }
}

fn is(packet: &Packet<'_>, number: u64) -> bool {
    packet.protocol.map(u64::from) == Some(number)
}

/// Whether it is, or may be, an error of ICMP: those are never answered.
fn is_error(packet: &Packet<'_>) -> bool {
    let kind = packet.transport().first();
    match packet.protocol.map(u64::from) {
        None => true,
        // Requests and replies (`icmp_pointers` in `net/ipv4/icmp.c`); what is unknown may be an error.
        Some(protocol::ICMP) => !matches!(kind, Some(0 | 8 | 13..=18)),
        // Below 128 are errors, and 137 is a redirect.
        Some(protocol::ICMPV6) => !matches!(kind, Some(128..=136 | 138..)),
        Some(_) => false,
    }
}

/// Whether the checksum of the transport is right, as far as that can be told: not of fragments, nor of packets that are not
/// all here. A sender that leaves the sum to its hardware, and whose packets never met any, has written that of the pseudo
/// header alone.
fn is_sound(packet: &Packet<'_>) -> bool {
    let bytes = packet.transport();
    let number = packet.protocol.map_or(0, u64::from);
    let (least, place) = match number {
        protocol::TCP => (size_of::<Tcp>(), 16),
        protocol::UDP => (size_of::<Udp>(), 6),
        protocol::ICMP | protocol::ICMPV6 => (size_of::<Icmp>(), 2),
        _ => return true,
    };
    if bytes.len() < least {
        return false;
    }
    if packet.is_fragment() || !packet.is_whole() {
        return true;
    }
    let written = u16::from_be_bytes([bytes[place], bytes[place + 1]]);
    let pseudo = match (packet.source(), packet.destination()) {
        (IpAddr::V4(_), IpAddr::V4(_)) if number == protocol::ICMP => Vec::new(),
        // Without a checksum.
        (IpAddr::V4(_), IpAddr::V4(_)) if number == protocol::UDP && written == 0 => return true,
        (IpAddr::V4(source), IpAddr::V4(destination)) => pseudo(source, destination, number, bytes.len()),
        (IpAddr::V6(source), IpAddr::V6(destination)) => pseudo6(source, destination, number, bytes.len()),
        _ => return false,
    };
    let left_out = !pseudo.is_empty() && written == sum(Sum::default(), &pseudo).fold();
    left_out || sum(sum(Sum::default(), &pseudo), bytes).fold() == 0xffff
}

/// Codes of RFC 1812, section 5.2.7.1; `None`: not for this family.
fn code4(with: RejectWith) -> Option<u8> {
    Some(match with {
        RejectWith::Default => 3,
        RejectWith::Icmp(what) => match what {
            Unreachable4::Net => 0,
            Unreachable4::Host => 1,
            Unreachable4::Protocol => 2,
            Unreachable4::Port => 3,
            Unreachable4::NetProhibited => 9,
            Unreachable4::HostProhibited => 10,
            Unreachable4::AdminProhibited => 13,
        },
        // `icmp_code_v4` in `net/netfilter/nft_reject.c`.
        RejectWith::Icmpx(what) => match what {
            UnreachableAny::NoRoute => 0,
            UnreachableAny::Host => 1,
            UnreachableAny::AdminProhibited => 13,
        },
        RejectWith::TcpReset | RejectWith::Icmpv6(_) => return None,
    })
}

/// Codes of RFC 4443, section 3.1; `None`: not for this family.
fn code6(with: RejectWith) -> Option<u8> {
    Some(match with {
        RejectWith::Default => 4,
        RejectWith::Icmpv6(what) => match what {
            Unreachable6::NoRoute => 0,
            Unreachable6::AdminProhibited => 1,
            Unreachable6::Address => 3,
            Unreachable6::Port => 4,
        },
        // `icmp_code_v6` in `net/netfilter/nft_reject.c`.
        RejectWith::Icmpx(what) => match what {
            UnreachableAny::NoRoute => 0,
            UnreachableAny::Host => 3,
            UnreachableAny::AdminProhibited => 1,
        },
        RejectWith::TcpReset | RejectWith::Icmp(_) => return None,
    })
}

/// A reset to a segment (RFC 9293, section 3.10.7.1), without its checksum.
fn reset(to: &Packet<'_>) -> Option<Vec<u8>> {
    let header = to.transport().header::<Tcp>(0)?;
    let data = (to.length - to.payload).saturating_sub(header.header_length().max(size_of::<Tcp>()));
    let taken = data as u32 + u32::from(header.flags & SYN != 0) + u32::from(header.flags & FIN != 0);
    let (sequence, acknowledgement, flags) = if header.flags & ACK != 0 {
        (header.acknowledgement, Be32::new(0), RST)
    } else {
        (Be32::new(0), Be32::new(header.sequence.get().wrapping_add(taken)), RST | ACK)
    };
    let reset = Tcp {
        source: header.destination,
        destination: header.source,
        sequence,
        acknowledgement,
        offset: (size_of::<Tcp>() as u8 / 4) << 4,
        flags,
        window: Be16::new(0),
        checksum: Be16::new(0),
        urgent: Be16::new(0),
    };
    Some(reset.as_bytes().to_vec())
}

/// An error that quotes as much of a packet as fits into `room` bytes, without its checksum.
fn unreachable(kind: u8, code: u8, to: &Packet<'_>, room: usize) -> Vec<u8> {
    let mut bytes = Icmp { kind, code, checksum: Be16::new(0) }.as_bytes().to_vec();
    bytes.extend([0; UNUSED]);
    bytes.extend(&to.bytes[..to.bytes.len().min(room - bytes.len())]);
    bytes
}

fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, number: u64, length: usize) -> Vec<u8> {
    let tail = [0, number as u8].into_iter().chain((length as u16).to_be_bytes());
    source.octets().into_iter().chain(destination.octets()).chain(tail).collect()
}

fn pseudo4(source: Ipv4Addr, destination: Ipv4Addr, tcp: &[u8]) -> Vec<u8> {
    pseudo(source, destination, protocol::TCP, tcp.len())
}

/// RFC 8200, section 8.1.
fn pseudo6(source: Ipv6Addr, destination: Ipv6Addr, number: u64, length: usize) -> Vec<u8> {
    let tail = (length as u32).to_be_bytes().into_iter().chain([0, 0, 0, number as u8]);
    source.octets().into_iter().chain(destination.octets()).chain(tail).collect()
}

/// Adds bytes; what is added before must be whole words.
fn sum(sum: Sum, bytes: &[u8]) -> Sum {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).fold(sum, |sum, word| sum.add(u32::from_be_bytes(*word)))
}

/// Writes the checksum to its place.
fn checked(pseudo: &[u8], mut bytes: Vec<u8>, place: usize) -> Vec<u8> {
    let sum = !sum(sum(Sum::default(), pseudo), &bytes).fold();
    bytes[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn v4(source: Ipv4Addr, destination: Ipv4Addr, number: u64, payload: &[u8]) -> Vec<u8> {
    let header = Ipv4 {
        version_length: 0x45,
        service: 0,
        total_length: Be16::new((size_of::<Ipv4>() + payload.len()) as u16),
        identification: Be16::new(0),
        fragment: Be16::new(if number == protocol::TCP { IPV4_DONT_FRAGMENT } else { 0 }),
        ttl: HOPS,
        protocol: number as u8,
        checksum: Be16::new(0),
        source: Be32::new(source.into()),
        destination: Be32::new(destination.into()),
    };
    let mut bytes = checked(&[], header.as_bytes().to_vec(), 10);
    bytes.extend(payload);
    bytes
}

fn v6(source: Ipv6Addr, destination: Ipv6Addr, number: u64, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6 {
        version_class_flow: Be32::new(6 << 28),
        payload_length: Be16::new(payload.len() as u16),
        next_header: number as u8,
        hop_limit: HOPS,
        source: source.octets(),
        destination: destination.octets(),
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(payload);
    bytes
}
