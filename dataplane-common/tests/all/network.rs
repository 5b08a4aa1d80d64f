//! The network header.

use dataplane_common::{
    Reason,
    decide::{Datagram, Family, V4, V6},
};
use proptest::prelude::*;

use crate::packet::{Ipv4, NETWORK, framed, ipv6, packet_v6};

const UDP: u8 = 17;

fn read<F: Family>(frame: &[u8], segmented: bool) -> Result<Datagram<F::Address>, Reason> {
    F::datagram(frame, NETWORK, frame.len(), segmented)
}

/// Length, payload and detour, or why not.
type Wanted = Result<(usize, usize, Option<Reason>), Reason>;

fn gist<A>(found: Result<Datagram<A>, Reason>) -> Wanted {
    found.map(|packet| (packet.length, packet.payload, packet.punt))
}

#[test]
fn ipv4_headers_are_held_to_the_checks_of_the_kernel() {
    let good = Ipv4::plain(UDP, 40);
    let long = Reason::BadHeaderLength;
    // Name, header, bytes behind the Ethernet header, whether segmented, outcome.
    let rows: [(&str, Ipv4, usize, bool, Wanted); 18] = [
        ("good", good, 40, false, Ok((40, 34, None))),
        ("padding", Ipv4 { total: 28, ..good }, 46, false, Ok((28, 34, None))),
        ("header only", Ipv4 { total: 20, ..good }, 20, false, Ok((20, 34, None))),
        ("version 5", Ipv4 { version: 5, ..good }, 40, false, Err(Reason::BadVersion)),
        ("version 6, checksum", Ipv4 { version: 6, off_by: 1, ..good }, 40, false, Err(Reason::BadVersion)),
        ("four words", Ipv4 { words: 4, ..good }, 40, false, Err(long)),
        ("no words", Ipv4 { words: 0, ..good }, 40, false, Err(long)),
        ("options past the frame", Ipv4 { words: 15, ..good }, 40, false, Err(long)),
        ("options and length past the frame", Ipv4 { words: 15, total: 60, ..good }, 40, false, Err(Reason::BadLength)),
        ("shorter than its header", Ipv4 { total: 19, ..good }, 40, false, Err(long)),
        ("shorter than its options", Ipv4 { words: 6, total: 23, ..good }, 40, false, Err(long)),
        ("longer than the frame", Ipv4 { total: 41, ..good }, 40, false, Err(Reason::BadLength)),
        ("checksum", Ipv4 { off_by: 1, ..good }, 40, false, Err(Reason::BadChecksum)),
        ("checksum before length", Ipv4 { off_by: 1, total: 41, ..good }, 40, false, Err(Reason::BadChecksum)),
        ("options", Ipv4 { words: 6, ..good }, 40, false, Ok((40, 38, Some(Reason::Options)))),
        ("most options", Ipv4 { words: 15, total: 60, ..good }, 60, false, Ok((60, 74, Some(Reason::Options)))),
        ("big", Ipv4 { total: 0, ..good }, 70_000, true, Ok((70_000, 34, None))),
        ("big, not to be cut", Ipv4 { total: 0, ..good }, 70_000, false, Err(long)),
    ];
    for (name, header, length, segmented, wanted) in rows {
        let mut frame = framed(&[&header.bytes()]);
        frame.resize(NETWORK + length, 0);
        assert_eq!(gist(read::<V4>(&frame, segmented)), wanted, "{name}");
    }
}

#[test]
fn ipv6_headers_are_held_to_the_checks_of_the_kernel() {
    let hop = Some(Reason::HopByHop);
    let rows: [(&str, Vec<u8>, usize, bool, Wanted); 11] = [
        ("good", ipv6(UDP, 20), 60, false, Ok((60, 54, None))),
        ("padding", ipv6(UDP, 2), 46, false, Ok((42, 54, None))),
        ("header only", ipv6(UDP, 0), 40, false, Ok((40, 54, None))),
        ("longer than the frame", ipv6(UDP, 21), 60, false, Err(Reason::BadLength)),
        ("big", ipv6(UDP, 0), 70_000, true, Ok((70_000, 54, None))),
        ("zero, not to be cut", ipv6(UDP, 0), 70_000, false, Ok((40, 54, None))),
        ("longest", ipv6(UDP, 0xffff), 65_575, false, Ok((65_575, 54, None))),
        ("options", [ipv6(60, 20), vec![UDP, 0]].concat(), 60, false, Ok((60, 62, None))),
        ("hop by hop", [ipv6(0, 20), vec![UDP, 0]].concat(), 60, false, Ok((60, 62, hop))),
        ("hop by hop past the packet", [ipv6(0, 8), vec![UDP, 1]].concat(), 60, false, Ok((48, 62, hop))),
        ("source route", [ipv6(43, 20), vec![UDP, 0, 0, 0]].concat(), 60, false, Err(Reason::RoutingHeader)),
    ];
    for (name, header, length, segmented, wanted) in rows {
        let mut frame = framed(&[&header]);
        frame.resize(NETWORK + length, 0);
        assert_eq!(gist(read::<V6>(&frame, segmented)), wanted, "{name}");
    }
    let mut frame = packet_v6(UDP, &[0; 8]);
    frame[NETWORK] = 0x4b;
    assert_eq!(gist(read::<V6>(&frame, false)), Err(Reason::BadVersion));
}

#[test]
fn a_frame_that_ends_in_the_header_is_truncated() {
    let v4 = framed(&[&Ipv4::plain(UDP, 20).bytes()]);
    for length in 0..v4.len() {
        assert_eq!(gist(read::<V4>(&v4[..length], false)), Err(Reason::Truncated), "{length}");
    }
    let v6 = packet_v6(UDP, &[]);
    for length in 0..v6.len() {
        assert_eq!(gist(read::<V6>(&v6[..length], false)), Err(Reason::Truncated), "{length}");
    }
}

#[test]
fn fields_are_read_from_their_places() {
    let header = Ipv4 { fragment: 0x6001, ..Ipv4::plain(UDP, 20) };
    let frame = framed(&[&header.bytes()]);
    let packet = read::<V4>(&frame, false).expect("good");
    assert_eq!((packet.source, packet.destination), (0xc612_0001, 0xcb00_71fe));
    assert_eq!((packet.ttl, packet.protocol, packet.fragment), (64, 17, 0x6001));
    assert_eq!(V4::dscp(&*frame, NETWORK), Some(46));
    assert!(packet.is_fragment() && packet.is_later_fragment() && !V4::may_fragment(&packet));

    let frame = packet_v6(UDP, &[]);
    let packet = read::<V6>(&frame, false).expect("good");
    assert_eq!(u128::from(packet.source), 0x2001_0db8_0000_0001_0000_0000_0000_0002);
    assert_eq!(u128::from(packet.destination), 0x2001_0db8_0000_0002_ffff_0000_1234_0003);
    assert_eq!((packet.ttl, packet.protocol, packet.fragment), (64, 17, 0));
    assert_eq!(V6::dscp(&*frame, NETWORK), Some(0x2e));
    assert!(!packet.is_fragment() && !packet.is_later_fragment() && !V6::may_fragment(&packet));
}

#[test]
fn fragments_are_recognised_by_flags_and_offset() {
    // Fragment word; fragment at all, later than the first, may be cut further.
    let rows = [
        (0x0000, false, false, true),
        (0x4000, false, false, false),
        (0x8000, false, false, true),
        (0x2000, true, false, true),
        (0x2001, true, true, true),
        (0x1fff, true, true, true),
        (0x6000, true, false, false),
    ];
    for (fragment, any, later, further) in rows {
        let header = Ipv4 { fragment, ..Ipv4::plain(UDP, 20) };
        let packet = read::<V4>(&framed(&[&header.bytes()]), false).expect("good");
        let found = (packet.is_fragment(), packet.is_later_fragment(), V4::may_fragment(&packet));
        assert_eq!(found, (any, later, further), "{fragment:#06x}");
    }
}

fn holds<F: Family>(
    frame: &[u8],
    offset: usize,
    length: usize,
    segmented: bool,
    header: usize,
) -> Result<(), TestCaseError> {
    if let Ok(packet) = F::datagram(frame, offset, length, segmented) {
        prop_assert!(packet.length >= header && offset + packet.length <= length);
        prop_assert!(packet.payload >= offset + header && packet.payload <= offset + packet.length);
        prop_assert!(
            packet.protocol <= 255
                && packet.ttl <= 255
                && F::dscp(frame, offset).is_some_and(|dscp| dscp <= 63)
                && packet.fragment <= 0xffff
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_read(
        mut frame in prop::collection::vec(any::<u8>(), 0..400),
        first in prop::sample::select(vec![0x45_u8, 0x46, 0x4f, 0x44, 0x60, 0x65]),
        length in prop::option::of(0..400_u16),
        next: u8,
        offset in 0..20_usize,
        more in 0..100_usize,
        segmented: bool,
    ) {
        if let Some(header) = frame.get_mut(offset..offset + 8) {
            header[0] = first;
            header[6] = next;
            if let Some(length) = length {
                let place = if first < 0x50 { 2 } else { 4 };
                header[place..place + 2].copy_from_slice(&length.to_be_bytes());
            }
        }
        // At tc more bytes can be in the packet than in the piece that is read.
        holds::<V4>(&frame, offset, frame.len() + more, segmented, 20)?;
        holds::<V6>(&frame, offset, frame.len() + more, segmented, 40)?;
    }
}
