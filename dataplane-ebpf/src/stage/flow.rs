//! The connection: netfilter has let it through, and a row carries its packets; or the kernel gets them.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{
        Ifindex, Port,
        flow::{row, twin},
    },
    decide::{Datagram, Frame},
};

use crate::{
    features,
    flow_lookup::{self, Query},
    maps::{self, Flows},
    packet::Hook,
    tables::{self, Routed},
    verdict::{Step, stop},
};

/// Looks up the connection of a packet that would meet netfilter.
#[inline(always)]
pub fn find<F: Flows + Routed, H: Hook>(
    hook: &H,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
) -> Step<()> {
    if !features::FLOWS.on() {
        return ControlFlow::Continue(());
    }
    let Some(context) = maps::flow_context() else { return stop(Reason::MirrorOff) };
    let context = context.as_ptr();
    flow_lookup::begin(context);
    // Fragments, options and extension headers are the kernel's.
    let plain = packet.payload == frame.offset + F::HEADER && !packet.is_fragment() && packet.punt.is_none();
    if !plain || !tables::follows::<F>(port) {
        return ControlFlow::Continue(());
    }
    flow_lookup::store_addresses::<F>(context, packet.destination, packet.source);
    let Some(dscp) = F::dscp(hook, frame.offset) else { return stop(Reason::Truncated) };
    let left = (frame.offset + packet.length).wrapping_sub(packet.payload);
    let query = Query::new(port.ifindex, F::NUMBER, packet.protocol, packet.ttl, dscp);
    hook.look_up_flow(packet.payload, left, query.raw());
    ControlFlow::Continue(())
}

/// Where a row carries the packet, its destination becomes the one that it is routed by. The source stays, which is what the
/// kernel validates. In place: a copy of the packet would be made also where the feature is off.
#[inline(always)]
pub fn redirect<F: Flows>(packet: &mut Datagram<F::Address>) {
    if features::FLOWS.on() && flow_lookup::is_carried() {
        packet.destination = flow_lookup::destination::<F>(packet.destination);
    }
}

/// Whether the packet leaves as those before it did: rules and masquerading may depend on the way out.
#[inline(always)]
pub fn depart<F: Flows>(oif: Ifindex) -> Step<()> {
    if !features::FLOWS.on() || !flow_lookup::is_carried() {
        return ControlFlow::Continue(());
    }
    let Some(carrier) = flow_lookup::carrier::<F>() else { return stop(Reason::FlowMoved) };
    if carrier.word(row::WAY) as Ifindex != oif {
        if !features::DRY_RUN.on() {
            carrier.set_part(row::STAGE, row::stage::ARMED, 0_u16);
            // Where it is masqueraded the kernel ends the connection with this packet: an answer must not pass it by.
            if let Some(other) = F::row(twin::row(carrier.word(F::LAYOUT.twin))) {
                other.set_part(row::STAGE, row::stage::ARMED, 0_u16);
            }
        }
        return stop(Reason::FlowMoved);
    }
    ControlFlow::Continue(())
}
