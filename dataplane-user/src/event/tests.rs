//! Frames in; lines and answers out. What is made here is read by a library that is not ours.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use dataplane_common::abi::{PACKET_EVENT_BYTES, PacketEvent};
use etherparse::{NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice, VlanId};

use super::{Bucket, Interfaces, Packet, RejectReply, answer, line};
use crate::rule::{RejectWith, Unreachable4, Unreachable6, UnreachableAny};

const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const WAYS: Interfaces<'_> = Interfaces { iif: "eth0", oif: "eth1" };
const LINK: &str = "IN=eth0 OUT=eth1 MAC=02:00:00:00:00:01:02:00:00:00:00:02";

type Ip = PacketBuilderStep<etherparse::IpHeaders>;

fn v4() -> Ip {
    PacketBuilder::ethernet2(HOST, ROUTER).ipv4([192, 0, 2, 1], [198, 51, 100, 2], 63)
}

fn v6() -> Ip {
    PacketBuilder::ethernet2(HOST, ROUTER).ipv6(address6("2001:db8::1"), address6("2001:db8:1::2"), 63)
}

fn address6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().expect("an address").octets()
}

macro_rules! frame {
    ($step:expr, $payload:expr) => {{
        let mut bytes = Vec::new();
        $step.write(&mut bytes, $payload).expect("a frame");
        bytes
    }};
}

/// An event of a frame, whose IP header is behind an Ethernet header of this length.
fn event(frame: &[u8], offset: usize) -> PacketEvent {
    let captured = frame.len().min(PACKET_EVENT_BYTES);
    let mut bytes = [0; PACKET_EVENT_BYTES];
    bytes[..captured].copy_from_slice(&frame[..captured]);
    PacketEvent {
        counter: 0,
        chain: 2,
        kind: 3,
        iif: 1,
        oif: 2,
        length: frame.len() as u32,
        captured: captured as u32,
        offset: offset as u32,
        reserved: 0,
        bytes,
    }
}

#[test]
fn lines_are_those_of_the_kernel() {
    let tagged = PacketBuilder::ethernet2(HOST, ROUTER)
        .double_vlan(VlanId::try_new(100).expect("an id"), VlanId::try_new(7).expect("an id"))
        .ipv4([192, 0, 2, 1], [198, 51, 100, 2], 1);
    let mut part = frame!(v4().udp(1, 2), &[0; 16]);
    part[20..22].copy_from_slice(&0x2005_u16.to_be_bytes());
    let mut first = frame!(v4().udp(1, 2), &[0; 16]);
    first[20..22].copy_from_slice(&0x2000_u16.to_be_bytes());
    let short = frame!(v4().tcp(1, 2, 3, 4), &[])[..14 + 20 + 9].to_vec();
    let mut other = Vec::new();
    v4().write(&mut other, etherparse::IpNumber(47), &[0; 4]).expect("a frame");
    let v4_line = "SRC=192.0.2.1 DST=198.51.100.2";
    let v6_line = "SRC=2001:db8::1 DST=2001:db8:1::2";
    let rows: [(&str, Vec<u8>, usize, String); 10] = [
        (
            "TCP over IPv4",
            frame!(v4().tcp(1, 2, 3, 64240).syn(), &[]),
            14,
            format!(
                "{LINK}:08:00 {v4_line} LEN=40 TOS=0x00 PREC=0x00 TTL=63 ID=0 DF PROTO=TCP SPT=1 DPT=2 WINDOW=64240 RES=0x00 SYN URGP=0"
            ),
        ),
        (
            "TCP over IPv6",
            frame!(v6().tcp(1, 2, 3, 10).ack(9).psh(), b"hello"),
            14,
            format!(
                "{LINK}:86:dd {v6_line} LEN=65 TC=0 HOPLIMIT=63 FLOWLBL=0 PROTO=TCP SPT=1 DPT=2 WINDOW=10 RES=0x00 ACK PSH URGP=0"
            ),
        ),
        (
            "UDP behind two tags",
            frame!(tagged.udp(53, 54), b"hello"),
            22,
            format!(
                "{LINK}:88:a8 VLAN=100 VLAN=7 {v4_line} LEN=33 TOS=0x00 PREC=0x00 TTL=1 ID=0 DF PROTO=UDP SPT=53 DPT=54 LEN=13"
            ),
        ),
        (
            "ICMP",
            frame!(v4().icmpv4_echo_request(5, 6), &[]),
            14,
            format!(
                "{LINK}:08:00 {v4_line} LEN=28 TOS=0x00 PREC=0x00 TTL=63 ID=0 DF PROTO=ICMP TYPE=8 CODE=0 ID=5 SEQ=6"
            ),
        ),
        (
            "ICMPv6",
            frame!(v6().icmpv6_echo_request(5, 6), &[]),
            14,
            format!("{LINK}:86:dd {v6_line} LEN=48 TC=0 HOPLIMIT=63 FLOWLBL=0 PROTO=ICMPv6 TYPE=128 CODE=0 ID=5 SEQ=6"),
        ),
        (
            "a later fragment has no ports",
            part,
            14,
            format!("{LINK}:08:00 {v4_line} LEN=44 TOS=0x00 PREC=0x00 TTL=63 ID=0 MF FRAG:5 PROTO=UDP"),
        ),
        (
            "a first fragment has",
            first,
            14,
            format!("{LINK}:08:00 {v4_line} LEN=44 TOS=0x00 PREC=0x00 TTL=63 ID=0 MF PROTO=UDP SPT=1 DPT=2 LEN=24"),
        ),
        (
            "cut in its TCP header",
            short,
            14,
            format!("{LINK}:08:00 {v4_line} LEN=29 TOS=0x00 PREC=0x00 TTL=63 ID=0 DF PROTO=TCP INCOMPLETE [9 bytes]"),
        ),
        (
            "another protocol",
            other,
            14,
            format!("{LINK}:08:00 {v4_line} LEN=24 TOS=0x00 PREC=0x00 TTL=63 ID=0 DF PROTO=47"),
        ),
        (
            "without a link header",
            frame!(v4().udp(1, 2), &[])[14..].to_vec(),
            0,
            format!("IN=eth0 OUT=eth1 {v4_line} LEN=28 TOS=0x00 PREC=0x00 TTL=63 ID=0 DF PROTO=UDP SPT=1 DPT=2 LEN=8"),
        ),
    ];
    for (what, bytes, offset, expected) in rows {
        let event = event(&bytes, offset);
        assert_eq!(line(&Packet::read(&event).expect(what), WAYS), expected, "{what}");
    }
}

#[test]
fn only_some_packets_get_a_reply() {
    let group = PacketBuilder::ethernet2(HOST, [0xff; 6]).ipv4([192, 0, 2, 1], [198, 51, 100, 2], 63);
    let from = |source: [u8; 4], to: [u8; 4]| {
        frame!(PacketBuilder::ethernet2(HOST, ROUTER).ipv4(source, to, 63).udp(1, 2), &[])
    };
    let from6 = |source: &str, to: &str| {
        frame!(PacketBuilder::ethernet2(HOST, ROUTER).ipv6(address6(source), address6(to), 63).udp(1, 2), &[])
    };
    let changed = |mut frame: Vec<u8>, at: usize, value: u8| {
        frame[at] = value;
        frame
    };
    let tcp = || frame!(v4().tcp(1, 2, 3, 4).syn(), &[]);
    let udp = || frame!(v4().udp(1, 2), b"hello");
    let error4 = |kind: u8| frame!(v4().icmpv4_raw(kind, 0, [0; 4]), &[0; 28]);
    let error6 = |kind: u8| frame!(v6().icmpv6_raw(kind, 0, [0; 4]), &[0; 48]);
    // Left to hardware that it never met: the sum of the pseudo header, not complemented.
    let pseudo = {
        let words = [0xc000_u32, 0x0201, 0xc633, 0x6402, 17, 13];
        let sum: u32 = words.iter().sum();
        ((sum & 0xffff) + (sum >> 16)) as u16
    };
    let mut partial = udp();
    partial[40..42].copy_from_slice(&pseudo.to_be_bytes());
    let (default, rst) = (RejectWith::Default, RejectWith::TcpReset);
    let unreachable = |code| Some(RejectReply::Unreachable(code));
    let rows: Vec<(&str, Vec<u8>, RejectWith, Option<RejectReply>)> = vec![
        ("UDP", udp(), default, unreachable(3)),
        ("UDP over IPv6", frame!(v6().udp(1, 2), &[]), default, unreachable(4)),
        ("TCP", tcp(), default, unreachable(3)),
        ("TCP, reset", tcp(), rst, Some(RejectReply::Reset)),
        ("TCP over IPv6, reset", frame!(v6().tcp(1, 2, 3, 4).syn(), &[]), rst, Some(RejectReply::Reset)),
        ("UDP has no reset", udp(), rst, None),
        ("a reset is not answered by one", frame!(v4().tcp(1, 2, 3, 4).rst(), &[]), rst, None),
        ("a code of IPv4", udp(), RejectWith::Icmp(Unreachable4::AdminProhibited), unreachable(13)),
        ("a code of IPv4 for IPv6", frame!(v6().udp(1, 2), &[]), RejectWith::Icmp(Unreachable4::Net), None),
        ("a code of IPv6", frame!(v6().udp(1, 2), &[]), RejectWith::Icmpv6(Unreachable6::Address), unreachable(3)),
        ("a code of both, IPv4", udp(), RejectWith::Icmpx(UnreachableAny::AdminProhibited), unreachable(13)),
        (
            "a code of both, IPv6",
            frame!(v6().udp(1, 2), &[]),
            RejectWith::Icmpx(UnreachableAny::AdminProhibited),
            unreachable(1),
        ),
        ("an echo request", error4(8), default, unreachable(3)),
        ("an error", error4(3), default, None),
        ("a redirect", error4(5), default, None),
        ("an unknown kind", error4(200), default, None),
        ("an echo request over IPv6", error6(128), default, unreachable(4)),
        ("an error over IPv6", error6(1), default, None),
        ("a redirect over IPv6", error6(137), default, None),
        ("to all on the link", frame!(group.udp(1, 2), &[]), default, None),
        ("to a group", from([192, 0, 2, 1], [224, 0, 0, 1]), default, None),
        ("to all", from([192, 0, 2, 1], [255; 4]), default, None),
        ("from nobody", from([0; 4], [198, 51, 100, 2]), default, None),
        ("from a group", from([224, 0, 0, 1], [198, 51, 100, 2]), default, None),
        ("from a loopback", from([127, 0, 0, 1], [198, 51, 100, 2]), default, None),
        ("from nobody over IPv6", from6("::", "2001:db8::1"), default, None),
        ("to a group over IPv6", from6("2001:db8::1", "ff02::1"), default, None),
        ("a wrong sum", changed(udp(), 41, 0x55), default, None),
        ("a wrong sum of TCP", changed(tcp(), 51, 0x55), rst, None),
        ("a sum that was left out", partial, default, unreachable(3)),
        ("a later fragment", changed(udp(), 21, 5), default, None),
        ("a first fragment", changed(udp(), 20, 0x20), default, unreachable(3)),
        ("a first fragment has no reset", changed(tcp(), 20, 0x20), rst, None),
        ("cut in its header", udp()[..14 + 20 + 7].to_vec(), default, None),
        ("longer than what is here", frame!(v4().udp(1, 2), &[7; 1400]), default, unreachable(3)),
    ];
    for (what, frame, with, expected) in rows {
        let event = event(&frame, 14);
        let packet = Packet::read(&event).expect(what);
        assert_eq!(answer(&packet, with), expected, "{what}");
    }
}

/// Source, destination, and what the answer carries, as the library reads it.
fn sent(frame: &[u8], with: RejectWith) -> Vec<u8> {
    let event = event(frame, 14);
    let packet = Packet::read(&event).expect("a packet");
    let bytes = answer(&packet, with).expect("an answer").packet(&packet, packet.destination()).expect("its bytes");
    assert_sound(&bytes, &packet);
    bytes
}

fn assert_sound(bytes: &[u8], packet: &Packet<'_>) {
    let read = SlicedPacket::from_ip(bytes).expect("a packet");
    match read.net.as_ref().expect("IP") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(IpAddr::from(header.source), packet.destination());
            assert_eq!(IpAddr::from(header.destination), packet.source());
            let ip = etherparse::Ipv4Header { source: header.source, ..header };
            match read.transport.as_ref().expect("a transport") {
                TransportSlice::Tcp(tcp) => {
                    let sum = tcp.to_header().calc_checksum_ipv4(&ip, tcp.payload()).expect("a sum");
                    assert_eq!(tcp.checksum(), sum);
                }
                TransportSlice::Icmpv4(icmp) => {
                    let header = icmp.header();
                    assert_eq!(header.checksum, header.icmp_type.calc_checksum(icmp.payload()));
                }
                other => panic!("{other:?}"),
            }
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(IpAddr::from(header.source), packet.destination());
            assert_eq!(IpAddr::from(header.destination), packet.source());
            match read.transport.as_ref().expect("a transport") {
                TransportSlice::Tcp(tcp) => {
                    let sum = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).expect("a sum");
                    assert_eq!(tcp.checksum(), sum);
                }
                TransportSlice::Icmpv6(icmp) => assert!(icmp.is_checksum_valid(header.source, header.destination)),
                other => panic!("{other:?}"),
            }
        }
        NetSlice::Arp(_) => panic!("ARP"),
    }
}

#[test]
fn resets_fit_what_they_answer() {
    // Sequence, acknowledgement, flags; what the reset has of them.
    let rows = [
        ("a SYN", frame!(v4().tcp(1, 2, 100, 4).syn(), &[]), (0, 101, 0x14)),
        ("a SYN with data", frame!(v4().tcp(1, 2, 100, 4).syn(), b"hello"), (0, 106, 0x14)),
        ("a FIN", frame!(v4().tcp(1, 2, u32::MAX, 4).fin(), &[]), (0, 0, 0x14)),
        ("data that acknowledges", frame!(v4().tcp(1, 2, 100, 4).ack(77), b"hello"), (77, 0, 0x04)),
        ("data that is not all here", frame!(v4().tcp(1, 2, 100, 4), &[1; 1400]), (0, 1500, 0x14)),
        ("a SYN over IPv6", frame!(v6().tcp(1, 2, 100, 4).syn(), &[]), (0, 101, 0x14)),
        ("data over IPv6", frame!(v6().tcp(1, 2, 100, 4).ack(77), b"hello"), (77, 0, 0x04)),
    ];
    for (what, frame, (sequence, acknowledgement, flags)) in rows {
        let bytes = sent(&frame, RejectWith::TcpReset);
        let read = SlicedPacket::from_ip(&bytes).expect("a packet");
        let Some(TransportSlice::Tcp(tcp)) = read.transport else { panic!("{what}") };
        assert_eq!((tcp.source_port(), tcp.destination_port()), (2, 1), "{what}");
        assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (sequence, acknowledgement), "{what}");
        assert_eq!((tcp.slice()[13], tcp.window_size(), tcp.payload().len()), (flags, 0, 0), "{what}");
    }
}

#[test]
fn errors_quote_what_they_answer() {
    // Type, code and length of the whole packet.
    let rows = [
        ("all of it", frame!(v4().udp(1, 2), b"hello"), 28, (3, 3, 28 + 33)),
        ("up to 576 bytes", frame!(v4().udp(1, 2), &[7; 1000]), 28, (3, 3, 576)),
        ("all of it over IPv6", frame!(v6().udp(1, 2), b"hello"), 48, (1, 4, 48 + 53)),
        ("up to 1280 bytes", frame!(v6().udp(1, 2), &[7; 1400]), 48, (1, 4, 1280)),
    ];
    for (what, frame, header, (kind, code, length)) in rows {
        let bytes = sent(&frame, RejectWith::Default);
        assert_eq!((bytes[header - 8], bytes[header - 7], bytes.len()), (kind, code, length), "{what}");
        assert_eq!(bytes[header..], frame[14..14 + length - header], "{what}");
    }
    // What is behind the packet in its frame is not of it.
    let mut padded = frame!(v4().udp(1, 2), &[]);
    padded.resize(60, 0);
    assert_eq!(sent(&padded, RejectWith::Default).len(), 28 + 28);
}

/// Every cut and every wrong byte of some packets: there is nothing to say but that all of it is read and answered without harm.
#[test]
fn hostile_packets_do_no_harm() {
    let frames = [
        frame!(v4().tcp(1, 2, 3, 4).syn(), b"hello"),
        frame!(v6().tcp(1, 2, 3, 4).syn(), b"hello"),
        frame!(v4().icmpv4_echo_request(1, 2), &[]),
        frame!(v6().icmpv6_echo_request(1, 2), &[]),
        frame!(v6().udp(1, 2), &[]),
    ];
    let mut read = 0;
    for frame in frames {
        for cut in 0..=frame.len() {
            for at in 0..cut {
                for value in [0, 1, 0x2c, 0x3c, 0x40, 0x4f, 0x60, 0x7f, 0x80, 0xff] {
                    let mut bytes = frame[..cut].to_vec();
                    bytes[at] = value;
                    let event = event(&bytes, 14);
                    let Some(packet) = Packet::read(&event) else { continue };
                    assert!(line(&packet, WAYS).starts_with("IN=eth0"));
                    for with in [RejectWith::Default, RejectWith::TcpReset] {
                        if let Some(answer) = answer(&packet, with) {
                            let bytes = answer.packet(&packet, packet.destination()).expect("an answer");
                            assert!(bytes.len() <= 1280);
                        }
                    }
                    read += 1;
                }
            }
        }
    }
    assert!(read > 10_000, "{read}");
    // Lengths that the kernel half never tells.
    let whole = event(&frame!(v4().udp(1, 2), &[]), 14);
    for wrong in [
        PacketEvent { offset: u32::MAX, ..whole },
        PacketEvent { captured: 0, ..whole },
        PacketEvent { captured: 20, ..whole },
        PacketEvent { captured: 14, ..whole },
    ] {
        assert!(Packet::read(&wrong).is_none());
    }
    assert!(Packet::read(&PacketEvent { captured: u32::MAX, length: 0, ..whole }).is_some());
}

#[test]
fn a_bucket_gives_its_burst_and_then_its_rate() {
    let start = Instant::now();
    let mut bucket = Bucket::new(10, 20, start);
    let mut taken = |after: u64, tries: u32| {
        let now = start + Duration::from_millis(after);
        (0..tries).filter(|_| bucket.take(now)).count()
    };
    assert_eq!([taken(0, 50), taken(99, 50), taken(100, 50), taken(1100, 50), taken(60_000, 50)], [20, 0, 1, 10, 20]);
}
