//! Chain output: what this machine itself sends.

use dataplane_common::{
    Reason,
    abi::{ChainId, Port, PortFlags},
    decide::{self, Family, L3Protocol, V4, V6},
};

use crate::{
    features,
    hook::Hook,
    maps,
    scan::{ChainVerdict, scan},
    stage::vlan,
    trace,
};

const OUTPUT: u32 = ChainId::Output.number();

/// The reason not to send a packet, or `None`.
#[inline(always)]
pub fn judge<H: Hook>(hook: &H, port: &'static Port) -> Option<Reason> {
    if port.flags().contains(PortFlags::NO_ETHERNET) {
        // Chains see the link header's protocol number first; a device without one is the kernel's.
        return None;
    }
    let frame = decide::frame(hook, None, hook.stripped_vlan()).ok()?;
    let port = vlan::device(port, &frame).unwrap_or(port);
    trace::begin(0);
    match frame.l3 {
        L3Protocol::Ipv4 => chain::<V4, H>(hook, port, &frame),
        L3Protocol::Ipv6 if features::IPV6.on() => chain::<V6, H>(hook, port, &frame),
        _ => None,
    }
}

#[inline(always)]
fn chain<F: Family, H: Hook>(hook: &H, port: &Port, frame: &decide::Frame) -> Option<Reason> {
    let packet = F::datagram(hook, frame.offset, hook.length(), hook.segment_size() != 0).ok()?;
    let transport = decide::transport(hook, &packet, frame.offset);
    let key = maps::key()?;
    let dscp = F::dscp(hook, frame.offset)?;
    decide::key::<F>(key, 0, frame, (&packet, dscp), transport);
    decide::ethernet(key, hook.header(0)?);
    let verdict = scan(F::NUMBER == 6, maps::control(F::NUMBER).filter, OUTPUT, port.ifindex, hook.length() as u64);
    trace::chain(OUTPUT);
    if features::LOGGING.on() {
        hook.log_packet(OUTPUT);
    }
    match verdict {
        ChainVerdict::Accept => None,
        ChainVerdict::Drop => Some(Reason::FilterOutput),
        ChainVerdict::Unreadable => Some(Reason::UnreadableOutput),
    }
}
