//! One rule more or less, in the tables that are live: what the others are does not matter, nor how many.

use super::DataPlane;
use crate::{
    daemon::{chains::InstalledRule, desired::Desired},
    lower::filter::{Entry, entries_of_rule, features_of},
    rule::{ChainName, Rule},
};

/// Whether the driver decides the rules of a chain.
fn is_of_driver(desired: &Desired, chain: ChainName) -> bool {
    ChainName::DRIVER.contains(&chain) && !desired.chains().kernel_decides()
}

impl DataPlane {
    /// Puts a rule into the tables. `None`, and nothing changed, for a rule that needs more than a place in tables that are
    /// there.
    pub(in crate::daemon) fn add_in_place(
        &mut self,
        desired: &mut Desired,
        chain: ChainName,
        rule: &Rule,
        in_front: bool,
    ) -> anyhow::Result<Option<InstalledRule>> {
        if !is_of_driver(desired, chain) || rule.needs_kernel() {
            return Ok(None);
        }
        let (Some(boxes), Some(order)) = (entries_of_rule(rule), desired.chains().order(chain, in_front)) else {
            return Ok(None);
        };
        if !desired.chains().features().contains(features_of(rule) | chain.feature()) {
            return Ok(None);
        }
        let chains = desired.chains_mut();
        let installed = chains.install(rule.clone())?;
        let placed: Vec<_> = boxes.iter().map(|entry| chains.placed(entry, order, installed.counter)).collect();
        let stale = chains.counters.stale();
        let kernel = &mut self.live.kernel;
        if !stale.is_empty() {
            kernel.wait();
        }
        for counter in stale {
            kernel.clear_rule_counter(counter)?;
        }
        let patched = self.live.image.insert(chain.index(), &placed);
        let written = patched.map(|patch| kernel.patch(&self.live.image, &patch));
        if !matches!(written, Some(Ok(()))) {
            chains.withdraw(&installed);
            return Ok(None);
        }
        installed.note(&boxes);
        chains.put(chain, installed.clone(), order, in_front);
        chains.counters.settle();
        Ok(Some(installed))
    }

    /// Takes a rule out of the tables; whether that could be done in place.
    pub(in crate::daemon) fn remove_in_place(&mut self, desired: &mut Desired, chain: ChainName, handle: u64) -> bool {
        let chains = desired.chains();
        if !is_of_driver(desired, chain) {
            return false;
        }
        let Some((place, order)) = chains.position(chain, handle) else { return false };
        let rules = chains.rules(chain);
        // A chain without rules asks for another program.
        let Some(boxes) = entries_of_rule(&rules[place].rule).filter(|_| rules.len() > 1) else { return false };
        let counter = rules[place].counter;
        let boxes: Vec<_> = boxes.iter().map(|entry| chains.placed(entry, order, counter)).collect();
        let others = |sought: &Entry| chains.alike(chain, order, sought);
        let patched = self.live.image.remove(chain.index(), &boxes, others);
        let written = patched.map(|patch| self.live.kernel.patch(&self.live.image, &patch));
        if !matches!(written, Some(Ok(()))) {
            return false;
        }
        let chains = desired.chains_mut();
        chains.take_out(chain, place);
        chains.counters.settle();
        true
    }
}
