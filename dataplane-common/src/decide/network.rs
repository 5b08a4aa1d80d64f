//! The network layer: the header checks of `ip_rcv_core` and `ip6_rcv_core`, and what the rest of the path asks for.

use super::{
    address::{Placing, Scope},
    transport::PseudoHeader,
};
use crate::{
    Reason,
    abi::{Control, Mixed, PortFlags},
    wire::{
        Address6, Bytes, Extension, IPV4_DONT_FRAGMENT, IPV4_FRAGMENT_MASK, IPV4_MORE_FRAGMENTS, Ipv4, Ipv6,
        Ipv6Fragment, protocol,
    },
};

/// Extension headers that are walked; a longer chain is dropped as [`Reason::ExtensionLimit`].
const EXTENSIONS: usize = 8;

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
    pub protocol: u32,
    /// TTL or hop limit.
    pub ttl: u32,
    /// Differentiated services code point.
    pub dscp: u32,
    /// IPv4: flags and offset; IPv6: offset and more-fragments, moved to the places IPv4 has them.
    pub fragment: u32,
    /// Only the kernel can go on with it, once it has met the filter.
    pub detour: Option<Reason>,
}

impl<A> Datagram<A> {
    /// Whether it is a fragment other than the first: it has no transport header.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment & IPV4_FRAGMENT_MASK as u32 != 0
    }

    /// Whether it is a fragment at all.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment & (IPV4_FRAGMENT_MASK | IPV4_MORE_FRAGMENTS) as u32 != 0
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
    /// The bit in [`Control::mirror`].
    const MIRROR: u32;

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

    /// What the addresses alone say.
    fn placing(packet: &Datagram<Self::Address>, flags: PortFlags) -> Placing;

    /// Whether a router may pass the packet on, by its addresses.
    fn scope(packet: &Datagram<Self::Address>) -> Scope;

    /// Whether a router may fragment the packet.
    fn may_fragment(packet: &Datagram<Self::Address>) -> bool;

    /// The number that a router's choice among equal paths depends on: addresses only, so that all fragments of a datagram
    /// take one path (`fib_multipath_hash_policy` 0).
    #[inline(always)]
    fn flow(packet: &Datagram<Self::Address>) -> u32 {
        (packet.source.mix().rotate_left(16) ^ packet.destination.mix()).wrapping_mul(0x9e37_79b1)
    }

    /// The address in the words of a [`crate::abi::Key`], unused ones zero.
    fn key_words(address: Self::Address) -> [u32; 4];
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub enum V4 {}

impl Family for V4 {
    type Address = u32;
    const NUMBER: u32 = 4;
    const FORWARDING: PortFlags = PortFlags::FORWARDING_V4;
    const MIRROR: u32 = Control::MIRROR_V4;

    #[inline(always)]
    fn datagram<B: Bytes + ?Sized>(
        packet: &B,
        offset: usize,
        length: usize,
        segmented: bool,
    ) -> Result<Datagram<u32>, Reason> {
        let Some(header) = packet.header::<Ipv4>(offset) else { return Err(Reason::Truncated) };
        if header.version() != 4 {
            return Err(Reason::BadVersion);
        }
        let header_length = header.header_length();
        let room = length.saturating_sub(offset);
        let total = match usize::from(header.total_length.get()) {
            0 if segmented => room,
            total => total,
        };
        if header_length < size_of::<Ipv4>() {
            return Err(Reason::BadHeaderLength);
        }
        let plain = header_length == size_of::<Ipv4>();
        // With options the kernel gets the packet, and checks the sum over all of them.
        if plain && !header.is_sound() {
            return Err(Reason::BadChecksum);
        }
        if total > room {
            return Err(Reason::BadLength);
        }
        if total < header_length {
            return Err(Reason::BadHeaderLength);
        }
        Ok(Datagram {
            source: header.source.get(),
            destination: header.destination.get(),
            length: total,
            payload: offset + header_length,
            protocol: u32::from(header.protocol),
            ttl: u32::from(header.ttl),
            dscp: u32::from(header.service >> 2),
            fragment: u32::from(header.fragment.get()),
            detour: if plain { None } else { Some(Reason::Options) },
        })
    }

    #[inline(always)]
    fn placing(packet: &Datagram<u32>, flags: PortFlags) -> Placing {
        super::address::place_v4(packet.source, packet.destination, flags)
    }

    #[inline(always)]
    fn scope(_: &Datagram<u32>) -> Scope {
        Scope::Global
    }

    #[inline(always)]
    fn may_fragment(packet: &Datagram<u32>) -> bool {
        packet.fragment & u32::from(IPV4_DONT_FRAGMENT) == 0
    }

    #[inline(always)]
    fn key_words(address: u32) -> [u32; 4] {
        [address, 0, 0, 0]
    }
}

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub enum V6 {}

impl Family for V6 {
    type Address = Address6;
    const NUMBER: u32 = 6;
    const FORWARDING: PortFlags = PortFlags::FORWARDING_V6;
    const MIRROR: u32 = Control::MIRROR_V6;

    #[inline(always)]
    fn datagram<B: Bytes + ?Sized>(
        packet: &B,
        offset: usize,
        length: usize,
        segmented: bool,
    ) -> Result<Datagram<Address6>, Reason> {
        let Some(header) = packet.header::<Ipv6>(offset) else { return Err(Reason::Truncated) };
        if header.version() != 6 {
            return Err(Reason::BadVersion);
        }
        let room = length.saturating_sub(offset);
        let total = match usize::from(header.payload_length.get()) {
            0 if segmented => room,
            payload => size_of::<Ipv6>() + payload,
        };
        if total > room {
            return Err(Reason::BadLength);
        }
        let datagram = Datagram {
            source: Address6::from_bytes(header.source),
            destination: Address6::from_bytes(header.destination),
            length: total,
            payload: offset + size_of::<Ipv6>(),
            protocol: u32::from(header.next_header),
            ttl: u32::from(header.hop_limit),
            dscp: u32::from(header.dscp()),
            fragment: 0,
            detour: None,
        };
        if is_extension(u32::from(header.next_header)) { walk(packet, datagram, offset + total) } else { Ok(datagram) }
    }

    #[inline(always)]
    fn placing(packet: &Datagram<Address6>, _: PortFlags) -> Placing {
        super::address::place_v6(packet.source, packet.destination)
    }

    #[inline(always)]
    fn scope(packet: &Datagram<Address6>) -> Scope {
        super::address::scope_v6(packet.source, packet.destination)
    }

    #[inline(always)]
    fn may_fragment(_: &Datagram<Address6>) -> bool {
        false
    }

    #[inline(always)]
    fn key_words(address: Address6) -> [u32; 4] {
        address.words()
    }
}

/// Whether a next header is one that the walk can step over.
#[inline(always)]
const fn is_extension(next_header: u32) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AH
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
    )
}

/// Walks the extension headers to the transport header (RFC 8200 section 4), at most [`EXTENSIONS`] of them.
///
/// A later fragment ends the walk: what follows it is payload.
#[inline(never)]
fn walk<B: Bytes + ?Sized>(packet: &B, start: Datagram<Address6>, end: usize) -> Result<Datagram<Address6>, Reason> {
    let mut datagram = start;
    let mut fragmented = false;
    if datagram.protocol == protocol::HOP_BY_HOP {
        datagram.detour = Some(Reason::HopByHop);
    }
    for _ in 0..EXTENSIONS {
        if !is_extension(datagram.protocol) {
            return Ok(datagram);
        }
        if datagram.protocol == protocol::FRAGMENT {
            if fragmented {
                return Err(Reason::FragmentChain);
            }
            fragmented = true;
        }
        datagram = match step(packet, datagram) {
            Ok(next) if next.payload <= end => next,
            Err(reason) if reason != Reason::Truncated => return Err(reason),
            // The chain goes past the packet: RFC 7112 wants it whole in a first fragment; else nothing can read it.
            _ => return if fragmented { Err(Reason::FragmentChain) } else { Ok(unreadable(datagram)) },
        };
        if datagram.is_later_fragment() {
            // Behind another extension header nobody can say which protocol this is a part of.
            return if is_extension(datagram.protocol) { Err(Reason::FragmentChain) } else { Ok(datagram) };
        }
    }
    if is_extension(datagram.protocol) { Err(Reason::ExtensionLimit) } else { Ok(datagram) }
}

/// A datagram whose transport header can not be reached.
#[inline(always)]
fn unreadable(datagram: Datagram<Address6>) -> Datagram<Address6> {
    Datagram { protocol: protocol::NO_NEXT_HEADER, ..datagram }
}

/// One extension header.
#[inline(always)]
fn step<B: Bytes + ?Sized>(packet: &B, datagram: Datagram<Address6>) -> Result<Datagram<Address6>, Reason> {
    // Bounded, so that the verifier sees an offset inside the longest packet.
    let offset = datagram.payload & 0x7fff;
    if datagram.protocol == protocol::FRAGMENT {
        let Some(header) = packet.header::<Ipv6Fragment>(offset) else { return Err(Reason::Truncated) };
        let word = header.fragment.get();
        let more = if word & 1 != 0 { IPV4_MORE_FRAGMENTS } else { 0 };
        return Ok(Datagram {
            protocol: u32::from(header.next_header),
            payload: offset + size_of::<Ipv6Fragment>(),
            fragment: u32::from((word >> 3) | more),
            ..datagram
        });
    }
    let Some(header) = packet.header::<Extension>(offset) else { return Err(Reason::Truncated) };
    if datagram.protocol == protocol::ROUTING && header.kind == 0 {
        return Err(Reason::RoutingHeader);
    }
    let length = usize::from(header.length);
    let length = if datagram.protocol == protocol::AH { (length + 2) * 4 } else { (length + 1) * 8 };
    Ok(Datagram { protocol: u32::from(header.next_header), payload: offset + length, ..datagram })
}
