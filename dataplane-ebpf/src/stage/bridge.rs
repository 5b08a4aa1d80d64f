//! A frame that a member of a bridge receives for the bridge itself comes in through the bridge; one for a host behind another
//! member is sent there.
//!
//! Learning stays the bridge's: only a frame of a host that it knows to be behind this member is taken before it sees the
//! frame, and now and then one of each host is left to it, so that it does not forget the host.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::Port,
    decide::{Frame, L3Protocol, PacketType},
    wire::Ethernet,
};

use crate::{
    features, link_address,
    packet::Hook,
    switching,
    verdict::{Outcome, Step, stop},
};

/// Goes on as the bridge, where the frame is for it and from a host that it knows (`br_handle_frame`,
/// `br_handle_frame_finish`, `br_fdb_update` in `net/bridge/`). Only the bridge and this member have an address here: with that
/// of another member the kernel delivers a frame to no one.
#[inline(always)]
pub fn enter<H: Hook>(hook: &H, member: &'static Port, frame: Frame) -> Step<(Frame, &'static Port)> {
    features::read_bounds_anew();
    let Some(ethernet) = hook.header::<Ethernet>(0) else { return stop(Reason::Taken) };
    let source = ethernet.sender();
    let Some(bridge) = link_address::device_with(member, ethernet.destination) else { return stop(Reason::Taken) };
    // Raw sockets of a DHCP client on the bridge read packets that are dropped here, too.
    if features::CLIENTS.on() && hook.is_for_client(frame.offset, frame.l3 == L3Protocol::Ipv6) {
        return stop(Reason::Taken);
    }
    // What XDP has begun with, tc goes on with.
    if !hook.chains_done().prerouting() {
        match switching::check_sender(member.ifindex, source) {
            switching::KNOWN => {}
            switching::DUE => return stop(Reason::BridgeRefresh),
            _ => return stop(Reason::BridgeLearning),
        }
    }
    ControlFlow::Continue((Frame { packet_type: PacketType::Host, ..frame }, bridge))
}

/// Sends a frame for a host behind another member of the bridge, or leaves it to the bridge. All else goes on.
#[inline(always)]
pub fn switch<H: Hook>(hook: &H, member: &Port) -> Step<()> {
    match hook.way_in_bridge(member.ifindex, member.domain, member.flags) {
        switching::NONE => ControlFlow::Continue(()),
        switching::BY_TC => ControlFlow::Break(Outcome::Defer(0)),
        switching::REFRESH => stop(Reason::BridgeRefresh),
        switching::LEARN => stop(Reason::BridgeLearning),
        way => ControlFlow::Break(Outcome::Switch(switching::member_of(way))),
    }
}
