//! Chains of rules to entries, of which the tables of the kernel half are built ([`crate::filter`]).
//!
//! A rule becomes a union of boxes. The boxes of one rule never overlap, so that a packet meets at most one of them: a rule
//! that continues counts once.

mod bits;
mod elements;
mod entry;
mod rule;
mod set;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use dataplane_common::abi::{ActionCode, CHAINS, Features, Ifindex, Limit};
use thiserror::Error;

pub(super) use bits::{Interval, merged};
pub use elements::{Elements, Words};
pub use entry::{Entry, KEY_WORDS, Membership, Memberships, key};
pub use set::{Known, SetNumbers};

use crate::rule::{ChainName, Fragments, LinkPattern, Policy, Rule, SetName};

/// One chain: what it does with what no rule decided, and its rules with the indices of their counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChainRules<'a> {
    /// When no rule decided.
    pub policy: Policy,
    /// What rules do with packets that they cannot read.
    pub fragments: Fragments,
    /// In order; each with its place in the map of counters.
    pub rules: &'a [(&'a Rule, u32)],
}

/// What the chains come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoweredFilter {
    /// What each chain does with what no entry fits: accept or drop.
    pub policies: [ActionCode; CHAINS],
    /// The entries of each chain, in the order of its rules.
    pub entries: [Vec<Entry>; CHAINS],
    /// The sets that entries match, by their numbers.
    pub sets: Vec<Elements>,
    /// Which number each of them has.
    pub set_numbers: SetNumbers,
    /// The limits that rules have, by the rules' counters.
    pub limits: BTreeMap<u32, Limit>,
    /// Whether rules match the ports of a transport header that is not sound ([`dataplane_common::abi::Filter::lenient`]).
    pub lenient: bool,
    /// What a program must be able to: the chains with rules and those that do not accept, and what rules do besides.
    pub features: Features,
}

impl Default for LoweredFilter {
    fn default() -> Self {
        let policies = [ActionCode::Accept; CHAINS];
        Self {
            policies,
            entries: Default::default(),
            sets: Vec::new(),
            set_numbers: SetNumbers::default(),
            limits: BTreeMap::new(),
            lenient: false,
            features: Features::empty(),
        }
    }
}

/// How far apart the orders of neighbours are, so that others find room between them.
const STRIDE: u32 = 1 << 12;

/// The order of the rule at a place of its chain.
pub const fn order(place: usize) -> u32 {
    (place as u32 + 1) * STRIDE
}

/// Why rules cannot be lowered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("chain {chain}, rule {}: {fault}", index + 1)]
pub struct FilterError {
    /// The chain of the rule.
    pub chain: ChainName,
    /// The place of the rule in its chain, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub fault: FilterFault,
}

/// What is wrong with a rule.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FilterFault {
    /// It can be read, but not done yet.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// It describes too many boxes.
    #[error(
        "this rule needs {0} entries, and one rule may have {max}: `!=` on addresses and long lists in several matches \
         multiply: write fewer of them in one rule, or prefixes rather than ranges",
        max = rule::GIVE_UP
    )]
    Large(usize),
    /// It matches too many sets.
    #[error(
        "this rule matches {0} sets (lists of more than 8 values are sets), and one rule may match {max}: split it, with \
         `continue` in between",
        max = dataplane_common::abi::RULE_SETS
    )]
    Sets(usize),
    /// Only the kernel can decide it, and not in this way.
    #[error("{0}")]
    Kernel(String),
}

/// What this version can read but not do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unsupported {
    /// A set whose elements are not known.
    #[error("the elements of {0} are not known: list them in the config, or name their file there")]
    Set(String),
    /// A set whose elements are of another type than the match.
    #[error("{set} is a set of {kind}, and this match takes a set of {asked}")]
    SetType {
        /// The set.
        set: String,
        /// What is in it.
        kind: String,
        /// The type of the match.
        asked: String,
    },
    /// What only the kernel can decide.
    #[error("`{0}` is decided by the kernel, and cannot be at the driver")]
    Kernel(String),
    /// `ip6 nexthdr` negated, or with the number of an extension header: the kernel half knows what is behind those.
    #[error("`{0}` is not supported: extension headers are walked, take `meta l4proto` for what is behind them")]
    NextHeader(String),
}

/// What keeps a rule from being lowered, whatever else is in the filter.
pub fn unsupported(rule: &Rule) -> Option<Unsupported> {
    let header = rule.matches().iter().find(|asked| asked.asks_extension());
    header.map(|asked| Unsupported::NextHeader(asked.to_string()))
}

/// The entries of all chains, in the order of [`ChainName::DRIVER`].
///
/// `links` gives the indices of the links that a pattern matches now. While there are none, a rule that matches on them matches
/// nothing, and one that excludes them matches any. `sets` gives the elements of named sets.
///
/// # Errors
/// A rule that this version does not support, or that is too large.
pub fn lower<'s>(
    chains: [ChainRules<'_>; CHAINS],
    links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
    sets: &'s dyn Fn(&SetName) -> Option<Known<'s>>,
) -> Result<LoweredFilter, FilterError> {
    lower_remaining(chains, links, sets, &mut |_, _, _| false)
}

/// The boxes of a rule's matches, for callers that compare packets with them.
///
/// # Errors
/// What is wrong with the rule.
pub fn boxes(rule: &Rule, links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>) -> Result<Vec<Entry>, FilterFault> {
    lower_rule(rule, links, &|_| None, &SetNumbers::default()).map(|lowered| lowered.boxes)
}

/// One rule, lowered beside others that are in tables already.
#[derive(Clone, Debug, Default)]
pub struct LoweredRule {
    /// Its boxes; order, counter and the treatment of fragments are left out.
    pub boxes: Vec<Entry>,
    /// The sets that it is the first to match. Their numbers follow those of before.
    pub sets: Vec<Elements>,
    /// Their numbers.
    pub set_numbers: SetNumbers,
    /// Its limit.
    pub limit: Option<Limit>,
}

/// Lowers one rule, where sets have these numbers already.
///
/// # Errors
/// What is wrong with the rule.
pub fn lower_rule<'s>(
    rule: &Rule,
    links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
    sets: &'s dyn Fn(&SetName) -> Option<Known<'s>>,
    numbers: &SetNumbers,
) -> Result<LoweredRule, FilterFault> {
    if let Some(unsupported) = unsupported(rule) {
        return Err(unsupported.into());
    }
    let mut sets = set::Sets::new(sets, numbers);
    let boxes = rule::entries(rule, (0, 0), links, &mut sets)?;
    let (sets, set_numbers) = sets.into_new();
    Ok(LoweredRule { boxes, sets, set_numbers, limit: rule::limit(rule) })
}

/// The boxes of a rule without links and sets; order, counter and the treatment of fragments are left out. `None` for others,
/// and for rules that cannot be lowered.
pub fn lower_alone(rule: &Rule) -> Option<Vec<Entry>> {
    if rule.names_links() || rule.sets().next().is_some() {
        return None;
    }
    let boxes = boxes(rule, &|_| Vec::new()).ok()?;
    boxes.iter().all(|entry| entry.sets == Memberships::default()).then_some(boxes)
}

/// The features that a program needs for a rule, besides evaluating the chain.
pub fn features_of(rule: &Rule) -> Features {
    let mut features = Features::empty();
    features.set(Features::LOGGING, rule::tells(rule));
    features.set(Features::LIMITS, rule::limit(rule).is_some());
    features
}

/// As [`lower`], for chains of which `known` appends some rules' boxes, by chain and place, and says whether it does: what
/// [`lower_alone`] made of them. It is called for each rule, in order.
///
/// # Errors
/// As [`lower`].
pub fn lower_remaining<'s>(
    chains: [ChainRules<'_>; CHAINS],
    links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
    sets: &'s dyn Fn(&SetName) -> Option<Known<'s>>,
    known: &mut dyn FnMut(ChainName, usize, &mut Vec<Entry>) -> bool,
) -> Result<LoweredFilter, FilterError> {
    let mut lowered = LoweredFilter::default();
    let none = SetNumbers::default();
    let mut sets = set::Sets::new(sets, &none);
    for (chain, ChainRules { policy, fragments, rules }) in ChainName::DRIVER.into_iter().zip(chains) {
        let entries = &mut lowered.entries[chain.index()];
        entries.reserve(rules.len());
        for (index, (rule, counter)) in rules.iter().enumerate() {
            let order = order(index);
            lowered.limits.extend(rule::limit(rule).map(|limit| (*counter, limit)));
            if rule::tells(rule) {
                lowered.features |= Features::LOGGING;
            }
            let own = entries.len();
            if known(chain, index, entries) {
                entries[own..].iter_mut().for_each(|entry| (entry.order, entry.counter) = (order, *counter));
                continue;
            }
            let refuse = |fault| FilterError { chain, index, fault };
            if let Some(unsupported) = unsupported(rule) {
                return Err(refuse(unsupported.into()));
            }
            entries.extend(rule::entries(rule, (order, *counter), links, &mut sets).map_err(refuse)?);
        }
        for entry in entries {
            entry.strict = fragments == Fragments::DropUnreadable;
        }
        lowered.policies[chain.index()] = policy.action_code();
        lowered.lenient |= fragments == Fragments::Pass;
        // By rules, not by entries: a link that comes or goes must not need another program.
        if !rules.is_empty() || policy != Policy::Accept {
            lowered.features |= chain.feature();
        }
    }
    lowered.features.set(Features::LIMITS, !lowered.limits.is_empty());
    // A chain sees IPv6 from the first packet on: an address may come at any moment.
    if lowered.features.intersects(Features::CHAINS) {
        lowered.features |= Features::IPV6;
    }
    (lowered.sets, lowered.set_numbers) = sets.into_new();
    Ok(lowered)
}
