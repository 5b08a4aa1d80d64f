//! What a program was loaded with.

#![expect(unsafe_code, reason = "the value is set when the program is loaded, which the compiler must not foresee")]

use dataplane_common::abi::Features;

/// Overridden by the loader; frozen from then on, so the verifier removes what is off.
#[unsafe(no_mangle)]
static FEATURES: u32 = 0;

/// Whether all of `wanted` is on.
#[inline(always)]
pub fn on(wanted: Features) -> bool {
    loaded() & wanted.bits() == wanted.bits()
}

#[inline(always)]
fn loaded() -> u32 {
    // SAFETY: a read of an initialised static.
    unsafe { core::ptr::read_volatile(&raw const FEATURES) }
}

/// Whether any chain is in use.
#[inline(always)]
pub fn filtering() -> bool {
    loaded() & Features::CHAINS.bits() != 0
}

/// Whether anything asks for the key of a packet.
#[inline(always)]
pub fn keyed() -> bool {
    filtering() || on(Features::TRACING)
}
