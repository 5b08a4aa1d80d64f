//! The link header.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Features, Port, PortFlags},
    decide::{self, Family as _, Frame, V4, V6},
    wire::Mac,
};

use crate::{
    features,
    hook::Hook,
    pipeline::{Step, stop},
};

/// Reads the link header; where the device has none, what IP says about itself.
#[inline(always)]
pub fn read<H: Hook>(hook: &H, port: &Port) -> Step<Frame> {
    if features::on(Features::NO_ETHERNET) && port.flags().contains(PortFlags::NO_ETHERNET) {
        return bare(hook);
    }
    match decide::frame(hook, Some(port.mac), hook.stripped_vlan()) {
        Ok(frame) => ControlFlow::Continue(frame),
        Err(reason) => stop(reason),
    }
}

/// A packet of a device without link header (tun, `WireGuard`, ppp).
#[inline(always)]
fn bare<H: Hook>(hook: &H) -> Step<Frame> {
    let ethertype = match hook.header::<u8>(0).map(|first| first >> 4) {
        Some(4) => V4::ETHERTYPE,
        Some(6) => V6::ETHERTYPE,
        _ => return stop(Reason::NotIp),
    };
    ControlFlow::Continue(Frame {
        ethertype,
        offset: 0,
        destination: Mac::default(),
        source: Mac::default(),
        vlan: None,
    })
}
