//! Elements of arrays.

use core::ptr::NonNull;

use aya_ebpf::helpers::bpf_map_lookup_elem;

/// An index, alone in its word of the stack: LLVM would merge the stores of two neighbours into one that crosses words, which
/// the verifier refuses.
#[repr(align(8))]
pub struct Index(pub u32);

/// The element of `map` at `index`.
#[inline(always)]
pub fn find<M, T>(map: &'static M, index: u32) -> Option<NonNull<T>> {
    let index = Index(index);
    // SAFETY: every map here is an array with four-byte keys and elements of the type that its one caller names.
    let element = unsafe { bpf_map_lookup_elem((&raw const *map).cast_mut().cast(), (&raw const index.0).cast()) };
    NonNull::new(element.cast())
}
