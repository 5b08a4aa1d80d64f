//! Packets that the kernel forwards are held to chain forward at their way out, and are seen there as witnesses of what
//! netfilter lets through: every link that can transmit has tc egress while either is in use, and a class among the ways out.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::{EgressClasses, EgressLink, Features, Ifindex, MAX_CLASSES};

use super::{DataPlane, Facts, Live};
use crate::{
    kernel::{Hook, LinkError},
    lower::egress::{EgressPartition, patterns},
    rule::{ChainName, LinkPattern, Rule},
};

/// A link that had no class before: no packet on its way was given one in an epoch of this number.
const UNKNOWN: EgressLink = EgressLink { class: [0; 2], epoch: [u8::MAX; 2], flags: 0 };

/// What is known of the ways out.
#[derive(Debug, Default)]
pub(super) struct EgressState {
    /// What rules in force compare with the way out.
    patterns: BTreeSet<LinkPattern>,
    /// As last written.
    written: Option<(EgressPartition, u32)>,
    rows: BTreeMap<Ifindex, EgressLink>,
    /// Links without a port that have tc egress.
    guarded: BTreeSet<Ifindex>,
}

impl EgressState {
    /// Links without a port that have tc egress.
    pub(super) fn guarded(&self) -> &BTreeSet<Ifindex> {
        &self.guarded
    }
}

/// The patterns that rules of chain forward compare with the way out.
fn egress_patterns(facts: Facts<'_>) -> BTreeSet<LinkPattern> {
    let chains = facts.desired.chains();
    let rules = if chains.are_in_kernel() { &[] } else { chains.rules(ChainName::Forward) };
    let rules = rules.iter().map(|installed| &*installed.rule);
    patterns(rules, |name| chains.sets().get(name)?.listed())
}

impl DataPlane {
    /// Links have come, gone or become ports.
    pub(in crate::daemon) fn update_egress(&mut self, facts: Facts<'_>) {
        if let Err(error) = self.live.settle_egress_classes(facts) {
            tracing::error!("the classes of egress links could not be updated: {error:#}");
        }
        self.live.guard(facts);
    }
}

impl Live {
    /// Before other rules come into force: links that either of them tell apart are of different classes.
    pub(super) fn widen_egress_classes(&mut self, facts: Facts<'_>) -> anyhow::Result<()> {
        let both = self.egress_state.patterns.union(&egress_patterns(facts)).cloned().collect();
        self.write_egress_classes(&both, facts)
    }

    /// Before a rule more comes into force: as above.
    pub(super) fn widen_egress_classes_by(&mut self, rule: &Rule, facts: Facts<'_>) -> anyhow::Result<()> {
        let new = patterns(std::iter::once(rule), |name| facts.desired.chains().sets().get(name)?.listed());
        if new.is_subset(&self.egress_state.patterns) {
            return Ok(());
        }
        let both = self.egress_state.patterns.union(&new).cloned().collect();
        self.write_egress_classes(&both, facts)?;
        self.egress_state.patterns = both;
        Ok(())
    }

    /// Links, or what rules in force compare with the way out, have changed.
    pub(super) fn settle_egress_classes(&mut self, facts: Facts<'_>) -> anyhow::Result<()> {
        let in_use = egress_patterns(facts);
        self.write_egress_classes(&in_use, facts)?;
        self.egress_state.patterns = in_use;
        Ok(())
    }

    /// Writes the classes that these patterns make. Rows come first, which also know the class that packets on their way
    /// were given before.
    fn write_egress_classes(&mut self, patterns: &BTreeSet<LinkPattern>, facts: Facts<'_>) -> anyhow::Result<()> {
        let is_port = |ifindex| self.ports.attached().contains_key(&ifindex);
        let egress =
            EgressPartition::partition(facts.observed.model().links.values(), is_port, patterns, |pattern, link| {
                facts.observed.fits(pattern, link)
            });
        if self.egress_state.written.as_ref().is_some_and(|(known, _)| *known == egress) {
            return Ok(());
        }
        let before = if let Some((_, stamp)) = &self.egress_state.written {
            *stamp
        } else {
            let (shared, rows) = self.kernel.egress_classes()?;
            self.egress_state.rows = rows;
            shared.stamp
        };
        let epoch = ((before & EgressClasses::EPOCH) >> 10).wrapping_add(1) & 3;
        let stamp = EgressClasses::stamp(owner(), epoch);
        let mut rows = BTreeMap::new();
        for (ifindex, (class, flags)) in &egress.links {
            let known = self.egress_state.rows.get(ifindex).copied().unwrap_or(UNKNOWN);
            let row = EgressLink {
                class: [*class, known.class[0]],
                epoch: [epoch as u8, known.epoch[0]],
                flags: flags.bits(),
            };
            self.kernel.write_egress_link(*ifindex, Some(&row))?;
            rows.insert(*ifindex, row);
        }
        for gone in self.egress_state.rows.keys().filter(|ifindex| !rows.contains_key(ifindex)) {
            self.kernel.write_egress_link(*gone, None)?;
        }
        self.egress_state.rows = rows;
        let mut links = [0; MAX_CLASSES];
        links.iter_mut().zip(&egress.classes).for_each(|(link, ifindex)| *link = *ifindex);
        let (count, alike) = (egress.classes.len() as u32, u32::from(egress.alike));
        self.kernel.write_egress_classes(&EgressClasses { stamp, count, alike, reserved: 0, links })?;
        self.egress_state.written = Some((egress, stamp));
        Ok(())
    }

    /// Whether packets of ports are held to chain forward wherever they leave, or are witnesses there of what netfilter lets
    /// through.
    pub(super) fn guards(&self, features: Features) -> bool {
        features.intersects(Features::FORWARD | Features::FLOWS) && !self.ports.attached().is_empty()
    }

    /// Gives tc egress to links that are no ports, or takes it off.
    pub(super) fn guard(&mut self, facts: Facts<'_>) {
        let guards = self.guards(self.kernel.features());
        let is_guarded =
            |ifindex: &Ifindex, loopback: bool| guards && !loopback && !self.ports.attached().contains_key(ifindex);
        let links = facts.observed.model().links.values();
        let wanted: BTreeMap<Ifindex, String> = links
            .filter(|link| is_guarded(&link.ifindex, link.loopback))
            .map(|link| (link.ifindex, link.name.clone()))
            .collect();
        let gone: Vec<_> =
            self.egress_state.guarded.iter().filter(|ifindex| !wanted.contains_key(ifindex)).copied().collect();
        for ifindex in gone {
            self.egress_state.guarded.remove(&ifindex);
            // One that became a port has its hooks from there.
            if !self.ports.attached().contains_key(&ifindex)
                && let Err(error) = self.kernel.detach(ifindex, Hook::TcEgress)
            {
                tracing::error!("{error}");
            }
        }
        for (ifindex, name) in wanted {
            if !self.egress_state.guarded.contains(&ifindex) {
                self.guard_one(ifindex, &name);
            }
        }
    }

    /// Swaps the loaded program in at all links that are no ports.
    pub(super) fn relink_guarded(&mut self, facts: Facts<'_>) {
        if !self.guards(self.kernel.features()) {
            return;
        }
        for ifindex in std::mem::take(&mut self.egress_state.guarded) {
            if let Some(name) = facts.observed.model().links.get(&ifindex).map(|link| link.name.clone()) {
                self.guard_one(ifindex, &name);
            }
        }
    }

    fn guard_one(&mut self, ifindex: Ifindex, name: &str) {
        match self.kernel.attach(ifindex, name, Hook::TcEgress) {
            Ok(()) => {
                self.egress_state.guarded.insert(ifindex);
            }
            Err(LinkError::Gone) => {}
            Err(error) => tracing::warn!(
                "packets that the kernel forwards through {name} bypass rules of chain forward that match the egress, and no \
                 connection through it is carried at the driver: {error}"
            ),
        }
    }
}

/// Which daemon writes: two in turn, in namespaces that a link joins, should not have the same number.
fn owner() -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self/ns/net").map_or(0, |namespace| namespace.ino())
}
