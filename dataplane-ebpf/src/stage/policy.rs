//! Policies of `IPsec`, which only the kernel follows.

use core::ops::ControlFlow;

use dataplane_common::{Reason, abi::ADDRESS_WORDS, decide::Datagram};

use crate::{
    features,
    packet::Hook,
    tables::{self, Routed},
    verdict::{Step, stop},
};

/// Leaves to the kernel what it may have to encrypt, or to stop: `xfrm4_policy_check` and `xfrm4_route_forward` of
/// `ip_forward`, and the same of `ip6_forward`. Policies may match a mark; none in the list does.
#[inline(always)]
pub fn leave<F: Routed, H: Hook>(hook: &H, packet: &Datagram<F::Address>) -> Step<()> {
    if !features::IPSEC.on() {
        return ControlFlow::Continue(());
    }
    let mut words = [0; ADDRESS_WORDS];
    F::fill(&mut words, packet.destination, packet.source);
    // What a tunnel brought is for the policies to judge, also where there is none for it.
    if hook.is_marked() || hook.is_unwrapped() || tables::may_cover(F::NUMBER, words) {
        return stop(Reason::Ipsec);
    }
    ControlFlow::Continue(())
}
