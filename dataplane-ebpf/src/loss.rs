//! Frames that were lost behind a redirect: the device queues them for the end of the driver's round, and only tracepoints of
//! the kernel show whether they were sent.
//!
//! The kernel transmits on the CPU, and in the round of the driver, in which the frames were judged: so the counters of a port
//! are this CPU's own here too, and have counted these frames as forwarded.

#![expect(unsafe_code, reason = "structures of the kernel are read at offsets that the loader gives")]

use aya_ebpf::helpers::bpf_probe_read_kernel;
use dataplane_common::{
    Reason,
    abi::{Ifindex, Observer, PortFlags},
};

use crate::maps;

/// Overridden by the loader.
#[unsafe(no_mangle)]
static OBSERVER: [u64; 5] = [0; 5];

/// Counts `frames` as lost that came in through `device`, a `struct net_device`, if that is a port of ours.
#[inline(always)]
pub fn count(device: usize, frames: u64) {
    // SAFETY: a read of an initialised static, which the compiler must not foresee.
    let observer = Observer::from_words(unsafe { core::ptr::read_volatile(&raw const OBSERVER) });
    if !maps::is_active_observer(observer.id) {
        return;
    }
    if let Some(ifindex) = index(device, &observer)
        && let Some((slot, port)) = maps::port(ifindex)
        && port.flags().contains(PortFlags::XDP)
    {
        maps::recount(slot, Reason::Forwarded, Reason::RedirectFailed, frames);
    }
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
