//! What rules ask of a packet, gathered once.

use super::{
    link::Frame,
    network::{Datagram, Family},
    transport::Transport,
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
    let network = F::NUMBER << 24
        | datagram.protocol << 16
        | datagram.dscp << 8
        | datagram.ttl;
    let vlan = frame.vlan.map_or(0, |id| word::VLAN_PRESENT | id);
    let (ports, kind, readable) = match transport {
        Transport::Ports { source, destination, flags, .. } => {
            ((source as u16, destination as u16), flags << 16, KeyFlags::TRANSPORT.union(KeyFlags::PORTS))
        }
        Transport::Icmp { kind, code } => {
            ((0, 0), kind << 8 | code, KeyFlags::TRANSPORT)
        }
        Transport::Other => ((0, 0), 0, KeyFlags::empty()),
        Transport::Unreadable => ((0, 0), 0, KeyFlags::UNREADABLE),
    };
    key.words[word::DESTINATION..word::SOURCE].copy_from_slice(&F::key_words(datagram.destination));
    key.words[word::SOURCE..word::NETWORK].copy_from_slice(&F::key_words(datagram.source));
    key.words[word::NETWORK] = network;
    key.words[word::IIF] = iif;
    key.words[word::OIF] = 0;
    key.words[word::VLAN_FRAGMENT] = vlan << 16 | datagram.fragment;
    (key.words[word::LINK_DESTINATION], key.words[word::LINK_MIDDLE], key.words[word::LINK_SOURCE]) =
        ethernet.map_or((0, 0, 0), |Ethernet { destination, source, .. }| {
            let middle = u32::from(destination.low()) << 16 | source.high() >> 16;
            (destination.high(), middle, source.high() << 16 | u32::from(source.low()))
        });
    key.words[word::TRANSPORT] = kind;
    (key.source_port, key.destination_port) = ports;
    key.length = datagram.length as u32;
    key.flags = if ethernet.is_some() { readable.union(KeyFlags::ETHERNET) } else { readable };
}
