//! The way of the chains into the kernel.

use std::{cell::RefCell, collections::BTreeMap};

use anyhow::anyhow;
use dataplane_common::abi::{Features, Ifindex, Limit};

use super::{DataPlane, Facts};
use crate::{
    daemon::{desired::Desired, guard::guarded, observed::Observed, packets::Packets},
    filter,
    lower::filter::{FilterError, LoweredFilter, SetNumbers},
    rule::LinkPattern,
};

/// The links that fit the patterns of rules.
pub(super) type Fitting = BTreeMap<LinkPattern, Vec<Ifindex>>;

/// What the filter that is live was lowered to and with.
#[derive(Debug, Default)]
pub(super) struct Committed {
    /// Limits by the counters of the rules.
    pub(super) limits: BTreeMap<u32, Limit>,
    /// The links that fitted.
    pub(super) links: Fitting,
    /// The numbers of its sets.
    pub(super) set_numbers: SetNumbers,
    /// The chains are others: they could not be written.
    is_stale: bool,
}

impl Committed {
    pub(super) fn limits(&self) -> &BTreeMap<u32, Limit> {
        &self.limits
    }

    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }
}

/// What the chains come to with the links that are there now, and which of these make a difference.
fn lower(observed: &Observed, desired: &Desired) -> Result<(LoweredFilter, Fitting), FilterError> {
    let asked = RefCell::new(Fitting::new());
    let links = |pattern: &LinkPattern| {
        let fresh = || observed.fitting(pattern);
        asked.borrow_mut().entry(pattern.clone()).or_insert_with(fresh).clone()
    };
    let lowered = desired.chains().lower(&links)?;
    Ok((lowered, asked.into_inner()))
}

impl DataPlane {
    /// Whether the chains that are live are those that are wanted, with the links that are there now.
    pub(in crate::daemon) fn is_current(&self, observed: &Observed) -> bool {
        let mut links = self.committed.links.iter();
        !self.committed.is_stale && links.all(|(pattern, links)| observed.fitting(pattern) == *links)
    }

    /// The chains are others now, and it is not known whether they can be written.
    pub(in crate::daemon) fn outdate(&mut self) {
        self.committed.is_stale = true;
    }

    /// Makes the chains live: counters, programs that ask them, entries, one flip.
    ///
    /// # Errors
    /// They cannot be lowered or written; those of before are live.
    pub(in crate::daemon) fn commit(
        &mut self,
        observed: &Observed,
        desired: &mut Desired,
        packets: &Packets,
    ) -> anyhow::Result<()> {
        let (mut lowered, links) = lower(observed, desired)?;
        self.live.kernel.mend_pins();
        let image = filter::build(&lowered)?;
        lowered.features |= image.features();
        self.make_room(&image, Facts::new(observed, desired, packets))?;
        self.live.kernel.wait();
        for counter in desired.chains_mut().counters.stale() {
            self.live.kernel.clear_rule_counter(counter)?;
        }
        self.write(&lowered, image, Facts::new(observed, desired, packets))?;
        desired.chains_mut().set_features(lowered.features);
        self.trim(lowered.features, Facts::new(observed, desired, packets))?;
        self.committed = Committed { limits: lowered.limits, links, set_numbers: lowered.set_numbers, is_stale: false };
        let chains = desired.chains_mut();
        chains.renumber();
        chains.counters.settle();
        Ok(())
    }

    fn make_room(&mut self, image: &filter::Image, facts: Facts<'_>) -> anyhow::Result<()> {
        let sizes = self.live.kernel.sizes().with_filter(image.lines());
        let sizes = sizes.with_verdicts(image.features().contains(Features::VERDICTS));
        let grown = guarded(|| self.live.grow(sizes, self.lowering.want(), facts));
        grown.unwrap_or_else(|panic| Err(anyhow!("{panic}"))).map(drop)
    }

    /// Writes what was lowered, and makes it live.
    fn write(&mut self, lowered: &LoweredFilter, image: filter::Image, facts: Facts<'_>) -> anyhow::Result<()> {
        let Self { live, committed, .. } = self;
        // The programs ask the chains of before and of after while one takes the other's place: no packet meets neither.
        let before = &committed.limits;
        for (counter, limit) in lowered.limits.iter().filter(|(counter, limit)| before.get(counter) != Some(limit)) {
            live.kernel.write_limit(*counter, limit)?;
        }
        live.load(live.kernel.features() | lowered.features, facts)?;
        live.widen_egress_classes(facts)?;
        let staged = live.kernel.stage(&image)?;
        let verified = live.kernel.verify(staged, &lowered.self_tests(&mut fastrand::Rng::new()))?;
        live.kernel.flip(verified)?;
        live.settle_egress_classes(facts)?;
        live.image = image;
        let mut gone = before.keys().filter(|counter| !lowered.limits.contains_key(counter)).peekable();
        if gone.peek().is_some() {
            live.kernel.wait();
        }
        for counter in gone {
            live.kernel.remove_limit(*counter)?;
        }
        Ok(())
    }

    /// Loads programs that can do no more than what is asked of them.
    fn trim(&mut self, rules: Features, facts: Facts<'_>) -> anyhow::Result<()> {
        let others = self.features().difference(Features::RULES | Features::IPV6);
        // No chain asks for IPv6 any more, but maybe an address.
        let routes = self.want().features.intersection(Features::IPV6);
        self.live.load(others | routes | rules, facts)
    }
}
