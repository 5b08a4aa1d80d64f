//! One rule more or less, in the tables that are live: what the others are does not matter, nor how many.

use std::cell::RefCell;

use super::{DataPlane, Facts, commit::Fitting};
use crate::{
    daemon::{chains::InstalledRule, desired::Desired, observed::Observed, packets::Packets},
    lower::filter::{Entry, LoweredRule, features_of},
    rule::{ChainName, LinkPattern, Rule},
};

/// Whether the driver decides the rules of a chain.
fn is_of_driver(desired: &Desired, chain: ChainName) -> bool {
    ChainName::DRIVER.contains(&chain) && !desired.chains().kernel_decides()
}

impl DataPlane {
    /// Puts a rule into the tables, at a place of its chain. `None`, and the rules are as before, where that takes other tables
    /// than those that are there.
    pub(in crate::daemon) fn add_in_place(
        &mut self,
        observed: &Observed,
        desired: &mut Desired,
        packets: &Packets,
        (chain, rule, place): (ChainName, &Rule, usize),
    ) -> anyhow::Result<Option<InstalledRule>> {
        if self.is_stale() || !is_of_driver(desired, chain) || desired.chains().needs_kernel(rule) {
            return Ok(None);
        }
        let Some(order) = desired.chains().order(chain, place) else { return Ok(None) };
        let Some((lowered, links)) = self.lower_rule(observed, desired, rule) else { return Ok(None) };
        let features = features_of(rule);
        if !desired.chains().features().contains(features) {
            let all = self.live.kernel.features() | features;
            if self.live.load(all, Facts::new(observed, desired, packets)).is_err() {
                return Ok(None);
            }
            let chains = desired.chains_mut();
            chains.set_features(chains.features() | features);
        }
        if chain == ChainName::Forward
            && self.live.widen_egress_classes_by(rule, Facts::new(observed, desired, packets)).is_err()
        {
            return Ok(None);
        }
        let chains = desired.chains_mut();
        let installed = chains.install(rule.clone().into())?;
        let placed: Vec<_> = lowered.boxes.iter().map(|entry| chains.placed(entry, order, installed.counter)).collect();
        let stale = chains.counters.stale();
        let kernel = &mut self.live.kernel;
        if !stale.is_empty() {
            kernel.wait();
        }
        let mut prepared = stale.into_iter().try_for_each(|counter| kernel.clear_rule_counter(counter));
        if let Some(limit) = &lowered.limit {
            prepared = prepared.and_then(|()| kernel.write_limit(installed.counter, limit));
        }
        let patched = prepared.ok().and_then(|()| self.live.image.insert(chain.index(), &placed, &lowered.sets));
        let written = patched.map(|patch| kernel.patch(&self.live.image, &patch));
        if !matches!(written, Some(Ok(()))) {
            chains.withdraw(&installed);
            return Ok(None);
        }
        installed.note(&lowered.boxes);
        chains.put(chain, installed.clone(), order, place);
        chains.counters.settle();
        self.committed.limits.extend(lowered.limit.map(|limit| (installed.counter, limit)));
        self.committed.links.extend(links);
        self.committed.set_numbers.extend(lowered.set_numbers);
        Ok(Some(installed))
    }

    /// What a rule comes to beside those that are live, and the links that fit its patterns. `None` where it cannot be lowered,
    /// or where other links fitted when the others were.
    fn lower_rule(&self, observed: &Observed, desired: &Desired, rule: &Rule) -> Option<(LoweredRule, Fitting)> {
        let asked = RefCell::new(Fitting::new());
        let links = |pattern: &LinkPattern| {
            asked.borrow_mut().entry(pattern.clone()).or_insert_with(|| observed.fitting(pattern)).clone()
        };
        let lowered = desired.chains().lower_rule(rule, &links, &self.committed.set_numbers).ok()?;
        let links = asked.into_inner();
        let before = &self.committed.links;
        let is_as_before = links.iter().all(|(pattern, links)| before.get(pattern).is_none_or(|known| known == links));
        is_as_before.then_some((lowered, links))
    }

    /// The boxes of a rule that is live.
    fn boxes_of(&self, desired: &Desired, rule: &Rule) -> Option<Vec<Entry>> {
        let links = |pattern: &LinkPattern| self.committed.links.get(pattern).cloned().unwrap_or_default();
        desired.chains().lower_rule(rule, &links, &self.committed.set_numbers).ok().map(|lowered| lowered.boxes)
    }

    /// Takes a rule out of the tables; whether that could be done in place.
    pub(in crate::daemon) fn remove_in_place(&mut self, desired: &mut Desired, chain: ChainName, handle: u64) -> bool {
        let chains = desired.chains();
        if self.is_stale() || !is_of_driver(desired, chain) {
            return false;
        }
        let Some((place, order)) = chains.position(chain, handle) else { return false };
        let rules = chains.rules(chain);
        let counter = rules[place].counter;
        let is_limited = self.committed.limits.contains_key(&counter);
        // A chain without rules takes another program, and so do chains without limits.
        if rules.len() == 1 || is_limited && self.committed.limits.len() == 1 {
            return false;
        }
        let Some(boxes) = self.boxes_of(desired, &rules[place].rule) else { return false };
        let boxes: Vec<_> = boxes.iter().map(|entry| chains.placed(entry, order, counter)).collect();
        let mut image = std::mem::take(&mut self.live.image);
        let lower = |rule: &Rule| self.boxes_of(desired, rule).unwrap_or_default();
        let patched = image.remove(chain.index(), &boxes, |sought| chains.alike(chain, order, sought, lower));
        self.live.image = image;
        let kernel = &mut self.live.kernel;
        let written = patched.map(|patch| kernel.patch(&self.live.image, &patch));
        if !matches!(written, Some(Ok(()))) {
            return false;
        }
        if is_limited {
            // A packet that has found the rule may not have looked its limit up.
            kernel.wait();
            if let Err(error) = kernel.remove_limit(counter) {
                tracing::warn!("the limit of a rule that is gone could not be removed: {error}");
            }
            self.committed.limits.remove(&counter);
        }
        let chains = desired.chains_mut();
        chains.take_out(chain, place);
        chains.counters.settle();
        true
    }
}
