//! The kernel's own lookup, for ports where routing rules or a VRF have a say.
//!
//! Parameters and results are in [`maps::kernel_lookup`]: the verifier knows nothing of what comes out of a map, so that behind
//! it there is one path, whether the mirror or the kernel has the route.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Control, Ifindex, KernelLookup, Port, RouteKind, Target},
    decide::{Datagram, Frame},
};

use crate::{
    features, maps,
    packet::Hook,
    tables::{self, Routed},
    verdict::{Step, stop},
};

/// The route that the mirror has, and where it has none to say, the kernel's. The group of a unicast target then means
/// nothing: there is a [`next_hop`].
#[inline(always)]
pub fn route<F: Routed, H: Hook>(
    hook: &H,
    control: Control,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
    route: Target,
) -> Step<Target> {
    if !features::KERNEL_LOOKUP.on() {
        return ControlFlow::Continue(route);
    }
    let Some(query) = maps::kernel_lookup() else { return stop(Reason::MirrorOff) };
    query.target = u64::from(route.raw());
    query.out = 0;
    query.next = KernelLookup::NOT_DONE;
    let wanted =
        port.flags().contains(F::KERNEL_LOOKUP) && control.mirror & F::MIRROR != 0 && !tables::follows::<F>(port);
    if wanted && matches!(route.kind(), RouteKind::Kernel) {
        query.source = F::words(packet.source);
        query.destination = F::words(packet.destination);
        query.family = F::SOCKET;
        query.protocol = packet.protocol as u32;
        query.fragment = packet.fragment as u32;
        query.offset = frame.offset as u32;
        query.payload = packet.payload as u32;
        query.length = packet.length as u32;
        let Some(dscp) = F::dscp(hook, frame.offset) else { return stop(Reason::Truncated) };
        query.dscp = dscp;
        query.flags = port.flags;
        query.domain = port.domain;
        query.ifindex = port.ifindex;
        query.rp_filter = u32::from(port.rp_filter);
        query.route_mtu = port.route_mtu[usize::from(F::NUMBER == 6)];
        hook.kernel_lookup();
    }
    ControlFlow::Continue(maps::found_target(query))
}

/// The next hop that the kernel found, in the form of [`crate::tables::next_hop`]; none if there was no lookup.
#[inline(always)]
pub fn next_hop(kind: RouteKind) -> Step<Option<u64>> {
    if !features::KERNEL_LOOKUP.on() || kind != RouteKind::Unicast {
        return ControlFlow::Continue(None);
    }
    let Some(query) = maps::kernel_lookup() else { return stop(Reason::MirrorOff) };
    ControlFlow::Continue(if query.next == KernelLookup::NOT_DONE { None } else { Some(query.next) })
}

/// The egress link that the kernel found; 0 where there is none, or there was no lookup.
#[inline(always)]
pub fn egress_ifindex() -> Step<Ifindex> {
    if !features::KERNEL_LOOKUP.on() {
        return ControlFlow::Continue(0);
    }
    maps::kernel_lookup().map_or(stop(Reason::MirrorOff), |query| ControlFlow::Continue(query.out as Ifindex))
}

/// Whether a packet that the kernel's lookup does not cover may be for this machine, by a table that the mirror does not follow.
/// Where the kernel named an egress link it is not; where no packet of the family is looked up this says nothing. `ruled`: a
/// routing rule may be for its mark.
#[inline(always)]
pub fn may_be_ours<F: Routed>(ruled: bool, kind: RouteKind, control: Control, port: &Port) -> Step<bool> {
    if !features::ELSEWHERE.on() || kind != RouteKind::Kernel {
        return ControlFlow::Continue(false);
    }
    if ruled {
        return ControlFlow::Continue(true);
    }
    if !port.flags().contains(F::KERNEL_LOOKUP) || control.mirror & F::MIRROR == 0 {
        return ControlFlow::Continue(false);
    }
    ControlFlow::Continue(egress_ifindex()? == 0)
}
