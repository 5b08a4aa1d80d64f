//! A packet, as far as it is known, for the rules of a config.

use std::net::IpAddr;

use dataplane_common::wire::IPV4_FRAGMENT_MASK;

use crate::config::{ExpectedPacket, WayIn};
use crate::event::{Network, Packet};
use crate::rule::{Addresses, ESTABLISHED, Family, MacAddress, Range, Side, Translation, TranslationKind};

/// TCP's number (RFC 9293).
pub(in crate::config) const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// The flag of a segment that answers, and the one that opens (RFC 9293, section 3.1).
pub(in crate::config) const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
/// `ct state` of the first packet of a connection.
const NEW: u32 = 8;

/// The outer VLAN tag of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum OuterTag {
    Unknown,
    Absent,
    Id(u16),
}

/// How a packet leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Egress {
    /// It is not known.
    Unknown,
    /// It does not: it is delivered here.
    Nowhere,
    /// By this link.
    Link(String),
}

/// A packet. What is `None` is not known, so that matches of it may hold or not.
#[derive(Clone, Debug)]
pub struct Subject {
    pub(in crate::config) family: Family,
    pub(in crate::config) source: Option<IpAddr>,
    pub(in crate::config) destination: Option<IpAddr>,
    pub(in crate::config) protocol: Option<u8>,
    pub(in crate::config) ports: [Option<u16>; 2],
    pub(in crate::config) flags: Option<u8>,
    /// Type and code.
    pub(in crate::config) icmp: Option<(u8, u8)>,
    pub(in crate::config) dscp: Option<u8>,
    pub(in crate::config) hop_limit: Option<u8>,
    pub(in crate::config) length: Option<u16>,
    /// Flags and offset as IPv4 has them; not known: of a packet that is no fragment.
    pub(in crate::config) fragment: Option<u16>,
    pub(in crate::config) vlan: OuterTag,
    pub(in crate::config) ether: [Option<MacAddress>; 2],
    pub(in crate::config) iif: Option<WayIn>,
    pub(in crate::config) oif: Egress,
    pub(in crate::config) state: u32,
    /// Whether buckets of limits are full; else a limit may hold or not.
    pub(in crate::config) buckets_full: bool,
}

impl Subject {
    /// A packet for this machine of which only some is known.
    pub(in crate::config) fn expected(packet: &ExpectedPacket<'_>) -> Self {
        let [source, destination] = packet.addresses;
        Self {
            family: packet.family,
            source,
            destination,
            protocol: Some(packet.protocol),
            ports: packet.ports,
            flags: Some(packet.flags),
            icmp: None,
            dscp: None,
            hop_limit: None,
            length: None,
            fragment: None,
            vlan: OuterTag::Unknown,
            ether: [None; 2],
            iif: packet.iif.cloned(),
            oif: Egress::Nowhere,
            state: packet.state,
            buckets_full: false,
        }
    }

    /// A packet of a standing TCP session to this machine.
    pub(in crate::config) fn session(ends: [std::net::SocketAddr; 2], iif: Option<&WayIn>) -> Self {
        Self::expected(&ExpectedPacket {
            family: if ends[0].is_ipv4() { Family::V4 } else { Family::V6 },
            protocol: TCP,
            addresses: ends.map(|end| Some(end.ip())),
            ports: ends.map(|end| Some(end.port())),
            flags: ACK,
            state: ESTABLISHED,
            iif,
        })
    }

    /// A frame whose IP header begins at an offset; none if it is no IP packet. Its buckets are full, and a TCP segment that
    /// acknowledges belongs to a connection that stands.
    pub fn of_frame(frame: &[u8], offset: usize) -> Option<Self> {
        let packet = Packet::within(frame, offset, frame.len())?;
        let (bytes, transport) = (packet.bytes, packet.transport());
        let readable = packet.fragment_offset() & IPV4_FRAGMENT_MASK == 0;
        let of = |number: u8| readable && packet.protocol == Some(number);
        let port =
            |at: usize| Some(u16::from_be_bytes(*transport.get(at..at + 2).filter(|_| readable)?.first_chunk()?));
        let flags = transport.get(13).copied().filter(|_| of(TCP));
        let (dscp, hop_limit, fragment) = match packet.network {
            Network::V4(header) => (*bytes.get(1)? >> 2, *bytes.get(8)?, header.fragment.get()),
            Network::V6(_) => ((*bytes.first()? << 4 | *bytes.get(1)? >> 4) >> 2, *bytes.get(7)?, packet.fragment),
        };
        let mac = |at: usize| packet.link.get(at..at + 6)?.try_into().ok().map(MacAddress);
        let tag = packet.link.get(12..16).and_then(|tag| match tag {
            [0x81, 0, high, low] | [0x88, 0xa8, high, low] => Some(u16::from_be_bytes([high & 0x0f, *low])),
            _ => None,
        });
        let answers = flags.is_some_and(|flags| flags & ACK != 0 && flags & SYN == 0);
        Some(Self {
            family: if packet.source().is_ipv4() { Family::V4 } else { Family::V6 },
            source: Some(packet.source()),
            destination: Some(packet.destination()),
            protocol: packet.protocol,
            ports: [port(0), port(2)],
            flags,
            icmp: transport.get(..2).filter(|_| of(ICMP) || of(ICMPV6)).map(|icmp| (icmp[0], icmp[1])),
            dscp: Some(dscp),
            hop_limit: Some(hop_limit),
            length: u16::try_from(packet.length).ok(),
            fragment: Some(fragment),
            vlan: tag.map_or(OuterTag::Absent, OuterTag::Id),
            ether: [mac(6), mac(0)],
            iif: None,
            oif: Egress::Unknown,
            state: if answers { ESTABLISHED } else { NEW },
            buckets_full: true,
        })
    }

    /// The same, coming in by a link.
    #[must_use]
    pub fn through(self, iif: WayIn) -> Self {
        Self { iif: Some(iif), ..self }
    }

    /// The same, leaving by a link, or not at all.
    #[must_use]
    pub fn leaving(self, oif: Egress) -> Self {
        Self { oif, ..self }
    }

    /// Gives it the destination that a rule writes; false where that is one of several, or is not known.
    pub(in crate::config) fn translate(&mut self, translation: Translation) -> bool {
        let addresses = match translation.kind {
            // The source is written behind all chains that judge.
            TranslationKind::Masquerade | TranslationKind::Source(_) => return true,
            TranslationKind::Redirect => return false,
            TranslationKind::Destination(addresses) => addresses,
        };
        let only = |(low, high): (IpAddr, IpAddr)| (low == high).then_some(low);
        let address = match addresses {
            Addresses::V4(range) => only((range.ends().0.into(), range.ends().1.into())),
            Addresses::V6(range) => only((range.ends().0.into(), range.ends().1.into())),
        };
        let port = match translation.ports.map(Range::ends) {
            None => self.ports[1],
            Some((low, high)) if low == high => Some(low.0),
            Some(_) => return false,
        };
        let Some(address) = address else { return false };
        (self.destination, self.ports[1]) = (Some(address), port);
        true
    }

    /// The outer tag, where it has one.
    pub fn tag(&self) -> Option<u16> {
        if let OuterTag::Id(tag) = self.vlan { Some(tag) } else { None }
    }

    /// The link address that it is for.
    pub fn recipient(&self) -> Option<MacAddress> {
        self.ether[1]
    }

    pub(in crate::config) fn address(&self, side: Side) -> Option<IpAddr> {
        if side == Side::Source { self.source } else { self.destination }
    }

    pub(in crate::config) fn port(&self, side: Side) -> Option<u16> {
        self.ports[usize::from(side == Side::Destination)]
    }

    pub(in crate::config) fn mac(&self, side: Side) -> Option<MacAddress> {
        self.ether[usize::from(side == Side::Destination)]
    }

    /// `meta pkttype`; of one whose link address is not known: what its destination says.
    pub(in crate::config) fn packet_type(&self) -> u8 {
        match (self.ether[1], self.destination) {
            (Some(MacAddress([0xff, 0xff, 0xff, 0xff, 0xff, 0xff])), _) => 1,
            (Some(MacAddress([first, ..])), _) => u8::from(first & 1 == 1) * 2,
            (None, Some(IpAddr::V4(address))) if address.is_broadcast() => 1,
            (None, address) => u8::from(address.is_some_and(|address| address.is_multicast())) * 2,
        }
    }
}
