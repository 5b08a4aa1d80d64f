//! The path of a packet, in the kernel's order.

use core::{convert::Infallible, ops::ControlFlow};

use dataplane_common::{
    Reason,
    abi::{Port, PortFlags, RouteKind},
    decide::{AddressClass, Frame, L3Protocol, PacketType, V4, V6, Vlan},
};

use crate::{
    features,
    maps::{self, Flows},
    packet::Hook,
    stage::{
        bridge, filter, flow, forward, kernel_lookup, link, network, policy, proxy, route, source, transport, vlan,
    },
    tables::{self, Routed},
    trace::note,
    verdict::{Outcome, Step, stop},
};

/// Judges a packet that came in through `port`.
#[inline(always)]
pub fn run<H: Hook>(hook: &H, port: &'static Port) -> Outcome {
    note::begin(port.ifindex);
    let ControlFlow::Break(verdict) = enter(hook, port);
    verdict
}

#[inline(always)]
fn enter<H: Hook>(hook: &H, port: &'static Port) -> Step<Infallible> {
    if features::SWITCH.on() && port.flags().contains(PortFlags::SWITCHES) {
        bridge::switch(hook, port)?;
    }
    let frame = link::read(hook, port)?;
    let bridged = features::BRIDGES.on()
        && frame.packet_type == PacketType::Other
        && port.flags().contains(PortFlags::BRIDGED)
        && frame.vlan == Vlan::NONE;
    let (frame, port) = if bridged { bridge::enter(hook, port, frame)? } else { vlan::enter(hook, port, frame)? };
    match frame.l3 {
        L3Protocol::Ipv4 => ingress::<V4, H>(hook, port, &frame),
        L3Protocol::Ipv6 if features::IPV6.on() => ingress::<V6, H>(hook, port, &frame),
        _ => stop(Reason::NotIp),
    }
}

#[inline(always)]
fn ingress<F: Routed + Flows, H: Hook>(hook: &H, port: &Port, frame: &Frame) -> Step<Infallible> {
    let control = maps::control(F::NUMBER);
    let mut packet = network::check::<F, H>(hook, frame)?;
    transport::check::<F, H>(hook, port, frame, &packet)?;
    let filter = filter::prepare::<F, H>(hook, || port.ifindex, frame, &packet, control)?;
    filter.prerouting()?;
    flow::find::<F, H>(hook, port, frame, &packet)?;
    flow::redirect::<F>(&mut packet);
    if let AddressClass::Group(reason) = source::classify::<F>(&packet, port)? {
        filter.input()?;
        return stop(reason);
    }
    let route = route::find::<F, H>(hook, control, port, &packet)?;
    source::validate::<F, H>(hook, control, &packet, port, route.kind())?;
    let route = kernel_lookup::route::<F, H>(hook, control, port, frame, &packet, route)?;
    let route = proxy::route::<F, H>(hook, port, frame, &packet, route);
    match route.kind() {
        kind @ (RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast) => {
            filter.input()?;
            stop(match kind {
                RouteKind::Broadcast => Reason::Broadcast,
                RouteKind::Multicast => Reason::Multicast,
                _ => packet.punt.unwrap_or(Reason::Local),
            })
        }
        kind @ (RouteKind::Unicast | RouteKind::Kernel) => {
            // Before any check of packets that are forwarded: it may be for this machine.
            if kernel_lookup::may_be_ours::<F>(tables::is_ruled(hook), kind, control, port)? {
                filter.input()?;
            }
            forward::permit::<F>(&packet, frame, port)?;
            // Not a closure: LLVM would call it, and leave packet and frame on the stack for that.
            let next = match kernel_lookup::next_hop(kind)? {
                Some(named) => named,
                None => forward::choose::<F, H>(hook, control, frame, &packet, route),
            };
            let Some(hop) = forward::resolve(next) else {
                // Without a known egress link chain forward is evaluated at the end of the path (`egress_permit.rs`).
                let out = kernel_lookup::egress_ifindex()?;
                if out != 0 {
                    filter.forward(out)?;
                }
                return stop(forward::why_none(kind, route::why_kernel::<F, H>(hook, control, port)));
            };
            flow::depart::<F>(hop.adjacency.ifindex)?;
            let oversize = forward::measure::<F, H>(hook, port, frame, &packet, &hop)?;
            filter.forward(hop.adjacency.ifindex)?;
            policy::leave::<F, H>(hook, &packet)?;
            forward::transmit::<F, H>(hook, port, frame, &packet, &hop, oversize)
        }
        // The kernel reads options before it looks up the route, and may answer.
        RouteKind::Blackhole => stop(packet.punt.unwrap_or_else(route::blackhole)),
        RouteKind::Unreachable => stop(Reason::Unreachable),
        RouteKind::Prohibit => stop(Reason::Prohibit),
        RouteKind::None => stop(Reason::NoRoute),
    }
}
