//! Chain output: what this machine itself sends.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Port, PortFlags},
    decide::{self, Family, L3Protocol, V4, V6},
    wire::Ethernet,
};

use crate::{
    features, link_address, maps,
    packet::Hook,
    stage::{filter, vlan},
    trace::note,
    verdict::Outcome,
};

/// The reason not to send a packet, or `None`.
#[inline(always)]
pub fn judge<H: Hook>(hook: &H, port: &'static Port) -> Option<Reason> {
    if port.flags().contains(PortFlags::NO_ETHERNET) {
        // Chains see the link header's protocol number first; a device without one is the kernel's.
        return None;
    }
    let frame = decide::frame(hook, None, hook.stripped_vlan()).ok()?;
    let port = vlan::device(port, &frame).unwrap_or(port);
    let port = sender(hook, port).unwrap_or(port);
    note::begin(0);
    match frame.l3 {
        L3Protocol::Ipv4 => chain::<V4, H>(hook, port, &frame),
        L3Protocol::Ipv6 if features::IPV6.on() => chain::<V6, H>(hook, port, &frame),
        _ => None,
    }
}

/// The macvlan device that a packet left through, by its source.
#[inline(always)]
fn sender<H: Hook>(hook: &H, on: &Port) -> Option<&'static Port> {
    if !features::VIRTUAL.on() {
        return None;
    }
    link_address::device_with(on, hook.header::<Ethernet>(0)?.source)
}

#[inline(always)]
fn chain<F: Family, H: Hook>(hook: &H, port: &Port, frame: &decide::Frame) -> Option<Reason> {
    let packet = F::datagram(hook, frame.offset, hook.length(), hook.segment_size() != 0).ok()?;
    let control = maps::control(F::NUMBER);
    let ControlFlow::Continue(filter) = filter::prepare::<F, H>(hook, || 0, frame, &packet, control) else {
        return None;
    };
    match filter.output(port.ifindex) {
        ControlFlow::Break(Outcome::Stop(reason)) => Some(reason),
        _ => None,
    }
}
