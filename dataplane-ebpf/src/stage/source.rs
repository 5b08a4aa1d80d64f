//! Source validation: martians and the reverse path.

use core::ops::ControlFlow;

use dataplane_common::{
    Reason,
    abi::{Control, Port, PortFlags, RouteKind},
    decide::{AddressClass, Datagram},
};

use crate::{
    features,
    packet::Hook,
    tables::{self, Routed},
    verdict::{Step, stop},
};

/// What the addresses alone decide.
#[inline(always)]
pub fn classify<F: Routed>(packet: &Datagram<F::Address>, port: &Port) -> Step<AddressClass> {
    match F::address_class(packet, port.flags()) {
        AddressClass::Martian(reason) => stop(reason),
        address_class => ControlFlow::Continue(address_class),
    }
}

/// Validates the source by the table, as `fib_validate_source` (`net/ipv4/fib_frontend.c`). IPv6 has no such check, and a
/// packet without a route is answered before its source is validated (`ip_route_input_slow`).
#[inline(always)]
pub fn validate<F: Routed, H: Hook>(
    hook: &H,
    control: Control,
    packet: &Datagram<F::Address>,
    port: &Port,
    route: RouteKind,
) -> Step<()> {
    if F::NUMBER != 4 {
        return ControlFlow::Continue(());
    }
    // On most machines a source only must not be an address of this machine.
    let needed = features::RP_FILTER.on() || features::CUSTOM_LOCAL.on();
    if !needed && !F::may_be_local(control, packet.source) {
        return ControlFlow::Continue(());
    }
    let leads = match route {
        RouteKind::Unicast => port.flags().contains(F::FORWARDING),
        RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast => true,
        // Nowhere; or where only the kernel can say, of the way back too.
        _ => false,
    };
    // The kernel's lookup of the route included the way back. The kernel gets the packets for this machine.
    let by_kernel = features::KERNEL_LOOKUP.on() && port.flags().contains(F::KERNEL_LOOKUP);
    if !leads || by_kernel {
        return ControlFlow::Continue(());
    }
    // Where the mirror does not decide, whether there is a way back is for the kernel to say, which gets the packet.
    let reverse = features::RP_FILTER.on() && port.rp_filter != 0 && tables::decides_for::<F, H>(hook, control, port);
    // Then the kernel looks at every source (`fib_has_custom_local_routes`, `fib4_has_custom_rules`), and one that is no host's
    // is a martian.
    let full = features::CUSTOM_LOCAL.on() || features::SOURCES.on();
    if !reverse && !features::CUSTOM_LOCAL.on() && !F::may_be_local(control, packet.source) {
        return ControlFlow::Continue(());
    }
    let target = F::lookup(control, packet.source);
    match target.kind() {
        RouteKind::Local if port.flags().contains(PortFlags::ACCEPT_LOCAL) => ControlFlow::Continue(()),
        RouteKind::Local => stop(Reason::MartianSource),
        // Where packets with our own addresses may come from outside, and no reverse path is checked, the kernel does not
        // validate the source at all.
        RouteKind::Broadcast | RouteKind::Multicast if !reverse && port.flags().contains(PortFlags::ACCEPT_LOCAL) => {
            ControlFlow::Continue(())
        }
        RouteKind::Broadcast | RouteKind::Multicast if full => stop(Reason::MartianSource),
        _ if !reverse => ControlFlow::Continue(()),
        RouteKind::Unicast if port.rp_filter == LOOSE || tables::leads_back(target, port.ifindex) => {
            ControlFlow::Continue(())
        }
        RouteKind::Kernel => ControlFlow::Continue(()),
        // What came out of a tunnel may have come in anywhere.
        _ if features::IPSEC.on() && hook.is_unwrapped() => ControlFlow::Continue(()),
        _ => stop(Reason::ReversePath),
    }
}

/// `net.ipv4.conf.*.rp_filter`: any way back will do.
const LOOSE: u8 = 2;
