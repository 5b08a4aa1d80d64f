//! The engine of the filter: searches the tables of a chain. The first rule that matches a packet decides.

#![expect(unsafe_code, reason = "bpf_loop takes its callback and the callback's context as pointers")]

mod recall;
mod sets;

use core::{
    ffi::{c_long, c_void},
    hint::black_box,
};

use aya_ebpf::helpers::bpf_loop;
use dataplane_common::abi::{
    self, ActionCode, Acts, CHAINS, EntryMatch, Filter, Ifindex, Key, Probe, QUIET, Search, TABLES_PER_WORD, Tables,
    entry,
};

use crate::{
    features,
    maps::{self, Arena},
    trace::note,
};

/// What a chain says about a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ChainVerdict {
    /// Goes on.
    Accept = 0,
    /// Ends here.
    Drop = 1,
    /// Ends here: a rule that drops matches on fields that cannot be read.
    Unreadable = 2,
}

impl ChainVerdict {
    #[inline(always)]
    const fn of(outcome: u32) -> Self {
        match outcome {
            0 => Self::Accept,
            2 => Self::Unreadable,
            _ => Self::Drop,
        }
    }
}

const CONTINUE: c_long = 0;
const STOP: c_long = 1;

/// What a scan has to say yet.
const MORE: u32 = 3;

/// Evaluates chain number `chain` of a generation for the packet whose key is in [`maps::key`], which is of that family, and
/// which is to leave through `oif` (0 where that is not known yet).
#[inline(always)]
pub fn scan(ipv6: bool, generation: u32, chain: u32, oif: Ifindex, bytes: u64) -> ChainVerdict {
    ChainVerdict::of(search(ipv6, generation, chain, oif, bytes))
}

/// The same, without a search where the verdict cache has what was found before.
#[inline(always)]
pub fn recall_or_scan(ipv6: bool, generation: u32, chain: u32, oif: Ifindex, bytes: u64) -> ChainVerdict {
    if !features::VERDICTS.on() {
        return scan(ipv6, generation, chain, oif, bytes);
    }
    let mut outcome = if ipv6 {
        recall::recall_v6(generation, chain, oif, bytes)
    } else {
        recall::recall_v4(generation, chain, oif, bytes)
    };
    if outcome == recall::MISSED {
        outcome = search(ipv6, generation, chain, oif, bytes);
        recall::remember();
    }
    ChainVerdict::of(outcome)
}

#[inline(always)]
fn search(ipv6: bool, generation: u32, chain: u32, oif: Ifindex, bytes: u64) -> u32 {
    let outcome = if ipv6 { scan_v6(generation, chain, oif, bytes) } else { scan_v4(generation, chain, oif, bytes) };
    if outcome != MORE {
        return outcome;
    }
    let _turns = if ipv6 { scan_on_v6() } else { scan_on_v4() };
    scanned(generation, chain)
}

/// The same for one that may never meet the chain, so that nothing is counted: 1 where the chain does not let it pass, else 0,
/// without a branch on it.
#[inline(always)]
pub fn refuses(ipv6: bool, generation: u32, chain: u32, oif: Ifindex) -> u32 {
    let outcome = search(ipv6, generation, chain | QUIET, oif, 0);
    (outcome | outcome.wrapping_neg()) >> 31
}

/// A first turn, which is nearly always enough; without a call in it, because on some machines to return from one costs as
/// much as to look into a table. A global function: the verifier looks at it once, not once for every path that leads to a
/// chain.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn scan_v4(generation: u32, chain: u32, oif: Ifindex, bytes: u64) -> u32 {
    features::jump_pad();
    first::<false>(generation, chain, oif, bytes).unwrap_or(ChainVerdict::Drop as u32)
}

/// See [`scan_v4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn scan_v6(generation: u32, chain: u32, oif: Ifindex, bytes: u64) -> u32 {
    features::jump_pad();
    first::<true>(generation, chain, oif, bytes).unwrap_or(ChainVerdict::Drop as u32)
}

/// All other turns; how many they were. Alone, because what it needs of the stack is not there for what it calls.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn scan_on_v4() -> c_long {
    others(again::<false>)
}

/// See [`scan_on_v4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn scan_on_v6() -> c_long {
    others(again::<true>)
}

/// What all turns have found, as a [`ChainVerdict`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn scanned(generation: u32, chain: u32) -> u32 {
    let found = || Some(conclude(&maps::key()?.search, maps::filter(generation), chain));
    found().unwrap_or(ChainVerdict::Drop) as u32
}

#[inline(always)]
fn first<const IPV6: bool>(generation: u32, chain: u32, oif: Ifindex, bytes: u64) -> Option<u32> {
    let key = maps::key()?;
    key.set_oif(oif);
    let filter = maps::filter(generation);
    let tables = filter.tables[chain as usize % CHAINS].get(key.class_of(IPV6, filter.lenient).number() as usize)?;
    begin(&mut key.search, filter.base, tables, bytes);
    if features::FORWARD.on() {
        key.search.quiet = chain & QUIET;
    }
    if tables.count != 0 {
        next_tables::<IPV6>(key);
    }
    let enough = walk::<IPV6, STEPS>(key) == STOP;
    Some(if enough { conclude(&key.search, filter, chain) as u32 } else { MORE })
}

#[inline(always)]
fn others(turn: extern "C" fn(u32, *mut c_void) -> c_long) -> c_long {
    // SAFETY: the callback has the type that bpf_loop calls, and looks at no context.
    unsafe { bpf_loop(TURNS, turn as *mut c_void, core::ptr::null_mut(), 0) }
}

/// What was found.
#[inline(always)]
fn conclude(search: &Search, filter: &Filter, chain: u32) -> ChainVerdict {
    let quiet = is_quiet(search);
    if !quiet {
        note::chain(chain);
    }
    let Search { rule, bytes, .. } = *search;
    if search.is_empty() {
        let policy = ActionCode::from_number(filter.policies[chain as usize % CHAINS]);
        return if policy == ActionCode::Accept { ChainVerdict::Accept } else { ChainVerdict::Drop };
    }
    let action = ActionCode::of(rule);
    if action != ActionCode::Unreadable && !quiet {
        maps::count_rule((rule & entry::COUNTER) as u32, bytes);
    }
    match action {
        ActionCode::Accept => ChainVerdict::Accept,
        ActionCode::Unreadable => ChainVerdict::Unreadable,
        // It continues after the last turn that the kernel allows: the rules behind it are not known.
        ActionCode::Drop | ActionCode::Continue => ChainVerdict::Drop,
    }
}

/// Whether nothing is counted: the packet may never meet the chain.
#[inline(always)]
fn is_quiet(search: &Search) -> bool {
    features::FORWARD.on() && search.quiet != 0
}

/// The start of a search. Field by field, and one that LLVM does not see through: it would call a function to clear them all.
#[inline(always)]
fn begin(search: &mut Search, base: u32, &Tables { first, count, prefilter, catch_all }: &Tables, bytes: u64) {
    search.base = base;
    search.first = first;
    search.end = first + count;
    search.prefilter = prefilter;
    search.left = black_box(0);
    search.unit = 0;
    search.from = 0;
    search.catch_all = catch_all;
    search.rewind();
    search.bytes = bytes;
    if features::LOGGING.on() {
        search.log_rules = [0; 2];
    }
    if features::VERDICTS.on() {
        search.beyond = 0;
    }
}

/// Turns at most: what the kernel lets a loop do. The first, before any, is enough unless a rule continues, or tables or
/// entries are many.
const TURNS: u32 = 1 << 23;
/// Tables and entries searched in the first turn.
const STEPS: u32 = 9;
/// And in each other.
const MORE_STEPS: u32 = 8;

/// All tables have been searched: whether a rule is to be counted and the search goes on for the next.
#[inline(always)]
fn finish(search: &mut Search) -> c_long {
    if search.is_empty() {
        return STOP;
    }
    let (acts, counter) = (Acts::of(search.rule), (search.rule & entry::COUNTER) as u32);
    let holds = !features::LIMITS.on() || !acts.contains(Acts::LIMIT) || within(counter, search.bytes) != 0;
    if holds {
        if features::LOGGING.on() && acts.intersects(Acts::LOG.union(Acts::REJECT)) {
            search.log_rules[usize::from(search.log_rules[0] != 0)] = search.rule as u32;
        }
        if ActionCode::of(search.rule) != ActionCode::Continue {
            return STOP;
        }
        if !is_quiet(search) {
            maps::count_rule(counter, search.bytes);
        }
    }
    search.from = search.best + 1;
    search.rewind();
    CONTINUE
}

/// One more turn.
extern "C" fn again<const IPV6: bool>(_: u32, _: *mut c_void) -> c_long {
    // LLVM knows that it is 0 or 1, and leaves it at that; the verifier does not.
    let enough = black_box(if IPV6 { walk_v6() } else { walk_v4() });
    if enough == 0 { CONTINUE } else { STOP }
}

/// A turn as a global function: the verifier looks at it once, not for every turn of the loop.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_v4() -> u32 {
    maps::key().map_or(1, |key| u32::from(walk::<false, MORE_STEPS>(key) == STOP))
}

/// See [`walk_v4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_v6() -> u32 {
    maps::key().map_or(1, |key| u32::from(walk::<true, MORE_STEPS>(key) == STOP))
}

/// Continues the search: matches an entry of the current run or, without one, looks up the run in the next table. The state of
/// the search is in memory, about which the verifier knows nothing: so all paths through a step end alike.
#[inline(always)]
fn walk<const IPV6: bool, const STEPS: u32>(key: &mut Key) -> c_long {
    let mut steps = 0;
    while steps < STEPS {
        let mut unit = key.search.unit;
        if unit == 0 {
            if key.search.left != 0 {
                unit = probe_next::<IPV6>(key);
            } else if key.search.table < key.search.end {
                next_tables::<IPV6>(key);
            } else if finish(&mut key.search) == STOP {
                return STOP;
            }
        }
        if unit != 0 {
            key.search.unit = match_entry::<IPV6>(key, unit);
        }
        steps += 1;
    }
    CONTINUE
}

/// Finds out which of the next tables have something for the packet.
#[inline(always)]
fn next_tables<const IPV6: bool>(key: &mut Key) {
    let Search { base, first, table, end, prefilter, .. } = key.search;
    key.search.at = table;
    key.search.table = table + TABLES_PER_WORD;
    key.search.left = prefilter.candidates(&Arena, base, ((table - first) / TABLES_PER_WORD, end - table), key, IPV6);
}

/// Looks into the next of these tables: where its run for the packet begins, or 0.
#[inline(always)]
fn probe_next<const IPV6: bool>(key: &mut Key) -> u32 {
    let Search { base, at, left, end, best, .. } = key.search;
    key.search.left = left & (left - 1);
    let table = at + abi::lowest(left);
    match abi::probe(&Arena, base, table, key, IPV6, best) {
        Probe::Over => {
            key.search.left = 0;
            key.search.table = end;
            0
        }
        Probe::Nothing => 0,
        Probe::Run(unit) => unit,
    }
}

/// Matches the entry at a unit; returns the next of its run, or 0 when no more of it can matter.
#[inline(always)]
fn match_entry<const IPV6: bool>(key: &mut Key, unit: u32) -> u32 {
    let base = key.search.base;
    let differs = if IPV6 { Some(|| addresses_differ(base, unit)) } else { None };
    let next = unit + if IPV6 { 2 } else { 1 };
    match abi::match_entry(&Arena, base, unit, key, (key.search.from, key.search.best), differs) {
        EntryMatch::End => 0,
        EntryMatch::Next => next,
        EntryMatch::Fits { order, rule, last } => {
            let rest = (rule >> 32) as u32;
            let fits = rest == 0 || (fields_match(base, rest) != 0 && sets::sets_agree(base, rest) != 0);
            if fits {
                key.search.best = u64::from(order);
                key.search.rule = rule;
            }
            if fits || last { 0 } else { next }
        }
    }
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
    let quiet = maps::key().is_some_and(|key| is_quiet(&key.search));
    u32::from(maps::within(counter, bytes, quiet))
}

/// Whether all extra fields of a rule match, except sets.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fields_match(base: u32, unit: u32) -> u32 {
    features::jump_pad();
    let Some(key) = maps::key() else { return 0 };
    if features::VERDICTS.on() {
        key.search.beyond |= abi::reads_beyond(&Arena, base, unit);
    }
    u32::from(abi::agrees(&Arena, base, unit, key))
}
