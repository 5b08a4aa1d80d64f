//! Proxied neighbours: neighbour discovery for one of them is for this machine.

use dataplane_common::{
    abi::{Port, Target},
    decide::{Datagram, Frame},
};

use crate::{features, packet::Hook, tables::Routed};

/// The route of a packet that would be forwarded: this machine, if it is neighbour discovery for an address for which the
/// kernel is an NDP proxy on the port's network (`ip6_forward_proxy_check` in `net/ipv6/ip6_output.c`).
#[inline(always)]
pub fn route<F: Routed, H: Hook>(
    hook: &H,
    port: &Port,
    frame: &Frame,
    packet: &Datagram<F::Address>,
    route: Target,
) -> Target {
    if !features::PROXY_NDP.on() || F::NUMBER != 6 {
        return route;
    }
    // No question here: each would double what the verifier walks behind it.
    let places = frame.offset as u64 | (packet.payload as u64) << 16 | packet.protocol << 32 | packet.fragment << 40;
    Target::from_raw(hook.proxied(port.ifindex, places, route.raw()))
}
