//! The forwarding tables, by family.

use dataplane_common::{
    abi::{Control, Fib as _, Target},
    decide::{Family, V4, V6},
    wire::Address6,
};

use crate::maps;

/// A family with its table.
pub trait Routed: Family {
    /// The longest match in the live generation.
    fn lookup(control: Control, address: Self::Address) -> Option<Target>;

    /// Whether an address may be one of this machine's: `false` is certain.
    fn may_be_local(control: Control, address: Self::Address) -> bool;
}

impl Routed for V4 {
    #[inline(always)]
    fn lookup(control: Control, address: u32) -> Option<Target> {
        maps::fib4(control.fib4).map(|fib| fib.lookup(address))
    }

    #[inline(always)]
    fn may_be_local(control: Control, address: u32) -> bool {
        maps::fib4(control.fib4).is_none_or(|fib| fib.may_be_local(address))
    }
}

impl Routed for V6 {
    #[inline(always)]
    fn lookup(control: Control, address: Address6) -> Option<Target> {
        maps::fib6(control.fib6).map(|fib| fib.lookup(address.into()))
    }

    #[inline(always)]
    fn may_be_local(control: Control, address: Address6) -> bool {
        maps::fib6(control.fib6).is_none_or(|fib| fib.may_be_local(address.into()))
    }
}
