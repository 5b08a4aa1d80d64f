//! The route.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Control, Port, RouteKind, Target},
    decide::Datagram,
};

use crate::{
    features, flow_lookup, liveness,
    packet::Hook,
    tables::{self, Routed},
    trace::note,
    verdict::Step,
};

/// The longest match. Where the mirror does not decide, what is not for this machine is the kernel's.
#[inline(always)]
pub fn find<F: Routed, H: Hook>(
    hook: &H,
    control: Control,
    port: &Port,
    packet: &Datagram<F::Address>,
) -> Step<Target> {
    let target = F::lookup(control, packet.destination);
    note::route(target.raw());
    let ours = || matches!(target.kind(), RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast);
    let target = if tables::decides_for::<F, H>(hook, control, port) || ours() {
        target
    } else {
        Target::new(RouteKind::Kernel, 0)
    };
    // What a connection brings back to an address of ours that it was translated to is not for this machine.
    if features::FLOWS.on() && flow_lookup::reason().is_some() {
        return ControlFlow::Continue(Target::new(RouteKind::Kernel, 0));
    }
    ControlFlow::Continue(target)
}

/// What becomes of a packet whose route is a blackhole, as far as we know.
#[inline(always)]
pub fn blackhole() -> Reason {
    if liveness::controller_gone() { Reason::NoController } else { Reason::Blackhole }
}

/// Why a route is the kernel's.
#[inline(always)]
pub fn why_kernel<F: Routed, H: Hook>(hook: &H, control: Control, port: &Port) -> Reason {
    if tables::decides_for::<F, H>(hook, control, port) {
        Reason::KernelRoute
    } else if tables::follows::<F>(port) {
        if features::FLOWS.on() { flow_lookup::reason().unwrap_or(Reason::Netfilter) } else { Reason::Netfilter }
    } else {
        Reason::MirrorOff
    }
}
