//! Waiting until no program still uses what was just replaced.

#![expect(unsafe_code, reason = "membarrier(2) has no wrapper in the libraries we use")]

use std::time::Duration;

use crate::retired::Grace;

/// `MEMBARRIER_CMD_GLOBAL` of the kernel: returns after an RCU grace period.
const GLOBAL: libc::c_int = 1;

/// Returns when every program that was running has ended. XDP and tc programs run inside RCU read-side sections, so a grace
/// period is enough; `membarrier(2)` is the system call that waits for one.
pub fn grace() -> Grace {
    // SAFETY: a system call without pointers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if done != 0 {
        // Forbidden by a seccomp filter, say. No program runs anywhere near this long.
        std::thread::sleep(Duration::from_millis(50));
    }
    Grace::passed()
}
