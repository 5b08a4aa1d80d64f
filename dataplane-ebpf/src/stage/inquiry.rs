//! The kernel's own lookup, for ports where routing rules or a VRF have a say.

use dataplane_common::{
    abi::{Control, Features, Port, Target},
    decide::{Datagram, Frame},
};

use crate::{
    features,
    hook::Hook,
    maps,
    pipeline::Named,
    tables::Routed,
};

/// Whether the kernel is asked about packets of this port.
#[inline(always)]
pub fn asks<F: Routed>(control: Control, port: &Port) -> bool {
    features::on(Features::INQUIRIES) && port.flags().contains(F::INQUIRES) && control.mirror & F::MIRROR != 0
}

/// What the kernel would do with the packet: its own if it does not say. The group of a unicast target means nothing: the
/// next hop is [`named`].
#[inline(always)]
pub fn ask<F: Routed, H: Hook>(hook: &H, port: &Port, frame: &Frame, packet: &Datagram<F::Address>) -> Target {
    let service = F::service(hook, frame, packet);
    let Some(asked) = maps::asked() else { return Target::KERNEL };
    asked.source = F::words(packet.source);
    asked.destination = F::words(packet.destination);
    asked.service = service;
    asked.family = F::SOCKET;
    asked.protocol = packet.protocol as u32;
    asked.fragment = packet.fragment as u32;
    asked.offset = frame.offset as u32;
    asked.payload = packet.payload as u32;
    asked.length = packet.length as u32;
    asked.dscp = packet.dscp as u32;
    asked.flags = port.flags;
    asked.domain = port.domain;
    asked.ifindex = port.ifindex;
    asked.rp_filter = u32::from(port.rp_filter);
    asked.route_mtu = port.route_mtu;
    Target::from_raw(hook.inquire())
}

/// The next hop in the answer to [`ask`].
#[inline(always)]
pub fn named() -> Named {
    let Some(asked) = maps::asked() else { return Named::NOTHING };
    Named {
        ifindex: u64::from(asked.out),
        adjacency: u64::from(asked.adjacency),
        mtu: u64::from(asked.mtu),
        settled: u64::from(asked.settled),
    }
}
