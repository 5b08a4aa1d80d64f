//! Rule sets in the shapes of `ClassBench` (Taylor and Turner, IEEE/ACM Transactions on Networking, 2007), fresh for each seed:
//! its shares of prefix lengths, ports and protocols, each varied, over networks and hosts that are drawn anew.

use std::net::Ipv4Addr;

use fastrand::Rng;

use super::classbench::{Filter, Set};

/// Values with their shares.
type Shares<T> = &'static [(T, f64)];

/// What a port is matched with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Any,
    One,
    High,
    Range,
}

/// What rules of a kind have in common.
struct Shape {
    name: &'static str,
    /// Prefix lengths, and how many distinct addresses there are for each rule.
    source: (Shares<u8>, f64),
    destination: (Shares<u8>, f64),
    ports: Shares<(Port, Port)>,
    protocols: Shares<Option<u8>>,
}

use Port::{Any, High, One, Range};

const SHAPES: [Shape; 3] = [
    Shape {
        name: "access",
        source: (
            &[(32, 68.0), (31, 19.0), (30, 3.0), (24, 3.0), (23, 4.0), (22, 1.3), (28, 0.6), (0, 0.3), (8, 0.2)],
            0.45,
        ),
        destination: (
            &[
                (32, 67.0),
                (31, 15.0),
                (30, 2.5),
                (25, 1.7),
                (24, 2.2),
                (23, 2.4),
                (22, 3.4),
                (21, 0.8),
                (16, 1.0),
                (14, 0.5),
                (8, 0.5),
                (3, 0.5),
                (0, 0.3),
            ],
            0.06,
        ),
        ports: &[((Any, One), 56.0), ((Any, Any), 31.5), ((Any, Range), 12.4)],
        protocols: &[(Some(6), 87.0), (None, 8.6), (Some(1), 3.1), (Some(17), 1.1)],
    },
    Shape {
        name: "firewall",
        source: (
            &[
                (0, 27.5),
                (1, 24.6),
                (2, 5.5),
                (32, 19.5),
                (31, 9.3),
                (30, 3.1),
                (29, 2.3),
                (28, 2.1),
                (27, 1.3),
                (26, 1.0),
                (22, 1.2),
                (20, 1.0),
                (16, 0.5),
                (11, 0.4),
                (8, 0.3),
            ],
            0.41,
        ),
        destination: (
            &[
                (32, 44.6),
                (31, 21.1),
                (0, 13.0),
                (1, 9.3),
                (2, 1.9),
                (30, 4.0),
                (29, 1.2),
                (28, 1.2),
                (27, 0.9),
                (22, 1.2),
                (21, 1.3),
                (20, 0.4),
            ],
            0.74,
        ),
        ports: &[
            ((Any, One), 56.0),
            ((Any, Any), 22.3),
            ((One, Any), 9.3),
            ((High, High), 7.1),
            ((One, One), 1.8),
            ((High, One), 1.7),
            ((One, High), 1.7),
            ((High, Range), 0.2),
        ],
        protocols: &[(Some(6), 58.0), (Some(17), 31.4), (Some(47), 5.7), (Some(1), 4.1), (None, 1.0)],
    },
    Shape {
        name: "chain",
        source: (
            &[
                (32, 27.4),
                (31, 8.9),
                (24, 14.2),
                (23, 10.9),
                (25, 10.5),
                (26, 5.2),
                (22, 4.1),
                (27, 3.2),
                (0, 3.4),
                (1, 2.2),
                (17, 1.9),
                (16, 1.7),
                (28, 1.8),
                (30, 1.4),
                (29, 1.0),
                (15, 0.8),
            ],
            0.17,
        ),
        destination: (
            &[
                (32, 33.7),
                (31, 10.6),
                (24, 12.0),
                (25, 11.1),
                (26, 6.4),
                (23, 6.1),
                (27, 3.9),
                (16, 2.9),
                (28, 2.7),
                (0, 2.4),
                (1, 1.4),
                (17, 1.4),
                (22, 1.2),
                (15, 1.3),
                (29, 1.3),
                (30, 1.0),
            ],
            0.3,
        ),
        ports: &[
            ((Any, Any), 38.1),
            ((Any, One), 35.1),
            ((One, Any), 14.3),
            ((Any, High), 6.7),
            ((Any, Range), 2.8),
            ((Range, Any), 2.2),
            ((High, Any), 0.4),
        ],
        protocols: &[(Some(17), 37.4), (None, 33.4), (Some(6), 27.3), (Some(1), 1.3), (Some(50), 0.3)],
    },
];

/// A set of `count` filters of the shape with this number, modulo three.
pub fn set(shape: usize, count: usize, seed: u64) -> Set {
    let shape = &SHAPES[shape % SHAPES.len()];
    let random = &mut Rng::with_seed(seed);
    let mut side = |(shares, distinct): (Shares<u8>, f64)| (varied(shares, random), addresses(distinct, count, random));
    let (source, destination) = (side(shape.source), side(shape.destination));
    let (ports, protocols) = (varied(shape.ports, random), varied(shape.protocols, random));
    let prefix = |(lengths, addresses): &(Vec<(u8, f64)>, Vec<u32>), random: &mut Rng| {
        let length = drawn(lengths, random);
        let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
        (Ipv4Addr::from(addresses[random.usize(..addresses.len())] & !host), length)
    };
    let filters = (0..count).map(|_| {
        let protocol = drawn(&protocols, random);
        let has_ports = matches!(protocol, Some(6 | 17));
        let (from, to) = if has_ports { drawn(&ports, random) } else { (Any, Any) };
        Filter {
            source: prefix(&source, random),
            destination: prefix(&destination, random),
            source_port: span(from, random),
            destination_port: span(to, random),
            protocol,
        }
    });
    Set { name: format!("{}-{seed}", shape.name), filters: filters.collect() }
}

/// Shares between half and twice of what they are.
fn varied<T: Copy>(shares: Shares<T>, random: &mut Rng) -> Vec<(T, f64)> {
    shares.iter().map(|(value, share)| (*value, share * 2_f64.powf(random.f64() * 2.0 - 1.0))).collect()
}

fn drawn<T: Copy>(shares: &[(T, f64)], random: &mut Rng) -> T {
    let mut left = random.f64() * shares.iter().map(|(_, share)| share).sum::<f64>();
    let over = shares.iter().find(|(_, share)| {
        left -= share;
        left < 0.0
    });
    over.unwrap_or(&shares[0]).0
}

/// Distinct addresses for each rule: hosts in subnets of a few networks.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a count"
)]
fn addresses(distinct: f64, count: usize, random: &mut Rng) -> Vec<u32> {
    let hosts = ((count as f64 * distinct) as usize).max(4);
    let networks: Vec<u32> = (0..24).map(|_| unicast(random) & 0xffff_0000).collect();
    let subnet = |random: &mut Rng| networks[random.usize(..networks.len())] | random.u32(..0x1_0000);
    let subnets: Vec<u32> = (0..hosts.div_ceil(12)).map(|_| subnet(random) & !0xff).collect();
    (0..hosts).map(|_| subnets[random.usize(..subnets.len())] | random.u32(..0x100)).collect()
}

/// An address that a router forwards, other than those of the chain's links.
fn unicast(random: &mut Rng) -> u32 {
    loop {
        let address = random.u32(0x0100_0000..0xe000_0000);
        if ![127, 169, 198, 203].contains(&(address >> 24)) {
            return address;
        }
    }
}

fn span(port: Port, random: &mut Rng) -> (u16, u16) {
    const KNOWN: [u16; 12] = [20, 21, 22, 25, 53, 80, 110, 123, 143, 443, 1521, 3306];
    match port {
        Any => (0, u16::MAX),
        High => (1024, u16::MAX),
        One => {
            let port = if random.bool() { KNOWN[random.usize(..KNOWN.len())] } else { random.u16(1..10_000) };
            (port, port)
        }
        Range => {
            let low = random.u16(1024..60_000);
            (low, low + random.u16(1..1000))
        }
    }
}

/// Whether a router forwards to an address, and takes packets from it.
pub const fn is_unicast(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first < 224 && !matches!(first, 127 | 169 | 198 | 203)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_set_and_another_seed_another() {
        for shape in 0..SHAPES.len() {
            let [one, same, other] = [1, 1, 2].map(|seed| set(shape, 500, seed).filters);
            assert_eq!(one, same);
            assert_ne!(one, other);
            for filter in &one {
                assert!(dataplane_user::rule::parse(&filter.rule()).is_ok(), "{}", filter.rule());
            }
        }
    }
}
