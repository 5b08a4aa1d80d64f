//! What rules ask of a packet, gathered once.

use super::{
    link::Frame,
    network::{Datagram, Family},
    transport::{Readable, Transport},
};
use crate::{
    abi::{Ifindex, Key, KeyFlags, key as word},
    wire::Ethernet,
};

/// Fills in the key of a packet that came in through `iif` (0: from this machine). In place, because the stack of a BPF
/// program has no room for copies.
#[inline(always)]
pub fn key<F: Family>(
    key: &mut Key,
    iif: Ifindex,
    frame: &Frame,
    datagram: &Datagram<F::Address>,
    transport: Transport,
    ethernet: Option<&Ethernet>,
) {
    let network =
        F::NUMBER << 24 | (datagram.protocol as u32) << 16 | (datagram.dscp as u32) << 8 | datagram.ttl as u32;
    let vlan = frame.vlan.id().map_or(0, |id| word::VLAN_PRESENT | id);
    let readable = match transport.readable {
        Readable::Ports => KeyFlags::TRANSPORT.union(KeyFlags::PORTS),
        Readable::Icmp => KeyFlags::TRANSPORT,
        Readable::Nothing => KeyFlags::empty(),
        Readable::Broken => KeyFlags::UNREADABLE,
    };
    key.words[word::DESTINATION..word::SOURCE].copy_from_slice(&F::key_words(datagram.destination));
    key.words[word::SOURCE..word::NETWORK].copy_from_slice(&F::key_words(datagram.source));
    key.words[word::NETWORK] = network;
    key.words[word::IIF] = iif;
    key.words[word::OIF] = 0;
    key.words[word::VLAN_FRAGMENT] = vlan << 16 | datagram.fragment as u32;
    (key.words[word::LINK_DESTINATION], key.words[word::LINK_MIDDLE], key.words[word::LINK_SOURCE]) =
        ethernet.map_or((0, 0, 0), |Ethernet { destination, source, .. }| {
            let middle = u32::from(destination.low()) << 16 | source.high() >> 16;
            (destination.high(), middle, source.high() << 16 | u32::from(source.low()))
        });
    key.words[word::TRANSPORT] = (transport.flags << 16 | transport.icmp) as u32;
    (key.source_port, key.destination_port) = (transport.source as u16, transport.destination as u16);
    key.length = datagram.length as u32;
    key.flags = if ethernet.is_some() { readable.union(KeyFlags::ETHERNET) } else { readable };
}
