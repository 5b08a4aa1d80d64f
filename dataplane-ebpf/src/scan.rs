//! The engine of the filter: asks the entries of a chain one after the other. The first that fits decides.

#![expect(unsafe_code, reason = "bpf_loop takes its callback and the callback's context as pointers")]

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::bpf_loop;
use dataplane_common::abi::{Hit, Key, Ruling};

use crate::maps;

/// What a chain says about a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Finding {
    /// Goes on.
    Accept = 0,
    /// Ends here.
    Drop = 1,
    /// Ends here: a rule that drops asks for what can not be read.
    Unreadable = 2,
}

/// What the callback works on.
struct Scan<'a> {
    key: &'a Key,
    generation: u32,
    first: u32,
    bytes: u64,
    finding: Finding,
}

const GO_ON: c_long = 0;
const ENOUGH: c_long = 1;

/// Asks chain number `chain` of a generation.
#[inline(never)]
pub fn scan(key: &Key, generation: u32, chain: u32, bytes: u64) -> Finding {
    let Some(filter) = maps::filter(generation) else { return Finding::Drop };
    let Some(chain) = filter.chains.get(chain as usize) else { return Finding::Drop };
    let policy = if Ruling::from_number(chain.policy) == Ruling::Accept { Finding::Accept } else { Finding::Drop };
    let mut scan = Scan { key, generation, first: chain.first, bytes, finding: policy };
    let context = (&raw mut scan).cast::<c_void>();
    // SAFETY: the callback has the type that bpf_loop calls, and the context outlives the call.
    unsafe { bpf_loop(chain.count, ask as *mut c_void, context, 0) };
    scan.finding
}

/// Asks one entry.
extern "C" fn ask(index: u32, scan: *mut Scan<'_>) -> c_long {
    // SAFETY: `scan()` passes its own.
    let scan = unsafe { &mut *scan };
    let Some(entry) = maps::entry(scan.generation, scan.first + index) else { return ENOUGH };
    let ruling = Ruling::from_number(u32::from(entry.ruling));
    match (entry.matches(scan.key), ruling) {
        (Hit::No, _) | (Hit::Unreadable, Ruling::Accept | Ruling::Continue) => GO_ON,
        (Hit::Unreadable, Ruling::Drop) => {
            scan.finding = Finding::Unreadable;
            ENOUGH
        }
        (Hit::Yes, ruling) => {
            maps::count_rule(entry.counter, scan.bytes);
            match ruling {
                Ruling::Continue => return GO_ON,
                Ruling::Accept => scan.finding = Finding::Accept,
                Ruling::Drop => scan.finding = Finding::Drop,
            }
            ENOUGH
        }
    }
}
