//! The frames that the generator sends, but for what it varies per packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane_common::wire::Mac;
use dataplane_tests_ebpf::{Mix, TEMPLATE_LENGTH};

use super::classbench::Flow;

/// UDP's discard port (RFC 863).
pub const DISCARD: u16 = 9;
/// TTL and hop limit: what Linux sends by default.
const LIFETIME: u8 = 64;
const UDP: u8 = 17;

/// Where a frame comes from and goes to, below the destination address that varies.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// The generator's link address.
    pub source: Mac,
    /// The link address of the device under test.
    pub gateway: Mac,
    /// Source of IPv4 packets.
    pub source4: Ipv4Addr,
    /// Source of IPv6 packets.
    pub source6: Ipv6Addr,
}

/// Bytes of the frames of a mix: 60 for IPv4 alone, else 62, as all frames of one run are equally long.
pub const fn length(mix: Mix) -> usize {
    match mix {
        Mix::Ipv4 | Mix::Flows => dataplane_tests_ebpf::IPV4_LENGTH,
        Mix::Ipv6 | Mix::Both => dataplane_tests_ebpf::IPV6_LENGTH,
    }
}

/// An IPv4 UDP frame of `length` bytes to 0.0.0.0 from port 0, with checksums that are right for that.
pub fn template4(path: &Path, length: usize) -> [u8; TEMPLATE_LENGTH] {
    let mut frame = [0; TEMPLATE_LENGTH];
    ethernet(&mut frame, path, 0x0800);
    let total = bytes(length - 14);
    let datagram = bytes(length - 34);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&total);
    // Don't fragment, as Linux sends UDP; then an identification of zero is right (RFC 6864, section 4.1).
    frame[20] = 0x40;
    frame[22] = LIFETIME;
    frame[23] = UDP;
    frame[26..30].copy_from_slice(&path.source4.octets());
    let header = !sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    frame[36..38].copy_from_slice(&DISCARD.to_be_bytes());
    frame[38..40].copy_from_slice(&datagram);
    let pseudo = [&frame[26..34], &[0, UDP], &datagram, &frame[34..length]].concat();
    let checksum = !sum(&pseudo);
    frame[40..42].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// An IPv4 frame that becomes one of any flow by what [`flow`] returns: UDP without a checksum, or TCP.
pub fn template_of_flows(path: &Path) -> [u8; TEMPLATE_LENGTH] {
    let mut frame = template4(path, length(Mix::Flows));
    frame[40..42].copy_from_slice(&[0; 2]);
    // A TCP header of 20 bytes that acknowledges; to UDP it is payload.
    frame[46..48].copy_from_slice(&[0x50, 0x10]);
    frame
}

/// A flow as the generator takes it ([`dataplane_tests_ebpf::aim_flow`]).
pub fn flow(template: &[u8; TEMPLATE_LENGTH], flow: &Flow) -> [u32; 4] {
    let (source, destination, from, to, protocol) = *flow;
    let mut frame = *template;
    frame[23..26].copy_from_slice(&[protocol, 0, 0]);
    frame[26..30].copy_from_slice(&source.octets());
    frame[30..34].copy_from_slice(&destination.octets());
    let [high, low] = (!sum(&frame[14..34])).to_be_bytes();
    let ports = u32::from(from) << 16 | u32::from(to);
    let words = [source.octets(), destination.octets(), ports.to_be_bytes(), [protocol, 0, high, low]];
    words.map(u32::from_ne_bytes)
}

/// An IPv6 UDP frame without payload to `::` from port 0; see [`template4`].
pub fn template6(path: &Path) -> [u8; TEMPLATE_LENGTH] {
    let mut frame = [0; TEMPLATE_LENGTH];
    ethernet(&mut frame, path, 0x86dd);
    let datagram = bytes(8);
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&datagram);
    frame[20] = UDP;
    frame[21] = LIFETIME;
    frame[22..38].copy_from_slice(&path.source6.octets());
    frame[56..58].copy_from_slice(&DISCARD.to_be_bytes());
    frame[58..60].copy_from_slice(&datagram);
    let pseudo = [&frame[22..54], &[0, UDP], &datagram, &frame[54..62]].concat();
    let checksum = !sum(&pseudo);
    frame[60..62].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// The same bytes as the words that the generator stores.
pub fn words(template: [u8; TEMPLATE_LENGTH]) -> [u64; TEMPLATE_LENGTH / 8] {
    let (words, _rest) = template.as_chunks::<8>();
    std::array::from_fn(|index| u64::from_ne_bytes(words[index]))
}

fn ethernet(frame: &mut [u8; TEMPLATE_LENGTH], path: &Path, kind: u16) {
    frame[..6].copy_from_slice(&path.gateway.0);
    frame[6..12].copy_from_slice(&path.source.0);
    frame[12..14].copy_from_slice(&kind.to_be_bytes());
}

const fn bytes(length: usize) -> [u8; 2] {
    (length as u16).to_be_bytes()
}

/// The ones'-complement sum of big-endian words (RFC 1071); an odd byte is the high one of its word.
fn sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use dataplane_tests_ebpf::{IPV4_LENGTH, IPV6_LENGTH, aim_flow, aim4, aim6};

    use super::*;

    const PATH: Path = Path {
        source: Mac([2, 0, 0, 0, 0, 1]),
        gateway: Mac([2, 0, 0, 0, 0, 2]),
        source4: Ipv4Addr::new(198, 51, 100, 2),
        source6: Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 2),
    };

    /// Corner cases of the sum, and a pseudo-random walk over the rest.
    fn samples() -> impl Iterator<Item = (u32, u16)> {
        let corners = [0, 1, 0xffff, 0x1_0000, 0xffff_0000, 0xffff_ffff, 0xfffe_fffe, 0x0000_ff00];
        let ports = [0, 1, 1024, 5119, 0xfffe, 0xffff];
        let walk = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761), (n.wrapping_mul(40_503) >> 3) as u16));
        corners.into_iter().flat_map(move |word| ports.map(|port| (word, port))).chain(walk)
    }

    #[test]
    fn ipv4_headers_are_right_for_every_destination() {
        for length in [IPV4_LENGTH, IPV6_LENGTH] {
            let template = template4(&PATH, length);
            for (destination, port) in samples() {
                let mut whole = template;
                let frame: &mut [u8; IPV4_LENGTH] = (&mut whole[..IPV4_LENGTH]).try_into().expect("it is that long");
                aim4(frame, u32::from_ne_bytes(destination.to_be_bytes()), port.to_be());
                assert_eq!(whole[30..34], destination.to_be_bytes());
                assert_eq!(whole[34..36], port.to_be_bytes());
                assert_eq!(sum(&whole[14..34]), 0xffff, "header checksum to {destination:#x}");
                assert_ne!(whole[40..42], [0, 0], "no checksum to {destination:#x} port {port}");
                let pseudo = [&whole[26..34], &[0, UDP], &whole[38..40], &whole[34..length]].concat();
                assert_eq!(sum(&pseudo), 0xffff, "UDP checksum to {destination:#x} port {port}");
                assert_eq!(usize::from(u16::from_be_bytes([whole[16], whole[17]])), length - 14);
                assert_eq!((whole[22], whole[23], &whole[36..38]), (64, UDP, &DISCARD.to_be_bytes()[..]));
            }
        }
    }

    #[test]
    fn headers_of_flows_are_right() {
        let template = template_of_flows(&PATH);
        for protocol in [1, 6, 17] {
            let of = (Ipv4Addr::new(198, 18, 0, protocol), Ipv4Addr::new(198, 19, 255, 254), 1234, 443, protocol);
            let mut whole = template;
            aim_flow(&mut whole, flow(&template, &of));
            assert_eq!(sum(&whole[14..34]), 0xffff, "header checksum of {of:?}");
            assert_eq!((whole[23], &whole[26..30], &whole[30..34]), (protocol, &of.0.octets()[..], &of.1.octets()[..]));
            assert_eq!(whole[34..38], [1234_u16.to_be_bytes(), 443_u16.to_be_bytes()].concat());
        }
    }

    #[test]
    fn ipv6_headers_are_right_for_every_destination() {
        let template = template6(&PATH);
        for (word, port) in samples() {
            let address = [word, !word, word.rotate_left(7), word.wrapping_mul(3)];
            let mut whole = template;
            let frame: &mut [u8; IPV6_LENGTH] = (&mut whole[..IPV6_LENGTH]).try_into().expect("it is that long");
            aim6(frame, address.map(|part| u32::from_ne_bytes(part.to_be_bytes())), port.to_be());
            assert_eq!(whole[38..54], *address.map(u32::to_be_bytes).as_flattened());
            let pseudo = [&whole[22..54], &[0, UDP], &whole[58..60], &whole[54..62]].concat();
            assert_eq!(sum(&pseudo), 0xffff, "UDP checksum to {address:x?} port {port}");
            assert_eq!((whole[14], whole[20], whole[21], &whole[18..20]), (0x60, UDP, 64, &[0, 8][..]));
            assert_ne!(whole[60..62], [0, 0], "IPv6 needs a UDP checksum (RFC 8200, section 8.1)");
        }
    }
}
