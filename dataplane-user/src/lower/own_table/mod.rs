//! Chains of rules to the table of nftables that decides what the driver cannot know: packets of connections.
//!
//! As soon as one rule needs the kernel, all chains are the kernel's, in the same order, so that there is one truth. The
//! driver keeps only the rules at the beginning of chain prerouting that drop whatever the connection: these packets get no
//! further either way.

mod action;
mod asked;
mod change;
mod element;
mod list;
#[cfg(test)]
mod tests;

use dataplane_common::abi::Ifindex;

use crate::{
    config::DynamicSet,
    lower::filter::{FilterError, FilterFault, Known},
    model::{ChainKind, OwnChain, OwnRule, OwnSet, OwnTable, Step},
    rule::{Action, ChainName, LinkPattern, Policy, Rule, SetName, SetType, SetUpdate},
};
use asked::Context;
pub use element::{element, key};

/// The set of ports, and of what lies on them. Names of the operator's sets begin with a letter.
const PORTS: &str = "_ports";
/// nft's number for the type of an interface index.
const TYPE_INTERFACE: u32 = 20;
/// Counts what the policy drops; no rule has this handle.
pub const POLICY_HANDLE: u64 = 0;
/// Beside the handle of a rule that hands to a proxy: counts what it drops without one.
pub const OR_DROP: u64 = 1 << 63;

const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
/// Last before the translation of destinations: behind chains of others that write marks (-150), as those of wg-quick do, which
/// would take the mark of delivery off.
const BEFORE_TRANSLATION: i32 = TRANSLATE_DESTINATION - 1;
const TRANSLATE_DESTINATION: i32 = -100;
const FILTER: i32 = 0;
const TRANSLATE_SOURCE: i32 = 100;

/// One chain.
#[derive(Clone, Debug, Default)]
pub struct KernelChain<'a> {
    /// When no rule decided.
    pub policy: Policy,
    /// In order, with their handles.
    pub rules: Vec<(&'a Rule, u64)>,
}

/// What names in rules mean.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// The names of links that a pattern stands for: its own, and those of links that it fits by another.
    pub links: &'a dyn Fn(&LinkPattern) -> Vec<String>,
    /// The elements of named sets.
    pub sets: &'a dyn Fn(&SetName) -> Option<Known<'a>>,
    /// What is said of sets that rules fill.
    pub dynamic: &'a dyn Fn(&SetName) -> Option<(&'a SetType, DynamicSet)>,
    /// Whether packets with the mark of delivery have a local route.
    pub delivers: bool,
    /// Whether connections may be carried beside rules that hand to a proxy: the kernel must know them then.
    pub carries: bool,
}

/// Whether the driver can drop by a rule ahead of the kernel, if it stands at the beginning of chain prerouting and the kernel
/// is not needed for it.
pub fn is_early(rule: &Rule) -> bool {
    rule.action() == Action::Drop && rule.statements().is_empty()
}

/// The table for chains in the order of [`ChainName::ALL`]. `ports`: links whose packets meet the chains.
///
/// # Errors
/// A rule that cannot be written in nftables.
pub fn own_table(chains: &[KernelChain<'_>], names: Names<'_>, ports: &[Ifindex]) -> Result<OwnTable, FilterError> {
    let port = |ifindex: &Ifindex| vec![(ifindex.to_ne_bytes().to_vec(), ifindex.to_ne_bytes().to_vec())];
    let mut table = OwnTable {
        sets: vec![OwnSet {
            name: Some(PORTS.to_owned()),
            fields: vec![(TYPE_INTERFACE, 4)],
            elements: ports.iter().map(port).collect(),
            ..OwnSet::default()
        }],
        chains: Vec::new(),
    };
    for (chain, given) in ChainName::ALL.into_iter().zip(chains) {
        for (index, (rule, _)) in given.rules.iter().enumerate() {
            for name in rule.sets() {
                if table.sets.iter().any(|set| set.name.as_deref() == Some(name.as_str())) {
                    continue;
                }
                let gives_time = |update: &SetUpdate| update.set == *name && update.timeout.is_some();
                let rules = chains.iter().flat_map(|chain| &chain.rules);
                let times_out = rules.flat_map(|(rule, _)| rule.updates()).any(gives_time);
                let set = list::named(name, names, times_out);
                table.sets.push(set.map_err(|fault| FilterError { chain, index, fault })?);
            }
        }
        table.chains.extend(filtering(chain, given, names)?);
        table.chains.extend(translating(chain, given, names)?);
    }
    if !names.carries && !asks_for_connections(&table) && gathers_fragments(&table) {
        // Nothing needs connections, and to track them takes more time than all else that the table does.
        for rule in table.chains.iter_mut().filter_map(|chain| chain.rules.first_mut()) {
            rule.steps.retain(|step| *step != CONNECTION);
        }
    }
    Ok(table)
}

/// Whether some rule needs what the kernel knows of connections, other than the look that each chain begins with.
fn asks_for_connections(table: &OwnTable) -> bool {
    let asks = |step: &Step| match step {
        Step::Connection(..) => *step != CONNECTION,
        Step::SetConnection(..)
        | Step::Masquerade(..)
        | Step::Redirect(..)
        | Step::Nat { .. }
        | Step::Connections(..)
        | Step::Helper(..) => true,
        Step::Update(update) => matches!(update.condition, Some(Step::Connections(..))),
        _ => false,
    };
    let asks_first = |chain: &OwnChain| chain.rules.iter().skip(1).any(|rule| rule.steps.contains(&CONNECTION));
    steps(table).any(asks) || table.chains.iter().any(asks_first)
}

/// Whether the kernel puts fragments of both families together for the sake of these rules alone: `tproxy` has it do that.
fn gathers_fragments(table: &OwnTable) -> bool {
    let of = |wanted: u32| steps(table).any(|step| matches!(step, Step::Proxy(family, ..) if *family == wanted));
    of(action::ANY_FAMILY) || of(action::IPV4) && of(action::IPV6)
}

fn steps(table: &OwnTable) -> impl Iterator<Item = &Step> {
    table.chains.iter().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.steps)
}

/// A look at the connection, whatever that is: for the sake of it the kernel puts fragments together before they meet a rule,
/// which could not read all of them.
const CONNECTION: Step = Step::Connection(asked::CT_STATE, None, list::FIRST);

/// What lets packets pass that are none of a port's.
fn scope(chain: ChainName) -> OwnRule {
    let key = if matches!(chain, ChainName::Output | ChainName::Postrouting) { META_OIF } else { META_IIF };
    let others = [Step::Meta(key, list::FIRST), Step::InSet(list::FIRST, true, PORTS.to_owned()), Step::Accept];
    OwnRule { handle: None, steps: [CONNECTION].into_iter().chain(others).collect() }
}

const fn hook(chain: ChainName) -> u32 {
    match chain {
        ChainName::Prerouting => 0,
        ChainName::Input => 1,
        ChainName::Forward => 2,
        ChainName::Output => 3,
        ChainName::Postrouting => 4,
    }
}

/// Whether some rule changes packets, other than those that begin a connection with other addresses.
fn changes(given: &KernelChain<'_>) -> bool {
    let changes = |rule: &Rule| !matches!(rule.action(), Action::Translate(_)) && rule.changes().next().is_some();
    given.rules.iter().any(|(rule, _)| changes(rule))
}

/// The chain that translates runs behind the one that filters, and so behind all that rules of that one change.
fn check_order(given: &KernelChain<'_>, last: usize) -> Result<(), (usize, String)> {
    for (index, (rule, _)) in given.rules[..=last].iter().enumerate() {
        let own = usize::from(matches!(rule.action(), Action::Translate(_)));
        for asked in rule.matches() {
            let mut later = given.rules[index + own..].iter().flat_map(|(other, _)| other.changes());
            if let Some(change) = later.find(|change| change.concerns(asked)) {
                let said = format!(
                    "`{asked}` cannot stand in front of `{change}` in a chain that translates: match something else, or change \
                     it in another chain"
                );
                return Err((index, said));
            }
        }
    }
    Ok(())
}

/// The base chain that filters; none for a chain that lets all pass.
fn filtering(chain: ChainName, given: &KernelChain<'_>, names: Names<'_>) -> Result<Option<OwnChain>, FilterError> {
    let translates = |rule: &Rule| matches!(rule.action(), Action::Translate(_));
    let filters = given.policy == Policy::Drop || given.rules.iter().any(|(rule, _)| !translates(rule));
    let changes = changes(given);
    if !filters || chain == ChainName::Postrouting && !changes {
        return Ok(None);
    }
    let mut rules = vec![scope(chain)];
    for (index, (rule, handle)) in given.rules.iter().enumerate() {
        let refuse = |fault| FilterError { chain, index, fault };
        let context = Context { chain, names };
        let mut steps = asked::matches(rule, context).map_err(refuse)?;
        if translates(rule) {
            // What translates lets pass; where connections are translated it counts.
            steps.push(Step::Accept);
            rules.push(OwnRule { handle: None, steps });
            continue;
        }
        let delivers = chain == ChainName::Prerouting && rule.delivers();
        let or_drop = matches!(rule.action(), Action::Proxy(to) if to.or_drop);
        let dropping = or_drop.then(|| [&steps[..], &[Step::Count, Step::Drop]].concat());
        // Marked packets of no local route would end in the kernel, and nothing would count them.
        if !delivers || names.delivers {
            steps.extend(action::acts(rule).map_err(refuse)?);
            if delivers && rule.action() == Action::Accept {
                let end = steps.len().saturating_sub(1);
                steps.splice(end..end, action::mark());
            }
            rules.push(OwnRule { handle: Some(*handle), steps });
        }
        rules.extend(dropping.map(|steps| OwnRule { handle: Some(handle | OR_DROP), steps }));
    }
    let drops = given.policy == Policy::Drop;
    if drops {
        rules.push(OwnRule { handle: Some(POLICY_HANDLE), steps: vec![Step::Count, Step::Drop] });
    }
    let any_translates = given.rules.iter().any(|(rule, _)| translates(rule));
    let routes = changes && chain == ChainName::Output;
    let before = matches!(chain, ChainName::Prerouting | ChainName::Postrouting) || any_translates || routes;
    let priority = if before { BEFORE_TRANSLATION } else { FILTER };
    let kind = if routes { ChainKind::Route } else { ChainKind::Filter };
    Ok(Some(OwnChain { name: chain.name().to_owned(), kind, hook: hook(chain), priority, drops, rules }))
}

/// The base chain that translates, with what stands in front of the rules that do.
fn translating(chain: ChainName, given: &KernelChain<'_>, names: Names<'_>) -> Result<Option<OwnChain>, FilterError> {
    let translates = |rule: &Rule| matches!(rule.action(), Action::Translate(_));
    let Some(last) = given.rules.iter().rposition(|(rule, _)| translates(rule)) else {
        return Ok(None);
    };
    // What this machine sends to itself has no port yet, and may get one by its translation.
    let mut rules = if chain == ChainName::Output { Vec::new() } else { vec![scope(chain)] };
    for (index, (rule, handle)) in given.rules[..=last].iter().enumerate() {
        let refuse = |fault| FilterError { chain, index, fault };
        let context = Context { chain, names };
        let condition = rule.statements().iter().find(|statement| statement.is_condition());
        if let (Some(condition), false) = (condition, translates(rule)) {
            let said = format!(
                "a rule with `{condition}` cannot stand in front of one that translates: put it behind, or into another chain"
            );
            return Err(refuse(FilterFault::Kernel(said)));
        }
        let mut steps = asked::matches(rule, context).map_err(refuse)?;
        match rule.action() {
            Action::Translate(to) => {
                steps.extend(action::statements(rule));
                steps.extend(action::translation(to));
                rules.push(OwnRule { handle: Some(*handle), steps });
            }
            Action::Proxy(_) => {
                rules.push(OwnRule { handle: None, steps: [&action::is_marked()[..], &[Step::Accept]].concat() });
            }
            Action::Accept => {
                // Where there is no chain that filters, it counts here.
                let counts = chain == ChainName::Postrouting && !changes(given);
                if counts {
                    steps.push(Step::Count);
                }
                steps.push(Step::Accept);
                rules.push(OwnRule { handle: counts.then_some(*handle), steps });
            }
            // What this machine sends to itself is dropped as what it is, and must not become something else before that.
            Action::Drop | Action::Reject(_) if chain == ChainName::Output => {
                steps.push(Step::Accept);
                rules.push(OwnRule { handle: None, steps });
            }
            // What they drop does not come here.
            Action::Drop | Action::Reject(_) | Action::Continue => {}
        }
    }
    check_order(given, last).map_err(|(index, said)| FilterError { chain, index, fault: FilterFault::Kernel(said) })?;
    let destination = chain != ChainName::Postrouting;
    let priority = if destination { TRANSLATE_DESTINATION } else { TRANSLATE_SOURCE };
    let name = format!("{}_nat", chain.name());
    let kind = ChainKind::Translate;
    Ok(Some(OwnChain { name, kind, hook: hook(chain), priority, drops: false, rules }))
}
