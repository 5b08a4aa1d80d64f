//! Whether the controller is there: without it, neighbours and ways out are not to be trusted for ever.

#![expect(unsafe_code, reason = "the linker keeps functions global that have a name of their own")]

use crate::{features, maps};

/// Whether the controller has been away for longer than the operator allows.
#[inline(always)]
pub fn controller_gone() -> bool {
    !maps::liveness_is(false) && check_controller() != 0
}

/// Checks it for this tick, unless another CPU has.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn check_controller() -> u32 {
    let known = maps::liveness_is(true);
    let gone = known || maps::expired();
    if !known {
        if features::FLOWS.on() {
            maps::store_moment();
        }
        maps::store_liveness(gone);
    }
    u32::from(gone)
}
