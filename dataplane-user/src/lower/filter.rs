//! Chains of rules to the list of entries that the kernel half walks.
//!
//! A rule becomes a union of boxes. The boxes of one rule never overlap, so that a packet meets at most one of them: a rule
//! that continues counts once.

mod bits;
mod rule;
#[cfg(test)]
mod tests;

use dataplane_common::abi::{CHAINS, Chain, ENTRIES, Entry, Features, Filter, Ifindex};
use thiserror::Error;

use crate::rule::{ChainName, LinkPattern, Policy, Rule, Statement, Verdict};

/// One chain: what it does with what no rule decided, and its rules with the indices of their counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChainRules<'a> {
    /// When no rule decided.
    pub policy: Policy,
    /// In order; each with its place in the map of counters.
    pub rules: &'a [(Rule, u32)],
}

/// The filter as the maps hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoweredFilter {
    /// Where each chain's entries are.
    pub filter: Filter,
    /// The entries of all chains, at most [`ENTRIES`].
    pub entries: Vec<Entry>,
    /// The chains that a program must ask: those with rules and those that do not accept.
    pub features: Features,
}

/// Why rules can not be lowered.
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
    /// It does not fit behind the rules before it.
    #[error(
        "this rule needs {needed} entries, and {free} of {ENTRIES} are free; `!=` on addresses and long lists in several \
         matches multiply: write fewer of them in one rule, or prefixes rather than ranges"
    )]
    Full {
        /// Entries that it needs; when it needs very many, an upper bound.
        needed: usize,
        /// Entries that are left.
        free: usize,
    },
}

/// What this version can read but not do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unsupported {
    /// A set whose elements are not known.
    #[error("the elements of {0} are not known: list them in the config, or name their file there")]
    Set(String),
    /// `reject`.
    #[error("`reject` is not supported yet: take `drop`")]
    Reject,
    /// `log`.
    #[error("`log` is not supported yet: take it out; the rule counts what it meets")]
    Log,
    /// `limit`.
    #[error("`limit` is not supported yet: take it out")]
    Limit,
    /// `ip6 nexthdr` negated, or with the number of an extension header: the kernel half knows what is behind those.
    #[error("`{0}` is not supported: extension headers are walked, take `meta l4proto` for what is behind them")]
    NextHeader(String),
}

/// What keeps a rule from being lowered, whatever else is in the filter.
pub fn unsupported(rule: &Rule) -> Option<Unsupported> {
    let statement = rule.statements().first().map(|statement| match statement {
        Statement::Limit(_) => Unsupported::Limit,
        Statement::Log(_) => Unsupported::Log,
    });
    let verdict = matches!(rule.verdict(), Verdict::Reject(_)).then_some(Unsupported::Reject);
    let set = rule.sets().next().map(|name| Unsupported::Set(name.to_string()));
    let header = rule.matches().iter().find(|asked| rule::asks_extension(asked));
    set.or_else(|| header.map(|asked| Unsupported::NextHeader(asked.to_string()))).or(statement).or(verdict)
}

/// The entries of all chains, in the order of [`ChainName::ALL`].
///
/// `links` gives the indices of the links that fit a pattern now. While there are none, a rule that asks for them matches
/// nothing, and one that asks for other links matches any.
///
/// # Errors
/// A rule that this version can not do, or that there is no room for.
pub fn lower(
    chains: [ChainRules<'_>; CHAINS],
    links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
) -> Result<LoweredFilter, FilterError> {
    let mut lowered = LoweredFilter::default();
    for (chain, ChainRules { policy, rules }) in ChainName::ALL.into_iter().zip(chains) {
        let first = lowered.entries.len();
        for (index, (rule, counter)) in rules.iter().enumerate() {
            let refuse = |fault| FilterError { chain, index, fault };
            if let Some(unsupported) = unsupported(rule) {
                return Err(refuse(unsupported.into()));
            }
            let free = ENTRIES as usize - lowered.entries.len();
            let entries = rule::entries(rule, *counter, links, free).map_err(refuse)?;
            lowered.entries.extend(entries.into_iter().map(Entry::sealed));
        }
        let count = (lowered.entries.len() - first) as u32;
        lowered.filter.chains[chain.index()] = Chain { first: first as u32, count, policy: policy.ruling() as u32 };
        // By rules, not by entries: a link that comes or goes must not ask for another program.
        if !rules.is_empty() || policy != Policy::Accept {
            lowered.features |= chain.feature();
        }
    }
    Ok(lowered)
}
