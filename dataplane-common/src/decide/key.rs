//! The key of a packet, gathered once for all rules.

use super::{
    link::Frame,
    network::{Datagram, Family},
    transport::{Readable, Transport},
};
use crate::{
    abi::{Ifindex, Key, KeyFlags, field as word, mixed},
    wire::Ethernet,
};

/// Fills in the key of a packet that came in through `iif` (0: from this machine), all but what [`ethernet`] or [`bare`] says.
/// In place, because the stack of a BPF program has no room for copies.
#[inline(always)]
pub fn key<F: Family>(
    key: &mut Key,
    iif: Ifindex,
    frame: &Frame,
    (datagram, dscp): (&Datagram<F::Address>, u32),
    transport: Transport,
) {
    let network = F::NUMBER << 24 | (datagram.protocol as u32) << 16 | dscp << 8 | datagram.ttl as u32;
    let vlan = frame.vlan.id_and_presence(word::VLAN_PRESENT);
    let readable = match transport.readable {
        Readable::Ports => KeyFlags::TRANSPORT.union(KeyFlags::PORTS),
        Readable::Icmp => KeyFlags::TRANSPORT,
        Readable::Nothing => KeyFlags::empty(),
        Readable::Broken => KeyFlags::UNREADABLE,
        Readable::PortsAlone => KeyFlags::UNREADABLE.union(KeyFlags::PORTS),
        Readable::PortsAndFlags => KeyFlags::UNREADABLE.union(KeyFlags::PORTS).union(KeyFlags::TRANSPORT),
    };
    F::fill(&mut key.address, datagram.destination, datagram.source);
    key.mixed = mixed::of(transport.source, transport.destination, datagram.protocol, iif, 0);
    key.fields[word::NETWORK] = network;
    key.fields[word::IIF] = iif;
    key.fields[word::OIF] = 0;
    key.fields[word::VLAN_FRAGMENT] = vlan << 16 | datagram.fragment as u32;
    key.fields[word::TRANSPORT] = (transport.flags << 16 | transport.icmp) as u32;
    key.length = datagram.length as u32;
    key.offset = frame.offset as u32;
    key.flags = readable;
}

/// Adds the link header.
#[inline(always)]
pub fn ethernet(key: &mut Key, header: &Ethernet) {
    [key.fields[word::LINK_DESTINATION], key.fields[word::LINK_MIDDLE], key.fields[word::LINK_SOURCE]] =
        header.addresses();
    key.flags = key.flags.union(KeyFlags::ETHERNET);
}

/// Says that there is none.
#[inline(always)]
pub fn bare(key: &mut Key) {
    [key.fields[word::LINK_DESTINATION], key.fields[word::LINK_MIDDLE], key.fields[word::LINK_SOURCE]] = [0; 3];
}
