//! Steering: which socket a new connection or datagram gets, by prefix and range of ports. The layout of the maps of program
//! `steer`, and its search.
//!
//! No part of [`crate::abi`]: the maps belong to a program of their own, which outlives the layout of the others.
//!
//! The addresses of a protocol and family are cut into ranges in which the same entries match, and the ports of each range
//! into ranges that go to one entry. Each is found by halving, so the cost grows with the logarithm of the entries.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many entries there can be at once. Each has a socket of its own, at its own index.
pub const STEER_ENTRIES: u32 = 4096;
/// How many ranges of addresses there can be: an entry begins and ends at most one each, and each class begins with one.
pub const STEER_RANGES: u32 = 2 * STEER_ENTRIES + STEER_CLASSES as u32;
/// How many ranges of ports there can be.
pub const STEER_PORTS: u32 = 1 << 18;
/// TCP and UDP, each of both families.
pub const STEER_CLASSES: usize = 4;
/// Bytes of the words that say where an entry's socket came from.
pub const STEER_ORIGIN: usize = 92;

/// An entry, as the controller wrote it down and finds it again. Programs read its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SteerEntry {
    /// The first address, as [`SteerRange::address`].
    pub address: [u64; 2],
    /// Its number, which no later entry gets.
    pub id: u32,
    /// The first and the last port.
    pub ports: [u16; 2],
    /// See [`class`].
    pub class: u8,
    /// Bits of the prefix.
    pub length: u8,
    /// [`Self::USED`], [`Self::OR_DROP`], [`Self::CONFIG`].
    pub flags: u8,
    /// Bytes of `origin` that are in use.
    pub origin_length: u8,
    /// Where the socket came from, in words.
    pub origin: [u8; STEER_ORIGIN],
}

impl SteerEntry {
    /// None.
    pub const FREE: Self = Self {
        address: [0; 2],
        id: 0,
        ports: [0; 2],
        class: 0,
        length: 0,
        flags: 0,
        origin_length: 0,
        origin: [0; STEER_ORIGIN],
    };
    /// There is an entry.
    pub const USED: u8 = 1;
    /// Without its socket no other gets what matches.
    pub const OR_DROP: u8 = 2;
    /// It is of the config.
    pub const CONFIG: u8 = 4;
}

/// Addresses from this one to the next range's, of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SteerRange {
    /// The first address, as a number in two halves, the upper one first. Those of IPv4 are in the lower 32 bits.
    pub address: [u64; 2],
    /// Its first range of ports.
    pub first: u32,
    /// How many it has; 0: no entry matches.
    pub count: u32,
}

/// Ports from this one to the next range's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SteerPorts {
    /// The first port.
    pub first: u32,
    /// The index of the entry, or [`NO_ENTRY`].
    pub entry: u32,
}

/// No entry.
pub const NO_ENTRY: u32 = u32::MAX;

/// What became of lookups that matched an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SteerCounter {
    /// Its socket got them.
    pub steered: u64,
    /// It had no socket: the kernel looked on.
    pub passed: u64,
    /// It had no socket, and [`SteerEntry::OR_DROP`].
    pub dropped: u64,
}

/// Where the ranges of each class are, and how many steps a search takes: constants of a loaded program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerShape {
    /// By class, the index of its first range, and of the one behind its last.
    pub ranges: [[u32; 2]; STEER_CLASSES],
    /// A power of two, at most the ranges of the largest class; 0: there is one at most.
    pub range_step: u32,
    /// The same of the ports of the range with most of them.
    pub port_step: u32,
}

impl SteerShape {
    /// How many words it has.
    pub const WORDS: usize = STEER_CLASSES + 1;

    /// As words.
    pub fn words(&self) -> [u64; Self::WORDS] {
        let mut words = [0; Self::WORDS];
        for (word, [first, end]) in words.iter_mut().zip(self.ranges) {
            *word = u64::from(first) | u64::from(end) << 32;
        }
        words[STEER_CLASSES] = u64::from(self.range_step) | u64::from(self.port_step) << 32;
        words
    }
}

/// The first step of a search among so many.
pub const fn first_step(count: u32) -> u32 {
    if count < 2 { 0 } else { 1 << (count - 1).ilog2() }
}

/// The class of a protocol and family: `None` where none is steered.
#[inline(always)]
pub const fn class(protocol: u32, ipv6: bool) -> Option<u32> {
    let family = ipv6 as u32;
    match protocol {
        6 => Some(family),
        17 => Some(2 | family),
        _ => None,
    }
}

/// The maps of the search.
pub trait SteerTable {
    /// A range of addresses.
    fn range(&self, index: u32) -> Option<&SteerRange>;
    /// A range of ports.
    fn ports(&self, index: u32) -> Option<&SteerPorts>;

    /// See [`range_step`]. Programs have it as a function that is verified once.
    #[inline(always)]
    fn range_step(&self, at: u32, step: u32, end: u32, address: [u64; 2]) -> u32 {
        range_step(self, at, step, end, address)
    }

    /// See [`port_step`].
    #[inline(always)]
    fn port_step(&self, at: u32, step: u32, end: u32, port: u32) -> u32 {
        port_step(self, at, step, end, port)
    }
}

/// Goes on by `step` if the range there begins at or before `address`.
#[inline(always)]
pub fn range_step<T: SteerTable + ?Sized>(table: &T, at: u32, step: u32, end: u32, address: [u64; 2]) -> u32 {
    let next = at.wrapping_add(step);
    if next >= end {
        return at;
    }
    let Some(range) = table.range(next) else { return at };
    let [upper, lower] = range.address;
    if upper < address[0] || upper == address[0] && lower <= address[1] { next } else { at }
}

/// Goes on by `step` if the ports there begin at or before `port`.
#[inline(always)]
pub fn port_step<T: SteerTable + ?Sized>(table: &T, at: u32, step: u32, end: u32, port: u32) -> u32 {
    let next = at.wrapping_add(step);
    if next >= end {
        return at;
    }
    let Some(ports) = table.ports(next) else { return at };
    if ports.first <= port { next } else { at }
}

/// The index of the entry for an address and port, or [`NO_ENTRY`]. `first` and `end` are the ranges of the class, the steps
/// those of [`SteerShape`].
#[inline(always)]
pub fn find<T: SteerTable + ?Sized>(
    table: &T,
    [first, end]: [u32; 2],
    [range_step, port_step]: [u32; 2],
    address: [u64; 2],
    port: u32,
) -> u32 {
    if first >= end {
        return NO_ENTRY;
    }
    let (mut at, mut step) = (first, range_step);
    while step != 0 {
        at = table.range_step(at, step, end, address);
        step >>= 1;
    }
    let Some(range) = table.range(at) else { return NO_ENTRY };
    let (first, count) = (range.first, range.count);
    if count == 0 {
        return NO_ENTRY;
    }
    let end = first.wrapping_add(count);
    let (mut at, mut step) = (first, port_step);
    while step != 0 {
        at = table.port_step(at, step, end, port);
        step >>= 1;
    }
    table.ports(at).map_or(NO_ENTRY, |ports| ports.entry)
}

/// An address of IPv4 as [`SteerRange::address`].
#[inline(always)]
pub const fn address4(address: u32) -> [u64; 2] {
    [0, address as u64]
}

/// Names of maps and constants, as both halves know them.
pub mod map {
    /// [`super::SteerEntry`] by index.
    pub const ENTRIES: &str = "STEER_ENTRIES";
    /// Sockets, by the index of their entry.
    pub const SOCKETS: &str = "STEER_SOCKETS";
    /// Per CPU, [`super::SteerCounter`] by the index of an entry.
    pub const COUNTERS: &str = "STEER_COUNTERS";
    /// [`super::SteerRange`]; [`super::SteerShape`] says which is whose.
    pub const RANGES: &str = "STEER_RANGES";
    /// [`super::SteerPorts`]; [`super::SteerRange`] says which is whose.
    pub const PORTS: &str = "STEER_PORTS";
    /// The read-only global with the words of [`super::SteerShape`].
    pub const SHAPE: &str = "STEER_SHAPE";
}

const _: () = assert!(size_of::<SteerEntry>() == 120);
const _: () = assert!(size_of::<SteerRange>() == 24);
const _: () = assert!(size_of::<SteerPorts>() == 8);
const _: () = assert!(size_of::<SteerCounter>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    struct Tables<'a>(&'a [SteerRange], &'a [SteerPorts]);

    impl SteerTable for Tables<'_> {
        fn range(&self, index: u32) -> Option<&SteerRange> {
            self.0.get(index as usize)
        }

        fn ports(&self, index: u32) -> Option<&SteerPorts> {
            self.1.get(index as usize)
        }
    }

    #[test]
    fn halving_finds_the_last_that_begins_before() {
        for count in 1..70_u32 {
            let range = |index: u32| SteerRange { address: [0, u64::from(index) * 10], first: index, count: 1 };
            let mut ranges = [range(0); 70];
            let mut ports = [SteerPorts { first: 0, entry: 0 }; 70];
            for index in 0..count {
                (ranges[index as usize], ports[index as usize].entry) = (range(index), index);
            }
            let tables = Tables(&ranges[..count as usize], &ports[..count as usize]);
            for address in 0..count * 10 + 15 {
                let want = (address / 10).min(count - 1);
                let found = find(&tables, [0, count], [first_step(count), 0], [0, address.into()], 7);
                assert_eq!(found, want, "{address} of {count}");
            }
            assert_eq!(find(&tables, [0, count], [first_step(count), 0], [1, 0], 7), count - 1);
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let empty = [SteerRange { address: [0; 2], first: 0, count: 0 }];
        assert_eq!(find(&Tables(&empty, &[]), [0, 1], [0, 0], [0, 5], 7), NO_ENTRY);
        assert_eq!(find(&Tables(&[], &[]), [0, 0], [0, 0], [0, 5], 7), NO_ENTRY);
        assert_eq!(
            [class(6, false), class(6, true), class(17, false), class(17, true)].map(Option::unwrap),
            [0, 1, 2, 3]
        );
        assert_eq!(class(132, false), None);
    }
}
