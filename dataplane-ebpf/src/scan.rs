//! The engine of the filter: asks the tables of a chain. Of the rules that a packet fits the first decides.

#![expect(unsafe_code, reason = "bpf_loop takes its callback and the callback's context as pointers")]

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::bpf_loop;
use dataplane_common::abi::{self, Acts, Answer, Features, Key, Probe, RULE_SETS, Ruling, Search, entry};

use crate::{
    features,
    maps::{self, Arena},
    trace,
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
    let finding = find(generation, chain, bytes).unwrap_or(Finding::Drop) as u32;
    trace::chain(chain);
    finding
}

#[inline(always)]
fn find(generation: u32, chain: u32, bytes: u64) -> Option<Finding> {
    let key = maps::key()?;
    let filter = maps::filter(generation)?;
    let class = key.class();
    let tables = filter.tables.get(chain as usize)?.get(class.number() as usize)?;
    let policy = Ruling::from_number(*filter.policies.get(chain as usize)?);
    let (base, first, end) = (filter.base, tables.first, tables.first + tables.count);
    begin(&mut key.search, (base, first, end), bytes);
    if turn(key) == GO_ON {
        let mut scan = Scan { key };
        // SAFETY: the callback has the type that bpf_loop calls, and the context outlives the call.
        unsafe { bpf_loop(TURNS, again as *mut c_void, (&raw mut scan).cast(), 0) };
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

/// Nothing found yet. Field by field: LLVM would call a function to clear them all.
#[inline(always)]
fn begin(search: &mut Search, (base, first, end): (u32, u32, u32), bytes: u64) {
    search.base = base;
    search.first = first;
    search.table = first;
    search.end = end;
    search.unit = 0;
    search.from = 0;
    search.best = NONE;
    search.rule = 0;
    search.bytes = bytes;
    search.told = [0; 2];
}

/// Turns at most: what the kernel lets a loop do. One is enough unless a rule continues, or tables or entries are many.
const TURNS: u32 = 1 << 23;
/// Tables asked in one turn.
const TABLES: u32 = 48;
/// Runs followed in one turn.
const RUNS: u32 = 8;
/// No unit, but there is more.
const MORE: u32 = u32::MAX;
/// Entries of a run asked in one turn.
const ENTRIES: u32 = 16;

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

/// One more turn.
extern "C" fn again(_: u32, scan: *mut Scan<'_>) -> c_long {
    // SAFETY: `find` passes its own.
    turn(unsafe { &mut *(*scan).key })
}

/// Goes on where the search is: in a run, or at the next table.
#[inline(always)]
fn turn(key: &mut Key) -> c_long {
    let ipv6 = key.class().is_ipv6();
    if key.search.unit != 0 && follow(ipv6, key.search.unit) != 0 {
        return GO_ON;
    }
    let mut runs = 0;
    while runs < RUNS {
        let unit = if ipv6 { search_v6() } else { search_v4() };
        if unit == 0 {
            return finish(&mut key.search);
        }
        if unit == MORE || follow(ipv6, unit) != 0 {
            return GO_ON;
        }
        runs += 1;
    }
    GO_ON
}

#[inline(always)]
fn follow(ipv6: bool, unit: u32) -> u32 {
    if ipv6 { follow_v6(unit) } else { follow_v4(unit) }
}

/// Asks tables from [`Search::table`] on, until one leads to a run, whose unit it gives; 0 when all have been asked that may
/// matter, [`MORE`] when these were enough for a turn.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search_v4() -> u32 {
    search::<false>()
}

/// See [`search_v4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search_v6() -> u32 {
    search::<true>()
}

/// Asks the entries of a run, from the one at a unit on; 0 when all have been asked that may matter.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn follow_v4(unit: u32) -> u32 {
    entries::<false>(unit)
}

/// See [`follow_v4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn follow_v6(unit: u32) -> u32 {
    entries::<true>(unit)
}

#[inline(always)]
fn search<const IPV6: bool>() -> u32 {
    let Some(key) = maps::key() else { return 0 };
    let base = key.search.base;
    let mut asked = 0;
    while asked < TABLES {
        let table = key.search.table;
        if table == key.search.end {
            return 0;
        }
        key.search.table = table + 1;
        match abi::probe(&Arena, base, table, key, IPV6, key.search.best) {
            Probe::Over => return 0,
            Probe::Nothing => {}
            Probe::Run(unit) => return unit,
        }
        asked += 1;
    }
    MORE
}

#[inline(always)]
fn entries<const IPV6: bool>(unit: u32) -> u32 {
    let Some(key) = maps::key() else { return 0 };
    let (base, mut unit) = (key.search.base, unit);
    let mut asked = 0;
    while asked < ENTRIES {
        let differs = if IPV6 { Some(|| addresses_differ(base, unit)) } else { None };
        match abi::ask(&Arena, base, unit, key, (key.search.from, key.search.best), differs) {
            Answer::End => break,
            Answer::Next => {}
            Answer::Fits { order, rule, last } => {
                let rest = (rule >> 32) as u32;
                let fits = rest == 0 || (rest_agrees(base, rest) != 0 && sets_agree(base, rest) != 0);
                if fits {
                    key.search.best = u64::from(order);
                    key.search.rule = rule;
                }
                if fits || last {
                    break;
                }
            }
        }
        unit += if IPV6 { 2 } else { 1 };
        asked += 1;
    }
    key.search.unit = if asked == ENTRIES { unit } else { 0 };
    u32::from(asked == ENTRIES)
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
    let Some(key) = maps::key() else { return 0 };
    let words = abi::ELEMENT_WORDS;
    // SAFETY: a read of a local. LLVM must not know how many words there are: it would keep all of them on the stack.
    let words = unsafe { (&raw const words).read_volatile() };
    let mut at = 0;
    while at < abi::ELEMENT_WORDS {
        if at >= words {
            break;
        }
        if abi::element_differs(&Arena, base, (set, element), &key.sought, at) {
            return 0;
        }
        at += 1;
    }
    1
}
