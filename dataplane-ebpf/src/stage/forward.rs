//! Through this machine: may it go, where to, does it fit.

use core::{hint::cold_path, ops::ControlFlow};

use dataplane_common::{
    Reason,
    abi::{AdjacencyFlags, Control, Handoff, NextHopGroup, Port, PortFlags, RouteKind, Target},
    decide::{self, Datagram, Family, Frame, PacketType, Scope},
    wire::{LinkHeader, protocol},
};

use crate::{
    features, liveness,
    maps::{self, Adjacent},
    packet::{Hook, Tier},
    tables,
    trace::note,
    verdict::{Egress, Outcome, Step, stop},
};

/// A next hop, and how much it takes.
pub struct Hop {
    /// Where to.
    pub adjacency: Adjacent,
    /// Its index.
    index: u64,
    /// The longest IP packet, in bytes.
    mtu: usize,
}

/// The first checks of `ip_forward` and `ip6_forward`.
#[inline(always)]
pub fn permit<F: Family>(packet: &Datagram<F::Address>, frame: &Frame, port: &Port) -> Step<()> {
    // One question instead of two: bits, of which a frame to us that may go on has none.
    let off = !port.flags() & F::FORWARDING;
    if u64::from(off.bits()) | frame.packet_type as u64 != PacketType::Host as u64 {
        return stop(if off.is_empty() { Reason::GroupFrame } else { Reason::ForwardingOff });
    }
    match F::scope(packet) {
        Scope::Global => {}
        Scope::Link => return stop(Reason::LinkScope),
    }
    if packet.ttl <= 1 {
        return stop(Reason::TtlExpired);
    }
    ControlFlow::Continue(())
}

/// The next hop of a route for this flow, as [`tables::next_hop`] says it. What is no unicast route has a group that there is
/// not.
#[inline(always)]
pub fn choose<F: Family, H: Hook>(
    hook: &H,
    control: Control,
    frame: &Frame,
    packet: &Datagram<F::Address>,
    route: Target,
) -> u64 {
    let flow = if features::MULTIPATH.on() { flow::<F, H>(hook, frame, packet) } else { 0 };
    tables::next_hop(control, route.group(), flow)
}

/// Which flow it belongs to: an ICMP error, to that of the packet that it is about.
#[inline(always)]
fn flow<F: Family, H: Hook>(hook: &H, frame: &Frame, packet: &Datagram<F::Address>) -> u32 {
    let flow = F::flow(packet);
    if !F::names(hook, frame.offset, F::ICMP) {
        return flow;
    }
    cold_path();
    hook.quoted_flow(frame.offset, F::NUMBER == 6, flow)
}

/// What is known of a next hop.
#[inline(always)]
pub fn resolve(next: u64) -> Option<Hop> {
    let (index, mtu) = (next as u32, (next >> 32) as u32);
    let adjacency = maps::adjacency(index)?;
    note::hop(index);
    let mtu = NextHopGroup::longest(mtu, adjacency.mtu);
    Some(Hop { adjacency, index: u64::from(index), mtu: mtu as usize })
}

/// Why there is no next hop: the neighbour is not known, or `unnamed`, because no lookup gave one.
#[inline(always)]
pub fn why_none(kind: RouteKind, unnamed: Reason) -> Reason {
    if kind == RouteKind::Kernel { unnamed } else { Reason::NeighbourUnresolved }
}

/// Whether the packet is longer than the way out takes. The kernel answers one that it may not fragment before chain
/// forward sees it. Where XDP sees a packet too long, tc may see one that will be cut into segments.
#[inline(always)]
pub fn measure<F: Family, H: Hook>(
    hook: &H,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
    hop: &Hop,
) -> Step<bool> {
    if packet.length <= hop.mtu {
        return ControlFlow::Continue(false);
    }
    if H::TIER == Tier::Xdp && port.flags().contains(PortFlags::TC) {
        return ControlFlow::Break(Outcome::Defer(u64::from(Handoff::PREROUTED)));
    }
    let segment = hook.segment_size();
    if segment != 0 && decide::segment_length(hook, packet, frame.offset, segment) <= hop.mtu {
        return ControlFlow::Continue(false);
    }
    if F::may_fragment(packet) { ControlFlow::Continue(true) } else { stop(Reason::TooBig) }
}

/// Sends the packet on its way, or leaves it to whoever can.
#[inline(always)]
pub fn transmit<F: Family, H: Hook>(
    hook: &H,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
    hop: &Hop,
    oversize: bool,
) -> Step<core::convert::Infallible> {
    if packet.punt.is_some() || oversize {
        return stop(packet.punt.unwrap_or(Reason::TooBig));
    }
    // Raw sockets receive a packet before IP looks up whose the address is.
    if features::CLIENTS.on()
        && F::names(hook, frame.offset, protocol::UDP)
        && hook.is_for_client(frame.offset, F::NUMBER == 6)
    {
        return stop(Reason::Dhcp);
    }
    let adjacency = hop.adjacency;
    if adjacency.ifindex == port.ifindex {
        return stop(Reason::SamePort);
    }
    let able = adjacency.flags();
    let wanted = if H::TIER == Tier::Xdp { AdjacencyFlags::XDP_TRANSMIT } else { AdjacencyFlags::TC_TRANSMIT };
    let direct = able.contains(AdjacencyFlags::RESOLVED.union(wanted));
    if !direct {
        if !able.intersects(AdjacencyFlags::XDP_TRANSMIT.union(AdjacencyFlags::TC_TRANSMIT)) {
            return stop(Reason::NoEgress);
        }
        if !able.contains(AdjacencyFlags::RESOLVED) {
            return stop(Reason::NeighbourUnresolved);
        }
    }
    // The filter needs no controller; neighbours and ways out do.
    if liveness::controller_gone() {
        return stop(Reason::NoController);
    }
    if features::NO_ETHERNET.on() && frame.link_header() == LinkHeader::None {
        if !port.flags().contains(PortFlags::LAYER3) {
            return stop(Reason::NoEgress);
        }
        // XDP neither makes a link header nor takes one off.
        if H::TIER == Tier::Xdp {
            return hand_over(port, able);
        }
    }
    // XDP sends the frame as it is, with what is behind the packet, and the kernel throws one away that is longer than the
    // device takes (`xdp_ok_fwd_dev` in include/linux/filter.h).
    let too_long = H::TIER == Tier::Xdp && hook.length() > frame.offset + adjacency.mtu as usize;
    if direct && !too_long {
        return ControlFlow::Break(Outcome::Transmit(Egress {
            adjacency,
            index: hop.index,
            family: u64::from(F::NUMBER),
            tags: tags::<H>(frame),
        }));
    }
    if H::TIER == Tier::Xdp { hand_over(port, able) } else { stop(Reason::NoEgress) }
}

/// Leaves a packet to tc, if that is there and can send it.
#[inline(always)]
fn hand_over<T>(port: &Port, able: AdjacencyFlags) -> Step<T> {
    if able.contains(AdjacencyFlags::TC_TRANSMIT) && port.flags().contains(PortFlags::TC) {
        return ControlFlow::Break(Outcome::Defer(u64::from(Handoff::FILTERED)));
    }
    stop(Reason::NoEgress)
}

/// [`Egress::tags`]. Without VLAN devices a tagged packet is the kernel's.
#[inline(always)]
fn tags<H: Hook>(frame: &Frame) -> u64 {
    if H::TIER == Tier::Tc && features::NO_ETHERNET.on() && frame.link_header() == LinkHeader::None {
        return Egress::BARE;
    }
    if features::VLANS.on() { frame.tags() } else { 0 }
}
