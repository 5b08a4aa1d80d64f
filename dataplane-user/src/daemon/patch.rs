//! One rule more or less, in the tables that are live: what the others are does not matter, nor how many.

use super::{Daemon, chains::InstalledRule, journal::Line, state::Entry as Row};
use crate::{
    kernel::grace,
    lower::filter::{Entry, entries_of_rule, features_of},
    rule::{ChainName, Rule},
};

impl Daemon {
    /// Puts a rule at the end of a chain, or in front of it.
    pub(super) fn add_rule(&mut self, chain: ChainName, rule: Rule, in_front: bool) -> anyhow::Result<InstalledRule> {
        let Some(installed) = self.add_in_place(chain, &rule, in_front)? else {
            return self.change_chains(|chains| chains.add(chain, rule, in_front));
        };
        let entry = Row {
            chain: chain.name().to_owned(),
            rule: installed.rule.to_string(),
            handle: installed.handle,
            counter: installed.counter,
        };
        self.note(&Line::Add { entry, in_front });
        Ok(installed)
    }

    /// Takes a rule out of a chain.
    pub(super) fn remove_rule(&mut self, chain: ChainName, handle: u64) -> anyhow::Result<()> {
        if !self.remove_in_place(chain, handle) {
            return self.change_chains(|chains| Ok(chains.remove(chain, handle)?));
        }
        self.note(&Line::Remove { chain: chain.name().to_owned(), handle });
        Ok(())
    }

    /// `None`, and nothing changed, for a rule that needs more than a place in tables that are there.
    fn add_in_place(&mut self, chain: ChainName, rule: &Rule, in_front: bool) -> anyhow::Result<Option<InstalledRule>> {
        let (Some(boxes), Some(order)) = (entries_of_rule(rule), self.chains.order(chain, in_front)) else {
            return Ok(None);
        };
        if !self.chains.features().contains(features_of(rule) | chain.feature()) {
            return Ok(None);
        }
        let installed = self.chains.install(rule.clone())?;
        let placed: Vec<_> = boxes.iter().map(|entry| self.chains.placed(entry, order, installed.counter)).collect();
        let stale = self.chains.counters.stale();
        if !stale.is_empty() {
            grace();
        }
        for counter in stale {
            self.tables.clear_rule_counter(counter)?;
        }
        let patched = self.image.insert(chain.index(), &placed);
        let written = patched.map(|patch| self.tables.routing.patch_filter(&self.image, &patch));
        if !matches!(written, Some(Ok(()))) {
            self.chains.withdraw(&installed);
            return Ok(None);
        }
        installed.note(&boxes);
        self.chains.put(chain, installed.clone(), order, in_front);
        self.patched();
        Ok(Some(installed))
    }

    /// Whether that was possible; if not, nothing was changed.
    fn remove_in_place(&mut self, chain: ChainName, handle: u64) -> bool {
        let Some((place, order)) = self.chains.position(chain, handle) else { return false };
        let rules = self.chains.rules(chain);
        // A chain without rules asks for another program.
        let Some(boxes) = entries_of_rule(&rules[place].rule).filter(|_| rules.len() > 1) else { return false };
        let counter = rules[place].counter;
        let boxes: Vec<_> = boxes.iter().map(|entry| self.chains.placed(entry, order, counter)).collect();
        let others = |sought: &Entry| self.chains.alike(chain, order, sought);
        let patched = self.image.remove(chain.index(), &boxes, others);
        let written = patched.map(|patch| self.tables.routing.patch_filter(&self.image, &patch));
        if !matches!(written, Some(Ok(()))) {
            return false;
        }
        self.chains.take_out(chain, place);
        self.patched();
        true
    }

    /// What was known of the rules' places is not so any more.
    fn patched(&mut self) {
        self.packet_log.forget();
        self.rule_index = None;
        self.chains.counters.settle();
    }
}
