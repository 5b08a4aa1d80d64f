//! The link header.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Port, PortFlags},
    decide::{self, Frame, L3Protocol, PacketType, Vlan},
};

use crate::{
    features, link_address,
    packet::{Hook, Tier},
    tables,
    verdict::{Outcome, Step, stop},
};

/// Reads the link header; where the device has none, the version field of IP. A frame that may have a tag that XDP does not see
/// is left to tc. Where an `rx_handler` takes the frames of the port, it gets them.
#[inline(always)]
pub fn read<H: Hook>(hook: &H, port: &Port) -> Step<Frame> {
    // Tested where it is needed, and not stored: the verifier would walk everything behind it once for each result.
    let taken = || features::RX_HANDLER.on() && port.flags().contains(PortFlags::RX_HANDLER);
    if features::NO_ETHERNET.on() && port.flags().contains(PortFlags::NO_ETHERNET) {
        return if taken() { stop(Reason::Taken) } else { bare(hook) };
    }
    let hidden = port.flags().contains(PortFlags::HIDDEN_TAGS);
    // The kernel runs no test on an skb that ends inside its IP header: for such a frame a dry run is possible only at XDP.
    let dry_run = features::DRY_RUN.on() && hook.length() < SHORT;
    if H::TIER == Tier::Xdp && features::HIDING.on() && hidden && !dry_run {
        return ControlFlow::Break(Outcome::Defer(0));
    }
    match decide::frame(hook, Some(port.recipient()), hook.stripped_vlan()) {
        // Those with the tag of a VLAN device come in through that before an `rx_handler`, which may belong to another port,
        // sees them (`__netif_receive_skb_core`). A priority alone is no such tag.
        Ok(frame) if taken() && !came_through_vlan(port, &frame) => stop(Reason::Taken),
        Ok(frame) => ControlFlow::Continue(frame),
        Err(Reason::OtherHost) if features::BRIDGES.on() && port.flags().contains(PortFlags::BRIDGED) => bridged(hook),
        Err(_) if taken() => stop(Reason::Taken),
        Err(Reason::OtherHost) if features::VIRTUAL.on() || features::FILTERING.on() => other(hook, port),
        Err(reason) => stop(reason),
    }
}

/// Whether a frame has the tag of a VLAN device on the port.
#[inline(always)]
fn came_through_vlan(port: &Port, frame: &Frame) -> bool {
    frame.vlan != Vlan::NONE && tables::vlan_device(port.ifindex, frame.vlan.raw(), frame.inner.raw()) != 0
}

/// A frame for another link address than the port's, as far as the controller knows: it may have changed a moment ago, and what
/// the kernel takes meets the chains. Of a port without an address (a member of a bridge) no frame is ours.
#[inline(always)]
fn other<H: Hook>(hook: &H, port: &Port) -> Step<Frame> {
    if port.recipient() == 0 {
        return stop(Reason::OtherHost);
    }
    if !features::VIRTUAL.on() {
        link_address::found_out(hook, port)?;
    }
    match decide::frame(hook, None, hook.stripped_vlan()) {
        // A macvlan device may have this address; which, is looked up where interfaces are.
        Ok(frame) if features::VIRTUAL.on() => ControlFlow::Continue(Frame { packet_type: PacketType::Other, ..frame }),
        Ok(frame) => ControlFlow::Continue(frame),
        // Whatever is wrong with it, it may not be ours to drop.
        Err(_) if features::VIRTUAL.on() => stop(Reason::OtherHost),
        Err(reason) => stop(reason),
    }
}

/// An untagged packet at a member of a bridge: it may be for the bridge.
#[inline(always)]
fn bridged<H: Hook>(hook: &H) -> Step<Frame> {
    features::read_bounds_anew();
    match decide::frame(hook, None, Vlan::NONE) {
        Ok(frame) if frame.vlan == Vlan::NONE && matches!(frame.l3, L3Protocol::Ipv4 | L3Protocol::Ipv6) => {
            ControlFlow::Continue(Frame { packet_type: PacketType::Other, ..frame })
        }
        _ => stop(Reason::Taken),
    }
}

/// Link and IPv6 header, in bytes.
const SHORT: usize = 54;

/// A packet of a device without link header (tun, `WireGuard`, ppp). What the device says of its family holds: behind it the
/// kernel would not take the packet for another.
#[inline(always)]
fn bare<H: Hook>(hook: &H) -> Step<Frame> {
    match decide::bare_frame(hook) {
        Ok(frame) if hook.announces(frame.l3) => ControlFlow::Continue(frame),
        _ => stop(Reason::NotIp),
    }
}
