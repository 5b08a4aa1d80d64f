//! The engine of the filter: asks the tables of a chain. Of the rules that a packet fits the first decides.

#![expect(unsafe_code, reason = "bpf_loop takes its callback and the callback's context as pointers")]

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::bpf_loop;
use dataplane_common::abi::{self, Acts, Answer, Features, Key, Probe, RULE_SETS, Ruling, Search, entry};

use crate::{
    features,
    maps::{self, Arena},
};

/// What a chain says about a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Finding {
    /// Goes on.
    Accept = 0,
    /// Ends here.
    Drop = 1,
    /// Ends here: a rule that drops asks for what can not be read.
    Unreadable = 2,
}

/// What the callback works on.
struct Scan<'a> {
    key: &'a mut Key,
}

const GO_ON: c_long = 0;
const ENOUGH: c_long = 1;

/// Beyond the order of every rule.
const NONE: u64 = Search::NONE;

/// Asks chain number `chain` of a generation about the packet whose key is in [`maps::key`].
#[inline(always)]
pub fn scan(generation: u32, chain: u32, bytes: u64) -> Finding {
    match scan_chain(generation, chain, bytes) {
        0 => Finding::Accept,
        2 => Finding::Unreadable,
        _ => Finding::Drop,
    }
}

/// A global function: the verifier looks at it once, not once for every path that leads to a chain.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn scan_chain(generation: u32, chain: u32, bytes: u64) -> u32 {
    find(generation, chain, bytes).unwrap_or(Finding::Drop) as u32
}

#[inline(always)]
fn find(generation: u32, chain: u32, bytes: u64) -> Option<Finding> {
    let key = maps::key()?;
    let filter = maps::filter(generation)?;
    let class = key.class();
    let tables = filter.tables.get(chain as usize)?.get(class.number() as usize)?;
    let policy = Ruling::from_number(*filter.policies.get(chain as usize)?);
    let (base, first, end) = (filter.base, tables.first, tables.first + tables.count);
    key.search = Search { base, first, table: first, end, best: NONE, bytes, ..Search::default() };
    if class.is_ipv6() {
        search_v6();
    } else {
        search_v4();
    }
    let Search { best, rule, .. } = maps::key()?.search;
    if best == NONE {
        return Some(if policy == Ruling::Accept { Finding::Accept } else { Finding::Drop });
    }
    let ruling = ruling(rule);
    if ruling != Ruling::Unreadable {
        maps::count_rule((rule & entry::COUNTER) as u32, bytes);
    }
    Some(match ruling {
        Ruling::Accept => Finding::Accept,
        Ruling::Unreadable => Finding::Unreadable,
        // It goes on when it has taken all turns that there are: nobody can say what comes behind.
        Ruling::Drop | Ruling::Continue => Finding::Drop,
    })
}

/// Two functions, and not one with a choice: the kernel calls a callback without detours when it knows which it is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search_v4() -> u32 {
    let Some(key) = maps::key() else { return 0 };
    let mut scan = Scan { key };
    // SAFETY: the callback has the type that bpf_loop calls, and the context outlives the call.
    unsafe { bpf_loop(TURNS, visit::<false> as *mut c_void, (&raw mut scan).cast(), 0) };
    1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search_v6() -> u32 {
    let Some(key) = maps::key() else { return 0 };
    let mut scan = Scan { key };
    // SAFETY: as above.
    unsafe { bpf_loop(TURNS, visit::<true> as *mut c_void, (&raw mut scan).cast(), 0) };
    1
}

/// Tables and entries that a packet is compared with at most: what the kernel lets a loop turn.
const TURNS: u32 = 1 << 23;

#[inline(always)]
fn ruling(rule: u64) -> Ruling {
    Ruling::from_number((rule >> 24) as u32 & 0xf)
}

/// All tables have been asked: whether a rule is to be counted and the next looked for.
#[inline(always)]
fn finish(search: &mut Search) -> c_long {
    if search.best == NONE {
        return ENOUGH;
    }
    let (acts, counter) = (Acts::of(search.rule), (search.rule & entry::COUNTER) as u32);
    let holds = !features::on(Features::LIMITS) || !acts.contains(Acts::LIMIT) || within(counter, search.bytes) != 0;
    if holds {
        if features::on(Features::TELLING) && acts.intersects(Acts::LOG.union(Acts::REJECT)) {
            search.told[usize::from(search.told[0] != 0)] = search.rule as u32;
        }
        if ruling(search.rule) != Ruling::Continue {
            return ENOUGH;
        }
        maps::count_rule(counter, search.bytes);
    }
    search.from = search.best + 1;
    search.best = NONE;
    search.table = search.first;
    GO_ON
}

/// Looks into the next table or, where a run has begun, at its next entry. One loop for both: the verifier does not follow
/// a loop inside a loop.
extern "C" fn visit<const IPV6: bool>(_: u32, scan: *mut Scan<'_>) -> c_long {
    // SAFETY: `find` passes its own.
    let key = unsafe { &mut *(*scan).key };
    let base = key.search.base;
    if key.search.unit == 0 {
        let table = key.search.table;
        if table == key.search.end {
            return finish(&mut key.search);
        }
        key.search.table = table + 1;
        match abi::probe(&Arena, base, table, key, IPV6, key.search.best) {
            Probe::Over => return finish(&mut key.search),
            Probe::Nothing => return GO_ON,
            Probe::Run(unit) => key.search.unit = unit,
        }
    }
    let unit = key.search.unit;
    let differs = if IPV6 { Some(|| addresses_differ(base, unit)) } else { None };
    key.search.unit = match abi::ask(&Arena, base, unit, key, (key.search.from, key.search.best), differs) {
        Answer::End => 0,
        Answer::Next => unit + if IPV6 { 2 } else { 1 },
        Answer::Fits { order, rule, last } => {
            let rest = (rule >> 32) as u32;
            if rest == 0 || (rest_agrees(base, rest) != 0 && sets_agree(base, rest) != 0) {
                key.search.best = u64::from(order);
                key.search.rule = rule;
                0
            } else if last {
                0
            } else {
                unit + if IPV6 { 2 } else { 1 }
            }
        }
    };
    GO_ON
}

/// Not zero when an IPv6 entry is for other addresses.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn addresses_differ(base: u32, unit: u32) -> u64 {
    maps::key().map_or(1, |key| abi::differ(&Arena, base, unit, key))
}

/// See [`maps::within`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn within(counter: u32, bytes: u64) -> u32 {
    u32::from(maps::within(counter, bytes))
}

/// Whether all else that a rule asks holds, but for sets.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rest_agrees(base: u32, unit: u32) -> u32 {
    u32::from(maps::key().is_some_and(|key| abi::agrees(&Arena, base, unit, key)))
}

/// Whether the sets that a rule asks hold the packet, or do not where they must not.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sets_agree(base: u32, unit: u32) -> u32 {
    let sets = abi::sets(&Arena, base, unit);
    let mut at = 0;
    while at < RULE_SETS as u64 {
        if at >= sets & 0xff {
            break;
        }
        if u64::from(is_member(base, unit, at as u32)) == sets >> (8 + at) & 1 {
            return 0;
        }
        at += 1;
    }
    1
}

/// Whether one of the sets that a rule asks holds the packet.
#[inline(always)]
fn is_member(base: u32, unit: u32, number: u32) -> u32 {
    let Some(key) = maps::key() else { return 0 };
    let (tables, selectors) = abi::set(&Arena, base, unit, number as usize & 3);
    abi::seek(key, selectors);
    key.search.set = (tables >> 32) as u32;
    key.search.held = 0;
    let mut scan = Scan { key };
    // SAFETY: the callback has the type that bpf_loop calls, and the context outlives the call.
    unsafe { bpf_loop((tables & 0xffff) as u32, look as *mut c_void, (&raw mut scan).cast(), 0) };
    scan.key.search.held
}

/// Looks into one table of a set.
extern "C" fn look(index: u32, scan: *mut Scan<'_>) -> c_long {
    // SAFETY: `is_member` passes its own.
    let key = unsafe { &mut *(*scan).key };
    let (base, set) = (key.search.base, key.search.set + index);
    if abi::holds(&Arena, base, set, &key.sought, |element| is_element(base, set, element) != 0) {
        key.search.held = 1;
        return ENOUGH;
    }
    GO_ON
}

/// Whether an element of a set is what is sought.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_element(base: u32, set: u32, element: u32) -> u32 {
    u32::from(maps::key().is_some_and(|key| abi::is_element(&Arena, base, set, element, &key.sought)))
}
