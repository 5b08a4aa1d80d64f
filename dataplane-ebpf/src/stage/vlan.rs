//! Devices on a port: a tagged frame comes in through the VLAN device of its tag, one for the link address of a macvlan device
//! through that.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::Port,
    decide::{Frame, PacketType, Vlan},
    wire::Ethernet,
};

use crate::{
    features, link_address, maps,
    packet::Hook,
    tables,
    verdict::{Step, stop},
};

/// Through which interface the packet comes in: the port or a device on it. A tag without a device is the
/// kernel's, once the filter has seen the packet.
#[inline(always)]
pub fn enter<H: Hook>(hook: &H, port: &'static Port, frame: Frame) -> Step<(Frame, &'static Port)> {
    if frame.vlan == Vlan::NONE {
        if features::VIRTUAL.on() && frame.packet_type == PacketType::Other {
            return addressed(hook, port, port, frame);
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
            Some(device) if features::VIRTUAL.on() => addressed(hook, port, device, frame),
            _ => stop(Reason::OtherHost),
        };
    }
    match device {
        Some(device) => ControlFlow::Continue((Frame { packet_type, punt: None, ..frame }, device)),
        None => ControlFlow::Continue((Frame { packet_type, ..frame }, port)),
    }
}

/// A frame for another link address than that of the interface that it is on: a macvlan device may have it
/// (`macvlan_handle_frame`, `drivers/net/macvlan.c`).
#[inline(always)]
fn addressed<H: Hook>(hook: &H, port: &'static Port, on: &'static Port, frame: Frame) -> Step<(Frame, &'static Port)> {
    let frame = Frame { packet_type: PacketType::Host, punt: None, ..frame };
    features::read_bounds_anew();
    let Some(ethernet) = hook.header::<Ethernet>(0) else { return stop(Reason::NotIp) };
    if let Some(device) = link_address::device_with(on, ethernet.destination) {
        return ControlFlow::Continue((frame, device));
    }
    link_address::found_out(hook, port)?;
    ControlFlow::Continue((frame, on))
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
