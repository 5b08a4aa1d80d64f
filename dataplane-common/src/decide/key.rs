//! What rules ask of a packet, gathered once.

use super::{
    link::Frame,
    network::{Datagram, Family},
    transport::Transport,
};
use crate::abi::{Ifindex, Key, KeyFlags, key as word};

/// Fills in the key of a packet that came in through `iif` (0: from this machine). In place, because the stack of a BPF
/// program has no room for copies.
#[inline(always)]
pub fn key<F: Family>(
    key: &mut Key,
    iif: Ifindex,
    frame: &Frame,
    datagram: &Datagram<F::Address>,
    transport: Transport,
    ethernet: bool,
) {
    let network = u32::from(F::NUMBER) << 24
        | u32::from(datagram.protocol) << 16
        | u32::from(datagram.dscp) << 8
        | u32::from(datagram.ttl);
    let vlan = frame.vlan.map_or(0, |id| word::VLAN_PRESENT | u32::from(id));
    let (upper, lower) = (frame.destination, frame.source);
    let (ports, kind, readable) = match transport {
        Transport::Ports { source, destination, flags, .. } => {
            ((source, destination), u32::from(flags) << 16, KeyFlags::TRANSPORT.union(KeyFlags::PORTS))
        }
        Transport::Icmp { kind, code } => {
            ((0, 0), u32::from(kind) << 8 | u32::from(code), KeyFlags::TRANSPORT)
        }
        Transport::Other => ((0, 0), 0, KeyFlags::empty()),
        Transport::Unreadable => ((0, 0), 0, KeyFlags::UNREADABLE),
    };
    key.words[word::DESTINATION..word::SOURCE].copy_from_slice(&F::key_words(datagram.destination));
    key.words[word::SOURCE..word::NETWORK].copy_from_slice(&F::key_words(datagram.source));
    key.words[word::NETWORK] = network;
    key.words[word::IIF] = iif;
    key.words[word::OIF] = 0;
    key.words[word::VLAN_FRAGMENT] = vlan << 16 | u32::from(datagram.fragment);
    key.words[word::LINK_DESTINATION] = upper.high();
    key.words[word::LINK_MIDDLE] = u32::from(upper.low()) << 16 | lower.high() >> 16;
    key.words[word::LINK_SOURCE] = lower.high() << 16 | u32::from(lower.low());
    key.words[word::TRANSPORT] = kind;
    (key.source_port, key.destination_port) = ports;
    key.length = datagram.length as u32;
    key.flags = if ethernet { readable.union(KeyFlags::ETHERNET) } else { readable };
}
