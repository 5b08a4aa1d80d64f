//! The network header.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    decide::{Datagram, Family, Frame},
};

use crate::{
    hook::{Hook, Tier},
    pipeline::{Step, Verdict, stop},
};

/// Checks the header as `ip_rcv` and `ip6_rcv` do. A tagged one without a device goes up after the filter.
#[inline(always)]
pub fn check<F: Family, H: Hook>(hook: &H, frame: &Frame) -> Step<Datagram<F::Address>> {
    match F::datagram(hook, frame.offset, hook.length(), hook.segment_size() != 0) {
        Ok(packet) => {
            let detour = if frame.detour.is_some() { frame.detour } else { packet.detour };
            ControlFlow::Continue(Datagram { detour, ..packet })
        }
        // More of the frame lies in other buffers: tc sees it whole.
        Err(Reason::Truncated | Reason::BadLength) if H::TIER == Tier::Xdp && hook.is_scattered() => {
            ControlFlow::Break(Verdict::Defer(0))
        }
        Err(reason) => stop(reason),
    }
}
