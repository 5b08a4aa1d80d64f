//! What a program was loaded with.

#![expect(unsafe_code, reason = "the value is set when the program is loaded, which the compiler must not foresee")]

use dataplane_common::abi::{Features, Switches};

/// Overridden by the loader; frozen from then on, so the verifier removes what is off.
#[unsafe(no_mangle)]
static FEATURES: Switches = Switches::NONE;

/// Whether a feature is on.
#[inline(always)]
pub fn on(feature: Features) -> bool {
    switch(Switches::place(feature))
}

#[inline(always)]
fn switch(place: usize) -> bool {
    // SAFETY: a read of an initialised static.
    let switch = unsafe { core::ptr::read_volatile(&raw const FEATURES.0[place]) };
    switch != 0
}

/// Whether any chain is in use.
#[inline(always)]
pub fn filtering() -> bool {
    switch(Switches::FILTERING)
}
