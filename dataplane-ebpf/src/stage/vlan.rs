//! VLAN devices: a tagged frame comes in through the device of its tag.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Port, PortFlags},
    decide::{Frame, PacketType, Vlan},
    wire::Ethernet,
};

use crate::{
    features,
    hook::Hook,
    maps,
    pipeline::{Step, stop},
    tables,
};

/// Through which interface the packet comes in: the port or, tagged, a VLAN device on it. A tag without a device is the
/// kernel's, once the filter has seen the packet.
#[inline(always)]
pub fn enter<H: Hook>(hook: &H, port: &'static Port, frame: Frame) -> Step<(Frame, &'static Port)> {
    if frame.vlan == Vlan::NONE {
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
        return stop(Reason::OtherHost);
    }
    match device {
        Some(device) => ControlFlow::Continue((Frame { packet_type, punt: None, ..frame }, device)),
        None if features::RX_HANDLER.on() && port.flags().contains(PortFlags::RX_HANDLER) => stop(Reason::Taken),
        None => ControlFlow::Continue((Frame { packet_type, ..frame }, port)),
    }
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
