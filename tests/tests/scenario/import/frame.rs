//! Frames drawn from the words of a file of rules: what they name, and what is just beside it.

use std::net::IpAddr;

use dataplane_tests::fixture::{
    packet::{Packet, between, sum},
    plan::{host_mac, port_mac},
};

use super::{MARK, PORTS};

/// What frames are drawn from: the values of a file and their neighbours.
pub struct Pool {
    addresses: [Vec<String>; 2],
    numbers: Vec<u16>,
    random: fastrand::Rng,
}

impl Pool {
    /// From the words of a file.
    pub fn new(tables: &str, seed: u64) -> Self {
        let mut addresses = [Vec::new(), Vec::new()];
        let mut numbers = vec![9, 1024, 33434, 65535];
        let separator = |letter: char| letter.is_whitespace() || matches!(letter, ',' | '{' | '}' | ';' | '"');
        for word in tables.split(separator) {
            let ends: Vec<_> = word.split(['/', '-']).collect();
            if let Some(Ok(address)) = ends.first().map(|word| word.parse::<IpAddr>()) {
                around(address, word, &mut addresses);
                if let Some(Ok(last)) = ends.get(1).map(|word| word.parse::<IpAddr>()) {
                    around(last, word, &mut addresses);
                }
            } else {
                let found = ends.iter().filter_map(|end| end.parse::<u16>().ok());
                numbers.extend(found.flat_map(|number| [number.saturating_sub(1), number, number.saturating_add(1)]));
            }
        }
        for net in 0..PORTS {
            for host in [1, 2] {
                addresses[0].push(format!("198.18.{net}.{host}"));
                addresses[1].push(format!("2001:db8:{net}::{host}"));
            }
        }
        // More often than by chance: what is there.
        for family in &mut addresses {
            let there = family[family.len() - 6..].to_vec();
            family.extend(there);
        }
        Self { addresses, numbers, random: fastrand::Rng::with_seed(seed) }
    }

    fn one<T: Clone>(random: &mut fastrand::Rng, of: &[T]) -> T {
        of[random.usize(..of.len())].clone()
    }

    fn number(&mut self) -> u16 {
        Self::one(&mut self.random, &self.numbers)
    }

    /// A frame and the port that it goes into; its number is in it more than once.
    pub fn frame(&mut self, number: u32) -> (u8, Vec<u8>) {
        let random = &mut self.random;
        let family = random.usize(..2);
        let source = Self::one(random, &self.addresses[family]);
        let target = Self::one(random, &self.addresses[family]);
        let net = random.u8(..PORTS);
        let marked = (MARK | number << 4).to_be_bytes();
        // Most with an odd distance still to go: some rules ask for it.
        let hops = Self::one(random, &[64, 64, 64, 255, 6, 5, 4, 3, 2]);
        let kind = random.u8(..10);
        let packet = between(&source, &target).to(port_mac(net)).ttl(hops);
        let packet = match kind {
            0..=3 => self.tcp(packet, marked),
            4..=6 => self.udp(packet, marked),
            7..=8 => self.icmp(packet, family, marked),
            _ => packet.carrying(Self::one(&mut self.random, &[47, 50, 51, 89, 132, 135]), [marked; 5].concat()),
        };
        // Some are the first fragment of what nobody sends the rest of. No later ones: nft of Linux 6.18 takes what stands in
        // them for ports (`nft_payload_fast_eval`), or the beginning of the IPv6 header.
        let packet = match self.random.u8(..16) {
            0 if family == 0 => packet.fragment(0x2000),
            0 => packet.extension(44, &[0, 0, 1, 0, 0, 0, 7]),
            _ => packet,
        };
        let mut frame = packet.frame();
        frame[6..12].copy_from_slice(&host_mac(net, 2).0);
        if self.random.u8(..4) == 0 {
            self.marks_of_service(&mut frame, family);
        }
        (net, frame)
    }

    fn tcp(&mut self, packet: Packet, marked: [u8; 4]) -> Packet {
        let (from, to) = (self.number(), self.number());
        let flags = Self::one(&mut self.random, &[0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x00, 0x03, 0x06, 0x29]);
        // Number and acknowledgement both say which one it is, so that a reset does.
        let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
        segment.extend([marked, marked].concat());
        segment.extend([0x50, flags, 4, 0, 0, 0, 0, 0]);
        let checksum = !packet.pseudo(6, &segment);
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        packet.carrying(6, segment)
    }

    fn udp(&mut self, packet: Packet, marked: [u8; 4]) -> Packet {
        let (from, to) = (self.number(), self.number());
        let size = if self.random.u8(..4) == 0 { 1400 } else { 8 };
        let mut datagram = [from.to_be_bytes(), to.to_be_bytes()].concat();
        datagram.extend((size as u16 + 8).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend([marked, marked].concat());
        datagram.resize(size + 8, 0);
        let checksum = !packet.pseudo(17, &datagram);
        datagram[6..8].copy_from_slice(&if checksum == 0 { 0xffff } else { checksum }.to_be_bytes());
        packet.carrying(17, datagram)
    }

    fn icmp(&mut self, packet: Packet, family: usize, marked: [u8; 4]) -> Packet {
        // No errors: what those quote is looked at by the kernel, and told to sockets that nobody has.
        let (protocol, kinds): (u8, &[u8]) =
            if family == 0 { (1, &[0, 8, 8, 13, 3, 11]) } else { (58, &[128, 128, 129, 1, 3, 130]) };
        let kind = Self::one(&mut self.random, kinds);
        let code = if kind == 3 { Self::one(&mut self.random, &[0, 1, 3, 4, 13]) } else { 0 };
        let mut message = vec![kind, code, 0, 0];
        message.extend([marked; 12].concat());
        let checksum = if family == 0 { !sum(&message) } else { !packet.pseudo(58, &message) };
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        packet.carrying(protocol, message)
    }

    /// A DSCP that rules ask for.
    fn marks_of_service(&mut self, frame: &mut [u8], family: usize) {
        let dscp = Self::one(&mut self.random, &[0x2e, 0x18, 0x22, 0x08]);
        if family == 1 {
            frame[14] |= dscp >> 2;
            frame[15] |= dscp << 6;
            return;
        }
        frame[15] = dscp << 2;
        frame[24..26].fill(0);
        let checksum = !sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// An address of a file, one beside it, and one at the end of its prefix.
fn around(address: IpAddr, word: &str, addresses: &mut [Vec<String>; 2]) {
    let length = word.split_once('/').and_then(|(_, length)| length.parse::<u32>().ok());
    match address {
        IpAddr::V4(one) => {
            let bits = u32::from(one);
            let last = bits | u32::MAX.checked_shr(length.unwrap_or(32)).unwrap_or(0);
            let near = [bits, bits.wrapping_add(1), last, last.wrapping_add(1), bits.wrapping_sub(1)];
            addresses[0].extend(
                near.map(std::net::Ipv4Addr::from).iter().filter(|one| ordinary4(**one)).map(ToString::to_string),
            );
        }
        IpAddr::V6(one) => {
            let bits = u128::from(one);
            let last = bits | u128::MAX.checked_shr(length.unwrap_or(128)).unwrap_or(0);
            let near = [bits, bits.wrapping_add(1), last, last.wrapping_add(1), bits.wrapping_sub(1)];
            let ordinary = |one: &&std::net::Ipv6Addr| one.segments()[0] & 0xe000 == 0x2000;
            addresses[1].extend(near.map(std::net::Ipv6Addr::from).iter().filter(ordinary).map(ToString::to_string));
        }
    }
}

/// No martians: both routers drop these, for reasons of their own.
fn ordinary4(address: std::net::Ipv4Addr) -> bool {
    !(address.is_loopback()
        || address.is_multicast()
        || address.is_unspecified()
        || address.octets()[0] == 0
        || address.octets()[0] >= 224)
}
