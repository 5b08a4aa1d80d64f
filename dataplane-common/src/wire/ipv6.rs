//! The IPv6 header and its extension headers (RFC 8200).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Be16, Be32};

/// An IPv6 address as two numbers in the host's byte order.
///
/// Not a `u128`: its 16-byte alignment makes copies that LLVM's BPF back end cannot emit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Address6 {
    /// The routing half.
    pub high: u64,
    /// The interface half.
    pub low: u64,
}

impl Address6 {
    /// From the bytes on the wire.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [high, low]: [[u8; 8]; 2] = zerocopy::transmute!(bytes);
        Self { high: u64::from_be_bytes(high), low: u64::from_be_bytes(low) }
    }

    /// In 32-bit words, most significant first.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        [(self.high >> 32) as u32, self.high as u32, (self.low >> 32) as u32, self.low as u32]
    }
}

impl From<Address6> for u128 {
    #[inline(always)]
    fn from(address: Address6) -> Self {
        Self::from(address.high) << 64 | Self::from(address.low)
    }
}

impl From<u128> for Address6 {
    fn from(address: u128) -> Self {
        Self { high: (address >> 64) as u64, low: address as u64 }
    }
}

/// The fixed 40 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub version_class_flow: Be32,
    /// Bytes after this header.
    pub payload_length: Be16,
    /// What follows.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address, network order.
    pub source: [u8; 16],
    /// Destination address, network order.
    pub destination: [u8; 16],
}

impl Ipv6 {
    /// 6, or the packet is not IPv6.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        (self.version_class_flow.get() >> 28) as u8
    }

    /// DSCP, the upper six bits of the traffic class (RFC 2474).
    #[inline(always)]
    pub const fn dscp(&self) -> u8 {
        (self.version_class_flow.get() >> 22) as u8 & 0x3f
    }
}

/// Among the bits that a walk says of fragments: a routing header was met. In IPv4 no sender may set it.
pub const IPV6_ROUTED: u16 = 0x8000;

/// What hop-by-hop options, routing headers and destination options begin with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Extension {
    /// What follows this header.
    pub next_header: u8,
    /// Length without the first eight bytes, in units of eight bytes.
    pub length: u8,
    /// Routing header: its type.
    pub kind: u8,
    /// Routing header: segments left.
    pub segments_left: u8,
}

/// The fragment header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Fragment {
    /// What the datagram carries.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset (13 bits, units of eight bytes), reserved (2), more fragments (1).
    pub fragment: Be16,
    /// Shared by the fragments of a datagram.
    pub identification: Be32,
}
