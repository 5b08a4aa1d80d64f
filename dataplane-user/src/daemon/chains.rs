//! The chains: rules with their handles and counters.

mod bloom;
mod kernel;
mod lower;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use anyhow::Context as _;
use dataplane_common::abi::{ActionCode, Features, RULE_COUNTERS};

use super::{counter::Counters, state};
use crate::{
    config::{ChainConfig, Config, SetConfig},
    control::protocol::Place,
    lower::filter::{Entry, lower_alone, order},
    rule::{ChainName, Fragments, Policy, RULE_CHAINS, Rule, SetName},
};
use bloom::Bloom;

/// A rule in force. Its counter belongs to its handle, and both survive every change that keeps the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InstalledRule {
    pub handle: u64,
    pub counter: u32,
    pub rule: Arc<Rule>,
    /// Of what its boxes are for packets that cannot be read.
    unreadable: Bloom,
}

impl InstalledRule {
    fn new(rule: Arc<Rule>, handle: u64, counter: u32) -> Self {
        Self { handle, counter, rule, unreadable: Bloom::default() }
    }

    /// What it is lowered to, if that takes nothing but the rule.
    fn lower(&self) -> Option<Vec<Entry>> {
        let boxes = lower_alone(&self.rule)?;
        self.note(&boxes);
        Some(boxes)
    }

    /// Notes of what it is lowered to what is needed later. The boxes themselves would be most of a daemon's memory.
    pub(super) fn note(&self, boxes: &[Entry]) {
        let variants = boxes.iter().filter_map(|entry| entry.for_unreadable());
        self.unreadable.note(variants.filter(|entry| entry.action_code == ActionCode::Unreadable));
    }
}

/// All chains, in the order of [`ChainName::ALL`]. A copy shares the rules and the sets.
#[derive(Clone, Debug, Default)]
pub(super) struct Chains {
    policies: [Policy; RULE_CHAINS],
    fragments: Fragments,
    rules: [Vec<InstalledRule>; RULE_CHAINS],
    /// Of each rule, its place among all in the tables that are live.
    orders: [Vec<u32>; RULE_CHAINS],
    sets: Arc<BTreeMap<SetName, SetConfig>>,
    next: u64,
    features: Features,
    /// Whether the kernel decides, as last committed.
    kernel_decides: bool,
    /// The kernel would decide, and its table is not there.
    table_lost: bool,
    pub(super) counters: Counters,
}

/// There is no rule with this handle.
#[derive(Debug, thiserror::Error)]
#[error("chain {chain} has no rule with handle {handle}; `dataplane rule list {chain}` shows the handles")]
pub(super) struct NoSuchRule {
    chain: ChainName,
    handle: u64,
}

impl Chains {
    /// From what an earlier daemon wrote down.
    pub(super) fn new(config: &Config, rule_handles: &state::RuleHandles) -> Self {
        let mut chains = Self { next: rule_handles.next.max(1), ..Self::default() };
        // Before any rule gets another: those of all rules that were written down.
        chains.counters = Counters::new(rule_handles.rules.iter().map(|entry| entry.counter));
        for chain in ChainName::ALL {
            chains.policies[chain.index()] = config.chain(chain).policy;
            let mut known: HashMap<&str, VecDeque<_>> = HashMap::new();
            for entry in rule_handles.rules.iter().filter(|entry| entry.chain == chain.name()) {
                known.entry(&entry.rule).or_default().push_back(entry);
            }
            for rule in &config.chain(chain).rules {
                let text = rule.to_string();
                let found = known.get_mut(&*text).and_then(VecDeque::pop_front);
                let installed = match found {
                    Some(entry) => InstalledRule::new(rule.clone(), entry.handle, entry.counter),
                    None => match chains.install(rule.clone()) {
                        Ok(installed) => installed,
                        Err(error) => {
                            tracing::error!("{error:#}");
                            continue;
                        }
                    },
                };
                chains.rules[chain.index()].push(installed);
            }
            for gone in known.into_values().flatten() {
                chains.counters.leave(gone.counter);
            }
        }
        chains.sets = Arc::new(config.sets.clone());
        chains.fragments = config.fragments;
        chains
    }

    /// Gives a new rule its handle and counter.
    pub(super) fn install(&mut self, rule: Arc<Rule>) -> anyhow::Result<InstalledRule> {
        let counter = self.counters.take().with_context(|| {
            format!("no room for more than {RULE_COUNTERS} rules; put addresses or ports into one rule")
        })?;
        let handle = self.next;
        self.next += 1;
        Ok(InstalledRule::new(rule, handle, counter))
    }

    /// A rule that was the last to get its handle and counter does not come to be.
    pub(super) fn withdraw(&mut self, installed: &InstalledRule) {
        self.next = installed.handle;
        self.counters.leave(installed.counter);
    }

    /// Notes a rule that is in the tables already, with its order there.
    pub(super) fn put(&mut self, chain: ChainName, installed: InstalledRule, order: u32, place: usize) {
        self.rules[chain.index()].insert(place, installed);
        self.orders[chain.index()].insert(place, order);
    }

    /// Forgets a rule that is not in the tables any more.
    pub(super) fn take_out(&mut self, chain: ChainName, position: usize) {
        let gone = self.rules[chain.index()].remove(position);
        self.orders[chain.index()].remove(position);
        self.counters.leave(gone.counter);
    }

    /// The place of a rule among those of its chain, and its order in the tables.
    pub(super) fn position(&self, chain: ChainName, handle: u64) -> Option<(usize, u32)> {
        let position = self.rules(chain).iter().position(|installed| installed.handle == handle)?;
        Some((position, *self.orders[chain.index()].get(position)?))
    }

    /// Takes what a config says in place of what was there. Rules that are in both keep handle and counter.
    pub(super) fn replace(&mut self, config: &Config) -> anyhow::Result<()> {
        for chain in ChainName::ALL {
            let mut known: HashMap<Arc<Rule>, VecDeque<InstalledRule>> = HashMap::new();
            for installed in std::mem::take(&mut self.rules[chain.index()]) {
                known.entry(Arc::clone(&installed.rule)).or_default().push_back(installed);
            }
            let rules = config.chain(chain).rules.iter().map(|rule| {
                let kept = known.get_mut(rule).and_then(VecDeque::pop_front);
                kept.map_or_else(|| self.install(rule.clone()), Ok)
            });
            let rules = rules.collect::<anyhow::Result<_>>()?;
            self.rules[chain.index()] = rules;
            for gone in known.into_values().flatten() {
                self.counters.leave(gone.counter);
            }
            self.policies[chain.index()] = config.chain(chain).policy;
        }
        self.fragments = config.fragments;
        if *self.sets != config.sets {
            self.sets = Arc::new(config.sets.clone());
        }
        Ok(())
    }

    /// Puts a rule at a place of a chain.
    pub(super) fn insert(&mut self, chain: ChainName, rule: Rule, place: usize) -> anyhow::Result<InstalledRule> {
        let installed = self.install(rule.into())?;
        self.rules[chain.index()].insert(place, installed.clone());
        Ok(installed)
    }

    /// The place before or behind a rule.
    pub(super) fn beside(&self, chain: ChainName, place: &Place) -> Result<usize, NoSuchRule> {
        Ok(self.find(chain, place.handle)? + usize::from(!place.before))
    }

    /// Puts a rule in the place of another, with a handle and a counter of its own.
    pub(super) fn exchange(&mut self, chain: ChainName, handle: u64, rule: Rule) -> anyhow::Result<InstalledRule> {
        let position = self.find(chain, handle)?;
        let installed = self.install(rule.into())?;
        let gone = std::mem::replace(&mut self.rules[chain.index()][position], installed.clone());
        self.counters.leave(gone.counter);
        Ok(installed)
    }

    /// The place of a rule among those of its chain.
    pub(super) fn find(&self, chain: ChainName, handle: u64) -> Result<usize, NoSuchRule> {
        let mut rules = self.rules(chain).iter();
        rules.position(|installed| installed.handle == handle).ok_or(NoSuchRule { chain, handle })
    }

    /// What becomes of packets that no rule of a chain decides.
    pub(super) fn set_policy(&mut self, chain: ChainName, policy: Policy) {
        self.policies[chain.index()] = policy;
    }

    /// All sets, to be changed.
    pub(super) fn sets_mut(&mut self) -> &mut BTreeMap<SetName, SetConfig> {
        Arc::make_mut(&mut self.sets)
    }

    /// Takes a rule out.
    pub(super) fn remove(&mut self, chain: ChainName, handle: u64) -> Result<(), NoSuchRule> {
        let position = self.find(chain, handle)?;
        let gone = self.rules[chain.index()].remove(position);
        self.counters.leave(gone.counter);
        Ok(())
    }

    /// Takes all rules of a chain out; its policy stays.
    pub(super) fn flush(&mut self, chain: ChainName) {
        for gone in self.rules[chain.index()].drain(..) {
            self.counters.leave(gone.counter);
        }
    }

    /// The sets by their names.
    pub(super) fn sets(&self) -> &BTreeMap<SetName, SetConfig> {
        &self.sets
    }

    /// The set of this name, to be changed.
    pub(super) fn set_mut(&mut self, name: &SetName) -> Option<&mut SetConfig> {
        Arc::make_mut(&mut self.sets).get_mut(name)
    }

    /// Rules have the orders that lowering all of them gives.
    pub(super) fn renumber(&mut self) {
        for (orders, rules) in self.orders.iter_mut().zip(&self.rules) {
            *orders = (0..rules.len()).map(order).collect();
        }
    }

    /// An order for a rule at a place of a chain; none where no number is left between those of its neighbours.
    pub(super) fn order(&self, chain: ChainName, place: usize) -> Option<u32> {
        let orders = &self.orders[chain.index()];
        let before = if place == 0 { 0 } else { *orders.get(place - 1)? };
        match orders.get(place) {
            Some(next) => Some(before.midpoint(*next)).filter(|order| *order > before),
            None if place == 0 => None,
            None => before.checked_add(order(0)),
        }
    }

    /// The rules of a chain, in order.
    pub(super) fn rules(&self, chain: ChainName) -> &[InstalledRule] {
        &self.rules[chain.index()]
    }

    /// The rules of all chains.
    pub(super) fn rule_count(&self) -> usize {
        self.rules.iter().map(Vec::len).sum()
    }

    /// The part of the running config that is about chains and sets.
    pub(super) fn config(&self) -> Config {
        let chain = |index: usize| ChainConfig {
            policy: self.policies[index],
            rules: self.rules[index].iter().map(|installed| Arc::clone(&installed.rule)).collect(),
        };
        let chains = std::array::from_fn(chain);
        Config { fragments: self.fragments, sets: BTreeMap::clone(&self.sets), chains, ..Config::default() }
    }

    /// What rules do with what they can not read.
    pub(super) fn fragments(&self) -> Fragments {
        self.fragments
    }

    /// What a chain does with what no rule matches.
    pub(super) fn policy(&self, chain: ChainName) -> Policy {
        self.policies[chain.index()]
    }

    /// Whether a chain has rules, or does not accept.
    pub(super) fn is_in_use(&self, chain: ChainName) -> bool {
        !self.rules(chain).is_empty() || self.policy(chain) != Policy::default()
    }

    /// The handle of the next rule.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// What the chains ask of the program, as last committed.
    pub(super) fn features(&self) -> Features {
        self.features
    }

    /// What must be written down beside the config.
    pub(super) fn entries(&self) -> impl Iterator<Item = state::Entry<&'static str, state::Shown<&Rule>>> {
        let all = ChainName::ALL.into_iter().flat_map(|chain| self.rules(chain).iter().map(move |one| (chain, one)));
        all.map(|(chain, installed)| state::Entry {
            chain: chain.name(),
            rule: state::Shown(&*installed.rule),
            handle: installed.handle,
            counter: installed.counter,
        })
    }

    /// What the program is asked for from now on.
    pub(super) fn set_features(&mut self, features: Features) {
        self.features = features;
        self.kernel_decides = self.are_in_kernel();
    }
}

#[cfg(test)]
mod tests;
