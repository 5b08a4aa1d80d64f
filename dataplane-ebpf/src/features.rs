//! What a program was loaded with.

#![expect(unsafe_code, reason = "a switch is an instruction that Rust has no words for")]

use core::arch::asm;

use dataplane_common::abi::{Features, Switch};

/// A switch ([`Switch`]).
#[derive(Clone, Copy)]
pub struct Feature<const MARK: i32>;

impl<const MARK: i32> Feature<MARK> {
    /// Whether the feature is on.
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "the answer is in its type")]
    pub fn on(self) -> bool {
        // SAFETY: nothing is read, and nothing written but a register that is named.
        unsafe {
            asm!(
                "r0 = {mark}",
                "if r0 == {yes} goto {on}",
                mark = const MARK,
                yes = const Switch::ON,
                on = label { return true },
                out("r0") _,
                options(nomem, nostack),
            );
        }
        false
    }
}

/// Pad jumps ([`Switch::begins_pad`]), at the beginning of a function that packets go through and that has switches. Without
/// them the function has one instruction more for each switch. They are never reached, and the verifier removes them and the
/// jump around them.
#[inline(always)]
pub fn jump_pad() {
    // SAFETY: nothing is read, and nothing written but a register that is named.
    unsafe {
        asm!(
            "r0 = {mark}",
            "if r0 == {yes} goto +1",
            "goto +{count}",
            ".rept {count}",
            "if r0 == {yes} goto +0",
            ".endr",
            mark = const Switch::PAD_MARK,
            count = const Switch::PAD_JUMPS,
            yes = const Switch::ON,
            out("r0") _,
            options(nomem, nostack),
        );
    }
}

/// Where the packet begins and ends is read anew after this: LLVM keeps the end, of which it knows 32 bits, and would copy only
/// those.
#[inline(always)]
pub fn read_bounds_anew() {
    // SAFETY: no instruction.
    unsafe { asm!("", options(nostack)) };
}

macro_rules! features {
    ($($name:ident)*) => {
        $(
            #[doc = concat!("[`Features::", stringify!($name), "`].")]
            pub const $name: Feature<{ Switch::mark(Features::$name) }> = Feature;
        )*
    };
}

features! {
    PREROUTING INPUT FORWARD OUTPUT IPV6 RP_FILTER PARTIAL_CHECKSUMS NO_ETHERNET MULTIPATH WIDE_FIB4 WIDE_FIB6 VLANS
    CUSTOM_LOCAL LOGGING LIMITS TRACING KERNEL_LOOKUP DRY_RUN IPSEC RX_HANDLER PROXY_NDP VIRTUAL FOLLOW
    ELSEWHERE CLIENTS FLOWS MARKS SOURCES BRIDGES SWITCH VERDICTS PEERS
}

/// Some port may hide from XDP what only tc sees.
pub const HIDING: Feature<{ Switch::mark(Features::VLANS.union(Features::IPSEC).union(Features::MARKS)) }> = Feature;

/// Any chain is in use.
pub const FILTERING: Feature<{ Switch::mark(Features::CHAINS) }> = Feature;
