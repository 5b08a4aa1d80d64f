//! Frames at the corners: what a router must look at twice. From one seed always the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_common::wire::Mac;
use fastrand::Rng;

use super::{
    picture::{PORTS, Picture, SOURCES},
    tree::{MTU, Shot},
};
use crate::fixture::{
    packet::{Packet, Version, ip, sum},
    plan::{host_mac, port_mac},
};

/// IPv4 addresses that are special somewhere (RFC 6890), and their neighbours.
const SPECIAL_V4: [&str; 24] = [
    "0.0.0.0",
    "0.0.0.1",
    "0.255.255.255",
    "1.0.0.0",
    "126.255.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "128.0.0.0",
    "169.254.1.1",
    "198.18.0.0",
    "198.18.0.255",
    "198.18.1.0",
    "198.18.1.255",
    "198.18.2.255",
    "223.255.255.255",
    "224.0.0.0",
    "224.0.0.1",
    "224.0.0.251",
    "239.255.255.255",
    "240.0.0.0",
    "240.1.0.1",
    "255.255.255.254",
    "255.255.255.255",
    "198.18.0.77",
];

/// IPv6 addresses that are special somewhere (RFC 6890), and their neighbours.
const SPECIAL_V6: [&str; 20] = [
    "::",
    "::1",
    "::2",
    "::198.18.1.2",
    "::ffff:198.18.1.2",
    "::ffff:127.0.0.1",
    "64:ff9b::1",
    "100::1",
    "2001:db8:1::",
    "2001:db8:2::",
    "2001:db8:0::77",
    "fc00::1",
    "fe80::1",
    "fe80::2",
    "fe80::ff:fe00:1",
    "febf:ffff::1",
    "fec0::1",
    "ff01::1",
    "ff02::1",
    "ff0e::1",
];

/// Bytes of the longest frame that a port receives: MTU, Ethernet header and one VLAN tag (`__is_skb_forwardable`).
const LONGEST: [usize; PORTS as usize] = [MTU[0] as usize + 18, MTU[1] as usize + 18, MTU[2] as usize + 18];

/// Makes frames for one picture.
pub struct Generator {
    rng: Rng,
    prefixes: Vec<(IpAddr, u8)>,
    /// Number of the next frame; in the payload, so that no two are the same.
    number: u32,
}

impl Generator {
    /// Of this seed.
    pub fn new(picture: &Picture, seed: u64) -> Self {
        let prefix = |text: &&str| {
            let (address, length) = text.split_once('/').expect("a prefix");
            (address.parse().expect("an address"), length.parse().expect("a length"))
        };
        Self {
            rng: Rng::with_seed(seed ^ picture.seed()),
            prefixes: picture.prefixes.iter().map(prefix).collect(),
            number: 0,
        }
    }

    /// The next frame.
    pub fn shot(&mut self) -> Shot {
        loop {
            let shot = self.any();
            // What is longer, the device does not receive.
            if shot.frame.len() <= LONGEST[usize::from(shot.port)] {
                return shot;
            }
        }
    }

    fn any(&mut self) -> Shot {
        self.number += 1;
        let port = self.rng.u8(..PORTS);
        let version = if self.rng.bool() { Version::V4 } else { Version::V6 };
        let (class, mut frame) = self.corner(port, version);
        let mutated = self.rng.u8(..6) == 0;
        if mutated {
            self.mutate(&mut frame);
        }
        Shot { port, frame, class: if mutated { "mutated" } else { class } }
    }

    fn corner(&mut self, port: u8, version: Version) -> (&'static str, Vec<u8>) {
        let weighted: [(u8, &'static str); 14] = [
            (20, "plain"),
            (6, "ttl"),
            (8, "size"),
            (8, "fragment"),
            (8, "header"),
            (8, "options"),
            (8, "link"),
            (6, "tagged"),
            (5, "padding"),
            (10, "address"),
            (4, "icmp"),
            (4, "local"),
            (3, "same"),
            (2, "redirect"),
        ];
        let total: u8 = weighted.iter().map(|(weight, _)| weight).sum();
        let mut draw = self.rng.u8(..total);
        let class = weighted.iter().find(|(weight, _)| {
            let here = draw < *weight;
            draw = draw.saturating_sub(*weight);
            here
        });
        let class = class.map_or("plain", |(_, class)| class);
        let packet = self.base(port, version);
        let frame = match class {
            "ttl" => {
                let ttl = *self.one(&[0, 1, 2, 3, 255]);
                self.load(packet.ttl(ttl)).frame()
            }
            "size" => self.sized(packet, version).frame(),
            "fragment" => self.fragment(packet, version).frame(),
            "header" => self.malformed(packet, version),
            "options" => self.optional(packet, version).frame(),
            "link" => self.link(packet, port),
            "tagged" => self.tagged(packet).frame(),
            "padding" => {
                let padding = *self.one(&[1, 2, 6, 18, 46, 500]);
                self.load(packet).padded(padding).frame()
            }
            "address" => {
                let (source, target) = (self.odd(version, port), self.odd(version, port));
                let packet = if self.rng.bool() { self.from(port, source, target) } else { self.toward(port, target) };
                self.load(packet).frame()
            }
            "icmp" => self.error(packet, version).frame(),
            "local" => {
                let net = self.rng.u8(..PORTS);
                let packet = self.toward(port, version.address((net, 1)));
                self.load(packet).frame()
            }
            "same" => {
                let address = self.destination(version);
                let packet = self.from(port, address, address);
                self.load(packet).frame()
            }
            "redirect" => {
                let target = if version == Version::V4 {
                    Ipv4Addr::new(198, 19, self.rng.u8(..126), self.rng.u8(..)).into()
                } else {
                    Ipv6Addr::new(0x2001, 0xdb8, 0x900, self.rng.u16(..), 0, 0, 0, self.rng.u16(..)).into()
                };
                let packet = self.toward(port, target);
                self.load(packet).frame()
            }
            _ => self.load(packet).frame(),
        };
        let mut frame = frame;
        // The sender is a host of the port's own network.
        if frame[6..12] == host_mac(0, 2).0 {
            frame[6..12].copy_from_slice(&host_mac(port, 2).0);
        }
        (class, frame)
    }

    /// A packet of an ordinary host to an interesting destination, without payload.
    fn base(&mut self, port: u8, version: Version) -> Packet {
        let target = self.destination(version);
        self.toward(port, target)
    }

    fn toward(&mut self, port: u8, target: IpAddr) -> Packet {
        let version = if target.is_ipv4() { Version::V4 } else { Version::V6 };
        let source = match self.rng.u8(..8) {
            0 => self.destination(version),
            _ => self.source(version, port),
        };
        self.from(port, source, target)
    }

    /// An ordinary sender.
    fn source(&mut self, version: Version, port: u8) -> IpAddr {
        match version {
            Version::V4 => {
                let ([a, b, c], step) = SOURCES;
                Ipv4Addr::new(a, b, c + port * step + self.rng.u8(..step), self.rng.u8(..)).into()
            }
            Version::V6 => version.address((port, 2 + self.rng.u8(..2))),
        }
    }

    fn from(&mut self, port: u8, source: IpAddr, target: IpAddr) -> Packet {
        ip(source, target).to(port_mac(port)).ttl(if self.rng.u8(..4) == 0 { self.rng.u8(2..) } else { 64 })
    }

    /// An end of a prefix or an address beside it; or a host on a port.
    fn destination(&mut self, version: Version) -> IpAddr {
        let prefixes: Vec<_> = self
            .prefixes
            .iter()
            .filter(|(address, _)| address.is_ipv4() == (version == Version::V4))
            .copied()
            .collect();
        if prefixes.is_empty() || self.rng.u8(..5) == 0 {
            let host = *self.one(&[0, 1, 2, 2, 3, 3, 77]);
            let net = self.rng.u8(..PORTS);
            return version.address((net, host));
        }
        let (address, length) = *self.one(&prefixes);
        match address {
            IpAddr::V4(address) => {
                let host = u64::from(u32::MAX).checked_shr(length.into()).unwrap_or(0) as u32;
                let within = self.end(host.into()) as u32;
                Ipv4Addr::from_bits(address.to_bits().wrapping_add(within)).into()
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
                let within = self.end(host);
                Ipv6Addr::from_bits(address.to_bits().wrapping_add(within)).into()
            }
        }
    }

    /// An offset into a prefix whose last one is `last`: one of the ends, one beyond, or somewhere between.
    fn end(&mut self, last: u128) -> u128 {
        match self.rng.u8(..10) {
            0 => 0,
            1 => 1,
            2 => u128::MAX,
            3 => last,
            4 => last.wrapping_sub(1),
            5 => last.wrapping_add(1),
            _ => self.rng.u128(..) & last,
        }
    }

    /// An address that is special, or one of those that are not.
    fn odd(&mut self, version: Version, port: u8) -> IpAddr {
        match self.rng.u8(..4) {
            0 => self.destination(version),
            1 => self.source(version, port),
            _ => {
                let text = if version == Version::V4 { *self.one(&SPECIAL_V4) } else { *self.one(&SPECIAL_V6) };
                text.parse().expect("an address")
            }
        }
    }

    /// Gives the packet a transport header and payload, mostly a sound one.
    fn load(&mut self, packet: Packet) -> Packet {
        let (from, to) = (self.port(), self.port());
        match self.rng.u8(..12) {
            0..=4 => {
                let size = *self.one(&[0, 1, 4, 18, 100, 700]);
                packet.udp(from, to, size)
            }
            5..=6 => packet.tcp(from, to, self.rng.u8(..)),
            7 => self.echo(packet),
            8 => {
                let length = *self.one(&[0, 7, 8, 9, 2000]);
                packet.udp(from, to, 12).udp_length(length)
            }
            // A TCP header of 4 words, and one past the end.
            9 => {
                let mut header = vec![0; 20];
                self.rng.fill(&mut header);
                header[12] = *self.one(&[0x40, 0xf0, 0x50]);
                packet.carrying(6, header)
            }
            10 => {
                let size = self.rng.usize(..40);
                let protocol = *self.one(&[0, 4, 6, 17, 41, 47, 50, 51, 89, 132, 136, 33, 253, 255]);
                packet.carrying(protocol, self.bytes(size))
            }
            _ => {
                let at = *self.one(&[6, 16]);
                let packet = if at == 6 { packet.udp(from, to, 4) } else { packet.tcp(from, to, 2) };
                packet.unfinished(at)
            }
        }
    }

    fn echo(&mut self, packet: Packet) -> Packet {
        let size = *self.one(&[0, 8, 56, 900]);
        let kind = if packet.is_v4() { 8 } else { 128 };
        let mut message = vec![kind, 0, 0, 0, self.rng.u8(..), self.rng.u8(..), 0, 1];
        message.extend(self.bytes(size));
        icmp(packet, message)
    }

    /// At the edge of what a way out takes.
    fn sized(&mut self, packet: Packet, version: Version) -> Packet {
        let mtu = *self.one(&[MTU[0], MTU[1], MTU[2], 1280, 1300, 1400]);
        let length = usize::from(mtu) + usize::from(*self.one(&[0_u8, 1, 2, 100])) - 1;
        let size = length.min(usize::from(MTU[0]) + 1) - version.header() - 8;
        let flags = *self.one(&[0, 0x4000]);
        let (from, to) = (self.port(), self.port());
        packet.udp(from, to, size).fragment(flags)
    }

    fn fragment(&mut self, packet: Packet, version: Version) -> Packet {
        let size = *self.one(&[0, 1, 8, 16, 64, 1200, 1480]);
        let offset = *self.one(&[0, 1, 2, 3, 185, 0x1fff, 0x1ffe]);
        let more = self.rng.bool();
        let id = self.rng.u32(..);
        let (from, to) = (self.port(), self.port());
        let packet = packet.udp(from, to, size);
        if version == Version::V4 {
            let flags = *self.one(&[0, 0, 0, 0x4000, 0x8000]);
            let word = flags | u16::from(more) << 13 | offset;
            return packet.identification(id as u16).fragment(word);
        }
        let word = (offset << 3 | u16::from(more)).to_be_bytes();
        let rest = [&[0], word.as_slice(), &id.to_be_bytes()].concat();
        match self.rng.u8(..6) {
            0 => packet.extension(60, &[0, 1, 4, 0, 0, 0, 0]).extension(44, &rest),
            1 => packet.extension(44, &rest).extension(60, &[0, 1, 4, 0, 0, 0, 0]),
            // The chain of headers ends in another fragment.
            2 => packet.carrying(60, vec![6, 0]).extension(44, &rest),
            3 => packet.extension(44, &rest).extension(44, &rest),
            _ => packet.extension(44, &rest),
        }
    }

    /// A header that contradicts itself or the frame.
    fn malformed(&mut self, packet: Packet, version: Version) -> Vec<u8> {
        let packet = self.load(packet);
        let total = packet.bare().len() as u16;
        let draw = self.rng.u8(..10);
        match (version, draw) {
            (_, 0) => packet.cut(self.rng.usize(..version.header() + 12)),
            (_, 1) => packet.patch(0, &[self.rng.u8(..)]).frame(),
            (Version::V4, 2) => {
                let words = self.rng.u8(..16);
                sealed(packet.patch(0, &[0x40 | words]).frame())
            }
            (Version::V4, 3) => packet.length(self.rng.u16(..20)).frame(),
            (_, 4) => {
                let length = total.saturating_add(*self.one(&[1, 2, 8, 1000]));
                packet.length(length - if version == Version::V4 { 0 } else { 40 }).frame()
            }
            (Version::V4, 5) => {
                let length = total - (self.rng.u16(..8)).min(total - 20);
                packet.length(length).frame()
            }
            (Version::V6, 5) => packet.length(self.rng.u16(..)).frame(),
            (Version::V4, 6) => packet.patch(10, &[self.rng.u8(..)]).frame(),
            (Version::V4, 7) => sealed(packet.patch(1, &[self.rng.u8(..)]).frame()),
            (Version::V6, 7) => packet.patch(0, &[0x60 | self.rng.u8(..16), self.rng.u8(..), 1, 2]).frame(),
            (Version::V4, 8) => packet.ethertype(0x86dd).frame(),
            (Version::V6, 8) => packet.ethertype(0x0800).frame(),
            (Version::V4, _) => packet.length(0).frame(),
            (Version::V6, _) => packet.length(*self.one(&[0, 1, 7, 8])).frame(),
        }
    }

    /// IPv4 options, IPv6 extension headers.
    fn optional(&mut self, packet: Packet, version: Version) -> Packet {
        if version == Version::V4 {
            let hop = [198, 18, self.rng.u8(..PORTS), 2];
            let options: &[u8] = match self.rng.u8(..11) {
                0 => &[148, 4, 0, 0],
                1 => &[131, 7, 4, hop[0], hop[1], hop[2], hop[3], 0],
                2 => &[137, 7, 4, hop[0], hop[1], hop[2], hop[3], 0],
                3 => &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                // A record of the route that is full; timestamps that have overflown.
                4 => &[7, 7, 8, 1, 2, 3, 4],
                5 => &[68, 8, 9, 0xf0, 1, 2, 3, 4],
                6 => &[131, 0, 4, 0],
                7 => &[7, 40, 4, 0],
                8 => &[1, 1, 1, 0],
                9 => &[0x99, 4, 1, 2],
                _ => &[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            };
            return self.load(packet.options(options));
        }
        let packet = match self.rng.u8(..14) {
            0 => packet.extension(0, &[0, 5, 2, 0, 0, 1, 0]),
            1 => packet.extension(0, &[0, 1, 4, 0, 0, 0, 0]),
            // A jumbogram, and options that ask for the packet to be thrown away, with and without an answer.
            2 => packet.extension(0, &[0, 0xc2, 4, 0, 1, 0, 0]),
            3 => packet.extension(0, &[0, *self.one(&[0x3e, 0x7e, 0xbe, 0xfe]), 4, 0, 0, 0, 0]),
            4 => packet.extension(60, &[0, *self.one(&[1, 0x3e, 0x7e, 0xbe, 0xfe]), 4, 0, 0, 0, 0]),
            5 => packet.extension(60, &[0, 1, 4, 0, 0, 0, 0]).extension(0, &[0, 5, 2, 0, 0, 1, 0]),
            6 | 13 => {
                let kind = *self.one(&[0, 0, 2, 3, 4, 253]);
                let hop = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
                packet.extension(43, &[&[2, kind, self.rng.u8(..3), 0, 0, 0, 0], hop.as_slice()].concat())
            }
            7 => packet.extension(51, &[4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            8 | 12 => {
                let count = self.rng.usize(2..12);
                (0..count).fold(packet, |packet, _| packet.extension(60, &[0, 1, 4, 0, 0, 0, 0]))
            }
            9 => packet.extension(135, &[0, 0, 0, 0, 0, 0, 0]),
            10 => packet.extension(*self.one(&[0, 43, 60]), &[255, 1, 4, 0, 0, 0, 0]),
            _ => {
                let size = self.rng.usize(..30);
                let protocol = *self.one(&[59, 50, 139, 140, 253]);
                return packet.carrying(protocol, self.bytes(size));
            }
        };
        self.load(packet)
    }

    /// Somebody else's frames, groups, and what is not IP.
    fn link(&mut self, packet: Packet, port: u8) -> Vec<u8> {
        let packet = self.load(packet);
        match self.rng.u8(..8) {
            0 => packet.to(Mac::BROADCAST).frame(),
            1 => packet.to(Mac([1, 0, 0x5e, 0, 0, 1])).frame(),
            2 => packet.to(Mac([0x33, 0x33, 0, 0, 0, 1])).frame(),
            3 => packet.to(host_mac(port, 9)).frame(),
            4 => packet.to(port_mac((port + 1) % PORTS)).frame(),
            5 => packet.to(Mac::default()).frame(),
            // Lengths of 802.3, and types of nobody.
            6 => {
                let kind = *self.one(&[0, 46, 0x05ff, 0x0600, 0x0801, 0x88cc, 0x8847, 0x9000, 0xffff]);
                packet.ethertype(kind).frame()
            }
            _ => {
                let mut frame = packet.frame();
                frame[6..12].copy_from_slice(&port_mac(port).0);
                frame
            }
        }
    }

    fn tagged(&mut self, packet: Packet) -> Packet {
        let kind = |rng: &mut Rng| if rng.u8(..3) == 0 { 0x88a8 } else { 0x8100 };
        let control = |rng: &mut Rng| *rng.choice(&[0_u16, 0xe000, 1, 100, 0x0fff, 0xffff]).unwrap_or(&0);
        let depth = *self.one(&[1, 1, 1, 2, 2, 3, 5]);
        let tags: Vec<_> = (0..depth).map(|_| (kind(&mut self.rng), control(&mut self.rng))).collect();
        self.load(packet).tagged(&tags)
    }

    /// An ICMP error about a packet that nobody has sent, or of this router.
    fn error(&mut self, packet: Packet, version: Version) -> Packet {
        let net = self.rng.u8(..PORTS);
        let (ours, theirs) = (version.address((net, 1)), self.destination(version));
        let protocol = *self.one(&[1, 6, 17, 58]);
        let inner = ip(ours, theirs).carrying(protocol, vec![0; 8]).bare();
        let (kind, code) = match version {
            Version::V4 => *self.one(&[(3, 0), (3, 1), (3, 3), (3, 4), (5, 1), (11, 0), (12, 0), (4, 0)]),
            Version::V6 => *self.one(&[(1, 0), (1, 4), (2, 0), (3, 0), (4, 1), (137, 0)]),
        };
        let message = [&[kind, code, 0, 0, 0, 0, 5, 0], inner.as_slice()].concat();
        let packet = if self.rng.bool() { packet } else { packet.target(ours) };
        icmp(packet, message)
    }

    /// Damages a frame behind its link addresses.
    fn mutate(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..self.rng.u8(1..4) {
            match self.rng.u8(..6) {
                0..=2 => {
                    let at = self.rng.usize(14..frame.len().clamp(15, 60));
                    if let Some(byte) = frame.get_mut(at) {
                        *byte ^= 1 << self.rng.u8(..8);
                    }
                }
                3 => {
                    let at = self.rng.usize(14..frame.len().clamp(15, 60));
                    if let Some(byte) = frame.get_mut(at) {
                        *byte = self.rng.u8(..);
                    }
                }
                4 => frame.truncate(self.rng.usize(14..=frame.len().max(14))),
                _ => {
                    let more = self.rng.usize(..20);
                    let tail = self.bytes(more);
                    frame.extend(tail);
                }
            }
        }
        // Mostly with a header checksum that is right again, so that it is not the only thing that is wrong.
        if self.rng.u8(..4) != 0 {
            seal(frame);
        }
    }

    fn port(&mut self) -> u16 {
        *self.one(&[0, 1, 53, 80, 443, 1024, 33434, 65535])
    }

    /// Bytes that begin with the number of the frame.
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.rng.fill(&mut bytes);
        for (byte, number) in bytes.iter_mut().zip(self.number.to_be_bytes()) {
            *byte = number;
        }
        bytes
    }

    fn one<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.rng.usize(..choices.len())]
    }
}

/// Makes the checksum of an IPv4 header right, where there is one.
fn seal(frame: &mut [u8]) {
    if frame.get(12..14) != Some(&[0x08, 0x00]) || frame.len() < 34 {
        return;
    }
    let length = (usize::from(frame[14] & 0x0f) * 4).max(20);
    if let Some(header) = frame.get_mut(14..14 + length) {
        header[10..12].fill(0);
        let checksum = !sum(header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn sealed(mut frame: Vec<u8>) -> Vec<u8> {
    seal(&mut frame);
    frame
}

/// An ICMP message with its checksum.
fn icmp(packet: Packet, mut message: Vec<u8>) -> Packet {
    let v4 = packet.is_v4();
    let protocol = if v4 { 1 } else { 58 };
    let checksum = if v4 { !sum(&message) } else { !packet.pseudo(protocol, &message) };
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet.carrying(protocol, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::picture::PICTURES;

    #[test]
    fn a_seed_gives_the_same_frames_and_another_gives_others() {
        let frames = |seed| {
            let mut generator = Generator::new(&PICTURES[0], seed);
            (0..2000).map(|_| generator.shot().frame).collect::<Vec<_>>()
        };
        assert_eq!(frames(1), frames(1));
        assert_ne!(frames(1), frames(2));
        assert!(frames(1).iter().all(|frame| frame.len() >= 14), "a packet socket takes no less than a header");
    }

    #[test]
    fn every_address_can_be_read() {
        for text in SPECIAL_V4.iter().chain(&SPECIAL_V6) {
            text.parse::<IpAddr>().expect(text);
        }
    }
}
