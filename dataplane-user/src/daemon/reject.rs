//! Answers to the senders of packets that a rule rejects, as the kernel gives them (`nf_reject_ipv4.c` and
//! `nf_reject_ipv6.c` in `net/ipv4/netfilter/` and `net/ipv6/netfilter/`). Bytes in, bytes out.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane_common::wire::{Sum, protocol};

use crate::rule::{RejectWith, Unreachable4, Unreachable6, UnreachableAny};

/// What is sent, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An IPv4 packet; where its source is 0.0.0.0, the kernel puts in its own.
    V4(Vec<u8>, Ipv4Addr),
    /// An IPv6 packet.
    V6(Vec<u8>, Ipv6Addr),
    /// An `ICMPv6` message, whose header, source and checksum the kernel makes.
    Icmpv6(Vec<u8>, Ipv6Addr),
}

/// The longest ICMP error (RFC 1812, section 4.3.2.3).
const LONGEST_V4: usize = 576;
/// The longest `ICMPv6` error (RFC 4443, section 3.3).
const LONGEST_V6: usize = 1280;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The answer to a packet, which begins with its IP header and may be cut off; none where there must be none.
pub(super) fn answer(packet: &[u8], with: RejectWith) -> Option<Answer> {
    match packet.first()? >> 4 {
        4 => answer_v4(packet, with),
        6 => answer_v6(packet, with),
        _ => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The checksum of bytes after some others (RFC 1071).
fn checksum(start: Sum, bytes: &[u8]) -> [u8; 2] {
    let sum = bytes.chunks(4).fold(start, |sum, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        sum.add(u32::from_be_bytes(word))
    });
    (!sum.fold()).to_be_bytes()
}

fn answer_v4(packet: &[u8], with: RejectWith) -> Option<Answer> {
    let header = usize::from(packet[0] & 0xf) * 4;
    let total = usize::from(be16(packet, 2)?);
    let (source, destination) = (Ipv4Addr::from(be32(packet, 12)?), Ipv4Addr::from(be32(packet, 16)?));
    let nobody = |address: Ipv4Addr| {
        address.is_unspecified() || address.is_multicast() || address.is_broadcast() || address.is_loopback()
    };
    // Only a first fragment is answered (RFC 1122, section 3.2.2).
    if header < 20 || total < header || be16(packet, 6)? & 0x1fff != 0 || nobody(source) || nobody(destination) {
        return None;
    }
    let packet = &packet[..packet.len().min(total)];
    let carried = packet.get(header..)?;
    let code = match with {
        RejectWith::TcpReset => {
            let reset = reset(carried, packet[9], total - header)?;
            let pseudo = Sum::default().add(source.into()).add(destination.into()).add(protocol::TCP as u32).add(20);
            let segment = sealed(reset, pseudo, 16);
            return Some(Answer::V4(ipv4(destination, source, protocol::TCP as u8, &segment), source));
        }
        RejectWith::Default => 3,
        RejectWith::Icmp(code) => match code {
            Unreachable4::Net => 0,
            Unreachable4::Host => 1,
            Unreachable4::Protocol => 2,
            Unreachable4::Port => 3,
            Unreachable4::NetProhibited => 9,
            Unreachable4::HostProhibited => 10,
            Unreachable4::AdminProhibited => 13,
        },
        RejectWith::Icmpx(code) => match code {
            UnreachableAny::NoRoute => 0,
            UnreachableAny::Host => 1,
            UnreachableAny::AdminProhibited => 13,
        },
        RejectWith::Icmpv6(_) => return None,
    };
    // No error is answered with an error: of ICMP only these are none (RFC 792).
    let queries = [0, 8, 9, 10, 13, 14, 15, 16, 17, 18];
    if u64::from(packet[9]) == protocol::ICMP && !carried.first().is_some_and(|kind| queries.contains(kind)) {
        return None;
    }
    let mut message = vec![3, code, 0, 0, 0, 0, 0, 0];
    message.extend(&packet[..packet.len().min(LONGEST_V4 - 28)]);
    let message = sealed(message, Sum::default(), 2);
    Some(Answer::V4(ipv4(Ipv4Addr::UNSPECIFIED, source, protocol::ICMP as u8, &message), source))
}

/// An IPv4 packet whose length, identification and checksum the kernel fills in.
fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, carries: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, carries, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

fn answer_v6(packet: &[u8], with: RejectWith) -> Option<Answer> {
    let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
    let (source, destination) = (address(8)?, address(24)?);
    let nobody = |address: Ipv6Addr| address.is_unspecified() || address.is_multicast() || address.is_loopback();
    if nobody(source) || nobody(destination) {
        return None;
    }
    let total = 40 + usize::from(be16(packet, 4)?);
    let packet = &packet[..packet.len().min(total)];
    let (kind, at) = carried_v6(packet)?;
    let carried = packet.get(at..)?;
    let code = match with {
        RejectWith::TcpReset => {
            let reset = reset(carried, kind, total - at)?;
            let words = [source, destination].map(|address| address.octets()).concat();
            let words = words.chunks_exact(4).map(|word| u32::from_be_bytes(*word.first_chunk().expect("four bytes")));
            let pseudo = words.fold(Sum::default(), Sum::add).add(protocol::TCP as u32).add(20);
            let segment = sealed(reset, pseudo, 16);
            let mut answer = vec![0x60, 0, 0, 0, 0, 20, protocol::TCP as u8, 64];
            answer.extend(destination.octets());
            answer.extend(source.octets());
            answer.extend(segment);
            return Some(Answer::V6(answer, source));
        }
        RejectWith::Default => 4,
        RejectWith::Icmpv6(code) => match code {
            Unreachable6::NoRoute => 0,
            Unreachable6::AdminProhibited => 1,
            Unreachable6::Address => 3,
            Unreachable6::Port => 4,
        },
        RejectWith::Icmpx(code) => match code {
            UnreachableAny::NoRoute => 0,
            UnreachableAny::Host => 3,
            UnreachableAny::AdminProhibited => 1,
        },
        RejectWith::Icmp(_) => return None,
    };
    // Errors have numbers below 128, and 137 is a redirect (RFC 4443, section 2.4).
    if u64::from(kind) == protocol::ICMPV6 && carried.first().is_none_or(|kind| *kind < 128 || *kind == 137) {
        return None;
    }
    let mut message = vec![1, code, 0, 0, 0, 0, 0, 0];
    message.extend(&packet[..packet.len().min(LONGEST_V6 - 48)]);
    Some(Answer::Icmpv6(message, source))
}

/// What is behind the extension headers, and where; none for a later fragment (RFC 8200, section 4).
fn carried_v6(packet: &[u8]) -> Option<(u8, usize)> {
    let (mut next, mut at) = (*packet.get(6)?, 40);
    for _ in 0..8 {
        let length = match u64::from(next) {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                usize::from(*packet.get(at + 1)?) * 8 + 8
            }
            protocol::FRAGMENT if be16(packet, at + 2)? & 0xfff8 == 0 => 8,
            protocol::FRAGMENT => return None,
            protocol::AH => usize::from(*packet.get(at + 1)?) * 4 + 8,
            _ => return Some((next, at)),
        };
        (next, at) = (*packet.get(at)?, at + length);
    }
    None
}

/// A reset for a segment of `length` bytes, without checksum (RFC 9293, section 3.10.7.1).
fn reset(segment: &[u8], carries: u8, length: usize) -> Option<Vec<u8>> {
    if u64::from(carries) != protocol::TCP || segment.len() < 20 {
        return None;
    }
    let flags = segment[13];
    let header = usize::from(segment[12] >> 4) * 4;
    if flags & RST != 0 || header < 20 || header > length {
        return None;
    }
    let (sequence, acknowledged) = (be32(segment, 4)?, be32(segment, 8)?);
    let mut reset = [&segment[2..4], &segment[..2]].concat();
    if flags & ACK != 0 {
        reset.extend(acknowledged.to_be_bytes());
        reset.extend([0; 4]);
        reset.extend([0x50, RST]);
    } else {
        let taken = (length - header) as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        reset.extend([0; 4]);
        reset.extend(sequence.wrapping_add(taken).to_be_bytes());
        reset.extend([0x50, RST | ACK]);
    }
    reset.extend([0; 6]);
    Some(reset)
}

/// The same with its checksum in place.
fn sealed(mut bytes: Vec<u8>, pseudo: Sum, at: usize) -> Vec<u8> {
    let sum = checksum(pseudo, &bytes);
    bytes[at..at + 2].copy_from_slice(&sum);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(carries: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = ipv4(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2), carries, payload);
        packet[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
        packet
    }

    fn v6(carries: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, carries, 64];
        packet.extend("2001:db8::1".parse::<Ipv6Addr>().expect("an address").octets());
        packet.extend("2001:db8::2".parse::<Ipv6Addr>().expect("an address").octets());
        packet.extend(payload);
        packet
    }

    fn tcp(sequence: u32, acknowledged: u32, flags: u8, data: usize) -> Vec<u8> {
        let mut segment = vec![0x04, 0x00, 0x00, 0x50];
        segment.extend(sequence.to_be_bytes());
        segment.extend(acknowledged.to_be_bytes());
        segment.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
        segment.resize(20 + data, 7);
        segment
    }

    /// Ports, sequence, acknowledgement and flags of a reset, whose checksum must be right.
    fn told(answer: Option<Answer>) -> Option<(u16, u16, u32, u32, u8)> {
        let (segment, pseudo) = match answer? {
            Answer::V4(packet, _) => {
                let pseudo =
                    packet[12..20].chunks(4).fold(Sum::default(), |sum, word| sum.add(be32(word, 0).expect("a word")));
                (packet[20..].to_vec(), pseudo)
            }
            Answer::V6(packet, _) => {
                let pseudo =
                    packet[8..40].chunks(4).fold(Sum::default(), |sum, word| sum.add(be32(word, 0).expect("a word")));
                (packet[40..].to_vec(), pseudo)
            }
            Answer::Icmpv6(..) => return None,
        };
        assert_eq!(checksum(pseudo.add(6).add(20), &segment), [0, 0], "the checksum");
        let port = |at| be16(&segment, at).expect("a port");
        Some((port(0), port(2), be32(&segment, 4)?, be32(&segment, 8)?, segment[13]))
    }

    #[test]
    fn resets_end_what_was_sent() {
        let rows = [
            ("a SYN", tcp(100, 0, SYN, 0), Some((80, 1024, 0, 101, RST | ACK))),
            ("a SYN with data", tcp(100, 0, SYN, 5), Some((80, 1024, 0, 106, RST | ACK))),
            ("an ACK", tcp(100, 777, ACK, 9), Some((80, 1024, 777, 0, RST))),
            ("a FIN without ACK", tcp(u32::MAX, 0, FIN, 1), Some((80, 1024, 0, 1, RST | ACK))),
            ("a RST", tcp(1, 2, RST, 0), None),
            ("a header that is too short", tcp(1, 2, SYN, 0)[..19].to_vec(), None),
        ];
        for (what, segment, expected) in rows {
            assert_eq!(told(answer(&v4(6, &segment), RejectWith::TcpReset)), expected, "{what}, IPv4");
            assert_eq!(told(answer(&v6(6, &segment), RejectWith::TcpReset)), expected, "{what}, IPv6");
        }
        assert_eq!(answer(&v4(17, &[0; 20]), RejectWith::TcpReset), None, "not TCP");
    }

    #[test]
    fn errors_quote_what_was_sent_and_answer_no_errors() {
        let udp = v4(17, &[9; 1000]);
        let Some(Answer::V4(packet, to)) = answer(&udp, RejectWith::Default) else { panic!("no answer") };
        assert_eq!((to, packet.len(), &packet[20..22]), (Ipv4Addr::new(192, 0, 2, 1), 576, &[3, 3][..]));
        assert_eq!(checksum(Sum::default(), &packet[20..]), [0, 0], "the checksum");
        assert_eq!(packet[28..], udp[..548]);
        let Some(Answer::Icmpv6(message, _)) = answer(&v6(17, &[9; 30]), RejectWith::Default) else {
            panic!("no answer")
        };
        assert_eq!((&message[..2], message.len()), (&[1, 4][..], 8 + 70));

        let codes = [
            (RejectWith::Icmp(Unreachable4::AdminProhibited), Some(13), None),
            (RejectWith::Icmpv6(Unreachable6::NoRoute), None, Some(0)),
            (RejectWith::Icmpx(UnreachableAny::Host), Some(1), Some(3)),
        ];
        for (with, code4, code6) in codes {
            let found = |answer| match answer {
                Some(Answer::V4(packet, _)) => Some(packet[21]),
                Some(Answer::Icmpv6(message, _)) => Some(message[1]),
                _ => None,
            };
            assert_eq!(found(answer(&udp, with)), code4, "{with:?}");
            assert_eq!(found(answer(&v6(17, &[9; 8]), with)), code6, "{with:?}");
        }

        let mut later = udp.clone();
        later[7] = 1;
        let mut from_nobody = udp.clone();
        from_nobody[12..16].fill(255);
        let mut fragment = v6(44, &[17, 0, 0, 9, 0, 0, 0, 0, 1, 2]);
        let silent = [
            ("a later fragment", later),
            ("a broadcast source", from_nobody),
            ("an ICMP error", v4(1, &[3, 0, 0, 0, 0, 0, 0, 0])),
            ("an ICMPv6 error", v6(58, &[1, 0, 0, 0, 0, 0, 0, 0])),
            ("a later IPv6 fragment", fragment.clone()),
            ("half a header", udp[..10].to_vec()),
            ("nothing", Vec::new()),
        ];
        for (what, packet) in silent {
            assert_eq!(answer(&packet, RejectWith::Default), None, "{what}");
        }
        fragment[43] = 1;
        assert!(answer(&fragment, RejectWith::Default).is_some(), "a first IPv6 fragment");
        assert!(answer(&v4(1, &[8, 0, 0, 0]), RejectWith::Default).is_some(), "an echo request");
    }
}
