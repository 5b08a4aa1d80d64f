//! What the kernel half would find, by the same code, in memory.

use std::cell::RefCell;

use dataplane_common::abi::{
    ActionCode, CatchAll, EntryMatch, Key, Lines, Probe, RUN, TABLES_PER_WORD, Tables, WORDS, agrees, differ, entry,
    has, holds, is_element, match_entry, probe, seek, set, sets,
};

use super::Image;

/// The rule that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place in the order of rules.
    pub order: u32,
    /// The index of its counter.
    pub counter: u32,
    /// What it says.
    pub action_code: ActionCode,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Tables.
    pub tables: u32,
    /// Entries.
    pub entries: u32,
    /// Cache lines of the tables.
    pub lines: u32,
}

/// The tables, and which lines of them were read.
struct Memory<'a>(&'a [u64], RefCell<Vec<u32>>);

impl Lines for Memory<'_> {
    type Line = u32;

    fn line(&self, line: u32) -> Option<u32> {
        self.1.borrow_mut().push(line);
        ((line as usize) < self.0.len() / WORDS).then_some(line)
    }

    fn word(&self, line: u32, slot: usize) -> u64 {
        self.0[line as usize * WORDS + slot]
    }
}

impl Image {
    /// The first rule of a chain, with an order of at least `from`, that a packet fits; none leaves it to the policy.
    pub fn find(&self, chain: usize, key: &Key, from: u32) -> (Option<Found>, Effort) {
        let lines = Memory(&self.words, RefCell::default());
        let (class, mut effort) = (key.class(), Effort::default());
        let Tables { first, count, prefilter, catch_all } = self.filter.tables[chain][class.number() as usize];
        let mut best = caught(catch_all).filter(|found| found.order >= from);
        for number in 0..count {
            let group = number / TABLES_PER_WORD;
            let these = (group, count - group * TABLES_PER_WORD);
            let candidates = prefilter.candidates(&lines, 0, these, key, class.is_ipv6());
            if candidates & 1 << (number % TABLES_PER_WORD) == 0 {
                continue;
            }
            let (table, beyond) = (first + number, best.map_or(1 << 32, |found| u64::from(found.order)));
            effort.tables += 1;
            let unit = match probe(&lines, 0, table, key, class.is_ipv6(), beyond) {
                Probe::Over => break,
                Probe::Nothing => continue,
                Probe::Run(unit) => unit,
            };
            for place in 0..RUN {
                effort.entries += 1;
                let unit = unit + place * if class.is_ipv6() { 2 } else { 1 };
                let differs = class.is_ipv6().then_some(|| differ(&lines, 0, unit, key));
                match match_entry(&lines, 0, unit, key, (from.into(), beyond), differs) {
                    EntryMatch::End => break,
                    EntryMatch::Next => {}
                    EntryMatch::Fits { order, rule, last } => {
                        if fields_match(&lines, (rule >> 32) as u32, key) {
                            best = Some(found(order, rule));
                            break;
                        }
                        if last {
                            break;
                        }
                    }
                }
            }
        }
        let mut read = lines.1.into_inner();
        read.sort_unstable();
        read.dedup();
        (best, Effort { lines: read.len() as u32, ..effort })
    }
}

/// The result before a table is searched.
fn caught(CatchAll { order, rule }: CatchAll) -> Option<Found> {
    Some(found(u32::try_from(order).ok()?, rule))
}

fn found(order: u32, rule: u64) -> Found {
    Found { order, counter: (rule & entry::COUNTER) as u32, action_code: ActionCode::of(rule) }
}

fn fields_match(lines: &Memory<'_>, unit: u32, key: &Key) -> bool {
    if unit == 0 {
        return true;
    }
    let (count, mut key) = (sets(lines, 0, unit), *key);
    agrees(lines, 0, unit, &key)
        && (0..count & 0xff).all(|number| {
            let (tables, selectors) = set(lines, 0, unit, number as usize);
            seek(&mut key, selectors);
            let first = (tables >> 32) as u32;
            let held = (first..first + (tables & 0xffff) as u32).any(|table| {
                let has_value = |slots, value| has(lines, 0, slots, value);
                let is_same = |element| is_element(lines, 0, table, element, &key.sought);
                holds(lines, 0, table, &key.sought, (has_value, is_same))
            });
            held != (count >> (8 + number) & 1 != 0)
        })
}
