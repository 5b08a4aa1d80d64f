//! Link addresses beside those of the ports.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Port, PortFlags, VlanKey},
    wire::Mac,
};

use crate::{
    features, maps,
    packet::{Hook, Tier},
    tables,
    verdict::{Outcome, Step, stop},
};

/// The macvlan device on an interface that has a link address.
#[inline(always)]
pub fn device_with(on: &Port, address: Mac) -> Option<&'static Port> {
    let key = tables::vlan_key(on.ifindex, VlanKey::address(address));
    // Two addresses may have the same number.
    maps::vlan(key).filter(|device| device.mac == address)
}

/// Goes on with a frame that the kernel says is for this machine, although no address is known that it would be for. Only tc can
/// look at that; where no chain could drop the frame it is left to the kernel.
#[inline(always)]
pub fn found_out<H: Hook>(hook: &H, port: &Port) -> Step<()> {
    if !features::FILTERING.on() {
        return stop(Reason::OtherHost);
    }
    if H::TIER == Tier::Xdp && port.flags().contains(PortFlags::TC) {
        return ControlFlow::Break(Outcome::Defer(0));
    }
    if hook.is_ours() { ControlFlow::Continue(()) } else { stop(Reason::OtherHost) }
}
