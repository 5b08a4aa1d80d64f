//! VLAN devices: a tagged frame comes in through the device of its tag.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Port, PortFlags},
    decide::{Frame, PacketType, Vlan},
    wire::Ethernet,
};

use crate::{
    features, maps,
    packet::{Hook, Tier},
    tables,
    verdict::{Outcome, Step, stop},
};

/// Through which interface the packet comes in: the port or, tagged, a VLAN device on it. A tag without a device is the
/// kernel's, once the filter has seen the packet.
#[inline(always)]
pub fn enter<H: Hook>(hook: &H, port: &'static Port, frame: Frame) -> Step<(Frame, &'static Port)> {
    if frame.vlan == Vlan::NONE {
        if features::VIRTUAL.on() && frame.packet_type == PacketType::Other {
            return macvlan(hook, port, frame);
        }
        return ControlFlow::Continue((frame, port));
    }
    let device = device(port, &frame);
    let mut packet_type = frame.packet_type;
    // As `vlan_do_receive` (`net/8021q/vlan_core.c`): the address of the device will do, too.
    if let (PacketType::Other, Some(device)) = (packet_type, device)
        && hook.header::<Ethernet>(0).is_some_and(|ethernet| ethernet.destination == device.mac)
    {
        packet_type = PacketType::Host;
    }
    if packet_type == PacketType::Other {
        return match device {
            Some(device) if features::VIRTUAL.on() => on_vlan(hook, port, device, frame),
            _ => stop(Reason::OtherHost),
        };
    }
    match device {
        Some(device) => ControlFlow::Continue((Frame { packet_type, punt: None, ..frame }, device)),
        None if features::RX_HANDLER.on() && port.flags().contains(PortFlags::RX_HANDLER) => stop(Reason::Taken),
        None => ControlFlow::Continue((Frame { packet_type, ..frame }, port)),
    }
}

/// A frame for neither a port nor the VLAN device of its tag: a macvlan device may be on the latter.
#[inline(always)]
fn on_vlan<H: Hook>(
    hook: &H,
    port: &'static Port,
    device: &'static Port,
    frame: Frame,
) -> Step<(Frame, &'static Port)> {
    if !features::FILTERING.on() {
        return stop(Reason::OtherHost);
    }
    if H::TIER == Tier::Xdp && port.flags().contains(PortFlags::TC) {
        return ControlFlow::Break(Outcome::Defer(0));
    }
    macvlan(hook, device, frame)
}

/// The macvlan device on an interface that has the frame's link address (`macvlan_handle_frame`, `drivers/net/macvlan.c`). The
/// kernel takes the frame once it has met the filter.
#[inline(always)]
fn macvlan<H: Hook>(hook: &H, on: &Port, frame: Frame) -> Step<(Frame, &'static Port)> {
    let key = hook.macvlan(on.ifindex);
    if key == 0 {
        return stop(Reason::OtherHost);
    }
    let Some(device) = maps::vlan(key) else { return stop(Reason::OtherHost) };
    let frame = Frame { packet_type: PacketType::Host, punt: Some(Reason::VirtualAddress), ..frame };
    ControlFlow::Continue((frame, device))
}

/// The device of a tagged frame. A tag with identifier 0 and no device of its own carries only a priority, and says nothing
/// (`__netif_receive_skb_core`, `net/core/dev.c`).
#[inline(always)]
pub fn device(port: &'static Port, frame: &Frame) -> Option<&'static Port> {
    if !features::VLANS.on() || frame.vlan == Vlan::NONE {
        return None;
    }
    // Here the paths join: one search for one number, whatever the tags are.
    let plain = frame.inner == Vlan::NONE && frame.vlan.id() != Some(0);
    let key = if plain {
        tables::vlan_key(port.ifindex, frame.vlan.raw())
    } else {
        tables::stacked_vlan(port.ifindex, frame.vlan.raw(), frame.inner.raw())
    };
    if key == 0 { Some(port) } else { maps::vlan(key) }
}
