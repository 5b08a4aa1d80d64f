//! Chains against a model that knows each rule by its handle, and what it has counted.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::Ifindex;
use proptest::prelude::*;

use super::*;
use crate::{
    control::json,
    lower::filter::{SetNumbers, key},
    rule::parse,
};

const RULES: [&str; 4] = ["accept", "drop", "tcp dport 80 accept", "ip saddr 192.0.2.1 drop"];

/// Rules by their number in [`RULES`].
#[derive(Clone, Debug)]
enum Change {
    Add(ChainName, usize, bool),
    /// The rule at this place, counted around.
    Remove(ChainName, usize),
    Flush(ChainName),
    Replace([Vec<usize>; RULE_CHAINS]),
}

/// How a change ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Live,
    /// It was live for a moment, and was taken back.
    Failed,
    /// It is live, and a daemon comes that takes the maps over.
    Restarted,
}

fn changes() -> impl Strategy<Value = Vec<(Change, End)>> {
    let chain = || proptest::sample::select(ChainName::ALL.to_vec());
    let rule = || 0..RULES.len();
    let rules = prop::array::uniform(prop::collection::vec(rule(), 0..5));
    let change = prop_oneof![
        4 => (chain(), rule(), any::<bool>()).prop_map(|(chain, rule, front)| Change::Add(chain, rule, front)),
        3 => (chain(), 0_usize..8).prop_map(|(chain, position)| Change::Remove(chain, position)),
        1 => chain().prop_map(Change::Flush),
        2 => rules.prop_map(Change::Replace),
    ];
    let end = prop_oneof![4 => Just(End::Live), 1 => Just(End::Failed), 1 => Just(End::Restarted)];
    prop::collection::vec((change, end), 0..40)
}

/// The map of counters.
type Counts = BTreeMap<u32, u64>;

/// One packet for each rule.
fn count(chains: &Chains, counts: &mut Counts) {
    for installed in chains.rules.iter().flatten() {
        *counts.entry(installed.counter).or_default() += 1;
    }
}

/// What the model knows of a rule: its handle and its number.
type Known = [Vec<(u64, usize)>; RULE_CHAINS];

fn change(known: &mut Known, next: &mut u64, change: &Change) {
    let mut fresh = || {
        *next += 1;
        *next - 1
    };
    match change {
        Change::Add(chain, rule, front) => {
            let rules = &mut known[chain.index()];
            rules.insert(if *front { 0 } else { rules.len() }, (fresh(), *rule));
        }
        Change::Remove(chain, position) => {
            let rules = &mut known[chain.index()];
            if !rules.is_empty() {
                rules.remove(position % rules.len());
            }
        }
        Change::Flush(chain) => known[chain.index()].clear(),
        Change::Replace(all) => {
            for (rules, wanted) in known.iter_mut().zip(all) {
                let mut old = std::mem::take(rules);
                for rule in wanted {
                    let kept = old.iter().position(|(_, other)| other == rule).map(|position| old.remove(position));
                    rules.push(kept.unwrap_or_else(|| (fresh(), *rule)));
                }
            }
        }
    }
}

fn apply(chains: &mut Chains, change: &Change) {
    let rule = |number: usize| parse(RULES[number]).expect("a rule");
    match change {
        Change::Add(chain, number, front) => {
            let place = if *front { 0 } else { chains.rules(*chain).len() };
            chains.insert(*chain, rule(*number), place).expect("room");
        }
        Change::Remove(chain, position) => {
            let rules = chains.rules(*chain);
            if !rules.is_empty() {
                let handle = rules[position % rules.len()].handle;
                chains.remove(*chain, handle).expect("a rule");
            }
        }
        Change::Flush(chain) => chains.flush(*chain),
        Change::Replace(all) => {
            let mut config = Config::default();
            for (chain, numbers) in config.chains.iter_mut().zip(all) {
                chain.rules = numbers.iter().map(|number| rule(*number).into()).collect();
            }
            chains.replace(&config).expect("room");
        }
    }
}

proptest! {
    // A restart lists all counters there are, which takes its time without optimisation.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn handles_and_counters_follow_their_rules(changes in changes()) {
        let mut chains = Chains::default();
        chains.counters.are_zero();
        let (mut known, mut next) = (Known::default(), 1);
        chains.next = next;
        let mut counts = Counts::new();
        let mut counted: BTreeMap<u64, u64> = BTreeMap::new();
        for (asked, end) in &changes {
            let (before, before_known) = (chains.clone(), known.clone());
            apply(&mut chains, asked);
            change(&mut known, &mut next, asked);
            // Packets meet the rules of before until the flip, whatever has been cleared by then.
            let stale = chains.counters.stale();
            counts.extend(stale.into_iter().map(|counter| (counter, 0)));
            count(&before, &mut counts);
            count(&chains, &mut counts);
            let twice = before_known.iter().flatten().chain(known.iter().flatten());
            twice.for_each(|(handle, _)| *counted.entry(*handle).or_default() += 1);
            match end {
                End::Live => chains.counters.settle(),
                End::Failed => {
                    let failed = std::mem::replace(&mut chains, before);
                    chains.counters.tainted_by(&failed.counters);
                    let given: BTreeSet<_> = known.iter().flatten().map(|(handle, _)| *handle).collect();
                    (known, next) = (before_known, chains.next);
                    let stays: BTreeSet<_> = known.iter().flatten().map(|(handle, _)| *handle).collect();
                    counted.retain(|handle, _| stays.contains(handle) || !given.contains(handle));
                    chains.counters.settle();
                }
                End::Restarted => {
                    chains.counters.settle();
                    let written = json::line(&state::Entries(&chains)).expect("JSON");
                    let rules = json::parse(written.as_bytes()).expect("what was written");
                    let rule_handles = state::RuleHandles { next: chains.next(), rules, ..state::RuleHandles::default() };
                    chains = Chains::new(&chains.config(), &rule_handles);
                }
            }
            for chain in ChainName::ALL {
                let ours: Vec<_> = chains.rules(chain).iter().map(|one| (one.handle, one.rule.to_string())).collect();
                let theirs = known[chain.index()].iter().map(|(handle, rule)| (*handle, RULES[*rule].to_owned()));
                prop_assert_eq!(ours, theirs.collect::<Vec<_>>());
            }
            for installed in chains.rules.iter().flatten() {
                prop_assert_eq!(counts[&installed.counter], counted[&installed.handle], "handle {}", installed.handle);
            }
        }
    }
}

#[test]
fn unreadable_entries_are_replaced() {
    let texts = [
        "ip saddr 192.0.2.1 tcp dport 80 drop",
        "ip saddr 192.0.2.1 tcp dport 443 drop",
        "ip saddr 192.0.2.2 tcp dport 80 drop",
        "ip saddr 192.0.2.1 tcp dport 22 accept",
        "limit rate 1/second drop",
        "ip saddr { 192.0.2.1, 192.0.2.9 } tcp dport 22 drop",
    ];
    let mut chains = Chains::default();
    for text in texts {
        let end = chains.rules(ChainName::Input).len();
        chains.insert(ChainName::Input, parse(text).expect(text), end).expect("room");
    }
    let numbers = SetNumbers::default();
    let lower = |chains: &Chains, rule: &Rule, link: Ifindex| {
        chains.lower_rule(rule, &|_| vec![link], &numbers).expect("a rule that can be lowered").boxes
    };
    assert_eq!(chains.alike(ChainName::Input, 0, &Entry::ANY, |_| vec![Entry::ANY]).count(), 0, "none has an order");
    chains.renumber();
    let all = chains.alike(ChainName::Input, 0, &Entry::ANY, |_| vec![Entry::ANY]).count();
    assert_eq!(all, texts.len(), "nothing was lowered, so any may be");
    let lowered = chains.lower(&|_| Vec::new()).expect("entries");
    chains.renumber();
    let sought = lowered.entries[ChainName::Input.index()][0].for_unreadable().expect("it drops");
    let found = chains.alike(ChainName::Input, order(0), &sought, |rule| lower(&chains, rule, 1));
    assert_eq!(found.map(|(_, order, _)| order).collect::<Vec<_>>(), [order(1), order(5), order(5)]);
    assert_eq!(chains.alike(ChainName::Forward, 0, &sought, |rule| lower(&chains, rule, 1)).count(), 0);
    // What depends on links is noted anew with each other link.
    let text = "iifname \"p0\" ip saddr 192.0.2.1 tcp dport 80 drop";
    chains.insert(ChainName::Input, parse(text).expect("a rule"), 0).expect("room");
    for link in [7, 8] {
        let lowered = chains.lower(&|_| vec![link]).expect("entries");
        chains.renumber();
        let sought = lowered.entries[ChainName::Input.index()][0].for_unreadable().expect("it drops");
        let found = chains.alike(ChainName::Input, 0, &sought, |rule| lower(&chains, rule, link));
        let found: Vec<_> = found.map(|(entry, order, _)| (entry.value[key::IIF], order)).collect();
        assert_eq!(found, [(link, order(0))]);
    }
}
