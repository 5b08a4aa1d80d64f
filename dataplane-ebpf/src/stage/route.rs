//! The route.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Control, Port, RouteKind, Target},
    decide::Datagram,
};

use crate::{
    pipeline::Step,
    tables::{self, Routed},
    trace,
};

/// The longest match. Where the mirror does not decide, what is not for this machine is the kernel's.
#[inline(always)]
pub fn find<F: Routed>(control: Control, port: &Port, packet: &Datagram<F::Address>) -> Step<Target> {
    let target = F::lookup(control, packet.destination);
    trace::route(target.raw());
    let ours = || matches!(target.kind(), RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast);
    if tables::decides::<F>(control, port) || ours() {
        ControlFlow::Continue(target)
    } else {
        ControlFlow::Continue(Target::new(RouteKind::Kernel, 0))
    }
}

/// What becomes of a packet whose route is a blackhole, as far as we know.
#[inline(always)]
pub fn blackhole() -> Reason {
    if tables::controller_gone() { Reason::NoController } else { Reason::Blackhole }
}

/// Why a route is the kernel's.
#[inline(always)]
pub fn why_kernel<F: Routed>(control: Control, port: &Port) -> Reason {
    if tables::decides::<F>(control, port) {
        Reason::KernelRoute
    } else if tables::follows::<F>(port) {
        Reason::Netfilter
    } else {
        Reason::MirrorOff
    }
}
