//! The network header.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    decide::{Datagram, Family, Frame},
};

use crate::{
    packet::{Hook, Tier},
    verdict::{Outcome, Step, stop},
};

/// Checks the header as `ip_rcv` and `ip6_rcv` do. A tagged one without a device goes up after the filter.
#[inline(always)]
pub fn check<F: Family, H: Hook>(hook: &H, frame: &Frame) -> Step<Datagram<F::Address>> {
    match F::datagram(hook, frame.offset, hook.length(), hook.segment_size() != 0) {
        Ok(packet) => {
            let punt = if frame.punt.is_some() { frame.punt } else { packet.punt };
            ControlFlow::Continue(Datagram { punt, ..packet })
        }
        // More of the frame lies in other buffers: tc sees it whole.
        Err(Reason::Truncated | Reason::BadLength) if H::TIER == Tier::Xdp && hook.is_scattered() => {
            ControlFlow::Break(Outcome::Defer(0))
        }
        Err(reason) => stop(reason),
    }
}
