//! The network layer: the header checks of `ip_rcv_core` and `ip6_rcv_core`, and the fields that the path needs.

use super::{
    address::{AddressClass, Scope},
    transport::PseudoHeader,
};
use crate::{
    Reason,
    abi::{ADDRESS_WORDS, Control, Mixed, PortFlags},
    wire::{
        Address6, Bytes, Chain, IPV4_DONT_FRAGMENT, IPV4_FRAGMENT_MASK, IPV4_MORE_FRAGMENTS, Ipv4, Ipv6, is_extension,
        protocol,
    },
};

/// An IP packet whose header has been checked. Lengths and offsets are in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Header and payload.
    pub length: usize,
    /// Where the payload of the last header that could be walked begins, from the start of the frame.
    pub payload: usize,
    /// What that payload is.
    pub protocol: u64,
    /// TTL or hop limit.
    pub ttl: u64,
    /// IPv4: flags and offset; IPv6: offset and more-fragments, moved to the places IPv4 has them.
    pub fragment: u64,
    /// Only the kernel can go on with it, once it has met the filter.
    pub punt: Option<Reason>,
}

impl<A> Datagram<A> {
    /// Whether it is a fragment other than the first: it has no transport header.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment & IPV4_FRAGMENT_MASK as u64 != 0
    }

    /// Whether it is a fragment at all.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment & (IPV4_FRAGMENT_MASK | IPV4_MORE_FRAGMENTS) as u64 != 0
    }
}

/// IPv4 or IPv6: all that differs between them on the path.
pub trait Family {
    /// An address, in the host's byte order.
    type Address: Copy + Mixed + PseudoHeader;
    /// 4 or 6.
    const NUMBER: u32;
    /// The port's flag for forwarding.
    const FORWARDING: PortFlags;
    /// The port's flag for lookups in the kernel.
    const KERNEL_LOOKUP: PortFlags;
    /// The port's flag for leaving what would be forwarded to netfilter.
    const FOLLOW: PortFlags;
    /// The bit in [`Control::mirror`].
    const MIRROR: u32;
    /// The protocol of ICMP.
    const ICMP: u64;

    /// Checks the header at `offset` of a frame of `length` bytes. A `segmented` packet may be longer than its header can
    /// say; the header then says 0 (the kernel's BIG TCP).
    ///
    /// # Errors
    ///
    /// The reason to drop a packet that the kernel would not look at further, or a stricter one named so.
    fn datagram<B: Bytes + ?Sized>(
        packet: &B,
        offset: usize,
        length: usize,
        segmented: bool,
    ) -> Result<Datagram<Self::Address>, Reason>;

    /// Differentiated services code point of the header at `offset`, if one is there: not in [`Datagram`], since most packets
    /// do not need it.
    fn dscp<B: Bytes + ?Sized>(packet: &B, offset: usize) -> Option<u32>;

    /// Whether the header at `offset` names this protocol itself. Read anew: the verifier, which knows what protocol
    /// [`Datagram`] has, would follow each that was distinguished before.
    fn names<B: Bytes + ?Sized>(packet: &B, offset: usize, protocol: u64) -> bool;

    /// What the addresses alone say.
    fn address_class(packet: &Datagram<Self::Address>, flags: PortFlags) -> AddressClass;

    /// Whether a router may pass on a packet that [`Self::address_class`] leaves to the routing table, by its addresses.
    fn scope(packet: &Datagram<Self::Address>) -> Scope;

    /// Whether a router may fragment the packet.
    fn may_fragment(packet: &Datagram<Self::Address>) -> bool;

    /// The number that a router's choice among equal paths depends on: addresses only, so that all fragments of a datagram
    /// take one path (`fib_multipath_hash_policy` 0), and the same both ways, as the kernel's (`flow_hash_from_keys`): what an
    /// ICMP error quotes went the other way.
    #[inline(always)]
    fn flow(packet: &Datagram<Self::Address>) -> u32 {
        flow(packet.source, packet.destination)
    }

    /// Puts the addresses into the words of a [`crate::abi::Key`]. The words that the family does not use stay as they are: no
    /// entry compares them, and LLVM would call a function to clear them.
    fn fill(words: &mut [u64; ADDRESS_WORDS], destination: Self::Address, source: Self::Address);
}

/// See [`Family::flow`].
#[inline(always)]
pub fn flow<A: Mixed>(source: A, destination: A) -> u32 {
    source.mix().wrapping_add(destination.mix()).wrapping_mul(0x9e37_79b1)
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub enum V4 {}

impl Family for V4 {
    type Address = u32;
    const NUMBER: u32 = 4;
    const FORWARDING: PortFlags = PortFlags::FORWARDING_V4;
    const KERNEL_LOOKUP: PortFlags = PortFlags::KERNEL_LOOKUP_V4;
    const FOLLOW: PortFlags = PortFlags::FOLLOW_V4;
    const MIRROR: u32 = Control::MIRROR_V4;
    const ICMP: u64 = protocol::ICMP;

    #[inline(always)]
    fn datagram<B: Bytes + ?Sized>(
        packet: &B,
        offset: usize,
        length: usize,
        segmented: bool,
    ) -> Result<Datagram<u32>, Reason> {
        let Some(header) = packet.header::<Ipv4>(offset) else { return Reason::Truncated.found() };
        if header.version() != 4 {
            return Reason::BadVersion.found();
        }
        let header_length = header.header_length();
        // What holds the header is as long.
        let room = length.wrapping_sub(offset);
        let total = match usize::from(header.total_length.get()) {
            0 if segmented => room,
            total => total,
        };
        if header_length < size_of::<Ipv4>() {
            return Reason::BadHeaderLength.found();
        }
        let plain = header_length == size_of::<Ipv4>();
        // With options the kernel gets the packet, and checks the sum over all of them.
        if plain && !header.is_sound() {
            return Reason::BadChecksum.found();
        }
        if total > room {
            return Reason::BadLength.found();
        }
        if total < header_length {
            return Reason::BadHeaderLength.found();
        }
        Ok(Datagram {
            source: header.source.get(),
            destination: header.destination.get(),
            length: total,
            payload: offset + header_length,
            protocol: u64::from(header.protocol),
            ttl: u64::from(header.ttl),
            fragment: u64::from(header.fragment.get()),
            punt: if plain { None } else { Some(Reason::Options) },
        })
    }

    #[inline(always)]
    fn dscp<B: Bytes + ?Sized>(packet: &B, offset: usize) -> Option<u32> {
        packet.header::<Ipv4>(offset).map(|header| u32::from(header.service >> 2))
    }

    #[inline(always)]
    fn names<B: Bytes + ?Sized>(packet: &B, offset: usize, protocol: u64) -> bool {
        packet.header::<Ipv4>(offset).is_some_and(|header| u64::from(header.protocol) == protocol)
    }

    #[inline(always)]
    fn address_class(packet: &Datagram<u32>, flags: PortFlags) -> AddressClass {
        super::address::classify_v4(packet.source, packet.destination, flags)
    }

    #[inline(always)]
    fn scope(_: &Datagram<u32>) -> Scope {
        Scope::Global
    }

    #[inline(always)]
    fn may_fragment(packet: &Datagram<u32>) -> bool {
        packet.fragment & u64::from(IPV4_DONT_FRAGMENT) == 0
    }

    #[inline(always)]
    fn fill(words: &mut [u64; ADDRESS_WORDS], destination: u32, source: u32) {
        words[0] = u64::from(destination) << 32 | u64::from(source);
    }
}

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub enum V6 {}

impl Family for V6 {
    type Address = Address6;
    const NUMBER: u32 = 6;
    const FORWARDING: PortFlags = PortFlags::FORWARDING_V6;
    const KERNEL_LOOKUP: PortFlags = PortFlags::KERNEL_LOOKUP_V6;
    const FOLLOW: PortFlags = PortFlags::FOLLOW_V6;
    const MIRROR: u32 = Control::MIRROR_V6;
    const ICMP: u64 = protocol::ICMPV6;

    #[inline(always)]
    fn datagram<B: Bytes + ?Sized>(
        packet: &B,
        offset: usize,
        length: usize,
        segmented: bool,
    ) -> Result<Datagram<Address6>, Reason> {
        let Some(header) = packet.header::<Ipv6>(offset) else { return Reason::Truncated.found() };
        if header.version() != 6 {
            return Reason::BadVersion.found();
        }
        // What holds the header is as long.
        let room = length.wrapping_sub(offset);
        let total = match usize::from(header.payload_length.get()) {
            0 if segmented => room,
            payload => size_of::<Ipv6>() + payload,
        };
        if total > room {
            return Reason::BadLength.found();
        }
        let next = u64::from(header.next_header);
        let start = Chain { payload: offset + size_of::<Ipv6>(), protocol: next, fragment: 0 };
        let (chain, punt) = if is_extension(next) {
            let options = next == protocol::HOP_BY_HOP;
            (packet.walk(start, offset + total).outcome()?, if options { Some(Reason::HopByHop) } else { None })
        } else {
            (start, None)
        };
        Ok(Datagram {
            source: Address6::from_bytes(header.source),
            destination: Address6::from_bytes(header.destination),
            length: total,
            payload: chain.payload,
            protocol: chain.protocol,
            ttl: u64::from(header.hop_limit),
            fragment: chain.fragment,
            punt,
        })
    }

    #[inline(always)]
    fn dscp<B: Bytes + ?Sized>(packet: &B, offset: usize) -> Option<u32> {
        packet.header::<Ipv6>(offset).map(|header| u32::from(header.dscp()))
    }

    #[inline(always)]
    fn names<B: Bytes + ?Sized>(packet: &B, offset: usize, protocol: u64) -> bool {
        packet.header::<Ipv6>(offset).is_some_and(|header| u64::from(header.next_header) == protocol)
    }

    #[inline(always)]
    fn address_class(packet: &Datagram<Address6>, _: PortFlags) -> AddressClass {
        super::address::classify_v6(packet.source, packet.destination)
    }

    #[inline(always)]
    fn scope(packet: &Datagram<Address6>) -> Scope {
        super::address::scope_v6(packet.source)
    }

    #[inline(always)]
    fn may_fragment(_: &Datagram<Address6>) -> bool {
        false
    }

    #[inline(always)]
    fn fill(words: &mut [u64; ADDRESS_WORDS], destination: Address6, source: Address6) {
        *words = [destination.high, destination.low, source.high, source.low];
    }
}
