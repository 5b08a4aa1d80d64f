//! The way of a frame between members of a bridge.

#![expect(unsafe_code, reason = "the linker keeps functions global that have a name of their own")]

use dataplane_common::{
    abi::{Ifindex, PortFlags, SwitchedFlags},
    decide::{self, Family, L3Protocol, V4, V6, Vlan},
    wire::Ethernet,
};

use crate::{
    features, liveness, maps,
    packet::{Hook, Tier},
};

/// There is none here: it may be for the bridge, or only the bridge knows.
pub const NONE: u64 = 0;
/// tc knows more of it.
pub const BY_TC: u64 = 1;
/// The bridge is to see one frame of the sender.
pub const REFRESH: u64 = 2;
/// The bridge does not know the sender.
pub const LEARN: u64 = 3;
/// Out through a member, whose index is above this bit.
const MEMBER: u32 = 8;

/// The index of the member that is a way.
#[inline(always)]
pub const fn member_of(way: u64) -> u64 {
    way >> MEMBER
}

/// Known to be behind this member.
pub const KNOWN: u32 = 0;
/// The same, and the bridge is to see a frame.
pub const DUE: u32 = 1;
const UNKNOWN: u32 = 2;

/// What is known of a sender behind a member. A global function, for the room that the key takes.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn check_sender(member: Ifindex, source: u64) -> u32 {
    match maps::learned_host([source, u64::from(member)]) {
        None => UNKNOWN,
        Some(host) if maps::is_refresh_due(host, maps::tick()) => DUE,
        Some(_) => KNOWN,
    }
}

/// Where a frame goes that `member` of `bridge` received, as `br_handle_frame_finish` and `br_forward` (`net/bridge/`) find it. A
/// port of the kernel's bridge that is not as it has to be for this has no flag or no row.
#[inline(always)]
pub fn way<H: Hook>(hook: &H, member: Ifindex, bridge: Ifindex, flags: PortFlags) -> u64 {
    // What only tc sees is found out where frames are read.
    if H::TIER == Tier::Xdp && flags.contains(PortFlags::HIDDEN_TAGS) {
        return NONE;
    }
    let Some(ethernet) = hook.header::<Ethernet>(0) else { return NONE };
    if ethernet.destination.is_group()
        || decide::is_seen_by_bridge(ethernet.ethertype)
        || hook.stripped_vlan() != Vlan::NONE
    {
        return NONE;
    }
    let Some(host) = maps::switched_host([ethernet.recipient(), u64::from(bridge)]) else { return NONE };
    let able = host.flags();
    let back = host.member == member && !able.contains(SwitchedFlags::HAIRPIN);
    let apart = flags.contains(PortFlags::ISOLATED) && able.contains(SwitchedFlags::ISOLATED);
    // What is not to be sent the kernel drops.
    if back || apart || liveness::controller_gone() {
        return NONE;
    }
    let (length, longest) = (hook.total(), u64::from(host.longest));
    if H::TIER == Tier::Xdp {
        // tc sees a frame of several buffers whole, and one that will be cut into segments.
        let scattered = length != hook.length() as u64;
        if scattered || length > longest || !able.contains(SwitchedFlags::XDP_TRANSMIT) {
            return BY_TC;
        }
    } else if length > longest && hook.segment_size() == 0 {
        return NONE;
    }
    let way = u64::from(host.member) << MEMBER;
    match check_sender(member, ethernet.sender()) {
        KNOWN => {}
        DUE => return REFRESH,
        _ => return LEARN,
    }
    let pending =
        H::TIER == Tier::Xdp && features::PARTIAL_CHECKSUMS.on() && flags.contains(PortFlags::PARTIAL_CHECKSUMS);
    if !pending && !flags.contains(PortFlags::HEADERS_CHECKED) {
        return way;
    }
    features::read_bounds_anew();
    let Some(ethernet) = hook.header::<Ethernet>(0) else { return NONE };
    match L3Protocol::from(ethernet.ethertype) {
        L3Protocol::Ipv4 => ready::<V4, H>(hook, pending, way),
        L3Protocol::Ipv6 => ready::<V6, H>(hook, pending, way),
        _ => way,
    }
}

/// The way of an IP packet, if its header is sound and its checksum complete: XDP would send it as it is.
#[inline(always)]
fn ready<F: Family, H: Hook>(hook: &H, pending: bool, way: u64) -> u64 {
    let offset = size_of::<Ethernet>();
    match F::datagram(hook, offset, hook.length(), hook.segment_size() != 0) {
        Ok(packet) if pending && decide::is_pending(hook, &packet, offset) => BY_TC,
        Ok(_) => way,
        Err(_) => NONE,
    }
}
