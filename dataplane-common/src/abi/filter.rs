//! The filter as the kernel half reads it: tables of entries by masked keys.
//!
//! A rule becomes an entry for each box of addresses, ports and the like that it describes. Entries with the same mask (made
//! coarser where that saves a table) share a table, which costs one hash lookup: the entries with the same masked key are one
//! *run*, in the order of the rules. Tables are searched in the order of their first rule, until the match comes before all
//! remaining tables; tables that have no entry for the packet's addresses are skipped ([`Prefilter`]). A rule that matches
//! every packet is in no table: the search begins with it as its result ([`CatchAll`]). So the cost of a packet depends on the
//! number of tables (tens), not of rules.
//!
//! Each chain has four classes of tables ([`super::Class`]): of either family, for packets whose transport header could be read
//! and for those where it could not. All of one generation lies in one half of the map `FILTER`, in lines of eight words.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{ADDRESS_WORDS, CLASSES, Prefilter, Search};

/// Chains, in the order prerouting, input, forward, output.
pub const CHAINS: usize = 4;

/// A chain, by its place in [`Filter::tables`] and wherever else chains are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ChainId {
    /// Before the route lookup.
    Prerouting = 0,
    /// To this machine.
    Input = 1,
    /// Through this machine.
    Forward = 2,
    /// From this machine.
    Output = 3,
}

impl ChainId {
    /// As a number.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self as u32
    }
}
/// In the number of a chain: the search counts nothing and says nothing to the controller.
pub const QUIET: u32 = 8;
/// Tables that one class, or one set, can have.
pub const TABLES: u32 = 256;

/// An inclusive range of 16-bit values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Span {
    /// First value inside.
    pub low: u16,
    /// Last value inside.
    pub high: u16,
}

impl Span {
    /// All values.
    pub const FULL: Self = Self { low: 0, high: u16::MAX };

    /// Whether `value` is inside.
    #[inline(always)]
    pub const fn contains(self, value: u16) -> bool {
        self.low <= value && value <= self.high
    }
}

/// What a rule, or the policy of a chain, says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum ActionCode {
    /// Ends the chain; the packet goes on.
    Accept = 0,
    /// Ends the packet.
    Drop = 1,
    /// Counts, then goes on with the next rule.
    Continue = 2,
    /// A rule that drops matches on fields that cannot be read.
    Unreadable = 3,
}

impl ActionCode {
    /// From its number; anything unknown drops.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Accept,
            2 => Self::Continue,
            3 => Self::Unreadable,
            _ => Self::Drop,
        }
    }

    /// That in a word [`entry::RULE`].
    #[inline(always)]
    pub const fn of(rule: u64) -> Self {
        Self::from_number((rule >> 24) as u32 & 0xf)
    }
}

bitflags! {
    /// What a rule does besides.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Acts: u32 {
        /// Holds only within, or over, a rate ([`super::Limit`]).
        const LIMIT = 1 << 0;
        /// Sends the packet to the controller, which logs it.
        const LOG = 1 << 1;
        /// Sends the packet to the controller, which answers the sender.
        const REJECT = 1 << 2;
    }
}

impl Acts {
    /// Those in a word [`entry::RULE`].
    #[inline(always)]
    pub const fn of(rule: u64) -> Self {
        Self::from_bits_truncate((rule >> 28) as u32 & 0xf)
    }
}

/// Where the tables of one class are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tables {
    /// Line of the first table, from the beginning of the generation.
    pub first: u32,
    /// How many follow.
    pub count: u32,
    /// Which of them have something for a packet. Those of sets have none.
    pub prefilter: Prefilter,
    /// What decides where nothing in them is before it. Sets have none.
    pub catch_all: CatchAll,
}

/// The first rule that accepts or drops all packets of a class; rules behind it never match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CatchAll {
    /// Its order. With the bit [`Search::NONE`] there is no such rule, or none any more: to say that changes one byte.
    pub order: u64,
    /// Its word [`entry::RULE`].
    pub rule: u64,
}

impl CatchAll {
    /// There is none.
    pub const NONE: Self = Self { order: Search::NONE, rule: 0 };
}

impl Default for CatchAll {
    fn default() -> Self {
        Self::NONE
    }
}

/// One generation of the filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Filter {
    /// By chain and [`super::Class`].
    pub tables: [[Tables; CLASSES]; CHAINS],
    /// [`ActionCode`] of each chain where no rule decides: accept or drop.
    pub policies: [u32; CHAINS],
    /// Line of `FILTER` at which this generation begins.
    pub base: u32,
    /// 1: rules do not drop what they cannot read, but read of a transport header what is there; else 0.
    pub lenient: u32,
    /// Which bits of [`super::field::TRANSPORT`] some rule matches, as far as a row of the verdict cache has them.
    pub transport: u32,
    /// Zero.
    pub reserved: u32,
}

impl Filter {
    /// What a new map holds: no tables, and chains that accept.
    pub const EMPTY: Self = {
        let prefilter = Prefilter { line: 0, mask: 0, destination: 0, source: 0 };
        let tables = Tables { first: 0, count: 0, prefilter, catch_all: CatchAll::NONE };
        Self {
            tables: [[tables; CLASSES]; CHAINS],
            policies: [0; CHAINS],
            base: 0,
            lenient: 0,
            transport: 0,
            reserved: 0,
        }
    };
}

/// Which words of a line describe a table: the masks of the addresses, of [`super::Key::mixed`], and two words of numbers.
pub mod table {
    /// Mask of [`crate::abi::Key::mixed`], behind those of the addresses.
    pub const MIXED: usize = super::ADDRESS_WORDS;
    /// How far tags are shifted ([`crate::abi::shift`]) `<< 32`, line of the first slot.
    pub const SLOTS: usize = 5;
    /// Order of its first rule.
    pub const FIRST: usize = 6;
}

/// An entry as words: IPv4 takes half a line, IPv6 a line, whose first words are the addresses.
pub mod entry {
    /// Words of an IPv4 entry.
    pub const WORDS_V4: u32 = 4;
    /// Words of an IPv6 entry.
    pub const WORDS_V6: u32 = 8;
    /// From the end of the addresses: source ports, first and last, destination ports, first and last, 16 bits each.
    pub const PORTS: usize = 0;
    /// Order `<< 32`, IPv4 prefix length of the destination `<< 24`, of the source `<< 16`, protocol `<< 8`, flags.
    pub const NUMBERS: usize = 1;
    /// Unit of the extra fields or 0 `<< 32`, [`super::Acts`] `<< 28`, [`super::ActionCode`] `<< 24`, counter.
    pub const RULE: usize = 2;
    /// IPv6: how many bits of each word of the addresses count, the first in the lowest byte.
    pub const LENGTHS_V6: usize = 7;
    /// Flag: compares the protocol. Below it, [`crate::abi::KeyFlags`] that the packet must have.
    pub const PROTOCOL: u64 = 0x10;
    /// Flag: the last of its run.
    pub const LAST: u64 = 0x80;
    /// Bits of the counter.
    pub const COUNTER: u64 = 0xff_ffff;
}

/// Which words of the second line of a rest are what; the first has masks (upper half) and values of [`crate::abi::Key::fields`].
pub mod extra {
    /// Length, first and last `<< 16` (lower half); number of sets (bits 32 to 39), which are negated (bits 40 to 47), and
    /// [`BEYOND`].
    pub const LENGTH: usize = 0;
    /// The first set: two words each. Line of its first table `<< 32`, number of tables; then its selectors, a byte each.
    pub const SETS: usize = 1;
    /// It matches more of a packet than a row of the verdict cache has.
    pub const BEYOND: u64 = 1 << 48;
}
