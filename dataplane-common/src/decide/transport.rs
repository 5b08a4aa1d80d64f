//! The transport layer: the fields that rules can match, and whether the checksum is still to be filled in.

use core::mem::offset_of;

use super::network::Datagram;
use crate::wire::{Address6, Be16, Bytes, Icmp, Sum, Tcp, Udp, protocol};

/// How much of the transport header could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Readable {
    /// There is no field that a rule matches.
    Nothing,
    /// Ports and, for TCP, flags.
    Ports,
    /// Type and code.
    Icmp,
    /// A later fragment, or a header that is cut off or contradicts itself.
    Broken,
}

/// The transport header. Fields that the protocol lacks are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// What of it is there.
    pub readable: Readable,
    /// Source port.
    pub source: u64,
    /// Destination port.
    pub destination: u64,
    /// TCP flags.
    pub flags: u64,
    /// ICMP type `<< 8`, code.
    pub icmp: u64,
}

impl Transport {
    /// Nothing to read.
    pub const NONE: Self = Self { readable: Readable::Nothing, source: 0, destination: 0, flags: 0, icmp: 0 };
    /// A header that cannot be read.
    pub const BROKEN: Self = Self { readable: Readable::Broken, ..Self::NONE };
}

/// Reads the transport header of `datagram`, bounded by the IP length and never by the end of the frame.
#[inline(always)]
pub fn transport<A, B: Bytes + ?Sized>(packet: &B, datagram: &Datagram<A>, offset: usize) -> Transport {
    if datagram.is_later_fragment() {
        return Transport::BROKEN;
    }
    let at = datagram.payload & 0x7fff;
    let Some(left) = (offset + datagram.length).checked_sub(at) else { return Transport::BROKEN };
    match datagram.protocol {
        protocol::TCP => tcp(packet, at, left),
        protocol::UDP | protocol::UDP_LITE => udp(packet, datagram, at, left),
        protocol::SCTP | protocol::DCCP => match packet.header::<[Be16; 6]>(at) {
            Some(header) if left >= 12 => Transport {
                readable: Readable::Ports,
                source: u64::from(header[0].get()),
                destination: u64::from(header[1].get()),
                ..Transport::NONE
            },
            _ => Transport::BROKEN,
        },
        protocol::ICMP | protocol::ICMPV6 => match packet.header::<Icmp>(at) {
            Some(header) if left >= size_of::<Icmp>() => Transport {
                readable: Readable::Icmp,
                icmp: u64::from(header.kind) << 8 | u64::from(header.code),
                ..Transport::NONE
            },
            _ => Transport::BROKEN,
        },
        _ => Transport::NONE,
    }
}

#[inline(always)]
fn tcp<B: Bytes + ?Sized>(packet: &B, at: usize, left: usize) -> Transport {
    match packet.header::<Tcp>(at) {
        Some(header) if (size_of::<Tcp>()..=left).contains(&header.header_length()) => Transport {
            readable: Readable::Ports,
            source: u64::from(header.source.get()),
            destination: u64::from(header.destination.get()),
            flags: u64::from(header.flags),
            icmp: 0,
        },
        _ => Transport::BROKEN,
    }
}

#[inline(always)]
fn udp<A, B: Bytes + ?Sized>(packet: &B, datagram: &Datagram<A>, at: usize, left: usize) -> Transport {
    let Some(header) = packet.header::<Udp>(at) else { return Transport::BROKEN };
    let length = usize::from(header.length.get());
    // A first fragment carries the length of the whole datagram; UDP-Lite has a coverage there (RFC 3828).
    let contradicts =
        datagram.protocol == protocol::UDP && (length < size_of::<Udp>() || (length > left && !datagram.is_fragment()));
    if left < size_of::<Udp>() || contradicts {
        return Transport::BROKEN;
    }
    Transport {
        readable: Readable::Ports,
        source: u64::from(header.source.get()),
        destination: u64::from(header.destination.get()),
        flags: 0,
        icmp: 0,
    }
}

/// Whether the checksum of a TCP or UDP packet is one that [`is_partial`].
#[inline(always)]
pub fn is_pending<A: PseudoHeader + Copy, B: Bytes + ?Sized>(
    packet: &B,
    datagram: &Datagram<A>,
    offset: usize,
) -> bool {
    let at = match datagram.protocol {
        protocol::TCP => offset_of!(Tcp, checksum),
        protocol::UDP => offset_of!(Udp, checksum),
        _ => return false,
    };
    // Before it cuts a datagram into fragments, the kernel finishes its checksum.
    if datagram.is_fragment() || datagram.payload + at >= offset + datagram.length {
        return false;
    }
    let checksum = packet.header::<Be16>((datagram.payload + at) & 0x7fff);
    checksum.is_some_and(|checksum| is_partial(datagram, offset, checksum.get()))
}

/// Whether the checksum in the header is only the folded sum of the pseudo header: what a local stack leaves for hardware
/// to finish (`CHECKSUM_PARTIAL`, `tcp_v4_send_check`). A finished checksum looks like that once in 65 536 packets, which
/// then takes the slower tier and loses nothing; so does one in as many datagrams without a checksum.
#[inline(always)]
pub fn is_partial<A: PseudoHeader + Copy>(datagram: &Datagram<A>, offset: usize, checksum: u16) -> bool {
    let length = (offset + datagram.length - datagram.payload) as u32;
    // The sum of swapped words is the swapped sum (RFC 1071, 2(B)): no need to go back to the order of the wire.
    let sum = A::sum(datagram.source, datagram.destination);
    sum.add(length).add(datagram.protocol as u32).equals(checksum)
}

/// Bytes of the longest IP packet that a packet will be cut into, `segment` bytes of payload each
/// (`skb_gso_network_seglen` of the kernel).
#[inline(always)]
pub fn segment_length<A, B: Bytes + ?Sized>(
    packet: &B,
    datagram: &Datagram<A>,
    offset: usize,
    segment: usize,
) -> usize {
    let at = datagram.payload & 0x7fff;
    let header = match datagram.protocol {
        protocol::TCP => packet.header::<Tcp>(at).map_or(size_of::<Tcp>(), Tcp::header_length),
        _ => size_of::<Udp>(),
    };
    (at - offset) + header + segment
}

/// Addresses as part of the pseudo header (RFC 768, RFC 8200 section 8.1).
pub trait PseudoHeader: Sized {
    /// The sum of both.
    fn sum(source: Self, destination: Self) -> Sum;
}

impl PseudoHeader for u32 {
    #[inline(always)]
    fn sum(source: Self, destination: Self) -> Sum {
        Sum::default().add(source).add(destination)
    }
}

impl PseudoHeader for Address6 {
    #[inline(always)]
    fn sum(source: Self, destination: Self) -> Sum {
        Sum::of([source.high, source.low, destination.high, destination.low])
    }
}
