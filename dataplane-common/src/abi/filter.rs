//! The filter as the kernel half reads it: tables of entries by masked keys.
//!
//! A rule becomes an entry for each box of addresses, ports and the like that it describes. Entries with the same mask
//! (made coarser where that saves a table) share a table, which is asked with one look into a hash: what has the same masked
//! key is one *run* of entries, in the order of the rules. Tables are asked in the order of their first rule, until what was
//! found is before all that is left; those that have nothing for the packet's addresses are passed over ([`Screen`]). A rule
//! that every packet fits is in no table: it is what is found before any is asked ([`CatchAll`]). So what a packet costs depends
//! on the number of tables (tens), not of rules.
//!
//! Each chain has four classes of tables ([`Class`]): of either family, for packets whose transport header could be read
//! and for those where it could not. All of one generation lies in one half of the map `FILTER`, in lines of eight words.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Lines, Screen, WORDS};

/// Chains, in the order prerouting, input, forward, output.
pub const CHAINS: usize = 4;
/// Classes of packets that a chain has tables for.
pub const CLASSES: usize = 4;
/// Words of the addresses in a [`Key`].
pub const ADDRESS_WORDS: usize = 4;
/// Words of a [`Key`] that only what is seldom asked is compared with (a *rest*).
pub const REST_WORDS: usize = 8;
/// How far from its home a value of a narrow set may be.
pub const SLOT_PROBES: u32 = 8;
/// Tables that one class, or one set, can have.
pub const TABLES: u32 = 256;
/// Entries that one masked key can have.
pub const RUN: u32 = 1 << 20;
/// Sets that one rule can ask.
pub const RULE_SETS: usize = 3;
/// Words of an element of a set.
pub const ELEMENT_WORDS: usize = 6;

/// Which word of [`Key::rest`] holds what. Numbers are in the host's byte order.
pub mod rest {
    /// Family (4 or 6) `<< 24`, protocol `<< 16`, DSCP `<< 8`, TTL or hop limit.
    pub const NETWORK: usize = 0;
    /// Interface index of the way in; 0 in chain output.
    pub const IIF: usize = 1;
    /// Interface index of the way out; 0 in chains prerouting and input.
    pub const OIF: usize = 2;
    /// VLAN identifier with [`VLAN_PRESENT`] `<< 16`, IPv4 fragment word (flags and offset).
    pub const VLAN_FRAGMENT: usize = 3;
    /// Link destination address, first four bytes. All three words of link addresses are as they lie in the frame ([`turned`]).
    pub const LINK_DESTINATION: usize = 4;
    /// Link destination address, last two bytes `<< 16`, link source address, first two bytes.
    pub const LINK_MIDDLE: usize = 5;
    /// Link source address, last four bytes.
    pub const LINK_SOURCE: usize = 6;
    /// Only with [`super::KeyFlags::TRANSPORT`]: TCP flags `<< 16`, ICMP type `<< 8`, ICMP code.
    pub const TRANSPORT: usize = 7;
    /// Set in the upper half of [`VLAN_FRAGMENT`] when the frame was tagged.
    pub const VLAN_PRESENT: u32 = 0x1000;

    /// A word that is a number as word `at` of a key has it, or the other way round.
    #[inline(always)]
    pub const fn turned(at: usize, word: u32) -> u32 {
        if at >= LINK_DESTINATION && at <= LINK_SOURCE { word.to_be() } else { word }
    }
}

bitflags! {
    /// What of a packet could be read, and what an entry needs of it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct KeyFlags: u32 {
        /// The transport header: flags and types.
        const TRANSPORT = 1 << 0;
        /// Ports (TCP, UDP, SCTP, UDP-Lite, DCCP).
        const PORTS = 1 << 1;
        /// Came through a link with Ethernet addresses.
        const ETHERNET = 1 << 2;
        /// There is, or may be, a transport header that could not be read.
        const UNREADABLE = 1 << 3;
    }
}

/// What a rule can ask of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Key {
    /// Destination and source: IPv4 both in the first word, destination in the upper half; IPv6 two words each.
    pub address: [u64; ADDRESS_WORDS],
    /// Source port, destination port (16 bits each, with [`KeyFlags::PORTS`]), protocol (8), way in and way out, folded (12).
    /// See [`mixed`].
    pub mixed: u64,
    /// See [`rest`].
    pub rest: [u32; REST_WORDS],
    /// Length of the IP packet, in bytes.
    pub length: u32,
    /// What could be read.
    pub flags: KeyFlags,
    /// Where the IP header begins in the frame.
    pub offset: u32,
    /// Zero.
    pub reserved: u32,
    /// What the set at hand is asked for.
    pub sought: Sought,
    /// How far the search of the kernel half is.
    pub search: Search,
}

/// A search on its way. It is here, not on a stack, because the verifier follows what is there through every turn of a loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Search {
    /// Line at which the generation begins.
    pub base: u32,
    /// Line of the first table.
    pub first: u32,
    /// Line of the first of the tables that `left` tells of.
    pub at: u32,
    /// Line of the first table behind those.
    pub table: u32,
    /// The line behind the last.
    pub end: u32,
    /// Which tables have something for the packet.
    pub screen: Screen,
    /// The next entry of the run at hand; 0 when there is none.
    pub unit: u32,
    /// Bits of the tables that are still to be asked, of those from `at` on.
    pub left: u64,
    /// Order of the first rule that counts.
    pub from: u64,
    /// Order of the rule found; from [`Self::NONE`] on when none is.
    pub best: u64,
    /// Its word [`entry::RULE`].
    pub rule: u64,
    /// What is found when the search begins anew.
    pub catch_all: CatchAll,
    /// Bytes to count at rules.
    pub bytes: u64,
    /// The first rules that log or reject: the lower halves of their words [`entry::RULE`]; 0 when there are none.
    pub told: [u32; 2],
    /// Line of the first table of the set at hand.
    pub set: u32,
    /// Whether it holds the packet.
    pub held: u32,
}

impl Search {
    /// Beyond the order of every rule.
    pub const NONE: u64 = 1 << 32;

    /// Whether no rule was found.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.best >= Self::NONE
    }

    /// What was found, as [`super::met`] has it.
    #[inline(always)]
    pub const fn verdict(&self) -> u32 {
        let found = super::met::ASKED | super::met::RULE | (self.rule & entry::COUNTER) as u32;
        if self.is_empty() { super::met::ASKED } else { found }
    }
}

impl Key {
    /// Notes the way out.
    #[inline(always)]
    pub const fn set_oif(&mut self, oif: u32) {
        self.rest[rest::OIF] = oif;
        self.mixed = self.mixed & !mixed::OIF | fold(oif) as u64;
    }

    /// The family: 4 or 6.
    #[inline(always)]
    pub const fn family(&self) -> u32 {
        self.rest[rest::NETWORK] >> 24
    }

    /// The class that is asked about this packet.
    #[inline(always)]
    pub const fn class(&self) -> Class {
        self.class_of(self.family() == 6)
    }

    /// The same where the family is known.
    #[inline(always)]
    pub const fn class_of(&self, ipv6: bool) -> Class {
        let dim = self.flags.contains(KeyFlags::UNREADABLE) as u32;
        Class(if ipv6 { Class::IPV6 } else { 0 } | if dim != 0 { Class::DIM } else { 0 })
    }
}

/// Which bits of [`Key::mixed`] are what.
pub mod mixed {
    /// Source port.
    pub const SOURCE_PORT: u64 = 0xffff << 48;
    /// Destination port.
    pub const DESTINATION_PORT: u64 = 0xffff << 32;
    /// Protocol.
    pub const PROTOCOL: u64 = 0xff << 24;
    /// Way in, folded.
    pub const IIF: u64 = 0xfff << 12;
    /// Way out, folded.
    pub const OIF: u64 = 0xfff;

    /// All of it together.
    #[inline(always)]
    pub const fn of(source_port: u64, destination_port: u64, protocol: u64, iif: u32, oif: u32) -> u64 {
        let links = (super::fold(iif) as u64) << 12 | super::fold(oif) as u64;
        source_port << 48 | destination_port << 32 | protocol << 24 | links
    }
}

/// An interface index in twelve bits: few machines have links that look alike in them, and entries ask for all bits.
#[inline(always)]
pub const fn fold(ifindex: u32) -> u32 {
    ifindex & 0xfff
}

/// What a chain has tables for: a family, and whether the transport header could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(u32);

impl Class {
    /// Bit: IPv6.
    const IPV6: u32 = 1;
    /// Bit: the transport header could not be read.
    const DIM: u32 = 2;
    /// All of them, by their numbers.
    pub const ALL: [Self; CLASSES] = [Self(0), Self(1), Self(2), Self(3)];

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Whether it is IPv6's.
    #[inline(always)]
    pub const fn is_ipv6(self) -> bool {
        self.0 & Self::IPV6 != 0
    }

    /// Whether it is for packets whose transport header could not be read.
    pub const fn is_dim(self) -> bool {
        self.0 & Self::DIM != 0
    }
}

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
pub enum Ruling {
    /// Ends the chain; the packet goes on.
    Accept = 0,
    /// Ends the packet.
    Drop = 1,
    /// Counts, then the next rule is asked.
    Continue = 2,
    /// A rule that drops asks for what can not be read.
    Unreadable = 3,
}

impl Ruling {
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
}

bitflags! {
    /// What a rule does besides.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Acts: u32 {
        /// Holds only within, or over, a rate ([`super::Limit`]).
        const LIMIT = 1 << 0;
        /// Tells the controller, which logs the packet.
        const LOG = 1 << 1;
        /// Tells the controller, which answers the sender.
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
    pub screen: Screen,
    /// What decides where nothing in them is before it. Sets have none.
    pub catch_all: CatchAll,
}

/// The first rule that accepts or drops all packets of a class; none behind it is ever asked.
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
    /// By chain and [`Class`].
    pub tables: [[Tables; CLASSES]; CHAINS],
    /// [`Ruling`] of each chain where no rule decides: accept or drop.
    pub policies: [u32; CHAINS],
    /// Line of `FILTER` at which this generation begins.
    pub base: u32,
    /// Zero.
    pub reserved: u32,
}

impl Filter {
    /// What a new map holds: no tables, and chains that accept.
    pub const EMPTY: Self = {
        let screen = Screen { line: 0, mask: 0, destination: 0, source: 0 };
        let tables = Tables { first: 0, count: 0, screen, catch_all: CatchAll::NONE };
        Self { tables: [[tables; CLASSES]; CHAINS], policies: [0; CHAINS], base: 0, reserved: 0 }
    };
}

/// Which words of a line describe a table: the masks of the addresses, of [`Key::mixed`], and two words of numbers.
pub mod table {
    /// Mask of [`super::Key::mixed`], behind those of the addresses.
    pub const MIXED: usize = super::ADDRESS_WORDS;
    /// How far tags are shifted ([`super::shift`]) `<< 32`, line of the first slot.
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
    /// Unit of what else it asks or 0 `<< 32`, [`super::Acts`] `<< 28`, [`super::Ruling`] `<< 24`, counter.
    pub const RULE: usize = 2;
    /// IPv6: how many bits of each word of the addresses count, the first in the lowest byte.
    pub const LENGTHS_V6: usize = 7;
    /// Flag: compares the protocol. Below it, [`super::KeyFlags`] that the packet must have.
    pub const PROTOCOL: u64 = 0x10;
    /// Flag: the last of its run.
    pub const LAST: u64 = 0x80;
    /// Bits of the counter.
    pub const COUNTER: u64 = 0xff_ffff;
}

/// Which words of the second line of a rest are what; the first has masks (upper half) and values of [`Key::rest`].
pub mod more {
    /// Length, first and last `<< 16` (lower half); number of sets (bits 32 to 39), which are negated (bits 40 to 47).
    pub const LENGTH: usize = 0;
    /// The first set: two words each. Line of its first table `<< 32`, number of tables; then its selectors, a byte each.
    pub const SETS: usize = 1;
}

/// The mix of a masked key: the sum of its words, each times a number of its own. None waits for another.
#[derive(Clone, Copy)]
pub struct Hash {
    sum: u64,
    /// For the next word.
    factor: u64,
}

impl Hash {
    /// Of nothing.
    pub const START: Self = Self { sum: 0, factor: 0x9e37_79b9_7f4a_7c15 };

    /// With one more word.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, word: u64) -> Self {
        Self {
            sum: self.sum.wrapping_add(word.wrapping_mul(self.factor)),
            factor: self.factor.wrapping_mul(0xd6e8_feb8_6659_fd93),
        }
    }

    /// Where to look, and what to look for there. Upper bits are the better ones: all below them have a say in them.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.sum >> 32) as u32
    }
}

/// Word `word` of a line, both counted from the beginning of a generation that starts at `base`.
#[inline(always)]
fn word<L: Lines>(lines: &L, line: u32, word: usize) -> u64 {
    match lines.line(line) {
        Some(line) => lines.word(line, word),
        None => 0,
    }
}

/// How far a tag is shifted where there are so many slots, a power of two up to 2^27: what is left is its place and, below it,
/// the five bits of its trace.
pub const fn shift(slots: usize) -> u32 {
    27 - slots.trailing_zeros()
}

/// The place of a tag among slots.
#[inline(always)]
pub const fn place(tag: u32, shift: u32) -> u32 {
    left(tag, shift) >> 5
}

/// Which bit of a slot's upper half tells of a tag.
#[inline(always)]
pub const fn trace(tag: u32, shift: u32) -> u64 {
    1 << (32 + (left(tag, shift) & 31))
}

#[inline(always)]
const fn left(tag: u32, shift: u32) -> u32 {
    (tag as u64 >> (shift & 63)) as u32
}

/// The number in the slot of a tag, or 0 when nothing with this tag is there. A slot has a number in its lower half, and in
/// the upper half the [`trace`]s of the tags that it leads to.
#[inline(always)]
pub fn slot<L: Lines>(lines: &L, base: u32, slots: u64, tag: u32) -> u32 {
    let shift = (slots >> 32) as u32;
    let place = place(tag, shift);
    let found = word(lines, base + slots as u32 + place / WORDS as u32, place as usize % WORDS);
    if found & trace(tag, shift) == 0 { 0 } else { found as u32 }
}

/// What one look into a table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Nothing in it fits, nor in the tables behind it: all of them come later.
    Over,
    /// No entry has this masked key.
    Nothing,
    /// The unit at which the run begins.
    Run(u32),
}

/// Looks into the table at a line. `best` is the order of what was found so far.
#[inline(always)]
pub fn probe<L: Lines>(lines: &L, base: u32, table: u32, key: &Key, ipv6: bool, best: u64) -> Probe {
    let Some(line) = lines.line(base + table) else { return Probe::Over };
    if lines.word(line, table::FIRST) >= best {
        return Probe::Over;
    }
    let mut hash = Hash::START.with(key.mixed & lines.word(line, table::MIXED));
    hash = hash.with(key.address[0] & lines.word(line, 0));
    if ipv6 {
        hash = hash.with(key.address[1] & lines.word(line, 1));
        hash = hash.with(key.address[2] & lines.word(line, 2));
        hash = hash.with(key.address[3] & lines.word(line, 3));
    }
    match slot(lines, base, lines.word(line, table::SLOTS), hash.tag()) {
        0 => Probe::Nothing,
        run => Probe::Run(run),
    }
}

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing more in this run.
    End,
    /// Not this one.
    Next,
    /// This one, if the rest at the unit (0: there is none) agrees; and whether it is the last of its run.
    Fits {
        /// Its place in the order of rules.
        order: u32,
        /// Its word [`entry::RULE`].
        rule: u64,
        /// Whether it is the last of its run.
        last: bool,
    },
}

/// The mask of a prefix of up to 32 bits.
#[inline(always)]
pub const fn mask32(length: u64) -> u64 {
    (0xffff_ffff_0000_0000 >> length) & 0xffff_ffff
}

/// The mask of a prefix of up to 64 bits.
#[inline(always)]
pub const fn mask64(length: u64) -> u64 {
    // No shift may be by 64.
    !(!0 >> (length >> 1) >> (length - (length >> 1)))
}

/// All ones when `flag` is 1, and zero when it is 0.
#[inline(always)]
const fn all(flag: u64) -> u64 {
    0_u64.wrapping_sub(flag)
}

/// Not zero when `value` is not in the span of the two halves of `span`'s lower 32 bits.
#[inline(always)]
const fn outside(value: u64, span: u64) -> u64 {
    (value.wrapping_sub(span >> 16 & 0xffff) | (span & 0xffff).wrapping_sub(value)) >> 63
}

/// Asks the entry at a unit (an IPv4 entry is a unit, an IPv6 entry two). Orders below `from` and from `best` on do not count.
///
/// `ipv6` is for IPv6 entries, and says whether their addresses differ from the packet's ([`differ`]). All comparisons become
/// one number: the verifier follows every branch.
#[inline(always)]
pub fn ask<L: Lines>(
    lines: &L,
    base: u32,
    unit: u32,
    key: &Key,
    (from, best): (u64, u64),
    ipv6: Option<impl Fn() -> u64>,
) -> Answer {
    let Some(line) = lines.line(base + unit / 2) else { return Answer::End };
    let first = if ipv6.is_some() { 0 } else { (unit as usize & 1) * 4 };
    let behind = first + if ipv6.is_some() { ADDRESS_WORDS } else { 1 };
    let numbers = lines.word(line, behind + entry::NUMBERS);
    let order = numbers >> 32;
    if order >= best {
        return Answer::End;
    }
    let mut differs = order.wrapping_sub(from) >> 63;
    if let Some(differ) = ipv6 {
        differs |= differ();
    } else {
        let (destination, source) = (numbers >> 24 & 0x3f, numbers >> 16 & 0x3f);
        differs |= (key.address[0] ^ lines.word(line, first)) & (mask32(destination) << 32 | mask32(source));
    }
    let ports = lines.word(line, behind + entry::PORTS);
    differs |= outside(key.mixed >> 48, ports >> 32) | outside(key.mixed >> 32 & 0xffff, ports);
    differs |= (key.mixed >> 24 ^ numbers >> 8) & 0xff & all(numbers >> 4 & 1);
    differs |= numbers & 0xf & !u64::from(key.flags.bits());
    let last = numbers & entry::LAST != 0;
    if differs != 0 {
        return if last { Answer::End } else { Answer::Next };
    }
    Answer::Fits { order: order as u32, rule: lines.word(line, behind + entry::RULE), last }
}

/// Not zero when the addresses of the IPv6 entry at a unit are not those of the packet.
#[inline(always)]
pub fn differ<L: Lines>(lines: &L, base: u32, unit: u32, key: &Key) -> u64 {
    let Some(line) = lines.line(base + unit / 2) else { return 1 };
    let lengths = lines.word(line, entry::LENGTHS_V6);
    let (mut differs, mut at) = (0, 0);
    while at < ADDRESS_WORDS {
        differs |= (key.address[at] ^ lines.word(line, at)) & mask64(lengths >> (8 * at) & 0x7f);
        at += 1;
    }
    differs
}

/// Whether the rest at a unit agrees with a packet. Sets are asked by [`holds`].
#[inline(always)]
pub fn agrees<L: Lines>(lines: &L, base: u32, unit: u32, key: &Key) -> bool {
    let Some(line) = lines.line(base + unit / 2) else { return false };
    let mut at = 0;
    let mut differs = 0;
    while at < REST_WORDS {
        let pair = lines.word(line, at);
        differs |= (key.rest[at] ^ pair as u32) & (pair >> 32) as u32;
        at += 1;
    }
    if differs != 0 {
        return false;
    }
    let spans = word(lines, base + unit / 2 + 1, more::LENGTH);
    // Jumbograms and packets still to be cut are longer than a span can say.
    let length = if key.length > 0xffff { 0xffff } else { u64::from(key.length) };
    spans >> 16 & 0xffff <= length && length <= spans & 0xffff
}

/// The sets that a rest asks: how many, and which must not hold the packet.
#[inline(always)]
pub fn sets<L: Lines>(lines: &L, base: u32, unit: u32) -> u64 {
    word(lines, base + unit / 2 + 1, more::LENGTH) >> 32
}

/// A set that a rest asks: its tables (line of the first `<< 32`, how many), and its selectors.
#[inline(always)]
pub fn set<L: Lines>(lines: &L, base: u32, unit: u32, number: usize) -> (u64, u64) {
    let at = more::SETS + 2 * number;
    (word(lines, base + unit / 2 + 1, at), word(lines, base + unit / 2 + 1, at + 1))
}

/// What a component of an element is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Selector {
    /// No more components.
    End = 0,
    /// IPv4 destination.
    Destination4 = 1,
    /// IPv4 source.
    Source4 = 2,
    /// IPv6 destination: two words.
    Destination6 = 3,
    /// IPv6 source: two words.
    Source6 = 4,
    /// Destination port.
    DestinationPort = 5,
    /// Source port.
    SourcePort = 6,
    /// Protocol.
    Protocol = 7,
    /// Way in.
    Iif = 8,
    /// Way out.
    Oif = 9,
    /// Link destination.
    LinkDestination = 10,
    /// Link source.
    LinkSource = 11,
}

impl Selector {
    /// Words of an element that it takes.
    pub const fn words(self) -> usize {
        match self {
            Self::End => 0,
            Self::Destination6 | Self::Source6 => 2,
            _ => 1,
        }
    }
}

/// The words that a set is asked for. Masks say which of them count.
pub type Sought = [u64; WORDS];

/// What a selector picks from a packet: its first word and, where it takes two, its second.
#[inline(always)]
pub fn pick(key: &Key, selector: u64) -> (u64, u64) {
    let link = |high: u32, low: u32| (u64::from(high) << 32 | u64::from(low), 0);
    let rest = &key.rest;
    let number = |at: usize| rest::turned(at, rest[at]);
    match selector {
        1 => (key.address[0] >> 32, 0),
        2 => (key.address[0] & 0xffff_ffff, 0),
        3 => (key.address[0], key.address[1]),
        4 => (key.address[2], key.address[3]),
        5 => (key.mixed >> 32 & 0xffff, 0),
        6 => (key.mixed >> 48, 0),
        7 => (key.mixed >> 24 & 0xff, 0),
        8 => (u64::from(rest[rest::IIF]), 0),
        9 => (u64::from(rest[rest::OIF]), 0),
        10 => {
            let (first, middle) = (number(rest::LINK_DESTINATION), number(rest::LINK_MIDDLE));
            link(first >> 16, first << 16 | middle >> 16)
        }
        _ => link(number(rest::LINK_MIDDLE) & 0xffff, number(rest::LINK_SOURCE)),
    }
}

/// Notes in a key what its selectors pick, the first in the lowest byte.
#[inline(always)]
pub fn seek(key: &mut Key, selectors: u64) {
    let mut at = 0;
    let mut component = 0;
    while component < ELEMENT_WORDS {
        let selector = selectors >> (8 * component) & 0xff;
        if selector == Selector::End as u64 {
            break;
        }
        let (first, second) = pick(key, selector);
        key.sought[at % WORDS] = first;
        at += 1;
        if selector == Selector::Destination6 as u64 || selector == Selector::Source6 as u64 {
            key.sought[at % WORDS] = second;
            at += 1;
        }
        component += 1;
    }
}

/// Elements of one table that may share a slot.
pub const NAMESAKES: u32 = 8;

/// Where the one word of a narrow element, below 2^32, is looked for.
#[inline(always)]
pub const fn narrow_tag(value: u32) -> u32 {
    let mixed = (value ^ value >> 16).wrapping_mul(0x7feb_352d);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x846c_a68b);
    mixed ^ mixed >> 16
}

/// Whether the slots of a narrow table have a value: linear, from its home on.
#[inline(always)]
pub fn has<L: Lines>(lines: &L, base: u32, slots: u64, value: u32) -> bool {
    let (mask, home) = ((slots >> 32) as u32, narrow_tag(value));
    let mut probe = 0;
    while probe < SLOT_PROBES {
        let place = home.wrapping_add(probe) & mask;
        let found = word(lines, base + slots as u32 + place / WORDS as u32, place as usize % WORDS);
        if found == 0 || found == narrow_slot(value) {
            return found != 0;
        }
        probe += 1;
    }
    false
}

/// The slot of a value: never 0.
#[inline(always)]
pub const fn narrow_slot(value: u32) -> u64 {
    (value as u64) << 32 | 1
}

/// Whether the table of a set at a line holds what is sought. Its line has six masks, its slots, and in the last word whether
/// it is narrow: of one word below 2^32, which is the slot itself. Otherwise the number of a slot is the line of an element:
/// its words, and the line of the next in that slot, or 0. `has_value` looks into narrow slots ([`has`]), and `is_same` says
/// whether an element is the one ([`is_element`]).
#[inline(always)]
pub fn holds<L: Lines>(
    lines: &L,
    base: u32,
    set: u32,
    sought: &Sought,
    (has_value, is_same): (impl Fn(u64, u32) -> bool, impl Fn(u32) -> bool),
) -> bool {
    let Some(line) = lines.line(base + set) else { return false };
    let slots = lines.word(line, set_table::SLOTS);
    if lines.word(line, set_table::NARROW) != 0 {
        return has_value(slots, (sought[0] & lines.word(line, 0)) as u32);
    }
    let mut hash = Hash::START;
    let mut at = 0;
    while at < ELEMENT_WORDS {
        hash = hash.with(sought[at] & lines.word(line, at));
        at += 1;
    }
    let mut element = slot(lines, base, slots, hash.tag());
    let mut namesakes = 0;
    while element != 0 && namesakes < NAMESAKES {
        if is_same(element) {
            return true;
        }
        element = word(lines, base + element, set_table::NEXT) as u32;
        namesakes += 1;
    }
    false
}

/// Whether the element at a line is what is sought in the table of a set.
#[inline(always)]
pub fn is_element<L: Lines>(lines: &L, base: u32, set: u32, element: u32, sought: &Sought) -> bool {
    let (Some(set), Some(element)) = (lines.line(base + set), lines.line(base + element)) else { return false };
    (0..ELEMENT_WORDS).all(|at| !element_differs(lines, (set, element), sought, at))
}

/// Whether word `at` of an element is another than that which is sought in the table of a set.
#[inline(always)]
pub fn element_differs<L: Lines>(lines: &L, (set, element): (L::Line, L::Line), sought: &Sought, at: usize) -> bool {
    sought[at % WORDS] & lines.word(set, at) != lines.word(element, at)
}

/// Which words of the line of a set's table, and of an element, are what; the first six are masks, or values.
pub mod set_table {
    /// Of a table: as [`super::table::SLOTS`]; of a narrow one: number of slots less one `<< 32`, line of the first slot.
    pub const SLOTS: usize = super::ELEMENT_WORDS;
    /// Of an element: the line of the next in its slot, or 0.
    pub const NEXT: usize = super::ELEMENT_WORDS;
    /// Of a table: whether its slots tell all.
    pub const NARROW: usize = 7;
}
