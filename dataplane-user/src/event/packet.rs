//! What can be read of a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_common::{
    abi::{PACKET_EVENT_BYTES, PacketEvent},
    wire::{Bytes as _, Chain, IPV4_FRAGMENT_MASK, IPV4_MORE_FRAGMENTS, Ipv4, Ipv6, protocol},
};

/// The IP header.
#[derive(Clone, Copy, Debug)]
pub enum Network<'a> {
    /// Of version 4.
    V4(&'a Ipv4),
    /// Of version 6.
    V6(&'a Ipv6),
}

/// A packet, as far as its bytes are here.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// What is in front of the IP header.
    pub link: &'a [u8],
    /// From the IP header on; without what is behind the packet in its frame.
    pub bytes: &'a [u8],
    /// How long it is, by its own account; at least the bytes that are here.
    pub length: usize,
    /// The IP header.
    pub network: Network<'a>,
    /// Flags and offset of a fragment, in the places where IPv4 has them.
    pub fragment: u16,
    /// What it carries, where that can be told.
    pub protocol: Option<u8>,
    /// Where that begins in [`Self::bytes`].
    pub payload: usize,
}

impl<'a> Packet<'a> {
    /// Reads an event; `None` when its bytes are no IP packet.
    pub fn read(event: &'a PacketEvent) -> Option<Self> {
        let frame = event.bytes.get(..(event.captured as usize).min(PACKET_EVENT_BYTES))?;
        Self::within(frame, event.offset as usize, event.length as usize)
    }

    /// Reads what is here of a frame of this length, whose IP header begins at an offset; `None` when that is no IP packet.
    pub fn within(frame: &'a [u8], offset: usize, length: usize) -> Option<Self> {
        let (link, bytes) = frame.split_at_checked(offset)?;
        let there = length.saturating_sub(link.len()).max(bytes.len());
        match bytes.first()? >> 4 {
            4 => Self::v4(link, bytes, there),
            6 => Self::v6(link, bytes, there),
            _ => None,
        }
    }

    fn v4(link: &'a [u8], bytes: &'a [u8], there: usize) -> Option<Self> {
        let header = bytes.header::<Ipv4>(0)?;
        // Packets that were put together by the kernel and are too long for the field say zero (BIG TCP).
        let length = match usize::from(header.total_length.get()) {
            0 => there,
            length => length.min(there),
        };
        let bytes = &bytes[..bytes.len().min(length)];
        let payload = header.header_length();
        (payload >= size_of::<Ipv4>() && payload <= bytes.len()).then_some(Self {
            link,
            bytes,
            length,
            network: Network::V4(header),
            fragment: header.fragment.get() & (IPV4_FRAGMENT_MASK | IPV4_MORE_FRAGMENTS),
            protocol: Some(header.protocol),
            payload,
        })
    }

    fn v6(link: &'a [u8], bytes: &'a [u8], there: usize) -> Option<Self> {
        const HEADER: usize = size_of::<Ipv6>();
        let header = bytes.header::<Ipv6>(0)?;
        let length = match usize::from(header.payload_length.get()) {
            0 => there,
            length => (HEADER + length).min(there),
        };
        let bytes = &bytes[..bytes.len().min(length)];
        let first = Chain { payload: HEADER, protocol: header.next_header.into(), fragment: 0 };
        let chain = bytes.walk(first, bytes.len()).outcome().ok();
        // A chain that cannot be walked to its end ends in no next header, too.
        let known = chain.filter(|chain| chain.protocol != protocol::NO_NEXT_HEADER);
        let chain = known.unwrap_or(Chain { payload: bytes.len(), ..first });
        Some(Self {
            link,
            bytes,
            length,
            network: Network::V6(header),
            fragment: chain.fragment as u16,
            protocol: known.map(|chain| chain.protocol as u8),
            payload: chain.payload.min(bytes.len()),
        })
    }

    /// What it carries, as far as that is here.
    pub fn transport(&self) -> &'a [u8] {
        &self.bytes[self.payload.min(self.bytes.len())..]
    }

    /// Who sent it.
    pub fn source(&self) -> IpAddr {
        match self.network {
            Network::V4(header) => Ipv4Addr::from(header.source.get()).into(),
            Network::V6(header) => Ipv6Addr::from(header.source).into(),
        }
    }

    /// Whom it is for.
    pub fn destination(&self) -> IpAddr {
        match self.network {
            Network::V4(header) => Ipv4Addr::from(header.destination.get()).into(),
            Network::V6(header) => Ipv6Addr::from(header.destination).into(),
        }
    }

    /// Whether it is a part of a datagram, also the first.
    pub fn is_fragment(&self) -> bool {
        self.fragment != 0
    }

    /// Where in its datagram it belongs, in units of eight bytes; what is not the first part has no transport header.
    pub fn fragment_offset(&self) -> u16 {
        self.fragment & IPV4_FRAGMENT_MASK
    }

    /// Whether all its bytes are here.
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == self.length
    }
}
