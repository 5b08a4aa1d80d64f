//! Names of interfaces that do not exist: they are allowed, since links come and go, and worth a warning, since names are
//! mistyped.

use std::collections::BTreeSet;

use super::Daemon;
use crate::{
    config::Config,
    rule::{ChainName, LinkPattern, Match, Rule, Values},
};

/// So many are named.
const NAMED: usize = 8;

impl Daemon {
    /// Ports and rules of a config that name no link that is there.
    pub(super) fn absent(&self, config: &Config) -> Vec<String> {
        let exact = config.ports.iter().filter(|port| !port.pattern.is_glob()).map(|port| port.pattern.as_str());
        let names = exact.filter(|name| self.observed.link_called(name).is_none());
        let ports = named(names.map(str::to_owned).collect(), |names| {
            format!("there is no interface {names} yet; it becomes a port when it appears (`ip link` lists all)")
        });
        let rules = ChainName::ALL.into_iter().flat_map(|chain| config.chain(chain).rules());
        ports.into_iter().chain(self.absent_links(rules)).collect()
    }

    /// Links that rules name and that are not there.
    pub(super) fn absent_links<'r>(&self, rules: impl Iterator<Item = &'r Rule>) -> Option<String> {
        let patterns = rules.flat_map(Rule::matches).filter_map(|matched| match matched {
            Match::Link(_, test) => match test.values() {
                Values::Listed(patterns) => Some(patterns),
                Values::Set(_) => None,
            },
            _ => None,
        });
        let exact: BTreeSet<&LinkPattern> = patterns.flatten().filter(|pattern| !pattern.is_wildcard()).collect();
        let absent = exact.into_iter().filter(|pattern| self.observed.fitting(pattern).is_empty());
        named(absent.map(|pattern| pattern.as_str().to_owned()).collect(), |names| {
            format!(
                "there is no interface {names} yet; rules that name it match nothing until it appears (`ip link` lists all)"
            )
        })
    }
}

/// One text for all names; none where there are none.
fn named(names: BTreeSet<String>, text: impl FnOnce(&str) -> String) -> Option<String> {
    let more = names.len().saturating_sub(NAMED);
    let mut shown: Vec<_> = names.into_iter().take(NAMED).collect();
    if shown.is_empty() {
        return None;
    }
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    Some(text(&shown.join(", ")))
}
