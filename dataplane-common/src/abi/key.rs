//! The key: the fields of a packet that rules can match.

use bitflags::bitflags;

use super::{Recall, Search, Sought};

/// Words of the addresses in a [`Key`].
pub const ADDRESS_WORDS: usize = 4;
/// Words of a [`Key`] behind the addresses, which few rules match (the *fields*).
pub const FIELD_WORDS: usize = 8;

/// Which word of [`Key::fields`] holds what. Numbers are in the host's byte order.
pub mod field {
    /// Family (4 or 6) `<< 24`, protocol `<< 16`, DSCP `<< 8`, TTL or hop limit.
    pub const NETWORK: usize = 0;
    /// Interface index of the way in; 0 in chain output.
    pub const IIF: usize = 1;
    /// Interface index of the way out; 0 in chains prerouting and input.
    pub const OIF: usize = 2;
    /// VLAN identifier with [`VLAN_PRESENT`] `<< 16`, IPv4 fragment word (flags and offset).
    pub const VLAN_FRAGMENT: usize = 3;
    /// Link destination address, first four bytes. All three words of link addresses are as they lie in the frame
    /// ([`key_order`]).
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
    pub const fn key_order(at: usize, word: u32) -> u32 {
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
        /// There is, or may be, a transport header that is not sound. What of it is there, other flags say.
        const UNREADABLE = 1 << 3;
    }
}

/// The fields of a packet that rules can match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Key {
    /// Destination and source: IPv4 both in the first word, destination in the upper half; IPv6 two words each.
    pub address: [u64; ADDRESS_WORDS],
    /// Source port, destination port (16 bits each, with [`KeyFlags::PORTS`]), protocol (8), way in and way out, folded (12).
    /// See [`mixed`].
    pub mixed: u64,
    /// See [`field`].
    pub fields: [u32; FIELD_WORDS],
    /// Length of the IP packet, in bytes.
    pub length: u32,
    /// What could be read.
    pub flags: KeyFlags,
    /// Where the IP header begins in the frame.
    pub offset: u32,
    /// Zero.
    pub reserved: u32,
    /// The words to look up in the current set.
    pub sought: Sought,
    /// How far the search of the kernel half is.
    pub search: Search,
    /// The look-up in the verdict cache.
    pub recall: Recall,
}

impl Key {
    /// Notes the way out.
    #[inline(always)]
    pub const fn set_oif(&mut self, oif: u32) {
        self.fields[field::OIF] = oif;
        self.mixed = self.mixed & !mixed::OIF | hash_ifindex(oif) as u64;
    }

    /// The family: 4 or 6.
    #[inline(always)]
    pub const fn family(&self) -> u32 {
        self.fields[field::NETWORK] >> 24
    }

    /// The class whose tables are searched for this packet, where a header that is not sound is not read.
    #[inline(always)]
    pub const fn class(&self) -> Class {
        self.class_of(self.family() == 6, 0)
    }

    /// The same where the family is known; [`super::Filter::lenient`] rules match the ports of a header that is not sound.
    #[inline(always)]
    pub const fn class_of(&self, ipv6: bool, lenient: u32) -> Class {
        let flags = self.flags.bits();
        // As numbers: a branch for each would double the paths.
        let there = (flags / KeyFlags::PORTS.bits()) & lenient;
        let unreadable = (flags / KeyFlags::UNREADABLE.bits()) & !there & 1;
        Class(if ipv6 { Class::IPV6 } else { 0 } | (unreadable * Class::UNREADABLE))
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
        let links = (super::hash_ifindex(iif) as u64) << 12 | super::hash_ifindex(oif) as u64;
        source_port << 48 | destination_port << 32 | protocol << 24 | links
    }
}

/// An interface index in twelve bits. Few machines have links that collide in them, and entries compare all bits.
#[inline(always)]
pub const fn hash_ifindex(ifindex: u32) -> u32 {
    ifindex & 0xfff
}

/// Classes of packets that a chain has tables for.
pub const CLASSES: usize = 4;

/// What a chain has tables for: a family, and whether the transport header could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(u32);

impl Class {
    /// Bit: IPv6.
    const IPV6: u32 = 1;
    /// Bit: the transport header could not be read.
    const UNREADABLE: u32 = 2;
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
    pub const fn is_unreadable(self) -> bool {
        self.0 & Self::UNREADABLE != 0
    }
}
