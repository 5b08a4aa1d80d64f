//! The path of a packet, in the kernel's order.

use core::{convert::Infallible, ops::ControlFlow};

use dataplane_common::{
    Reason,
    abi::{Adjacency, Control, Features, Ifindex, Port, RouteKind},
    decide::{Carried, Frame, Placing, V4, V6},
};

use crate::{
    features,
    hook::Hook,
    stage::{filter, forward, inquiry, link, network, route, source, transport, vlan},
    tables::{NOBODY, Routed},
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
    pub adjacency: &'static Adjacency,
    /// Its index.
    pub index: u64,
    /// 4 or 6.
    pub family: u64,
    /// How many VLAN tags it came with.
    pub tags: u64,
}

/// The next hop that the kernel named when it was asked.
pub struct Named {
    /// The way out.
    pub ifindex: u64,
    /// Index of the adjacency, or of none.
    pub adjacency: u64,
    /// Bytes of the longest packet; 0: what the way out takes.
    pub mtu: u64,
    /// Not 0 if the kernel would take the packet from the port that it came from.
    pub settled: u64,
}

impl Named {
    /// Nobody was asked.
    pub const NOTHING: Self = Self { ifindex: 0, adjacency: NOBODY as u64, mtu: 0, settled: 0 };
}

/// What a stage returns: its product, or where the path ends.
pub type Step<T> = ControlFlow<Verdict, T>;

/// Ends the path.
#[inline(always)]
pub fn stop<T>(reason: Reason) -> Step<T> {
    ControlFlow::Break(Verdict::Stop(reason))
}

/// Judges a packet that came in through `port`.
#[inline(always)]
pub fn run<H: Hook>(hook: &H, port: &'static Port) -> Verdict {
    let ControlFlow::Break(verdict) = enter(hook, port);
    verdict
}

#[inline(always)]
fn enter<H: Hook>(hook: &H, port: &'static Port) -> Step<Infallible> {
    let frame = link::read(hook, port)?;
    let (frame, port) = vlan::enter(hook, port, frame)?;
    let control = route::control()?;
    match frame.carried {
        Carried::Ipv4 => travel::<V4, H>(hook, port, &frame, control),
        Carried::Ipv6 if features::on(Features::IPV6) => travel::<V6, H>(hook, port, &frame, control),
        _ => stop(Reason::NotIp),
    }
}

#[inline(always)]
fn travel<F: Routed, H: Hook>(hook: &H, port: &Port, frame: &Frame, control: Control) -> Step<Infallible> {
    let packet = network::check::<F, H>(hook, frame)?;
    let transport = transport::read::<F, H>(hook, port, frame, &packet)?;
    let filter = filter::prepare::<F, H>(hook, port, frame, &packet, transport, control);
    filter.prerouting()?;
    if let Placing::Group(reason) = source::place::<F>(&packet, port)? {
        filter.input()?;
        return stop(reason);
    }
    let route = route::find::<F>(control, port, &packet)?;
    source::validate::<F>(control, &packet, port, route.kind())?;
    let inquires = matches!(route.kind(), RouteKind::Kernel) && inquiry::asks::<F>(control, port);
    let route = if inquires { inquiry::ask::<F, H>(hook, port, frame, &packet) } else { route };
    match route.kind() {
        RouteKind::Local => {
            filter.input()?;
            stop(packet.detour.unwrap_or(Reason::Local))
        }
        RouteKind::Broadcast => {
            filter.input()?;
            stop(Reason::Broadcast)
        }
        RouteKind::Multicast => {
            filter.input()?;
            stop(Reason::Multicast)
        }
        RouteKind::Unicast => {
            forward::permit::<F>(&packet, frame, port)?;
            let named = if inquires { inquiry::named() } else { Named::NOTHING };
            if inquires && named.settled == 0 {
                filter.forward(named.ifindex as Ifindex)?;
                return stop(Reason::MirrorOff);
            }
            let hop = if inquires { forward::follow(&named) } else { forward::resolve::<F>(&packet, route) };
            let Some(hop) = hop else {
                filter.forward(named.ifindex as Ifindex)?;
                return stop(Reason::NeighbourUnresolved);
            };
            let oversize = forward::measure::<F, H>(hook, port, frame, &packet, &hop)?;
            filter.forward(hop.adjacency.ifindex)?;
            forward::depart::<F, H>(hook, port, frame, &packet, &hop, oversize)
        }
        RouteKind::Kernel => {
            forward::permit::<F>(&packet, frame, port)?;
            filter.forward(0)?;
            stop(route::why_kernel::<F>(control, port))
        }
        // The kernel reads options before it asks the route, and may answer.
        RouteKind::Blackhole => stop(packet.detour.unwrap_or(Reason::Blackhole)),
        RouteKind::Unreachable => stop(Reason::Unreachable),
        RouteKind::Prohibit => stop(Reason::Prohibit),
        RouteKind::None => stop(Reason::NoRoute),
    }
}
