//! The way of the chains into the kernel.

use std::{cell::RefCell, collections::BTreeMap};

use anyhow::{Context as _, anyhow};
use dataplane_common::abi::{Features, Ifindex, Limit};

use super::{Daemon, chains::Chains, guard::guarded};
use crate::{
    filter,
    kernel::grace,
    lower::{
        Lowering,
        filter::{FilterError, LoweredFilter},
    },
    model::Link,
    rule::LinkPattern,
};

/// The links that fit the patterns that rules ask for.
type Fitting = BTreeMap<LinkPattern, Vec<Ifindex>>;

/// What is asked later of the filter that is live.
#[derive(Debug, Default)]
pub(super) struct Committed {
    /// Limits by the counters of the rules.
    pub limits: BTreeMap<u32, Limit>,
    /// What it was lowered with.
    links: Fitting,
    /// The chains are others: they could not be written.
    pub is_stale: bool,
}

impl Daemon {
    /// Whether a rule's pattern means a link now.
    pub(super) fn fits(&self, pattern: &LinkPattern, link: &Link) -> bool {
        // Altnames are for those who name one link: they may begin as other links' names do.
        let other = || !pattern.is_wildcard() && link.names().any(|name| pattern.fits(name));
        let before = || pattern.is_followed() && self.names.former(link.ifindex).iter().any(|name| pattern.fits(name));
        pattern.fits(&link.name) || other() || before()
    }

    /// The links that fit a pattern now.
    pub(super) fn fitting(&self, pattern: &LinkPattern) -> Vec<Ifindex> {
        let links = self.model.links.values().filter(|link| self.fits(pattern, link));
        links.map(|link| link.ifindex).collect()
    }

    /// What the chains come to with the links that are there now, and which of these make a difference.
    fn lower_chains(&self) -> Result<(LoweredFilter, Fitting), FilterError> {
        let asked = RefCell::new(Fitting::new());
        let links = |pattern: &LinkPattern| {
            let fresh = || self.fitting(pattern);
            asked.borrow_mut().entry(pattern.clone()).or_insert_with(fresh).clone()
        };
        let lowered = self.chains.lower(&links)?;
        Ok((lowered, asked.into_inner()))
    }

    /// Makes all chains live that were remembered, or given at the start.
    pub(super) fn commit_first(&mut self) -> anyhow::Result<()> {
        let lowered = self.lower_chains()?;
        self.commit_chains(lowered)
    }

    /// Makes the lowered chains live: counters, programs that ask them, entries, one flip.
    fn commit_chains(&mut self, (lowered, links): (LoweredFilter, Fitting)) -> anyhow::Result<()> {
        self.mend_pins();
        let image = filter::build(&lowered)?;
        let lowering = std::mem::replace(&mut self.lowering, Lowering::new([].into()));
        let grow = || self.grow(self.sizes.with_filter(image.lines()), lowering.want());
        let grown = guarded(grow).unwrap_or_else(|panic| Err(anyhow!("{panic}")));
        self.lowering = lowering;
        grown?;
        grace();
        for counter in self.chains.counters.stale() {
            self.tables.clear_rule_counter(counter)?;
        }
        // The programs ask the chains of before and of after while one takes the other's place: no packet meets neither.
        let before = self.committed.limits.clone();
        for (counter, limit) in lowered.limits.iter().filter(|(counter, limit)| before.get(counter) != Some(limit)) {
            self.tables.write_limit(*counter, limit)?;
        }
        self.load(self.object.features() | lowered.features)?;
        self.widen_egress_classes()?;
        let staged = self.tables.routing.stage_filter(&image)?;
        self.self_test_filter(staged, &lowered)?;
        self.tables.routing.flip_filter(staged)?;
        self.settle_egress_classes()?;
        self.image = image;
        if before.keys().any(|counter| !lowered.limits.contains_key(counter)) {
            grace();
            for counter in before.keys().filter(|counter| !lowered.limits.contains_key(counter)) {
                self.tables.remove_limit(*counter)?;
            }
        }
        self.chains.set_features(lowered.features);
        let others = self.object.features().difference(Features::RULES | Features::IPV6);
        // No chain asks for IPv6 any more, but maybe an address.
        self.load(others | self.lowering.want().features.intersection(Features::IPV6) | lowered.features)?;
        self.committed = Committed { limits: lowered.limits, links, is_stale: false };
        self.chains.renumber();
        self.packet_log.forget();
        self.rule_index = None;
        self.chains.counters.settle();
        Ok(())
    }

    /// Lowers the chains again after links have changed, and commits, if that makes a difference, or if what is live is not
    /// what it should be.
    pub(super) fn refresh_chains(&mut self) -> anyhow::Result<()> {
        let current = self.committed.links.iter().all(|(pattern, links)| self.fitting(pattern) == *links);
        if current && !self.committed.is_stale {
            return Ok(());
        }
        let done = self.lower_chains().map_err(Into::into).and_then(|lowered| self.commit_chains(lowered));
        done.context("the rules could not be brought up to date, and stay as they were")
    }

    /// Changes the chains, all or nothing: a change that cannot be lowered or written leaves the old ones in force.
    pub(super) fn change_chains<T>(
        &mut self,
        change: impl FnOnce(&mut Chains) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let before = self.chains.clone();
        let done = guarded(|| {
            let value = change(&mut self.chains)?;
            let lowered = self.lower_chains()?;
            self.commit_chains(lowered)?;
            Ok(value)
        });
        let done = done.unwrap_or_else(|panic| Err(anyhow!("the daemon made a mistake with these rules: {panic}")));
        if done.is_err() {
            self.restore_chains(before);
        } else {
            self.save();
            // A set of a million elements is not let go of in a moment, nor need the ring wait for that.
            std::thread::spawn(move || drop(before));
        }
        done
    }

    /// Puts the chains of before in the place of those that are not to be.
    pub(super) fn restore_chains(&mut self, before: Chains) {
        let failed = std::mem::replace(&mut self.chains, before);
        self.chains.counters.tainted_by(&failed.counters);
        self.committed.is_stale = true;
        // Where that does not work it is tried again each second.
        if let Err(error) = self.refresh_chains() {
            tracing::error!("the rules of before could not be written again: {error:#}");
        }
    }
}
