//! Ethernet II and its VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Be16;

/// A 48-bit link address.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set: broadcast or multicast.
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl Mac {
    /// The link address at `offset` of something that goes on behind it, in the upper 48 bits of a word.
    #[inline(always)]
    pub fn wide(bytes: &[u8], offset: usize) -> u64 {
        bytes.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word) << 16)
    }
}

/// What a device has in front of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkHeader {
    /// An Ethernet header.
    Ethernet,
    /// Nothing: all that it sends and receives begins with IP (tun, `WireGuard`, ppp).
    None,
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What follows an Ethernet header or a VLAN tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct EtherType(pub Be16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(Be16::new(0x0800));
    /// IPv6 (RFC 2464).
    pub const IPV6: Self = Self(Be16::new(0x86dd));
    /// Customer tag (802.1Q).
    pub const VLAN: Self = Self(Be16::new(0x8100));
    /// Service tag (802.1ad).
    pub const SERVICE_VLAN: Self = Self(Be16::new(0x88a8));

    /// Whether a VLAN tag follows.
    #[inline(always)]
    pub const fn is_tag(self) -> bool {
        // As numbers: bytes would be compared byte by byte.
        self.0.raw() == Self::VLAN.0.raw() || self.0.raw() == Self::SERVICE_VLAN.0.raw()
    }
}

/// The 14 bytes in front of every frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    /// Destination.
    pub destination: Mac,
    /// Source.
    pub source: Mac,
    /// What follows.
    pub ethertype: EtherType,
}

impl Ethernet {
    /// The destination, as [`Mac::wide`]: one word is read, and not two parts of one.
    #[inline(always)]
    pub fn recipient(&self) -> u64 {
        Mac::wide(self.as_bytes(), 0)
    }

    /// The source, in the same way.
    #[inline(always)]
    pub fn sender(&self) -> u64 {
        Mac::wide(self.as_bytes(), size_of::<Mac>())
    }

    /// Both addresses, in words as they lie in memory.
    #[inline(always)]
    pub fn addresses(&self) -> [u32; 3] {
        zerocopy::transmute!([self.destination, self.source])
    }
}

/// The four bytes that 802.1Q inserts, less the `EtherType` in front of them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligible (1 bit), VLAN identifier (12 bits).
    pub control: Be16,
    /// What follows.
    pub ethertype: EtherType,
}

impl VlanTag {
    /// The VLAN identifier, 0 to 4095; 0 is a tag that carries only a priority.
    #[inline(always)]
    pub fn id(&self) -> u16 {
        self.control.get() & 0x0fff
    }
}
