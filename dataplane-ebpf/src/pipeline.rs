//! The path of a packet, in the kernel's order.

use core::{convert::Infallible, hint::cold_path, ops::ControlFlow};

use dataplane_common::{
    Reason,
    abi::{Control, Port, RouteKind},
    decide::{Carried, Frame, Placing, V4, V6},
};

use crate::{
    features,
    hook::Hook,
    maps::{self, Adjacent},
    stage::{filter, forward, inquiry, link, network, route, source, transport, vlan},
    tables::{self, Routed},
    trace,
};

/// How a packet ends.
#[must_use]
pub enum Verdict {
    /// Judged: dropped, or up the stack.
    Stop(Reason),
    /// To a next hop.
    Transmit(Way),
    /// For tc to settle; what to tell it ([`dataplane_common::abi::Mark`]).
    Defer(u64),
}

/// The way to a next hop.
pub struct Way {
    /// What to write, and where to send.
    pub adjacency: Adjacent,
    /// Its index.
    pub index: u64,
    /// 4 or 6.
    pub family: u64,
    /// How many VLAN tags it came with.
    pub tags: u64,
}

/// What a stage returns: its product, or where the path ends.
pub type Step<T> = ControlFlow<Verdict, T>;

/// Ends the path. Told to be rare, as [`Reason::found`].
#[inline(always)]
pub fn stop<T>(reason: Reason) -> Step<T> {
    cold_path();
    ControlFlow::Break(Verdict::Stop(reason))
}

/// Judges a packet that came in through `port`.
#[inline(always)]
pub fn run<H: Hook>(hook: &H, port: &'static Port) -> Verdict {
    trace::begin(port.ifindex);
    let ControlFlow::Break(verdict) = enter(hook, port);
    verdict
}

#[inline(always)]
fn enter<H: Hook>(hook: &H, port: &'static Port) -> Step<Infallible> {
    let frame = link::read(hook, port)?;
    let (frame, port) = vlan::enter(hook, port, frame)?;
    let control = maps::control();
    match frame.carried {
        Carried::Ipv4 => travel::<V4, H>(hook, port, &frame, control),
        Carried::Ipv6 if features::IPV6.on() => travel::<V6, H>(hook, port, &frame, control),
        _ => stop(Reason::NotIp),
    }
}

#[inline(always)]
fn travel<F: Routed, H: Hook>(hook: &H, port: &Port, frame: &Frame, control: Control) -> Step<Infallible> {
    let packet = network::check::<F, H>(hook, frame)?;
    let transport = transport::read::<F, H>(hook, port, frame, &packet)?;
    let filter = filter::prepare::<F, H>(hook, port, frame, &packet, transport, control)?;
    filter.prerouting()?;
    if let Placing::Group(reason) = source::place::<F>(&packet, port)? {
        filter.input()?;
        return stop(reason);
    }
    let route = route::find::<F>(control, port, &packet)?;
    source::validate::<F>(control, &packet, port, route.kind())?;
    let route = inquiry::ask::<F, H>(hook, control, port, frame, &packet, route)?;
    match route.kind() {
        kind @ (RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast) => {
            filter.input()?;
            stop(match kind {
                RouteKind::Broadcast => Reason::Broadcast,
                RouteKind::Multicast => Reason::Multicast,
                _ => packet.detour.unwrap_or(Reason::Local),
            })
        }
        kind @ (RouteKind::Unicast | RouteKind::Kernel) => {
            forward::permit::<F>(&packet, frame, port)?;
            let next = match kind {
                RouteKind::Unicast => {
                    inquiry::next_hop()?.unwrap_or_else(|| forward::choose::<F>(control, &packet, route))
                }
                _ => tables::UNNAMED,
            };
            let Some(hop) = forward::resolve(next) else {
                filter.forward(inquiry::way_out()?)?;
                return stop(forward::why_none(next, route::why_kernel::<F>(control, port)));
            };
            let oversize = forward::measure::<F, H>(hook, port, frame, &packet, &hop)?;
            filter.forward(hop.adjacency.ifindex)?;
            forward::depart::<F, H>(hook, port, frame, &packet, &hop, oversize)
        }
        // The kernel reads options before it asks the route, and may answer.
        RouteKind::Blackhole => stop(packet.detour.unwrap_or_else(route::blackhole)),
        RouteKind::Unreachable => stop(Reason::Unreachable),
        RouteKind::Prohibit => stop(Reason::Prohibit),
        RouteKind::None => stop(Reason::NoRoute),
    }
}
