//! The kernel's own lookup, for ports where routing rules or a VRF have a say.
//!
//! What is asked and what is said are in [`maps::asked`]: the verifier knows nothing of what comes out of a map, so that behind
//! it there is one path, whoever said the route.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Asked, Control, Features, Ifindex, Port, RouteKind, Target},
    decide::{Datagram, Frame},
};

use crate::{
    features,
    hook::Hook,
    maps,
    pipeline::{Step, stop},
    tables::Routed,
};

/// A route, whoever said it.
pub struct Said {
    /// [`Target::raw`]. If the kernel was asked, the group of a unicast target means nothing.
    target: u64,
    /// [`Asked::next`].
    next: u64,
    /// The way out that the kernel named; 0 where there is none, or nobody was asked.
    pub out: u64,
}

impl Said {
    /// Where to.
    #[inline(always)]
    pub fn target(&self) -> Target {
        Target::from_raw(self.target as u32)
    }

    /// The next hop that the kernel named, as [`crate::tables::next_hop`] would say it; none if nobody was asked.
    #[inline(always)]
    pub fn next_hop(&self) -> Option<u64> {
        if self.next == Asked::NOBODY_WAS { None } else { Some(self.next) }
    }

    /// [`Said::out`], typed.
    #[inline(always)]
    pub fn way_out(&self) -> Ifindex {
        self.out as Ifindex
    }
}

/// The route that the mirror has, and where it has none to say, the kernel's.
#[inline(always)]
pub fn ask<F: Routed, H: Hook>(
    hook: &H,
    control: Control,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
    route: Target,
) -> Step<Said> {
    if !features::on(Features::INQUIRIES) {
        return ControlFlow::Continue(Said { target: u64::from(route.raw()), next: Asked::NOBODY_WAS, out: 0 });
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
        asked.dscp = packet.dscp as u32;
        asked.flags = port.flags;
        asked.domain = port.domain;
        asked.ifindex = port.ifindex;
        asked.rp_filter = u32::from(port.rp_filter);
        asked.route_mtu = port.route_mtu;
        hook.inquire();
    }
    let [target, out, next] = maps::said(asked);
    ControlFlow::Continue(Said { target, next, out })
}
