//! The forwarding tables, by family.
//!
//! Searches are global functions: the verifier looks at each once, not once for every path that leads to it.

#![expect(unsafe_code, reason = "the linker keeps functions global that have a name of their own")]

use dataplane_common::{
    abi::{Control, Fib as _, Fib4, Fib6, Ifindex, Target},
    decide::{Family, V4, V6},
    wire::{Address6, Tag},
};

use crate::maps;

/// A family with its table.
pub trait Routed: Family {
    /// What one generation looks like.
    type Table: 'static;

    /// The live generation.
    fn table(control: Control) -> Option<&'static Self::Table>;

    /// The longest match in the live generation.
    fn lookup(table: &'static Self::Table, control: Control, address: Self::Address) -> Target;

    /// Whether an address may be one of this machine's: `false` is certain.
    fn may_be_local(table: &'static Self::Table, address: Self::Address) -> bool;
}

impl Routed for V4 {
    type Table = Fib4;

    #[inline(always)]
    fn table(control: Control) -> Option<&'static Fib4> {
        maps::fib4(control.fib4)
    }

    #[inline(always)]
    fn lookup(table: &'static Fib4, control: Control, address: u32) -> Target {
        match table.direct(address) {
            Some(target) => target,
            None => Target::from_raw(lookup_v4(control.fib4, address)),
        }
    }

    #[inline(always)]
    fn may_be_local(table: &'static Fib4, address: u32) -> bool {
        table.may_be_local(address)
    }
}

impl Routed for V6 {
    type Table = Fib6;

    #[inline(always)]
    fn table(control: Control) -> Option<&'static Fib6> {
        maps::fib6(control.fib6)
    }

    #[inline(always)]
    fn lookup(table: &'static Fib6, control: Control, address: Address6) -> Target {
        match table.direct(address.into()) {
            Some(target) => target,
            None => Target::from_raw(lookup_v6(control.fib6, address.high, address.low)),
        }
    }

    #[inline(always)]
    fn may_be_local(table: &'static Fib6, address: Address6) -> bool {
        table.may_be_local(address.into())
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lookup_v4(generation: u32, address: u32) -> u32 {
    maps::fib4(generation).map_or(Target::NONE, |fib| fib.lookup(address)).raw()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lookup_v6(generation: u32, high: u64, low: u64) -> u32 {
    maps::fib6(generation).map_or(Target::NONE, |fib| fib.lookup(Address6 { high, low }.into())).raw()
}

/// Whether one of the next hops of a route is through `ifindex`.
#[inline(always)]
pub fn leads_back(route: Target, ifindex: Ifindex) -> bool {
    reaches(route.group(), ifindex) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn reaches(group: u32, ifindex: u32) -> u32 {
    let Some(group) = maps::group(group) else { return 0 };
    for (slot, member) in group.members.iter().enumerate() {
        if slot as u32 >= group.slots {
            break;
        }
        if maps::adjacency(*member).is_some_and(|adjacency| adjacency.ifindex == ifindex) {
            return 1;
        }
    }
    0
}

/// Where the VLAN device for a tag ([`dataplane_common::abi::Tag::raw`]) on an interface is found: a
/// [`dataplane_common::abi::VlanKey`] in one word.
#[inline(always)]
pub fn vlan_key(ifindex: Ifindex, tag: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(ifindex)
}

/// The key of the innermost VLAN device for two tags, or for one with identifier 0, on a port; 0 is the port itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stacked_vlan(port: u32, outer: u32, inner: u32) -> u64 {
    // Whether a tag may be there just for its priority.
    let says_nothing = |tag: u32| Tag::from_raw(tag as u16).id() == 0;
    let mut key = vlan_key(port, outer);
    let below = match maps::vlan(key) {
        Some(device) => device.ifindex,
        None if says_nothing(outer) => {
            key = 0;
            port
        }
        // Not found here, nor when it is looked for again.
        None => return key,
    };
    if inner == 0 {
        return key;
    }
    let stacked = vlan_key(below, inner);
    if says_nothing(inner) && maps::vlan(stacked).is_none() { key } else { stacked }
}
