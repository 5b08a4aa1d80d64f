//! The transport layer: the fields that rules can match, and whether the checksum is still to be filled in.

use core::{hint::cold_path, mem::offset_of};

use super::network::{self, Datagram};
use crate::wire::{Address6, Be16, Bytes, IPV4_FRAGMENT_MASK, IPV6_ROUTED, Icmp, Ipv4, Ipv6, Sum, Tcp, Udp, protocol};

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
    /// A later fragment, or a header that is cut off.
    Broken,
    /// Ports, of a header that is cut off behind them or contradicts itself.
    PortsAlone,
    /// Ports and flags, of such a header.
    PortsAndFlags,
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
            _ => beginning(packet, at, left, false),
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
        _ => beginning(packet, at, left, true),
    }
}

/// What is there of a header that is not sound, whatever it says of itself.
#[inline(always)]
fn beginning<B: Bytes + ?Sized>(packet: &B, at: usize, left: usize, tcp: bool) -> Transport {
    cold_path();
    let found = packet.beginning(at, left);
    let readable = match (found.has_ports(), tcp && found.has_flags()) {
        (false, _) => Readable::Broken,
        (true, false) => Readable::PortsAlone,
        (true, true) => Readable::PortsAndFlags,
    };
    let [source, destination] = found.ports();
    Transport { readable, source, destination, flags: if tcp { found.flags() } else { 0 }, icmp: 0 }
}

#[inline(always)]
fn udp<A, B: Bytes + ?Sized>(packet: &B, datagram: &Datagram<A>, at: usize, left: usize) -> Transport {
    let Some(header) = packet.header::<Udp>(at) else { return beginning(packet, at, left, false) };
    let length = usize::from(header.length.get());
    // A first fragment carries the length of the whole datagram; UDP-Lite has a coverage there (RFC 3828).
    let contradicts =
        datagram.protocol == protocol::UDP && (length < size_of::<Udp>() || (length > left && !datagram.is_fragment()));
    if left < size_of::<Udp>() || contradicts {
        return beginning(packet, at, left, false);
    }
    Transport {
        readable: Readable::Ports,
        source: u64::from(header.source.get()),
        destination: u64::from(header.destination.get()),
        flags: 0,
        icmp: 0,
    }
}

/// Whether a local stack may have left a checksum of the packet to hardware: its own, one that [`is_partial`], or that of a
/// packet inside it, where it is not checked.
#[inline(always)]
pub fn is_pending<A: PseudoHeader + Copy, B: Bytes + ?Sized>(
    packet: &B,
    datagram: &Datagram<A>,
    offset: usize,
) -> bool {
    let at = match datagram.protocol {
        protocol::TCP => offset_of!(Tcp, checksum),
        protocol::UDP => offset_of!(Udp, checksum),
        _ => return may_hold_pending(datagram),
    };
    // Before it cuts a datagram into fragments, the kernel finishes its checksum.
    if datagram.is_fragment() || datagram.payload + at >= offset + datagram.length {
        return false;
    }
    // A routing header: the checksum is of another destination than the packet has.
    if A::EXTENDS && datagram.fragment & u64::from(IPV6_ROUTED) != 0 {
        return true;
    }
    if datagram.protocol == protocol::UDP {
        let header = packet.header::<Udp>(datagram.payload & 0x7fff);
        return header.is_some_and(|header| {
            is_partial(datagram, offset, header.checksum.get()) || is_tunnel(header.destination.get())
        });
    }
    let checksum = packet.header::<Be16>((datagram.payload + at) & 0x7fff);
    checksum.is_some_and(|checksum| is_partial(datagram, offset, checksum.get()))
}

/// The same of what is neither TCP nor UDP: SCTP, and what holds packets (IPIP, IPv6, GRE, `EtherIP`, ENCAP, PIM, L2TP, MPLS,
/// Ethernet). All others are finished by their senders; so is what ESP and AH hold (`xfrm_output`).
#[inline(always)]
fn may_hold_pending<A>(datagram: &Datagram<A>) -> bool {
    cold_path();
    !datagram.is_fragment()
        && matches!(datagram.protocol, 4 | 41 | 47 | 97 | 98 | 103 | 115 | protocol::SCTP | 137 | 143)
}

/// Whether packets are inside of UDP to a port (IANA; 8472 and 5555 as Linux has them by default for VXLAN and FOU). What holds
/// them may have a finished checksum, or none, while theirs is to be filled in (`lco_csum`).
#[inline(always)]
const fn is_tunnel(port: u16) -> bool {
    matches!(port, 2152 | 4754 | 4789 | 4790 | 5555 | 6080 | 6081 | 6635 | 8472)
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

/// The flow of the packet that an ICMP error is about, which is the packet of an IP version at `at`; `flow`, that of the packet
/// itself, for all others. As `ip_multipath_l3_keys` and `ip6_multipath_l3_keys` (`net/ipv4/route.c`, `net/ipv6/route.c`), which
/// look for errors only right behind the header of IPv6.
#[inline(always)]
pub fn quoted_flow<B: Bytes + ?Sized>(packet: &B, at: usize, ipv6: bool, flow: u32) -> u32 {
    quoted(packet, at & 0x7fff, ipv6).unwrap_or(flow)
}

#[inline(always)]
fn quoted<B: Bytes + ?Sized>(packet: &B, at: usize, ipv6: bool) -> Option<u32> {
    let message = if ipv6 {
        packet.header::<Ipv6>(at).filter(|header| u64::from(header.next_header) == protocol::ICMPV6)?;
        at + size_of::<Ipv6>()
    } else {
        let header = packet.header::<Ipv4>(at).filter(|header| u64::from(header.protocol) == protocol::ICMP)?;
        if header.fragment.get() & IPV4_FRAGMENT_MASK != 0 {
            return None;
        }
        at + header.header_length()
    };
    let kind = packet.header::<Icmp>(message)?.kind;
    // `icmp_is_err`, `icmpv6_is_err`.
    if !(if ipv6 { matches!(kind, 1..=4) } else { matches!(kind, 3..=5 | 11 | 12) }) {
        return None;
    }
    let inside = message + 2 * size_of::<Icmp>();
    if ipv6 {
        let header = packet.header::<Ipv6>(inside)?;
        return Some(network::flow(Address6::from_bytes(header.source), Address6::from_bytes(header.destination)));
    }
    packet.header::<Ipv4>(inside).map(|header| network::flow(header.source.get(), header.destination.get()))
}

/// Addresses as part of the pseudo header (RFC 768, RFC 8200 section 8.1).
pub trait PseudoHeader: Sized {
    /// Whether headers may be between that of IP and the transport's.
    const EXTENDS: bool;

    /// The sum of both.
    fn sum(source: Self, destination: Self) -> Sum;
}

impl PseudoHeader for u32 {
    const EXTENDS: bool = false;

    #[inline(always)]
    fn sum(source: Self, destination: Self) -> Sum {
        Sum::default().add(source).add(destination)
    }
}

impl PseudoHeader for Address6 {
    const EXTENDS: bool = true;

    #[inline(always)]
    fn sum(source: Self, destination: Self) -> Sum {
        Sum::of([source.high, source.low, destination.high, destination.low])
    }
}
