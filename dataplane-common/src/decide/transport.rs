//! The transport layer: what rules can ask about, and whether its checksum is still to be filled in.

use super::network::Datagram;
use crate::{
    wire::{Address6, Be16, Bytes, Icmp, Sum, Tcp, Udp, protocol},
};

/// What could be read behind the network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Ports and, for TCP, flags.
    Ports {
        /// Source port.
        source: u32,
        /// Destination port.
        destination: u32,
        /// TCP flags; 0 for other protocols.
        flags: u32,
        /// The checksum as the machine loads it, where the kernel would leave it half done (TCP and UDP).
        checksum: Option<u32>,
    },
    /// ICMP and `ICMPv6`.
    Icmp {
        /// Type.
        kind: u32,
        /// Code.
        code: u32,
    },
    /// A protocol without anything that a rule asks about.
    Other,
    /// A later fragment, or a header that is cut off or contradicts itself.
    Unreadable,
}

/// Reads the transport header of `datagram`, bounded by the IP length and never by the end of the frame.
#[inline(always)]
pub fn transport<A, B: Bytes + ?Sized>(packet: &B, datagram: &Datagram<A>, offset: usize) -> Transport {
    if datagram.is_later_fragment() {
        return Transport::Unreadable;
    }
    let at = datagram.payload & 0x7fff;
    let Some(left) = (offset + datagram.length).checked_sub(at) else { return Transport::Unreadable };
    match datagram.protocol {
        protocol::TCP => tcp(packet, at, left),
        protocol::UDP | protocol::UDP_LITE => udp(packet, datagram, at, left),
        protocol::SCTP | protocol::DCCP => match packet.header::<[Be16; 6]>(at) {
            Some(header) if left >= 12 => Transport::Ports {
                source: u32::from(header[0].get()),
                destination: u32::from(header[1].get()),
                flags: 0,
                checksum: None,
            },
            _ => Transport::Unreadable,
        },
        protocol::ICMP | protocol::ICMPV6 => match packet.header::<Icmp>(at) {
            Some(header) if left >= size_of::<Icmp>() => {
                Transport::Icmp { kind: u32::from(header.kind), code: u32::from(header.code) }
            },
            _ => Transport::Unreadable,
        },
        _ => Transport::Other,
    }
}

#[inline(always)]
fn tcp<B: Bytes + ?Sized>(packet: &B, at: usize, left: usize) -> Transport {
    match packet.header::<Tcp>(at) {
        Some(header) if (size_of::<Tcp>()..=left).contains(&header.header_length()) => Transport::Ports {
            source: u32::from(header.source.get()),
            destination: u32::from(header.destination.get()),
            flags: u32::from(header.flags),
            checksum: Some(u32::from(header.checksum.raw())),
        },
        _ => Transport::Unreadable,
    }
}

#[inline(always)]
fn udp<A, B: Bytes + ?Sized>(packet: &B, datagram: &Datagram<A>, at: usize, left: usize) -> Transport {
    let Some(header) = packet.header::<Udp>(at) else { return Transport::Unreadable };
    let length = usize::from(header.length.get());
    // A first fragment carries the length of the whole datagram; UDP-Lite has a coverage there (RFC 3828).
    let contradicts = datagram.protocol == protocol::UDP
        && (length < size_of::<Udp>() || (length > left && !datagram.is_fragment()));
    if left < size_of::<Udp>() || contradicts {
        return Transport::Unreadable;
    }
    Transport::Ports {
        source: u32::from(header.source.get()),
        destination: u32::from(header.destination.get()),
        flags: 0,
        checksum: (datagram.protocol == protocol::UDP).then_some(u32::from(header.checksum.raw())),
    }
}

/// Whether the checksum in the header is only the folded sum of the pseudo header: what a local stack leaves for hardware
/// to finish (`CHECKSUM_PARTIAL`, `tcp_v4_send_check`). A finished checksum looks like that once in 65 536 packets, which
/// then takes the slower tier and loses nothing.
#[inline(always)]
pub fn is_partial<A: PseudoHeader + Copy>(datagram: &Datagram<A>, offset: usize, checksum: u32) -> bool {
    let length = (offset + datagram.length - datagram.payload) as u32;
    let sum = datagram.destination.add_to(datagram.source.add_to(Sum::default()));
    let sum = sum.add(length.to_be()).add(datagram.protocol.to_be());
    u32::from(sum.fold()) == checksum
}

/// Bytes of the longest IP packet that a packet will be cut into, `segment` bytes of payload each
/// (`skb_gso_network_seglen` of the kernel).
#[inline(always)]
pub fn segment_length<A, B: Bytes + ?Sized>(packet: &B, datagram: &Datagram<A>, offset: usize, segment: usize) -> usize {
    let at = datagram.payload & 0x7fff;
    let header = match datagram.protocol {
        protocol::TCP => packet.header::<Tcp>(at).map_or(size_of::<Tcp>(), Tcp::header_length),
        _ => size_of::<Udp>(),
    };
    (at - offset) + header + segment
}

/// An address as part of the pseudo header (RFC 768, RFC 8200 section 8.1).
pub trait PseudoHeader {
    /// Adds the address.
    fn add_to(self, sum: Sum) -> Sum;
}

impl PseudoHeader for u32 {
    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        sum.add(self.to_be())
    }
}

impl PseudoHeader for Address6 {
    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        self.words().iter().fold(sum, |sum, word| sum.add(word.to_be()))
    }
}
