//! VLAN devices: a tagged frame comes in through the device of its tag.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Features, Port},
    decide::{Audience, Frame, Vlan},
    wire::Ethernet,
};

use crate::{
    features,
    hook::Hook,
    maps,
    pipeline::{Step, stop},
};

/// Through which interface the packet comes in: the port or, tagged, a VLAN device on it. A tag without a device is the
/// kernel's, once the filter has seen the packet.
#[inline(always)]
pub fn enter<H: Hook>(hook: &H, port: &'static Port, frame: Frame) -> Step<(Frame, &'static Port)> {
    if frame.vlan == Vlan::NONE {
        return ControlFlow::Continue((frame, port));
    }
    let device = device(port, &frame);
    let mut audience = frame.audience;
    // As `vlan_do_receive` (`net/8021q/vlan_core.c`): the address of the device will do, too.
    if let (Audience::Other, Some(device)) = (audience, device)
        && hook.header::<Ethernet>(0).is_some_and(|ethernet| ethernet.destination == device.mac)
    {
        audience = Audience::Host;
    }
    if audience == Audience::Other {
        return stop(Reason::OtherHost);
    }
    match device {
        Some(device) => ControlFlow::Continue((Frame { audience, detour: None, ..frame }, device)),
        None => ControlFlow::Continue((Frame { audience, ..frame }, port)),
    }
}

/// The device of a tagged frame. A tag with identifier 0 and no device of its own carries only a priority, and says nothing
/// (`__netif_receive_skb_core`, `net/core/dev.c`).
#[inline(always)]
pub fn device(port: &'static Port, frame: &Frame) -> Option<&'static Port> {
    if !features::on(Features::VLANS) || frame.vlan == Vlan::NONE {
        return None;
    }
    let outer = on(port, frame.vlan)?;
    if frame.inner == Vlan::NONE { Some(outer) } else { on(outer, frame.inner) }
}

/// The device of a tag on an interface.
#[inline(always)]
fn on(below: &'static Port, tag: Vlan) -> Option<&'static Port> {
    match maps::vlan(below.ifindex, tag.raw()) {
        None if tag.id() == Some(0) => Some(below),
        device => device,
    }
}
