//! Frames that were lost behind a redirect: the device queues them for the end of the driver's round, and only tracepoints of
//! the kernel show whether they were sent.
//!
//! The kernel transmits on the CPU, and in the round of the driver, in which the frames were judged: so the counters of a port
//! are this CPU's own here too, and have counted these frames as sent.

#![expect(unsafe_code, reason = "structures of the kernel are read at offsets that the loader gives")]

use aya_ebpf::helpers::bpf_probe_read_kernel;
use dataplane_common::{
    Reason,
    abi::{Ifindex, Observer, Port, PortFlags},
};

use crate::maps;

/// Overridden by the loader.
#[unsafe(no_mangle)]
static OBSERVER: [u64; 5] = [0; 5];

/// Where lost frames were to go.
#[derive(Clone, Copy)]
pub enum To {
    /// Through a `struct net_device`.
    Device(usize),
    /// Through the device with an index.
    Index(Ifindex),
}

/// Counts `frames` as lost that came in through `device`, a `struct net_device`, if that is a port of ours.
#[inline(always)]
pub fn count(device: usize, frames: u64, to: To) {
    // SAFETY: a read of an initialised static, which the compiler must not foresee.
    let observer = Observer::from_words(unsafe { core::ptr::read_volatile(&raw const OBSERVER) });
    if !maps::is_active_observer(observer.id) {
        return;
    }
    if let Some(ifindex) = index(device, &observer)
        && let Some((slot, port)) = maps::port(ifindex)
        && port.flags().contains(PortFlags::XDP)
    {
        let before = if is_switched(port, to, &observer) { Reason::Bridged } else { Reason::Forwarded };
        maps::recount(slot, before, Reason::RedirectFailed, frames);
    }
}

/// Whether frames went from one member of a bridge to another: nothing is routed between these.
#[inline(always)]
fn is_switched(port: &Port, to: To, observer: &Observer) -> bool {
    if !port.flags().contains(PortFlags::SWITCHES) {
        return false;
    }
    let out = match to {
        To::Device(device) => index(device, observer),
        To::Index(ifindex) => Some(ifindex),
    };
    let out = out.and_then(maps::port);
    out.is_some_and(|(_, out)| out.domain == port.domain && out.flags().contains(PortFlags::SWITCHES))
}

/// The index of a device; `None` if it is in another network namespace.
#[inline(always)]
fn index(device: usize, observer: &Observer) -> Option<Ifindex> {
    let net: u64 = read(device, observer.net)?;
    let number: u32 = read(net as usize, observer.number)?;
    if u64::from(number) != observer.namespace {
        return None;
    }
    read(device, observer.ifindex)
}

/// A field of the kernel's.
#[inline(always)]
fn read<T>(structure: usize, offset: u64) -> Option<T> {
    let field = structure.wrapping_add(offset as usize) as *const T;
    // SAFETY: the helper reads nothing where nothing can be read.
    unsafe { bpf_probe_read_kernel(field) }.ok()
}
