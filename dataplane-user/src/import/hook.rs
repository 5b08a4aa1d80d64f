//! Base chains to the chains of a config: one for each hook, which sees both families.

use std::{collections::BTreeMap, sync::Arc};

use super::chain::{Chain, Flat, Hook, Ruleset};
use super::complement::asks_transport;
use super::inline::Inline;
use super::problem::{Position, Problems};
use super::simplify::simplified;
use crate::config::{ChainConfig, Config, PortConfig, PortPattern};
use crate::model::ModeChoice;
use crate::rule::{
    Action, ChainName, Connection, ConnectionBits, Family, Fragments, HopLimit, Limit, LinkField, Match, PacketType,
    Policy, ProtocolField, Range, Rule, Statement, Test, Value, Values,
};

/// `ct state related,new`.
const FIRST: u32 = 4 | 8;

/// A base chain, written out.
struct Base<'a> {
    chain: &'a Chain,
    hook: Hook,
    rules: Vec<Flat>,
}

impl Base<'_> {
    /// Whether a packet may end in it and still have other chains of the hook before it: they follow each other only where
    /// that does not happen.
    fn is_open(&self) -> bool {
        self.hook.policy == Policy::Drop || self.rules.iter().any(|rule| rule.action == Action::Accept)
    }

    /// Whether it does more than drop, so that its place among others matters.
    fn tells(&self) -> bool {
        self.rules.iter().any(|rule| !rule.statements.is_empty() || matches!(rule.action, Action::Reject(_)))
    }

    /// A chain that translates sees only the first packet of a connection, also where a rule does something else: logs, counts
    /// or changes, whatever its verdict.
    fn for_first_packets(mut self) -> Self {
        let does_more = |rule: &&mut Flat| match rule.action {
            Action::Continue => true,
            Action::Translate(_) => false,
            _ => !rule.statements.is_empty(),
        };
        for rule in self.rules.iter_mut().filter(does_more) {
            rule.matches.insert(0, Match::Connection(Connection::Bits(ConnectionBits::State, false, FIRST)));
        }
        self
    }

    fn sees(&self, family: Family) -> bool {
        self.chain.family.is_none_or(|own| own == family)
    }
}

/// The config that says the same.
pub(super) fn config(ruleset: &Ruleset, problems: &mut Problems) -> Config {
    let mut config = Config { sets: ruleset.sets.clone(), ..Config::default() };
    let mut inline = Inline::new(&ruleset.chains, problems);
    let mut bases = Vec::new();
    let mut written = vec![false; ruleset.chains.len()];
    for (index, chain) in ruleset.chains.iter().enumerate() {
        if let Some(hook) = chain.hook {
            bases.push(Base { chain, hook, rules: inline.written_out(index).rules });
            written[index] = true;
        }
    }
    // What nothing leads to is read all the same, so that its errors are told.
    for index in (0..ruleset.chains.len()).filter(|index| !written[*index]) {
        inline.read(index);
    }
    let strict = inline.strict.take();
    buckets(bases.iter().flat_map(|base| &base.rules), problems);
    for name in ChainName::ALL {
        let (here, others): (Vec<_>, Vec<_>) = bases.into_iter().partition(|base| base.hook.chain == name);
        bases = others;
        let (translating, filtering): (Vec<_>, Vec<_>) = here.into_iter().partition(|base| base.hook.translates);
        if !together(name, &filtering, &translating, problems) {
            continue;
        }
        let mut chain = one(name, filtering, problems);
        let translating = translating.into_iter().map(Base::for_first_packets).collect();
        chain.rules.extend(one(name, translating, problems).rules);
        config.chains[name.index()] = chain;
    }
    around(&mut config, strict, problems);
    config
}

/// Whether what filters on a hook and what translates there can be one chain, the first in front of the second.
fn together(name: ChainName, filtering: &[Base<'_>], translating: &[Base<'_>], problems: &mut Problems) -> bool {
    for base in translating.iter().filter(|base| base.hook.policy == Policy::Drop) {
        let message = "a chain that translates drops nothing here: drop in a chain of type filter";
        problems.error(base.chain.place.clone(), message);
    }
    if translating.iter().all(|base| base.rules.is_empty()) {
        return true;
    }
    for base in filtering {
        let said = if base.is_open() {
            "`accept` would end both, because they are one chain here"
        } else if base.hook.priority > translation(name) && !base.rules.is_empty() {
            "it sees packets that are translated already, and here it would see them before"
        } else {
            continue;
        };
        let message = format!("chain {} filters on hook {name}, where others translate: {said}", base.chain.name);
        problems.error(base.chain.place.clone(), message);
        return false;
    }
    true
}

/// Chains of a higher priority see what was translated (`NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`).
const fn translation(name: ChainName) -> i64 {
    if matches!(name, ChainName::Postrouting) { 100 } else { -100 }
}

/// What a config says around its chains, so that these come to the same as the tables.
fn around(config: &mut Config, strict: Option<Position>, problems: &mut Problems) {
    if config.chains.iter().all(|chain| *chain == ChainConfig::default()) {
        return;
    }
    if let Ok(pattern) = PortPattern::new("*") {
        config.ports.push(PortConfig::new(pattern, ModeChoice::Auto));
    }
    let drops = |rule: &Rule| matches!(rule.action(), Action::Drop | Action::Reject(_));
    let unread = |rule: &Rule| drops(rule) && rule.matches().iter().any(asks_transport);
    if !config.chains.iter().flat_map(ChainConfig::rules).any(unread) {
        return;
    }
    match strict {
        None => config.fragments = Fragments::Pass,
        Some(place) => problems.note(
            place,
            "said by rules that drop what has no ports, flags or types to be read: later fragments that fit all else of a \
             rule that drops are dropped here, where other rules would let them pass; without this `return` they pass",
        ),
    }
}

/// Tells of limits that one rule had and several have now.
fn buckets<'r>(rules: impl Iterator<Item = &'r Flat>, problems: &mut Problems) {
    let mut limits: BTreeMap<(usize, usize), (Limit, usize)> = BTreeMap::new();
    for rule in rules {
        let limit = rule.statements.iter().find_map(|statement| match statement {
            Statement::Limit(limit) => Some(*limit),
            _ => None,
        });
        if let Some(limit) = limit {
            limits.entry((rule.place.start, rule.place.end)).or_insert((limit, 0)).1 += 1;
        }
    }
    for ((start, end), (limit, times)) in limits.into_iter().filter(|(_, (_, times))| *times > 1) {
        let message = format!(
            "`{limit}` becomes {times} limits with a bucket each, because this comes to {times} rules: together they let \
             {times} times as much pass"
        );
        problems.note(start..end, message);
    }
}

/// The chains of one hook as one.
fn one(name: ChainName, mut bases: Vec<Base<'_>>, problems: &mut Problems) -> ChainConfig {
    bases.sort_by_key(|base| base.hook.priority);
    // Stable: those that only drop first.
    let ordered: Vec<_> = bases.iter().map(|base| base.chain.place.start).collect();
    bases.sort_by_key(Base::is_open);
    let moved = ordered != bases.iter().map(|base| base.chain.place.start).collect::<Vec<_>>();
    for family in [Family::V4, Family::V6] {
        let open: Vec<_> = bases.iter().filter(|base| base.sees(family) && base.is_open()).collect();
        let seeing = bases.iter().filter(|base| base.sees(family)).count();
        if let [first, .., last] = open.as_slice() {
            let message = format!(
                "chain {} of table {} stands on hook {name} as chain {} of table {} does, and both let packets through: \
                 `accept` ends one of them only, and here there is one chain {name}; make them one chain",
                last.chain.name, last.chain.table, first.chain.name, first.chain.table
            );
            problems.error(last.chain.place.clone(), message);
            return ChainConfig::default();
        }
        if moved && seeing > 1 && bases.iter().any(Base::tells) {
            let message = format!(
                "several chains stand on hook {name}, and their order matters for what they log, limit or reject; make \
                 them one chain"
            );
            problems.error(bases[0].chain.place.clone(), message);
            return ChainConfig::default();
        }
    }
    let policies: Vec<_> = [Family::V4, Family::V6]
        .into_iter()
        .map(|family| {
            let dropping = |base: &&Base<'_>| base.sees(family) && base.hook.policy == Policy::Drop;
            bases
                .iter()
                .find(dropping)
                .map_or((family, Policy::Accept, None), |base| (family, Policy::Drop, Some(base.chain.place.clone())))
        })
        .collect();
    let mut rules: Vec<_> =
        bases.iter().flat_map(|base| base.rules.iter().map(|rule| guarded(rule, base.chain))).collect();
    let policy = match policies.as_slice() {
        [(_, one, _), (_, other, _)] if one == other => *one,
        // A policy is for both families: that of one is a rule.
        _ => {
            for (family, _, place) in &policies {
                let Some(place) = place.clone() else { continue };
                let matches = vec![Match::Family(*family)];
                rules.push(Flat { place, matches, statements: Vec::new(), action: Action::Drop, comment: None });
            }
            Policy::Accept
        }
    };
    let rules = rules.into_iter().filter_map(|rule| finished(name, rule, problems)).map(Arc::new).collect();
    ChainConfig { policy, rules }
}

/// The rule for the packets that its table sees.
fn guarded(rule: &Flat, chain: &Chain) -> Flat {
    let Some(family) = chain.family else { return rule.clone() };
    let mut matches = rule.matches.clone();
    if !matches.iter().any(|asked| asked.family() == Some(family)) {
        matches.insert(0, Match::Family(family));
    }
    Flat { matches, ..rule.clone() }
}

/// The rule, if it can stand in that chain.
fn finished(name: ChainName, mut rule: Flat, problems: &mut Problems) -> Option<Rule> {
    if name == ChainName::Output && matches!(rule.action, Action::Translate(_)) {
        rule = without_way_in(rule, problems)?;
    }
    for asked in &rule.matches {
        let unknown = match (name, asked) {
            (ChainName::Prerouting | ChainName::Input, Match::Link(LinkField::Oif | LinkField::Oifname, _)) => {
                "way out"
            }
            (ChainName::Output, Match::Link(LinkField::Iif | LinkField::Iifname, _)) => "way in",
            _ => continue,
        };
        problems.error(rule.place.clone(), format!("`{asked}`: in chain {name} a packet has no {unknown}"));
        return None;
    }
    for asked in &rule.matches {
        if asked.asks_extension() {
            let message = format!("`{asked}`: match what follows extension headers by `meta l4proto`");
            problems.error(rule.place.clone(), message);
            return None;
        }
        if matches!(asked, Match::Protocol(ProtocolField::Ip6, test) if test.set_name().is_none()) {
            problems.note(rule.place.clone(), format!("`{asked}` holds here behind extension headers, too"));
        }
    }
    let mut matches = rule.matches;
    if name == ChainName::Forward {
        matches = matches.into_iter().map(|asked| received(asked, &rule.place, problems)).collect::<Option<_>>()?;
    }
    // Only what came in has another type, and the kernel forwards no frame for a group (`ip_forward`).
    if matches!(name, ChainName::Forward | ChainName::Output) {
        let to_others = |asked: &Match| match asked {
            Match::PacketType(test) => holds(test, PacketType(0)).map(|held| !held),
            _ => None,
        };
        if matches.iter().any(|asked| to_others(asked) == Some(true)) {
            let message = format!("left out: in chain {name} every packet is of type `host`");
            problems.note(rule.place, message);
            return None;
        }
        matches.retain(|asked| to_others(asked).is_none());
    }
    let mut statements = rule.statements;
    for statement in &mut statements {
        // Said, because nft does not print what it takes for granted.
        if let Statement::Limit(limit) = statement {
            limit.burst = limit.burst.or_else(|| limit.usual_burst());
        }
    }
    // What no packet can meet, no rule need say.
    let matches = simplified(matches)?;
    match Rule::new(matches, statements, rule.action, rule.comment) {
        Ok(ready) => match ready.misplaced(name) {
            Some(said) => {
                problems.error(rule.place, said);
                None
            }
            None => Some(ready),
        },
        Err(error) => {
            problems.error(rule.place, error.to_string());
            None
        }
    }
}

/// A rule that translates what this machine sends: its packets came in by no link, so all but some are all. None when it asks
/// for one.
fn without_way_in(mut rule: Flat, problems: &mut Problems) -> Option<Flat> {
    let way_in = |asked: &Match| match asked {
        Match::Link(LinkField::Iif | LinkField::Iifname, test) if test.set_name().is_none() => Some(test.negated()),
        _ => None,
    };
    if rule.matches.iter().any(|asked| way_in(asked) == Some(false)) {
        problems.note(rule.place, "left out: in chain output a packet has no way in");
        return None;
    }
    rule.matches.retain(|asked| way_in(asked).is_none());
    Some(rule)
}

/// Whether a listed test holds for a value.
fn holds<T: Value>(test: &Test<Range<T>>, value: T) -> Option<bool> {
    let Values::Listed(ranges) = test.values() else { return None };
    Some(ranges.iter().any(|range| range.contains(value)) != test.negated())
}

/// A match of chain forward in the terms of the packet that came in. The kernel takes one off the TTL before it asks that
/// chain (`ip_forward`, `ip6_forward`); here it is asked before. None when no packet fits.
fn received(asked: Match, place: &Position, problems: &mut Problems) -> Option<Match> {
    let Match::HopLimit(family, test) = &asked else { return Some(asked) };
    let Values::Listed(ranges) = test.values() else { return Some(asked) };
    let one_more = |range: &Range<HopLimit>| {
        let (low, high) = range.ends();
        Range::new(HopLimit(low.0.checked_add(1)?), HopLimit(high.0.saturating_add(1)))
    };
    let more = match Test::listed(test.negated(), ranges.iter().filter_map(one_more).collect()) {
        Some(test) => Match::HopLimit(*family, test),
        // No packet is sent with 255: nothing else is asked than the family, or nothing fits.
        None => test.negated().then_some(Match::Family(*family))?,
    };
    problems.note(
        place.clone(),
        format!("`{asked}` becomes `{more}`: there chain forward sees the TTL to send, here the one received"),
    );
    Some(more)
}

impl Limit {
    /// What nft takes where nothing is said.
    fn usual_burst(&self) -> Option<u64> {
        (self.unit == crate::rule::LimitUnit::Packets).then_some(5)
    }
}
