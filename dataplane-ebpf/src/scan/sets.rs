//! The sets of a rule: whether they hold the packet.

#![expect(unsafe_code, reason = "bpf_loop takes its callback and the callback's context as pointers")]

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::bpf_loop;
use dataplane_common::abi::{self, Lines as _, RULE_SETS};

use super::{CONTINUE, STOP};
use crate::maps::{self, Arena};

/// Whether the packet is in the sets of a rule, or is not where it must not be.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sets_agree(base: u32, unit: u32) -> u32 {
    // How many are left, and above that which of them must not hold it: one number, which the stack has room for.
    let mut left = abi::sets(&Arena, base, unit);
    let mut at = 0;
    while at < RULE_SETS as u64 {
        if left as u8 == 0 {
            break;
        }
        if u64::from(is_member(base, unit, at as u32)) == left >> 8 & 1 {
            return 0;
        }
        left = (left >> 1 & !0xff) | ((left - 1) & 0xff);
        at += 1;
    }
    1
}

/// Whether the packet is in one of the sets of a rule. What is needed behind the lookup of the selectors waits in the key.
#[inline(always)]
fn is_member(base: u32, unit: u32, number: u32) -> u32 {
    let Some(key) = maps::key() else { return 0 };
    let (tables, selectors) = abi::set(&Arena, base, unit, number as usize & 3);
    key.search.set = (tables >> 32) as u32;
    let count = &raw mut key.search.in_set;
    // SAFETY: a word of this CPU's own key.
    unsafe { count.write_volatile(tables as u32 & 0xffff) };
    abi::seek(key, selectors);
    let count = &raw mut key.search.in_set;
    // SAFETY: as above.
    let tables = unsafe { count.read_volatile() } & 0xffff;
    key.search.in_set = 0;
    // SAFETY: the callback has the type that bpf_loop calls, and looks at no context.
    unsafe { bpf_loop(tables, look as *mut c_void, core::ptr::null_mut(), 0) };
    maps::key().map_or(0, |key| key.search.in_set)
}

/// Looks into one table of a set.
extern "C" fn look(index: u32, _: *mut c_void) -> c_long {
    let Some(key) = maps::key() else { return STOP };
    let (base, set) = (key.search.base, key.search.set + index);
    let has_value = |slots: u64, value| has_value(base, slots, value) != 0;
    let is_same = |element| is_element(base, set, element) != 0;
    if abi::holds(&Arena, base, set, &key.sought, (has_value, is_same)) {
        key.search.in_set = 1;
        return STOP;
    }
    CONTINUE
}

/// Whether the slots of a narrow table have a value. A global function, as the next one, so that what it needs of the stack is
/// not there for that.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn has_value(base: u32, slots: u64, value: u32) -> u32 {
    u32::from(abi::has(&Arena, base, slots, value))
}

/// Whether an element of a set is what is sought.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_element(base: u32, set: u32, element: u32) -> u32 {
    let (Some(set), Some(element)) = (Arena.line(base + set), Arena.line(base + element)) else { return 0 };
    let Some(key) = maps::key() else { return 0 };
    let words = abi::ELEMENT_WORDS;
    // SAFETY: a read of a local. LLVM must not know how many words there are: it would keep all of them on the stack.
    let words = unsafe { (&raw const words).read_volatile() };
    let mut at = 0;
    while at < abi::ELEMENT_WORDS {
        if at >= words {
            break;
        }
        if abi::element_differs(&Arena, (set, element), &key.sought, at) {
            return 0;
        }
        at += 1;
    }
    1
}
