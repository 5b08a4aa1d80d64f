//! The verdict cache: rows and sets of this CPU.

use core::ptr::NonNull;

use aya_ebpf::{btf_maps::Array, helpers::bpf_get_smp_processor_id, macros::btf_map};
use dataplane_common::abi::{Line, Recall, VerdictSet, WORDS};

use super::element::find;

/// Overridden by the loader: the number of sets of a CPU, less one.
#[unsafe(no_mangle)]
static VERDICT_MASK: u32 = 0;
#[btf_map]
static VERDICT_SETS: Array<VerdictSet, 1> = Array::new();
#[btf_map]
static VERDICTS: Array<Line, 8> = Array::new();

/// Which of all sets is this CPU's for a hash.
#[inline(always)]
pub fn verdict_place(hash: u32, recall: &Recall) -> u32 {
    // SAFETY: a static. LLVM must not take it for what it is before it is loaded.
    let mask = unsafe { (&raw const VERDICT_MASK).read_volatile() };
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    cpu * (mask + 1) + (hash & recall.sets(mask))
}

/// A set.
#[inline(always)]
pub fn verdict_set(place: u32) -> Option<&'static mut VerdictSet> {
    // SAFETY: the set is this CPU's own, and each function takes it once.
    find::<_, VerdictSet>(&VERDICT_SETS, place).map(|set| unsafe { &mut *set.as_ptr() })
}

/// A row.
#[inline(always)]
pub fn verdict_row(place: u32) -> Option<&'static mut [u64; WORDS]> {
    let row: Option<NonNull<[u64; WORDS]>> = find(&VERDICTS, place);
    // SAFETY: the row is this CPU's own, and each function takes it once.
    row.map(|row| unsafe { &mut *row.as_ptr() })
}
