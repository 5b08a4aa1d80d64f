//! The engine of the filter: asks the entries of a chain one after the other. The first that fits decides.

#![expect(unsafe_code, reason = "bpf_loop takes its callback and the callback's context as pointers")]

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::bpf_loop;
use dataplane_common::abi::{ENTRIES, Hit, Key, Ruling};

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

/// What the callback works on. It lies on the stack, where the verifier wants whole words.
struct Scan<'a> {
    key: &'a Key,
    /// Index of the first entry in the map.
    first: u64,
    bytes: u64,
    /// [`Finding`], as a number.
    finding: u64,
}

const GO_ON: c_long = 0;
const ENOUGH: c_long = 1;

/// Asks chain number `chain` of a generation about the packet whose key is in [`maps::key`].
#[inline(always)]
pub fn scan(generation: u32, chain: u32, bytes: u64) -> Finding {
    match scan_chain(generation, chain, bytes) {
        0 => Finding::Accept,
        2 => Finding::Unreadable,
        _ => Finding::Drop,
    }
}

/// A global function: the verifier looks at it once, not once for every path that leads to a chain.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn scan_chain(generation: u32, chain: u32, bytes: u64) -> u32 {
    find(generation, chain, bytes).unwrap_or(Finding::Drop as u64) as u32
}

#[inline(always)]
fn find(generation: u32, chain: u32, bytes: u64) -> Option<u64> {
    let key = maps::key()?;
    let chain = maps::filter(generation)?.chains.get(chain as usize)?;
    let policy = if Ruling::from_number(chain.policy) == Ruling::Accept { Finding::Accept } else { Finding::Drop };
    let first = u64::from(generation * ENTRIES + chain.first);
    let mut scan = Scan { key, first, bytes, finding: policy as u64 };
    let context = (&raw mut scan).cast::<c_void>();
    // SAFETY: the callback has the type that bpf_loop calls, and the context outlives the call.
    unsafe { bpf_loop(chain.count, ask as *mut c_void, context, 0) };
    Some(scan.finding)
}

/// Asks one entry.
extern "C" fn ask(index: u32, scan: *mut Scan<'_>) -> c_long {
    // SAFETY: `scan()` passes its own.
    let scan = unsafe { &mut *scan };
    let Some(entry) = maps::entry(scan.first as u32 + index) else { return ENOUGH };
    let ruling = Ruling::from_number(u32::from(entry.ruling));
    match (entry.matches(scan.key), ruling) {
        (Hit::No, _) | (Hit::Unreadable, Ruling::Accept | Ruling::Continue) => GO_ON,
        (Hit::Unreadable, Ruling::Drop) => {
            scan.finding = Finding::Unreadable as u64;
            ENOUGH
        }
        (Hit::Yes, ruling) => {
            maps::count_rule(entry.counter, scan.bytes);
            match ruling {
                Ruling::Continue => return GO_ON,
                Ruling::Accept => scan.finding = Finding::Accept as u64,
                Ruling::Drop => scan.finding = Finding::Drop as u64,
            }
            ENOUGH
        }
    }
}
