//! One rule more or less, in the tables that are live: what the others are does not matter, nor how many.

use super::{Daemon, filter::Standing, journal::Line, state::Entry as Row};
use crate::{
    kernel::grace,
    lower::filter::{Entry, alone, asks},
    rule::{ChainName, Rule},
};

impl Daemon {
    /// Puts a rule at the end of a chain, or in front of it.
    pub(super) fn add_rule(&mut self, chain: ChainName, rule: Rule, in_front: bool) -> anyhow::Result<Standing> {
        let Some(standing) = self.add_in_place(chain, &rule, in_front)? else {
            return self.change_chains(|chains| chains.add(chain, rule, in_front));
        };
        let entry = Row {
            chain: chain.name().to_owned(),
            rule: standing.rule.to_string(),
            handle: standing.handle,
            counter: standing.counter,
        };
        self.note(&Line::Add { entry, in_front });
        Ok(standing)
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
    fn add_in_place(&mut self, chain: ChainName, rule: &Rule, in_front: bool) -> anyhow::Result<Option<Standing>> {
        let (Some(boxes), Some(order)) = (alone(rule), self.chains.order(chain, in_front)) else { return Ok(None) };
        if !self.chains.features().contains(asks(rule) | chain.feature()) {
            return Ok(None);
        }
        let standing = self.chains.stand(rule.clone())?;
        let placed: Vec<_> = boxes.iter().map(|entry| self.chains.placed(entry, order, standing.counter)).collect();
        let stale = self.chains.counters.stale();
        if !stale.is_empty() {
            grace();
        }
        for counter in stale {
            self.tables.clear_rule_counter(counter)?;
        }
        let amended = self.image.insert(chain.index(), &placed);
        let written = amended.map(|amendment| self.tables.routing.amend_filter(&self.image, &amendment));
        if !matches!(written, Some(Ok(()))) {
            self.chains.withdraw(&standing);
            return Ok(None);
        }
        standing.note(&boxes);
        self.chains.put(chain, standing.clone(), order, in_front);
        self.amended();
        Ok(Some(standing))
    }

    /// Whether that was possible; if not, nothing was changed.
    fn remove_in_place(&mut self, chain: ChainName, handle: u64) -> bool {
        let Some((place, order)) = self.chains.place(chain, handle) else { return false };
        let rules = self.chains.rules(chain);
        // A chain without rules asks for another program.
        let Some(boxes) = alone(&rules[place].rule).filter(|_| rules.len() > 1) else { return false };
        let counter = rules[place].counter;
        let boxes: Vec<_> = boxes.iter().map(|entry| self.chains.placed(entry, order, counter)).collect();
        let others = |sought: &Entry| self.chains.alike(chain, order, sought);
        let amended = self.image.remove(chain.index(), &boxes, others);
        let written = amended.map(|amendment| self.tables.routing.amend_filter(&self.image, &amendment));
        if !matches!(written, Some(Ok(()))) {
            return false;
        }
        self.chains.take_out(chain, place);
        self.amended();
        true
    }

    /// What was known of the rules' places is not so any more.
    fn amended(&mut self) {
        self.telling.forget();
        self.places = None;
        self.chains.counters.settle();
    }
}
