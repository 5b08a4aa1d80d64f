//! Headers as they stand on the wire: unaligned, big endian, every bit pattern valid.

mod checksum;
mod ethernet;
mod extension;
mod ipv4;
mod ipv6;
mod number;
mod transport;
mod vlan;

pub use checksum::{Sum, decrement_ttl};
pub use ethernet::{EtherType, Ethernet, LinkHeader, Mac, VlanTag};
pub use extension::{Chain, Walk, is_extension, walk};
pub use ipv4::{IPV4_DONT_FRAGMENT, IPV4_FRAGMENT_MASK, IPV4_MORE_FRAGMENTS, Ipv4};
pub use ipv6::{Address6, Extension, IPV6_ROUTED, Ipv6, Ipv6Fragment};
pub use number::{Be16, Be32};
pub use transport::{Beginning, Icmp, Tcp, Udp, beginning, protocol};
pub use vlan::{Tag, Tagged, Tags, tags};

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// A header that may be read in place from any packet bytes: no alignment, no invalid bit pattern, no padding.
pub trait Header: FromBytes + Immutable + KnownLayout + Unaligned {}

impl<T: FromBytes + Immutable + KnownLayout + Unaligned> Header for T {}

/// Bytes of one packet, whoever holds them: a slice on the host, `data`/`data_end` in the kernel.
pub trait Bytes {
    /// The header at `offset` bytes from the start of the frame, or `None` where the bytes end before it does.
    fn header<T: Header>(&self, offset: usize) -> Option<&T>;

    /// Walks IPv6 extension headers from `chain` on, in a packet that ends at `end`.
    #[inline(always)]
    fn walk(&self, chain: Chain, end: usize) -> Walk {
        walk(self, chain, end)
    }

    /// Reads what is there of a transport header at `at` that is not sound; the packet has `left` bytes from there on.
    #[inline(always)]
    fn beginning(&self, at: usize, left: usize) -> Beginning {
        beginning(self, at, left)
    }

    /// Reads the VLAN tags behind a link header with `first` in it, counting one that the hardware took off.
    #[inline(always)]
    fn tags(&self, first: EtherType, stripped: Tag) -> Tags {
        tags(self, first, stripped)
    }
}

impl Bytes for [u8] {
    fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        T::ref_from_prefix(self.get(offset..)?).ok().map(|(header, _)| header)
    }
}
