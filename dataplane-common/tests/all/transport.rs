//! The transport header, and checksums that are still to be filled in.

use dataplane_common::{
    decide::{
        Datagram, Family as _, Readable, Transport, V4, V6, is_partial, is_pending, quoted_flow, segment_length,
        transport,
    },
    wire::Address6,
};
use proptest::prelude::*;

use crate::packet::{Ipv4, NETWORK, framed, ipv6, naive_sum, packet_v4, packet_v6};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

fn v4(frame: &[u8]) -> Datagram<u32> {
    V4::datagram(frame, NETWORK, frame.len(), false).expect("a good IPv4 header")
}

fn v6(frame: &[u8]) -> Datagram<Address6> {
    V6::datagram(frame, NETWORK, frame.len(), false).expect("a good IPv6 header")
}

/// Ports 0x1234 and 80, data offset `words`, SYN and ACK, checksum 0xbeef, `length` bytes.
fn tcp(words: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, words << 4, 0x12, 0xff, 0xff, 0xbe, 0xef, 0, 0];
    bytes.resize(length, 0);
    bytes
}

/// The same ports, `claim` as the length, checksum 0xbeef, `length` bytes.
fn udp(claim: u16, length: usize) -> Vec<u8> {
    let [high, low] = claim.to_be_bytes();
    let mut bytes = vec![0x12, 0x34, 0, 80, high, low, 0xbe, 0xef];
    bytes.resize(length, 0);
    bytes
}

const PORTS: Transport = Transport { readable: Readable::Ports, source: 0x1234, destination: 80, ..Transport::NONE };
const TCP_READ: Transport = Transport { flags: 0x12, ..PORTS };
const UDP_READ: Transport = PORTS;
const LITE_READ: Transport = PORTS;
const ICMP_READ: Transport = Transport { readable: Readable::Icmp, icmp: 0x0803, ..Transport::NONE };
const BROKEN: Transport = Transport::BROKEN;
/// Ports of a header that is not sound, and flags.
const CUT: Transport = Transport { readable: Readable::PortsAlone, ..PORTS };
const CUT_LATER: Transport = Transport { readable: Readable::PortsAndFlags, ..TCP_READ };

#[test]
fn headers_are_read_or_broken() {
    let rows = [
        ("TCP", TCP, tcp(5, 20), TCP_READ),
        ("TCP with options", TCP, tcp(15, 60), TCP_READ),
        ("TCP of 19 bytes", TCP, tcp(5, 19), CUT_LATER),
        ("TCP of 14 bytes", TCP, tcp(5, 14), CUT_LATER),
        ("TCP of 13 bytes", TCP, tcp(5, 13), CUT),
        ("TCP of 8 bytes", TCP, tcp(5, 8), CUT),
        ("TCP of 4 bytes", TCP, tcp(5, 4), CUT),
        ("TCP of 3 bytes", TCP, tcp(5, 3), BROKEN),
        ("TCP, four words", TCP, tcp(4, 40), CUT_LATER),
        ("TCP, no words", TCP, tcp(0, 40), CUT_LATER),
        ("TCP options past the packet", TCP, tcp(6, 23), CUT_LATER),
        ("TCP options to the end", TCP, tcp(6, 24), TCP_READ),
        ("nothing of TCP", TCP, vec![], BROKEN),
        ("UDP", UDP, udp(8, 8), UDP_READ),
        ("UDP shorter than the packet", UDP, udp(8, 20), UDP_READ),
        ("UDP longer than the packet", UDP, udp(21, 20), CUT),
        ("UDP of 7 bytes", UDP, udp(8, 7), CUT),
        ("UDP of 3 bytes", UDP, udp(8, 3), BROKEN),
        ("UDP length 7", UDP, udp(7, 20), CUT),
        ("UDP length 0", UDP, udp(0, 20), CUT),
        ("UDP-Lite, covered whole", UDP_LITE, udp(0, 20), LITE_READ),
        ("UDP-Lite, half a header", UDP_LITE, udp(4, 20), LITE_READ),
        ("UDP-Lite of 7 bytes", UDP_LITE, udp(8, 7), CUT),
        ("SCTP", SCTP, udp(1, 12), PORTS),
        ("SCTP of 11 bytes", SCTP, udp(1, 11), CUT),
        ("DCCP", DCCP, udp(1, 12), PORTS),
        ("DCCP of 11 bytes", DCCP, udp(1, 11), CUT),
        ("ICMP", ICMP, vec![8, 3, 0, 0], ICMP_READ),
        ("ICMP of 3 bytes", ICMP, vec![8, 3, 0], BROKEN),
        ("ICMPv6", ICMPV6, vec![8, 3, 0, 0], ICMP_READ),
        ("ICMPv6 of 3 bytes", ICMPV6, vec![8, 3, 0], BROKEN),
        ("ESP", 50, vec![0; 20], Transport::NONE),
        ("no next header", 59, tcp(5, 20), Transport::NONE),
    ];
    for (name, protocol, payload, wanted) in rows {
        let frame = packet_v4(protocol, &payload);
        assert_eq!(transport(&frame[..], &v4(&frame), NETWORK), wanted, "{name} in IPv4");
        let frame = packet_v6(protocol, &payload);
        assert_eq!(transport(&frame[..], &v6(&frame), NETWORK), wanted, "{name} in IPv6");
        let frame = packet_v6(60, &[vec![protocol, 0, 1, 4, 0, 0, 0, 0], payload].concat());
        assert_eq!(transport(&frame[..], &v6(&frame), NETWORK), wanted, "{name} behind options");
    }
}

#[test]
fn what_lies_behind_the_packet_is_not_read() {
    // Each payload whole in the frame, but the IP length ends one byte too early.
    for (protocol, payload, wanted) in [
        (TCP, tcp(5, 20), CUT_LATER),
        (TCP, tcp(6, 24), CUT_LATER),
        (TCP, tcp(5, 14), CUT),
        (TCP, tcp(5, 4), BROKEN),
        (UDP, udp(8, 8), CUT),
        (UDP, udp(20, 20), CUT),
        (UDP, udp(20, 4), BROKEN),
        (UDP_LITE, udp(8, 8), CUT),
        (SCTP, udp(1, 12), CUT),
        (DCCP, udp(1, 12), CUT),
        (ICMP, vec![8, 3, 0, 0], BROKEN),
        (ICMPV6, vec![8, 3, 0, 0], BROKEN),
    ] {
        let short = payload.len() as u16 - 1;
        let frame = framed(&[&Ipv4::plain(protocol, 20 + short).bytes(), &payload, &[0; 30]]);
        assert_eq!(transport(&frame[..], &v4(&frame), NETWORK), wanted, "protocol {protocol} in IPv4");
        let frame = framed(&[&ipv6(protocol, short), &payload, &[0; 30]]);
        assert_eq!(transport(&frame[..], &v6(&frame), NETWORK), wanted, "protocol {protocol} in IPv6");
    }
}

#[test]
fn only_a_first_fragment_has_a_header() {
    // Fragment word, payload, outcome.
    let rows = [
        (0x2000, udp(3000, 1480), UDP_READ),
        (0x0001, udp(3000, 1480), BROKEN),
        (0x20b9, udp(3000, 1480), BROKEN),
        (0x2000, udp(7, 1480), CUT),
        (0x2000, udp(3000, 7), CUT),
        (0x4000, udp(3000, 1480), CUT),
        (0x4000, udp(1480, 1480), UDP_READ),
    ];
    for (fragment, payload, wanted) in rows {
        let header = Ipv4 { fragment, ..Ipv4::plain(UDP, 20 + payload.len() as u16) };
        let frame = framed(&[&header.bytes(), &payload]);
        assert_eq!(transport(&frame[..], &v4(&frame), NETWORK), wanted, "{fragment:#06x}");
        // The flag that forbids fragments has no place in IPv6.
        let word = (fragment & 0x1fff) << 3 | u16::from(fragment & 0x2000 != 0);
        let [high, low] = word.to_be_bytes();
        let frame = packet_v6(44, &[vec![UDP, 0, high, low, 0, 0, 0, 1], payload].concat());
        assert_eq!(transport(&frame[..], &v6(&frame), NETWORK), wanted, "{fragment:#06x} in IPv6");
    }
}

#[test]
fn segments_are_as_long_as_the_kernel_says() {
    // Protocol, payload, payload bytes of a segment, network and transport header and that.
    let rows = [
        (TCP, tcp(5, 20), 1460, 1480),
        (TCP, tcp(8, 4000), 1448, 1480),
        (UDP, udp(4000, 4000), 1472, 1480),
        (TCP, vec![], 1460, 1480),
    ];
    for (protocol, payload, segment, wanted) in rows {
        let frame = packet_v4(protocol, &payload);
        assert_eq!(segment_length(&frame[..], &v4(&frame), NETWORK, segment), 20 + wanted);
        let frame = packet_v6(protocol, &payload);
        assert_eq!(segment_length(&frame[..], &v6(&frame), NETWORK, segment), 40 + wanted);
        let frame = packet_v6(60, &[vec![protocol, 0, 1, 4, 0, 0, 0, 0], payload].concat());
        assert_eq!(segment_length(&frame[..], &v6(&frame), NETWORK, segment), 48 + wanted);
    }
}

/// What Linux leaves in the header for hardware to finish (`tcp_v4_send_check`, `tcp_v6_send_check`, `udp4_hwcsum`): the
/// folded sum of the pseudo header, not complemented.
fn left_by_linux(source: &[u8], destination: &[u8], protocol: u8, length: u32) -> u16 {
    let pseudo = [source, destination, &length.to_be_bytes(), &[0, 0, 0, protocol]].concat();
    naive_sum(&pseudo)
}

#[test]
fn a_half_done_checksum_seen_on_a_veth_is_known() {
    // 10.0.0.1 to 10.0.0.2, a SYN with 20 bytes of options: ~csum_tcpudp_magic(...) is 0x1431.
    let mut frame = packet_v4(TCP, &tcp(10, 40));
    frame[NETWORK + 12..NETWORK + 20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    frame[NETWORK + 10..NETWORK + 12].fill(0);
    let checksum = !naive_sum(&frame[NETWORK..NETWORK + 20]);
    frame[NETWORK + 10..NETWORK + 12].copy_from_slice(&checksum.to_be_bytes());
    let packet = v4(&frame);
    // 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 6 + 40.
    assert!(is_partial(&packet, NETWORK, 0x1431));
    assert!(!is_partial(&packet, NETWORK, !0x1431_u16));
}

#[test]
fn a_pending_checksum_is_found_where_the_protocol_has_it() {
    let addressed = |mut frame: Vec<u8>| {
        frame[NETWORK + 12..NETWORK + 20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame
    };
    let rows = [
        ("TCP, half done", TCP, 16, 0x1431_u16, 0_u16, true),
        ("TCP, finished", TCP, 16, 0xbeef, 0, false),
        ("UDP, half done", UDP, 6, 0x143c, 0, true),
        ("UDP without checksum", UDP, 6, 0, 0, false),
        ("a first fragment", UDP, 6, 0x143c, 0x2000, false),
        ("a later fragment", UDP, 6, 0x143c, 0x0001, false),
        ("ICMP has no pseudo header", 1, 6, 0x142c, 0, false),
    ];
    for (what, protocol, at, checksum, fragment, expected) in rows {
        let mut frame = addressed(packet_v4(protocol, &[0; 40]));
        frame[NETWORK + 20 + at..NETWORK + 22 + at].copy_from_slice(&checksum.to_be_bytes());
        let packet = Datagram {
            fragment: u64::from(fragment),
            source: 0x0a00_0001,
            destination: 0x0a00_0002,
            ..v4(&packet_v4(protocol, &[0; 40]))
        };
        assert_eq!(is_pending(&frame[..], &packet, NETWORK), expected, "{what}");
    }
    // The header ends before its checksum does.
    let frame = packet_v4(TCP, &[0; 10]);
    assert!(!is_pending(&frame[..], &v4(&frame), NETWORK));
}

#[test]
fn a_packet_inside_another_may_be_pending() {
    let to = |port: u16| {
        let mut datagram = udp(40, 40);
        datagram[2..4].copy_from_slice(&port.to_be_bytes());
        datagram
    };
    let rows = [
        ("IPv4 inside", 4, vec![0x45; 40], true),
        ("IPv6 inside", 41, vec![0x60; 60], true),
        ("GRE", 47, vec![0; 40], true),
        ("what nobody knows", 253, vec![0; 40], false),
        ("ESP", 50, vec![0; 40], false),
        ("AH", 51, vec![0; 40], false),
        ("ICMP", ICMP, vec![8; 40], false),
        ("UDP-Lite", UDP_LITE, udp(8, 8), false),
        ("SCTP", SCTP, udp(1, 20), true),
        ("VXLAN as Linux has it", UDP, to(8472), true),
        ("VXLAN", UDP, to(4789), true),
        ("Geneve", UDP, to(6081), true),
        ("a name server", UDP, to(53), false),
    ];
    for (what, protocol, payload, wanted) in rows {
        let frame = packet_v4(protocol, &payload);
        assert_eq!(is_pending(&frame[..], &v4(&frame), NETWORK), wanted, "{what} in IPv4");
        let mut part = v4(&frame);
        part.fragment = 0x2000;
        assert!(!is_pending(&frame[..], &part, NETWORK), "{what}: who cuts it has finished it");
        let frame = packet_v6(protocol, &payload);
        assert_eq!(is_pending(&frame[..], &v6(&frame), NETWORK), wanted, "{what} in IPv6");
    }
    // The sum may be of another destination than the header has.
    let frame = packet_v6(43, &[vec![TCP, 0, 2, 1, 0, 0, 0, 0], tcp(5, 20)].concat());
    assert!(is_pending(&frame[..], &v6(&frame), NETWORK), "TCP behind a routing header");
}

#[test]
fn an_error_is_of_the_flow_that_it_quotes() {
    const OWN: u32 = 7;
    let message = |kind: u8, inside: &[u8]| [&[kind, 0, 0, 0, 0, 0, 0, 0], inside].concat();
    let inside = packet_v4(UDP, &udp(8, 8))[NETWORK..].to_vec();
    let flow = V4::flow(&v4(&packet_v4(UDP, &[])));
    for kind in 0..=20 {
        let frame = packet_v4(ICMP, &message(kind, &inside));
        let wanted = if [3, 4, 5, 11, 12].contains(&kind) { flow } else { OWN };
        assert_eq!(quoted_flow(&frame[..], NETWORK, false, OWN), wanted, "type {kind}");
    }
    let inside = packet_v6(UDP, &udp(8, 8))[NETWORK..].to_vec();
    let flow = V6::flow(&v6(&packet_v6(UDP, &[])));
    for kind in 0..=8 {
        let frame = packet_v6(ICMPV6, &message(kind, &inside));
        let wanted = if (1..=4).contains(&kind) { flow } else { OWN };
        assert_eq!(quoted_flow(&frame[..], NETWORK, true, OWN), wanted, "type {kind} in IPv6");
    }
    for cut in 0..28 {
        let frame = packet_v4(ICMP, &message(3, &inside)[..cut]);
        assert_eq!(quoted_flow(&frame[..], NETWORK, false, OWN), OWN, "{cut} bytes");
    }
    // The kernel looks at no later fragment, and behind no extension header.
    let mut part = packet_v4(ICMP, &message(3, &packet_v4(UDP, &[])[NETWORK..]));
    part[NETWORK + 7] = 1;
    assert_eq!(quoted_flow(&part[..], NETWORK, false, OWN), OWN);
    let behind = packet_v6(60, &[vec![ICMPV6, 0, 1, 4, 0, 0, 0, 0], message(1, &inside)].concat());
    assert_eq!(quoted_flow(&behind[..], NETWORK, true, OWN), OWN);
}

proptest! {
    #[test]
    fn partial_is_what_linux_leaves(
        source: [u8; 16],
        destination: [u8; 16],
        protocol in prop::sample::select(vec![TCP, UDP]),
        // Behind options of that many times eight bytes.
        options in prop::option::of(0..4_u8),
        payload in 8..2000_usize,
        padding in 0..20_usize,
        other: u16,
    ) {
        let mut frame = packet_v4(protocol, &vec![0; payload]);
        frame.resize(frame.len() + padding, 0);
        let mut packet = v4(&frame);
        let [short, long] = [&source[..4], &destination[..4]];
        packet.source = u32::from_be_bytes(short.try_into().expect("4 bytes"));
        packet.destination = u32::from_be_bytes(long.try_into().expect("4 bytes"));
        let left = left_by_linux(short, long, protocol, payload as u32);
        prop_assert!(is_partial(&packet, NETWORK, left));
        prop_assert_eq!(is_partial(&packet, NETWORK, other), other % 0xffff == left % 0xffff);

        let header = |length: u8| [vec![protocol, length], vec![0; usize::from(length) * 8 + 6]].concat();
        let mut rest = options.map_or(vec![], header);
        rest.resize(rest.len() + payload, 0);
        let mut frame = packet_v6(if options.is_some() { 60 } else { protocol }, &rest);
        frame[NETWORK + 8..NETWORK + 24].copy_from_slice(&source);
        frame[NETWORK + 24..NETWORK + 40].copy_from_slice(&destination);
        frame.resize(frame.len() + padding, 0);
        let left = left_by_linux(&source, &destination, protocol, payload as u32);
        prop_assert!(is_partial(&v6(&frame), NETWORK, left));
        prop_assert_eq!(is_partial(&v6(&frame), NETWORK, other), other == left);
    }

    #[test]
    fn any_bytes_are_read(
        payload in prop::collection::vec(any::<u8>(), 0..80),
        protocol: u8,
        fragment: u16,
        segment in 0..10_000_usize,
    ) {
        let header = Ipv4 { fragment, ..Ipv4::plain(protocol, 20 + payload.len() as u16) };
        let frame = framed(&[&header.bytes(), &payload]);
        let read = transport(&frame[..], &v4(&frame), NETWORK);
        if fragment & 0x1fff != 0 {
            prop_assert_eq!(read, BROKEN);
        }
        if matches!(read.readable, Readable::Ports) {
            let ports = (read.source as u32) << 16 | read.destination as u32;
            prop_assert_eq!(&payload[..4], &ports.to_be_bytes()[..]);
        }
        let cut = segment_length(&frame[..], &v4(&frame), NETWORK, segment);
        prop_assert!(cut >= 20 + segment && cut <= 80 + segment);
        let frame = packet_v6(protocol, &payload);
        if let Ok(packet) = V6::datagram(&frame[..], NETWORK, frame.len(), false) {
            let read = transport(&frame[..], &packet, NETWORK);
            prop_assert!(read.source <= 0xffff && read.destination <= 0xffff);
            prop_assert!(read.icmp <= 0xffff && read.flags <= 0xff);
        }
    }
}
