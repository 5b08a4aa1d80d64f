//! The link header.

use dataplane_common::{
    Reason,
    decide::{L3Protocol, PacketType, Vlan, bare_frame, frame, queue_priority},
    wire::{EtherType, LinkHeader, Mac},
};
use proptest::prelude::*;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// The same as a number ([`Mac::wide`]).
const WIDE: u64 = 0x0100_0000_0002_0000;
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);
const GROUP: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

/// A frame to `to` with those tags (type and control), then that type.
fn tagged(to: Mac, tags: &[(u16, u16)], ethertype: u16) -> Vec<u8> {
    let mut bytes = [to.0, OTHER.0].concat();
    for (kind, control) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(control.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes
}

/// A tag of 802.1Q.
fn customer(control: u16) -> Vlan {
    Vlan::new(EtherType::VLAN, control)
}

/// Tags in the frame, the tag that is not in it any more, then: identifier and offset, or why not.
type Row = (&'static [(u16, u16)], Option<u16>, Result<(Option<u32>, usize), Reason>);

#[test]
fn tags_are_counted_with_the_one_that_hardware_took() {
    const C: (u16, u16) = (0x8100, 0xe00a);
    const S: (u16, u16) = (0x88a8, 0x1fff);
    const PRIORITY: (u16, u16) = (0x8100, 0xa000);
    let depth = Err(Reason::VlanDepth);
    let rows: &[Row] = &[
        (&[], None, Ok((None, 14))),
        (&[], Some(0x6007), Ok((Some(7), 14))),
        (&[C], None, Ok((Some(10), 18))),
        (&[PRIORITY], None, Ok((Some(0), 18))),
        (&[C], Some(7), Ok((Some(7), 18))),
        (&[S, C], None, Ok((Some(4095), 22))),
        (&[C, C], None, Ok((Some(10), 22))),
        (&[S, C], Some(7), depth),
        (&[S, C, C], None, depth),
        (&[S, C, C], Some(7), depth),
    ];
    for (tags, stripped, wanted) in rows {
        for (ethertype, l3) in [(0x0800, L3Protocol::Ipv4), (0x86dd, L3Protocol::Ipv6), (0x0806, L3Protocol::Other)] {
            let found = frame(&tagged(OURS, tags, ethertype)[..], Some(WIDE), stripped.map_or(Vlan::NONE, customer));
            let wanted = wanted.map(|(vlan, offset)| (vlan, offset, l3, PacketType::Host));
            let found = found.map(|frame| (frame.vlan.id(), frame.offset, frame.l3, frame.packet_type));
            assert_eq!(found, wanted, "{tags:x?} {stripped:x?} {ethertype:#x}");
        }
    }
}

#[test]
fn a_frame_that_ends_early_is_truncated() {
    let whole = tagged(OURS, &[(0x88a8, 1), (0x8100, 2)], 0x0800);
    for length in 0..whole.len() {
        let wanted = if length < 14 { Reason::NotIp } else { Reason::Truncated };
        assert_eq!(frame(&whole[..length], Some(WIDE), Vlan::NONE).err(), Some(wanted), "{length} bytes");
    }
    assert!(frame(&whole[..], Some(WIDE), Vlan::NONE).is_ok());
}

#[test]
fn frames_are_for_us_for_a_group_or_for_others() {
    let (host, group, others) = (Ok(PacketType::Host), Ok(PacketType::Group), Err(Reason::OtherHost));
    let rows = [
        (OURS, Some(WIDE), host),
        (GROUP, Some(WIDE), group),
        (Mac::BROADCAST, Some(WIDE), group),
        (OTHER, Some(WIDE), others),
        (Mac([0; 6]), Some(WIDE), others),
        // Nobody asks for whom: what this machine sends.
        (OTHER, None, host),
        (GROUP, None, group),
    ];
    for (to, ours, wanted) in rows {
        let found = frame(&tagged(to, &[], 0x0800)[..], ours, Vlan::NONE).map(|frame| frame.packet_type);
        assert_eq!(found, wanted, "{to} for {ours:?}");
    }
}

/// To whom, tags, then: for whom it is, or why not.
type Tagged = (Mac, &'static [(u16, u16)], Result<PacketType, Reason>);

/// What a VLAN device may have as its own address: known once its tag is.
#[test]
fn tagged_frames_for_others_are_read() {
    let rows: &[Tagged] = &[
        (OTHER, &[(0x8100, 7)], Ok(PacketType::Other)),
        (OTHER, &[(0x88a8, 7), (0x8100, 8)], Ok(PacketType::Other)),
        (OTHER, &[(0x8100, 7), (0x8100, 8), (0x8100, 9)], Err(Reason::OtherHost)),
        (OURS, &[(0x8100, 7)], Ok(PacketType::Host)),
        (GROUP, &[(0x8100, 7)], Ok(PacketType::Group)),
    ];
    for (to, tags, wanted) in rows {
        let found = frame(&tagged(*to, tags, 0x0800)[..], Some(WIDE), Vlan::NONE);
        assert_eq!(found.map(|frame| frame.packet_type), *wanted, "{to} {tags:x?}");
        assert!(found.is_err() || found.is_ok_and(|frame| frame.punt == Some(Reason::Vlan)));
    }
}

#[test]
fn both_tags_are_read_with_their_kinds() {
    let found = frame(&tagged(OURS, &[(0x88a8, 0xe064), (0x8100, 7)], 0x0800)[..], Some(WIDE), Vlan::NONE);
    let found = found.map(|frame| (frame.vlan, frame.inner));
    assert_eq!(found, Ok((Vlan::new(EtherType::SERVICE_VLAN, 100), customer(7))));
    let one = frame(&tagged(OURS, &[(0x8100, 7)], 0x0800)[..], Some(WIDE), customer(100));
    assert_eq!(one.map(|frame| (frame.vlan, frame.inner)), Ok((customer(100), customer(7))));
    assert_ne!(customer(0), Vlan::NONE);
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..40), tag: Option<u16>) {
        if let Ok(frame) = frame(&bytes[..], None, tag.map_or(Vlan::NONE, customer)) {
            prop_assert!(frame.offset <= bytes.len() && frame.l3 != L3Protocol::Tag);
            prop_assert!(frame.vlan.id().is_none_or(|id| id < 4096));
        }
    }
}

#[test]
fn a_packet_without_link_header_begins_with_its_version() {
    for (first, length, expected) in [
        (0x45, 20, Ok(L3Protocol::Ipv4)),
        (0x60, 40, Ok(L3Protocol::Ipv6)),
        (0x75, 40, Err(Reason::NotIp)),
        (0x45, 19, Err(Reason::NotIp)),
    ] {
        let mut packet = vec![0; length];
        packet[0] = first;
        let found = bare_frame(packet.as_slice());
        assert_eq!(found.map(|frame| frame.l3), expected, "{first:x} {length}");
        let plain = found.map(|frame| (frame.link_header(), frame.packet_type, frame.tags()));
        assert!(plain.is_err() || plain == Ok((LinkHeader::None, PacketType::Host, 0)), "{plain:?}");
    }
    let ethernet = frame(tagged(OURS, &[], 0x0800).as_slice(), Some(WIDE), Vlan::NONE).expect("a frame");
    assert_eq!(ethernet.link_header(), LinkHeader::Ethernet);
}

/// `ip_tos2prio` and `rt_tos2priority` (`net/ipv4/route.c`, `include/net/route.h`).
#[test]
fn the_type_of_service_says_the_priority_as_in_the_kernel() {
    const BY_SERVICE: [u32; 16] = [0, 0, 0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 4, 4, 4, 4];
    for service in 0..=u8::MAX {
        assert_eq!(queue_priority(service), BY_SERVICE[usize::from(service & 0x1e) >> 1], "{service:x}");
    }
}
