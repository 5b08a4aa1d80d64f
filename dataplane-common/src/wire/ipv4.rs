//! The IPv4 header (RFC 791).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Be16, Be32, Sum};

/// The 13 bits of the fragment offset, in units of eight bytes.
pub const IPV4_FRAGMENT_MASK: u16 = 0x1fff;
/// More fragments follow.
pub const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
/// Routers must not fragment.
pub const IPV4_DONT_FRAGMENT: u16 = 0x4000;

/// The fixed 20 bytes; options follow when `header_length` says so.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (4 bits), header length in units of four bytes (4 bits).
    pub version_length: u8,
    /// DSCP (6 bits), ECN (2 bits).
    pub service: u8,
    /// Header and payload, in bytes.
    pub total_length: Be16,
    /// Shared by the fragments of a datagram.
    pub identification: Be16,
    /// Flags (3 bits), fragment offset (13 bits).
    pub fragment: Be16,
    /// Hops left.
    pub ttl: u8,
    /// What follows the header.
    pub protocol: u8,
    /// Ones'-complement sum of the header.
    pub checksum: Be16,
    /// Source address.
    pub source: Be32,
    /// Destination address.
    pub destination: Be32,
}

impl Ipv4 {
    /// 4, or the packet is not IPv4.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version_length >> 4
    }

    /// Header length in bytes, options included; less than 20 is malformed.
    #[inline(always)]
    pub const fn header_length(&self) -> usize {
        (self.version_length as usize & 0x0f) * 4
    }

    /// Whether the checksum over the fixed 20 bytes is right, of a header with a version; says nothing about one with options.
    #[inline(always)]
    pub fn is_sound(&self) -> bool {
        let words: &[[u8; 4]; 5] = zerocopy::transmute_ref!(self);
        words.iter().fold(Sum::default(), |sum, word| sum.add(u32::from_ne_bytes(*word))).equals(0xffff)
    }
}
