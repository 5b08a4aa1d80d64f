//! The transport header, read only when something asks for it.

use core::ops::ControlFlow;

use dataplane_common::{
    abi::{Port, PortFlags},
    decide::{self, Datagram, Family, Frame, PseudoHeader, Transport},
};

use crate::{
    features,
    hook::{Hook, Tier},
    pipeline::{Step, Verdict},
    trace,
};

/// Reads ports, flags and types. A checksum that is still to be filled in is for tc: XDP would send it as it is.
#[inline(always)]
pub fn read<F: Family<Address: PseudoHeader>, H: Hook>(
    hook: &H,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
) -> Step<Transport> {
    let suspicious =
        H::TIER == Tier::Xdp && features::PARTIAL_CHECKSUMS.on() && port.flags().contains(PortFlags::PARTIAL_CHECKSUMS);
    if suspicious && decide::is_pending(hook, packet, frame.offset) {
        return ControlFlow::Break(Verdict::Defer(0));
    }
    let transport = if trace::keyed() { decide::transport(hook, packet, frame.offset) } else { Transport::NONE };
    ControlFlow::Continue(transport)
}
