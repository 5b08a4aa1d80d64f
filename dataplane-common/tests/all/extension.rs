//! The chain of IPv6 extension headers.

use dataplane_common::{
    Reason,
    wire::{Chain, IPV6_ROUTED, Walk, is_extension, walk},
};
use proptest::prelude::*;

const HOP: u8 = 0;
const TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AH: u8 = 51;
const NOTHING: u8 = 59;
const OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const ROUTED: u64 = IPV6_ROUTED as u64;

/// A header of `length + 1` times eight bytes, whose third byte is `kind`.
fn header(next: u8, length: u8, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0; (usize::from(length) + 1) * 8];
    bytes[..3].copy_from_slice(&[next, length, kind]);
    bytes
}

/// A fragment header with that offset (in units of eight bytes).
fn fragment(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let mut bytes = vec![next, 0xff, 0, 0, 1, 2, 3, 4];
    bytes[2..4].copy_from_slice(&(offset << 3 | 0b110 | u16::from(more)).to_be_bytes());
    bytes
}

fn walked(bytes: &[u8], protocol: u8, end: usize) -> Result<Chain, Reason> {
    let walk = walk(bytes, Chain { payload: 0, protocol: u64::from(protocol), fragment: 0 }, end);
    assert_eq!(Walk::from_raw(walk.raw()), walk);
    walk.outcome()
}

type Row = (&'static str, u8, Vec<Vec<u8>>, Result<(usize, u8, u64), Reason>);

fn check(rows: &[Row]) {
    for (name, protocol, headers, wanted) in rows {
        let bytes = headers.concat();
        let found = walked(&bytes, *protocol, bytes.len());
        let wanted =
            wanted.map(|(payload, protocol, fragment)| Chain { payload, protocol: u64::from(protocol), fragment });
        assert_eq!(found, wanted, "{name}");
    }
}

#[test]
fn every_header_is_stepped_over() {
    check(&[
        ("none", TCP, vec![], Ok((0, TCP, 0))),
        ("hop by hop", HOP, vec![header(TCP, 0, 0)], Ok((8, TCP, 0))),
        ("options", OPTIONS, vec![header(TCP, 2, 1)], Ok((24, TCP, 0))),
        ("options twice", OPTIONS, vec![header(OPTIONS, 0, 0), header(TCP, 1, 0)], Ok((24, TCP, 0))),
        ("home address", ROUTING, vec![header(TCP, 2, 2)], Ok((24, TCP, ROUTED))),
        ("segment routing", ROUTING, vec![header(TCP, 4, 4)], Ok((40, TCP, ROUTED))),
        ("mobility, which is a protocol", MOBILITY, vec![header(NOTHING, 1, 0)], Ok((0, MOBILITY, 0))),
        ("authentication, which is one", AH, vec![header(TCP, 4, 0)], Ok((0, AH, 0))),
        ("authentication behind options", HOP, vec![header(AH, 0, 0), header(TCP, 4, 0)], Ok((8, AH, 0))),
        ("options behind mobility", OPTIONS, vec![header(MOBILITY, 0, 0), header(TCP, 0, 0)], Ok((8, MOBILITY, 0))),
        ("longest", OPTIONS, vec![header(TCP, 255, 0)], Ok((2048, TCP, 0))),
        (
            "eight of the longest",
            HOP,
            [vec![header(HOP, 255, 0); 7], vec![header(TCP, 255, 0)]].concat(),
            Ok((16384, TCP, 0)),
        ),
        ("nothing follows", NOTHING, vec![header(TCP, 0, 0)], Ok((0, NOTHING, 0))),
        ("nothing follows options", OPTIONS, vec![header(NOTHING, 0, 0)], Ok((8, NOTHING, 0))),
        ("encrypted", HOP, vec![header(ESP, 0, 0), header(TCP, 0, 0)], Ok((8, ESP, 0))),
        ("type 0 of another header", HOP, vec![header(OPTIONS, 0, 0), header(TCP, 0, 0)], Ok((16, TCP, 0))),
    ]);
}

#[test]
fn fragments_are_recognised() {
    let chain = Err(Reason::FragmentChain);
    check(&[
        ("first", FRAGMENT, vec![fragment(TCP, 0, true)], Ok((8, TCP, 0x2000))),
        ("middle", FRAGMENT, vec![fragment(TCP, 185, true)], Ok((8, TCP, 0x20b9))),
        ("last", FRAGMENT, vec![fragment(TCP, 0x1fff, false)], Ok((8, TCP, 0x1fff))),
        ("atomic", FRAGMENT, vec![fragment(TCP, 0, false)], Ok((8, TCP, 0))),
        ("after options", HOP, vec![header(FRAGMENT, 0, 0), fragment(TCP, 3, false)], Ok((16, TCP, 3))),
        ("first, with options", FRAGMENT, vec![fragment(OPTIONS, 0, true), header(TCP, 0, 0)], Ok((16, TCP, 0x2000))),
        ("of mobility", FRAGMENT, vec![fragment(MOBILITY, 9, true)], Ok((8, MOBILITY, 0x2009))),
        ("first, of authentication", FRAGMENT, vec![fragment(AH, 0, true)], Ok((8, AH, 0x2000))),
        ("later, of authentication", FRAGMENT, vec![fragment(AH, 9, true)], chain),
        ("later, of options", FRAGMENT, vec![fragment(OPTIONS, 1, true), header(TCP, 0, 0)], chain),
        ("nested", FRAGMENT, vec![fragment(FRAGMENT, 0, true), fragment(TCP, 0, false)], chain),
        ("nested atomic", FRAGMENT, vec![fragment(FRAGMENT, 0, false), fragment(TCP, 0, false)], chain),
        ("nested later", FRAGMENT, vec![fragment(FRAGMENT, 9, false), fragment(TCP, 0, false)], chain),
        (
            "first without its headers",
            FRAGMENT,
            vec![fragment(OPTIONS, 0, true), vec![TCP, 1, 0, 0, 0, 0, 0, 0]],
            chain,
        ),
        ("cut", FRAGMENT, vec![vec![TCP, 0, 0, 1, 0, 0, 0]], chain),
    ]);
}

#[test]
fn hostile_chains_end_early() {
    let past = |payload| Ok((payload, NOTHING, 0));
    check(&[
        ("source route", ROUTING, vec![header(TCP, 2, 0)], Err(Reason::RoutingHeader)),
        ("source route behind", HOP, vec![header(ROUTING, 0, 0), header(TCP, 2, 0)], Err(Reason::RoutingHeader)),
        ("eight", OPTIONS, [vec![header(OPTIONS, 0, 0); 7], vec![header(TCP, 0, 0)]].concat(), Ok((64, TCP, 0))),
        (
            "nine",
            OPTIONS,
            [vec![header(OPTIONS, 0, 0); 8], vec![header(TCP, 0, 0)]].concat(),
            Err(Reason::ExtensionLimit),
        ),
        ("no bytes", OPTIONS, vec![], past(0)),
        ("three bytes", OPTIONS, vec![vec![TCP, 0, 0]], past(0)),
        // What follows is told, and that nothing of it is there.
        ("past the packet", OPTIONS, vec![vec![TCP, 1, 0, 0, 0, 0, 0, 0]], Ok((8, TCP, 0))),
        ("second past the packet", HOP, vec![header(OPTIONS, 0, 0), vec![TCP, 1, 0, 0, 0, 0, 0, 0]], Ok((16, TCP, 0))),
        ("past the packet, and more", OPTIONS, vec![vec![HOP, 1, 0, 0, 0, 0, 0, 0]], past(0)),
    ]);
}

#[test]
fn the_packet_ends_before_the_frame() {
    let bytes = [header(TCP, 1, 0), vec![0; 32]].concat();
    assert_eq!(walked(&bytes, OPTIONS, 16).map(|chain| chain.payload), Ok(16));
    let past = Ok(Chain { payload: 15, protocol: u64::from(TCP), fragment: 0 });
    assert_eq!(walked(&bytes, OPTIONS, 15), past);
    assert_eq!(walked(&fragment(TCP, 0, true), FRAGMENT, 7), Err(Reason::FragmentChain));
}

#[test]
fn only_four_headers_are_extensions() {
    let known: Vec<_> = (0..=255).filter(|number| is_extension(*number)).collect();
    assert_eq!(known, [HOP, ROUTING, FRAGMENT, OPTIONS].map(u64::from));
}

/// Mostly headers, so that chains become long.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let next = prop::sample::select(vec![HOP, TCP, ROUTING, FRAGMENT, AH, NOTHING, OPTIONS, MOBILITY]);
    let part =
        (next, 0..4_u8, any::<[u8; 6]>()).prop_map(|(next, length, rest)| [vec![next, length], rest.to_vec()].concat());
    (prop::collection::vec(part, 0..30), 0..8_usize).prop_map(|(parts, cut)| {
        let mut bytes = parts.concat();
        bytes.truncate(bytes.len().saturating_sub(cut));
        bytes
    })
}

proptest! {
    #[test]
    fn any_bytes_are_walked(
        bytes in prop_oneof![noise(), prop::collection::vec(any::<u8>(), 0..600)],
        protocol: u8,
        less in 0..20_usize,
    ) {
        let end = bytes.len().saturating_sub(less);
        match walked(&bytes, protocol, end) {
            Ok(chain) => {
                prop_assert!(chain.payload <= end && chain.payload <= 0xffff && chain.protocol <= 255);
                prop_assert!(chain.fragment & !(ROUTED | 0x3fff) == 0 && !is_extension(chain.protocol));
            }
            Err(reason) => prop_assert!(
                matches!(reason, Reason::ExtensionLimit | Reason::RoutingHeader | Reason::FragmentChain)
            ),
        }
    }
}
