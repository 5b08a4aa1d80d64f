//! The kernel's own lookup, for ports where routing rules or a VRF have a say.
//!
//! What is asked and what is said are in [`maps::asked`]: the verifier knows nothing of what comes out of a map, so that behind
//! it there is one path, whoever said the route.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Asked, Control, Ifindex, Port, RouteKind, Target},
    decide::{Datagram, Frame},
};

use crate::{
    features,
    hook::Hook,
    maps,
    pipeline::{Step, stop},
    tables::Routed,
};

/// The route that the mirror has, and where it has none to say, the kernel's. The group of a unicast target then means
/// nothing: there is a [`next_hop`].
#[inline(always)]
pub fn ask<F: Routed, H: Hook>(
    hook: &H,
    control: Control,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
    route: Target,
) -> Step<Target> {
    if !features::INQUIRIES.on() {
        return ControlFlow::Continue(route);
    }
    let Some(asked) = maps::asked() else { return stop(Reason::MirrorOff) };
    asked.target = u64::from(route.raw());
    asked.out = 0;
    asked.next = Asked::NOBODY_WAS;
    let asks = port.flags().contains(F::INQUIRES) && control.mirror & F::MIRROR != 0;
    if asks && matches!(route.kind(), RouteKind::Kernel) {
        asked.source = F::words(packet.source);
        asked.destination = F::words(packet.destination);
        asked.family = F::SOCKET;
        asked.protocol = packet.protocol as u32;
        asked.fragment = packet.fragment as u32;
        asked.offset = frame.offset as u32;
        asked.payload = packet.payload as u32;
        asked.length = packet.length as u32;
        let Some(dscp) = F::dscp(hook, frame.offset) else { return stop(Reason::Truncated) };
        asked.dscp = dscp;
        asked.flags = port.flags;
        asked.domain = port.domain;
        asked.ifindex = port.ifindex;
        asked.rp_filter = u32::from(port.rp_filter);
        asked.route_mtu = port.route_mtu[usize::from(F::NUMBER == 6)];
        hook.inquire();
    }
    ControlFlow::Continue(maps::said(asked))
}

/// The next hop that the kernel named, as [`crate::tables::next_hop`] would say it; none if nobody was asked.
#[inline(always)]
pub fn next_hop(kind: RouteKind) -> Step<Option<u64>> {
    if !features::INQUIRIES.on() || kind != RouteKind::Unicast {
        return ControlFlow::Continue(None);
    }
    let Some(asked) = maps::asked() else { return stop(Reason::MirrorOff) };
    ControlFlow::Continue(if asked.next == Asked::NOBODY_WAS { None } else { Some(asked.next) })
}

/// The way out that the kernel named; 0 where there is none, or nobody was asked.
#[inline(always)]
pub fn way_out() -> Step<Ifindex> {
    if !features::INQUIRIES.on() {
        return ControlFlow::Continue(0);
    }
    maps::asked().map_or(stop(Reason::MirrorOff), |asked| ControlFlow::Continue(asked.out as Ifindex))
}
