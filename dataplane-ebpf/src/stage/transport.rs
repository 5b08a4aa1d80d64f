//! The transport header, as far as the choice of the sending tier depends on it. Its ports are for the filter.

use core::ops::ControlFlow;

use dataplane_common::{
    abi::{Port, PortFlags},
    decide::{self, Datagram, Family, Frame, PseudoHeader},
};

use crate::{
    features,
    packet::{Hook, Tier},
    verdict::{Outcome, Step},
};

/// A checksum that is still to be filled in is for tc: XDP would send it as it is.
#[inline(always)]
pub fn check<F: Family<Address: PseudoHeader>, H: Hook>(
    hook: &H,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
) -> Step<()> {
    let suspicious =
        H::TIER == Tier::Xdp && features::PARTIAL_CHECKSUMS.on() && port.flags().contains(PortFlags::PARTIAL_CHECKSUMS);
    if suspicious && decide::is_pending(hook, packet, frame.offset) {
        return ControlFlow::Break(Outcome::Defer(0));
    }
    ControlFlow::Continue(())
}
