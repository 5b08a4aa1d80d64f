//! Routes and destinations of a run: few and in the lab's ranges, or many and spread as the Internet's are.

use std::{
    collections::HashSet,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// How many destinations the generator goes round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Frames {
    /// 4,096: every table line that is touched stays in the caches.
    Hot,
    /// 131,072: as many as a busy router has connections.
    Warm,
    /// 1,048,576: a packet finds its table lines in no cache.
    Cold,
}

impl Frames {
    /// Number of distinct destinations, a power of two.
    pub const fn destinations(self) -> usize {
        match self {
            Self::Hot => 1 << 12,
            Self::Warm => 1 << 17,
            Self::Cold => 1 << 20,
        }
    }
}

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Cold => "cold",
        })
    }
}

/// A prefix of either family, as 128 bits: an IPv4 address fills the upper 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Prefix {
    bits: u128,
    length: u32,
}

impl Prefix {
    fn new(bits: u128, length: u32) -> Self {
        Self { bits: bits & mask(length), length }
    }

    fn contains(self, address: u128) -> bool {
        address & mask(self.length) == self.bits
    }
}

const fn mask(length: u32) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - length) }
}

fn ipv4(a: u8, b: u8, c: u8, length: u32) -> Prefix {
    Prefix::new(u128::from(u32::from_be_bytes([a, b, c, 0])) << 96, length)
}

fn ipv6(high: u64, length: u32) -> Prefix {
    Prefix::new(u128::from(high) << 64, length)
}

/// One family's routes and where its packets go.
#[derive(Debug)]
pub struct Table<A> {
    /// Prefixes in the notation of `ip route`.
    pub routes: Vec<String>,
    /// Distinct addresses, each below one of the routes; their number is a power of two.
    pub destinations: Vec<A>,
}

/// IPv4. Up to 512 routes with hot frames stay within 198.18.0.0/15; else the whole unicast space is used, which no other
/// range is large enough for: it is never seen outside the bench's own namespaces.
pub fn table4(routes: usize, frames: Frames) -> Table<Ipv4Addr> {
    const LENGTHS: &[(u32, u32)] =
        &[(24, 60), (23, 10), (22, 12), (21, 5), (20, 4), (19, 3), (18, 2), (17, 1), (16, 3)];
    let bits = |address: u128| (address >> 96) as u32;
    let space = if frames == Frames::Hot && routes <= 512 {
        let mut prefixes = vec![ipv4(198, 18, 0, 15)];
        prefixes.extend((1..routes as u32).map(|n| ipv4(198, 18 + (n >> 8) as u8, n as u8, 24)));
        prefixes
    } else if routes <= 2 {
        vec![ipv4(0, 0, 0, 1), ipv4(128, 0, 0, 1)]
    } else {
        spread(routes, LENGTHS, 0x1504_7a61, unicast4)
    };
    let destinations = draw(&space, frames, 32, 0x9e37_79b9, unicast4).into_iter().map(|it| bits(it).into()).collect();
    let routes =
        space.iter().map(|prefix| format!("{}/{}", Ipv4Addr::from(bits(prefix.bits)), prefix.length)).collect();
    Table { routes, destinations }
}

/// IPv6. Few routes stay within `2001:db8::/32`; more than 1,000 take `2000::/3`, and of these a quarter as many as IPv4 has,
/// which is about the Internet's ratio.
pub fn table6(routes: usize, frames: Frames) -> Table<Ipv6Addr> {
    const LENGTHS: &[(u32, u32)] = &[(48, 47), (32, 13), (44, 12), (40, 12), (36, 6), (29, 4), (46, 4), (33, 2)];
    let space = if routes <= 1000 {
        let mut prefixes = vec![ipv6(0x2001_0db8_8000_0000, 33)];
        prefixes.extend((1..routes as u64).map(|n| ipv6(0x2001_0db8_8000_0000 | n << 16, 48)));
        prefixes
    } else {
        spread(routes / 4, LENGTHS, 0x0060_2d0c, unicast6)
    };
    let allowed = |address| routes <= 1000 || unicast6(address);
    let destinations = draw(&space, frames, 128, 0x85eb_ca6b, allowed).into_iter().map(Ipv6Addr::from).collect();
    let routes = space.iter().map(|prefix| format!("{}/{}", Ipv6Addr::from(prefix.bits), prefix.length)).collect();
    Table { routes, destinations }
}

/// Whether a router forwards to it, and the chain's own links do not use it.
fn unicast4(address: u128) -> bool {
    let first = (address >> 120) as u8;
    let links = [ipv4(198, 51, 100, 24), ipv4(203, 0, 113, 24), ipv4(169, 254, 0, 16)];
    (1..224).contains(&first) && first != 127 && !links.iter().any(|link| link.contains(address))
}

/// As [`unicast4`]; the chain's links are in `2001:db8::/32`.
fn unicast6(address: u128) -> bool {
    address >> 125 == 1 && !ipv6(0x2001_0db8_0000_0000, 32).contains(address)
}

/// Distinct prefixes whose lengths follow the weights.
fn spread(count: usize, lengths: &[(u32, u32)], seed: u64, allowed: fn(u128) -> bool) -> Vec<Prefix> {
    let mut random = Random(seed);
    let weights: u32 = lengths.iter().map(|(_, weight)| weight).sum();
    let mut taken = HashSet::with_capacity(count);
    let mut prefixes = Vec::with_capacity(count);
    while prefixes.len() < count {
        let mut ticket = random.next() as u32 % weights;
        let fits = |&&(_, weight): &&(u32, u32)| {
            let hit = ticket < weight;
            ticket = ticket.saturating_sub(weight);
            hit
        };
        let Some(&(length, _)) = lengths.iter().find(fits) else { continue };
        // Family bits of IPv6 are set rather than drawn; IPv4 is filtered only.
        let bits = if lengths[0].0 > 32 { random.wide() >> 3 | 1 << 125 } else { random.wide() };
        let prefix = Prefix::new(bits, length);
        if allowed(prefix.bits) && taken.insert(prefix) {
            prefixes.push(prefix);
        }
    }
    prefixes
}

/// Distinct addresses below the prefixes, every prefix as likely as any other.
fn draw(space: &[Prefix], frames: Frames, width: u32, seed: u64, allowed: impl Fn(u128) -> bool) -> Vec<u128> {
    let count = frames.destinations();
    let mut random = Random(seed);
    let mut taken = HashSet::with_capacity(count);
    let mut addresses = Vec::with_capacity(count);
    while addresses.len() < count {
        let prefix = space[random.next() as usize % space.len()];
        let address = prefix.bits | random.wide() & !mask(prefix.length) & mask(width);
        if allowed(address) && taken.insert(address) {
            addresses.push(address);
        }
    }
    addresses
}

/// `SplitMix64`: small, seeded, and the same on every machine.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_its_routes_and_distinct_destinations_below_them() {
        for (routes, frames, want4, want6) in [
            (1, Frames::Hot, 1, 1),
            (2, Frames::Hot, 2, 2),
            (512, Frames::Hot, 512, 512),
            (2, Frames::Cold, 2, 2),
            (20_000, Frames::Hot, 20_000, 5_000),
        ] {
            let (four, six) = (table4(routes, frames), table6(routes, frames));
            assert_eq!((four.routes.len(), six.routes.len()), (want4, want6), "{routes} {frames}");
            assert_eq!(four.routes.iter().collect::<HashSet<_>>().len(), want4, "{routes} {frames}");
            let distinct: HashSet<_> = four.destinations.iter().collect();
            assert_eq!(distinct.len(), frames.destinations());
            let distinct: HashSet<_> = six.destinations.iter().collect();
            assert_eq!(distinct.len(), frames.destinations());
        }
    }

    #[test]
    fn few_routes_stay_within_the_labs_ranges() {
        let inside = |address: &Ipv4Addr| address.octets()[0] == 198 && address.octets()[1] & 0xfe == 18;
        assert!(table4(512, Frames::Hot).destinations.iter().all(inside));
        let inside = |address: &Ipv6Addr| address.segments()[..2] == [0x2001, 0xdb8];
        assert!(table6(512, Frames::Cold).destinations.iter().all(inside));
    }
}
