//! A frame that a member of a bridge receives for the bridge itself comes in through the bridge.
//!
//! Learning stays the bridge's: only a frame of a host that it knows to be behind this member is taken before it sees the
//! frame, and now and then one of each host is left to it, so that it does not forget the host.

#![expect(unsafe_code, reason = "the linker keeps functions global that have a name of their own")]

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Ifindex, Port},
    decide::{Frame, L3Protocol, PacketType},
    wire::Ethernet,
};

use crate::{
    features, link_address, maps,
    packet::Hook,
    verdict::{Step, stop},
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
        match check_sender(member.ifindex, source) {
            KNOWN => {}
            DUE => return stop(Reason::BridgeRefresh),
            _ => return stop(Reason::BridgeLearning),
        }
    }
    ControlFlow::Continue((Frame { packet_type: PacketType::Host, ..frame }, bridge))
}

const KNOWN: u32 = 0;
const DUE: u32 = 1;
const UNKNOWN: u32 = 2;

/// What is known of a sender behind a member. A global function, for the room that the key takes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn check_sender(member: Ifindex, source: u64) -> u32 {
    match maps::learned_host([source, u64::from(member)]) {
        None => UNKNOWN,
        Some(host) if maps::is_refresh_due(host, maps::tick()) => DUE,
        Some(_) => KNOWN,
    }
}
