//! The filter as the kernel reads it: a list of masked comparisons in the order of the rules.
//!
//! A rule becomes one entry for each box of addresses, ports and the like that it describes; all of them count at the same
//! place. The first entry that a packet fits decides.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Chains, in the order of [`Filter::chains`].
pub const CHAINS: usize = 4;
/// Entries that one generation has room for.
pub const ENTRIES: u32 = 4096;
/// 32-bit words of a key.
pub const KEY_WORDS: usize = 16;

/// Which word of [`Key::words`] holds what. Numbers are in the host's byte order.
pub mod key {
    /// Destination address: IPv4 in the first word, IPv6 in all four, most significant first.
    pub const DESTINATION: usize = 0;
    /// Source address, likewise.
    pub const SOURCE: usize = 4;
    /// Family (4 or 6) `<< 24`, protocol `<< 16`, DSCP `<< 8`, TTL or hop limit.
    pub const NETWORK: usize = 8;
    /// Interface index of the way in; 0 in chain output.
    pub const IIF: usize = 9;
    /// Interface index of the way out; 0 in chains prerouting and input.
    pub const OIF: usize = 10;
    /// VLAN identifier with [`VLAN_PRESENT`] `<< 16`, IPv4 fragment word (flags and offset).
    pub const VLAN_FRAGMENT: usize = 11;
    /// Link destination address, first four bytes.
    pub const LINK_DESTINATION: usize = 12;
    /// Link destination address, last two bytes `<< 16`, link source address, first two bytes.
    pub const LINK_MIDDLE: usize = 13;
    /// Link source address, last four bytes.
    pub const LINK_SOURCE: usize = 14;
    /// Only with [`super::KeyFlags::TRANSPORT`]: TCP flags `<< 16`, ICMP type `<< 8`, ICMP code.
    pub const TRANSPORT: usize = 15;
    /// Set in the upper half of [`VLAN_FRAGMENT`] when the frame was tagged.
    pub const VLAN_PRESENT: u32 = 0x1000;
}

bitflags! {
    /// What of a packet could be read.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// See [`key`].
    pub words: [u32; KEY_WORDS],
    /// Source port, with [`KeyFlags::PORTS`].
    pub source_port: u16,
    /// Destination port, with [`KeyFlags::PORTS`].
    pub destination_port: u16,
    /// Length of the IP packet, in bytes.
    pub length: u32,
    /// What could be read.
    pub flags: KeyFlags,
}

impl Key {
    /// What to make of an entry that asks for more than there is.
    #[inline(always)]
    const fn lacking(&self) -> Hit {
        if self.flags.contains(KeyFlags::UNREADABLE) { Hit::Unreadable } else { Hit::No }
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
}

impl Ruling {
    /// From its number; anything unknown drops.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Accept,
            2 => Self::Continue,
            _ => Self::Drop,
        }
    }
}

bitflags! {
    /// What an entry needs of a packet.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct EntryFlags: u16 {
        /// Asks for TCP flags or ICMP types: [`KeyFlags::TRANSPORT`].
        const TRANSPORT = 1 << 0;
        /// Asks for ports: [`KeyFlags::PORTS`].
        const PORTS = 1 << 1;
        /// Asks for link addresses: [`KeyFlags::ETHERNET`].
        const ETHERNET = 1 << 2;
        /// Any address will do: the words of both are not looked at.
        const ANY_ADDRESS = 1 << 8;
        /// Any way in and out will do.
        const ANY_LINK = 1 << 9;
        /// Any link header and fragment will do.
        const ANY_FRAME = 1 << 10;
    }
}

/// One box of a rule. `value` is already masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entry {
    /// Which bits of each word count.
    pub mask: [u32; KEY_WORDS],
    /// What they must be.
    pub value: [u32; KEY_WORDS],
    /// Source ports.
    pub source_port: Span,
    /// Destination ports.
    pub destination_port: Span,
    /// Lengths of the IP packet.
    pub length: Span,
    /// Index of the rule's counter.
    pub counter: u32,
    /// [`Ruling`].
    pub ruling: u16,
    /// [`EntryFlags`].
    pub flags: u16,
    /// Zero.
    pub reserved: u32,
}

impl Entry {
    /// Fits every packet.
    pub const ANY: Self = Self {
        mask: [0; KEY_WORDS],
        value: [0; KEY_WORDS],
        source_port: Span::FULL,
        destination_port: Span::FULL,
        length: Span::FULL,
        counter: 0,
        ruling: Ruling::Accept as u16,
        flags: 0,
        reserved: 0,
    };

    /// The same entry with its `ANY` flags set where its masks say so: what is not asked is then not looked at.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        let groups = [
            (EntryFlags::ANY_ADDRESS, key::DESTINATION..key::NETWORK),
            (EntryFlags::ANY_LINK, key::IIF..key::VLAN_FRAGMENT),
            (EntryFlags::ANY_FRAME, key::VLAN_FRAGMENT..key::TRANSPORT),
        ];
        for (flag, words) in groups {
            if self.mask[words].iter().all(|mask| *mask == 0) {
                self.flags |= flag.bits();
            }
        }
        self
    }

    /// Whether the masked words of a packet are what they must be.
    #[inline(always)]
    fn agrees(&self, packet: &Key, words: core::ops::Range<usize>) -> bool {
        let mut word = words.start;
        while word < words.end {
            if packet.words[word] & self.mask[word] != self.value[word] {
                return false;
            }
            word += 1;
        }
        true
    }

    /// Whether a packet fits.
    #[inline(always)]
    pub fn matches(&self, packet: &Key) -> Hit {
        let needs = EntryFlags::from_bits_retain(self.flags);
        if !self.agrees(packet, key::NETWORK..key::IIF)
            || (!needs.contains(EntryFlags::ANY_ADDRESS) && !self.agrees(packet, key::DESTINATION..key::NETWORK))
            || (!needs.contains(EntryFlags::ANY_LINK) && !self.agrees(packet, key::IIF..key::VLAN_FRAGMENT))
            || (!needs.contains(EntryFlags::ANY_FRAME) && !self.agrees(packet, key::VLAN_FRAGMENT..key::TRANSPORT))
        {
            return Hit::No;
        }
        // Jumbograms and packets still to be cut are longer than a span can say.
        if !self.length.contains(if packet.length > 0xffff { u16::MAX } else { packet.length as u16 }) {
            return Hit::No;
        }
        if needs.contains(EntryFlags::ETHERNET) && !packet.flags.contains(KeyFlags::ETHERNET) {
            return Hit::No;
        }
        // What can be read may rule the entry out, whatever else can not.
        let mut readable = true;
        if needs.contains(EntryFlags::TRANSPORT) {
            if !packet.flags.contains(KeyFlags::TRANSPORT) {
                readable = false;
            } else if packet.words[key::TRANSPORT] & self.mask[key::TRANSPORT] != self.value[key::TRANSPORT] {
                return Hit::No;
            }
        }
        if needs.contains(EntryFlags::PORTS) {
            if !packet.flags.contains(KeyFlags::PORTS) {
                readable = false;
            } else if !self.source_port.contains(packet.source_port)
                || !self.destination_port.contains(packet.destination_port)
            {
                return Hit::No;
            }
        }
        if readable { Hit::Yes } else { packet.lacking() }
    }
}

/// Whether a packet fits an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hit {
    /// It does not.
    No,
    /// It does.
    Yes,
    /// All that could be read fits, but the entry asks for what could not be read.
    Unreadable,
}

/// Where a chain's entries are, and what it does when none fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Chain {
    /// Its first entry within the generation.
    pub first: u32,
    /// How many follow.
    pub count: u32,
    /// [`Ruling`]: accept or drop.
    pub policy: u32,
}

/// One generation of the filter: its four chains, prerouting, input, forward, output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Filter {
    /// In the order of the chains.
    pub chains: [Chain; CHAINS],
}
