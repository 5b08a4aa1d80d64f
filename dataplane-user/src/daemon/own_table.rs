//! Own rules that only the kernel can decide, in a table of nftables.
//!
//! Two writes are not one commit: the table comes first, and while the driver's rules change, packets meet the rules of before
//! and of after.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use dataplane_common::abi::Ifindex;

use super::Daemon;
use crate::{
    control::{
        flow::KernelRulesRow,
        row::{Finding, Status},
    },
    lower::own_table::{OR_DROP, POLICY_HANDLE},
    model::{Link, OwnCount, OwnTable},
    netlink,
    rule::{Action, ChainName, LinkPattern},
};

/// Links that lie on each other: a VLAN on a bond in a bridge in a VRF.
const DEPTH: usize = 4;

impl Daemon {
    /// The table that is wanted: none without ports, or where the driver decides all.
    fn wanted_table(&self) -> anyhow::Result<Option<OwnTable>> {
        if self.desired.ports().config().is_empty() {
            return Ok(None);
        }
        let links = |pattern: &LinkPattern| self.names_of(pattern);
        let (judged, flows) = (self.judged_links(), self.desired.flows());
        Ok(self.desired.chains().own_table(&links, &judged, self.delivery.is_ready(), flows)?)
    }

    /// The names that a pattern stands for: itself, and the names of links that it fits by another.
    fn names_of(&self, pattern: &LinkPattern) -> Vec<String> {
        let links = self.observed.model().links.values();
        let others = links.filter(|link| !pattern.fits(&link.name) && self.observed.fits(pattern, link));
        std::iter::once(pattern.as_str().to_owned()).chain(others.map(|link| link.name.clone())).collect()
    }

    /// Ports, and the links on them by whose names the kernel knows their packets.
    pub(super) fn judged_links(&self) -> Vec<Ifindex> {
        let model = self.observed.model();
        let links = &model.links;
        let wanted = |link: &&Link| self.desired.ports().wanted_with_bridge(link, &self.observed).is_some();
        let mut judged: BTreeSet<_> =
            links.values().filter(|link| !link.loopback).filter(wanted).map(|link| link.ifindex).collect();
        for _ in 0..DEPTH {
            let masters: Vec<_> = judged
                .iter()
                .filter_map(|ifindex| links.get(ifindex)?.master)
                .filter(|master| links.contains_key(master))
                .collect();
            let on_top =
                links.values().filter(|link| model.under(link).is_some_and(|below| judged.contains(&below.ifindex)));
            let more: Vec<_> = on_top.map(|link| link.ifindex).chain(masters).collect();
            judged.extend(more);
        }
        judged.into_iter().collect()
    }

    /// Whether the table is as it is to be.
    pub(super) fn is_table_current(&self) -> bool {
        self.leaves_ports() || self.wanted_table().is_ok_and(|wanted| self.plane.has_table(wanted.as_ref()))
    }

    /// Makes the chains live that are wanted: what the kernel decides, then what the driver does.
    pub(super) fn commit(&mut self) -> anyhow::Result<()> {
        if self.leaves_ports() {
            return self.plane.commit(&self.observed, &mut self.desired, &self.packets);
        }
        self.make_delivery();
        let wanted = self.wanted_table()?;
        if let Some(table) = &wanted {
            self.plane.write_table_ahead(table, self.desired.chains())?;
            self.desired.chains_mut().set_table_lost(false);
        }
        // Before the driver leaves packets to the table, no program may carry them past it.
        if self.observed.set_own_rules(wanted.is_some() || self.observed.model().own_rules)
            && !self.plane.attached().is_empty()
        {
            self.reconcile().map_err(|error| anyhow!(error))?;
        }
        self.plane.commit(&self.observed, &mut self.desired, &self.packets)?;
        self.plane.settle_table(wanted.as_ref(), self.desired.chains())?;
        self.observed.set_own_rules(wanted.is_some());
        self.end_delivery();
        Ok(())
    }

    /// Another program changed or deleted the table: it is written again. Where that does not work, the driver drops what it
    /// would have judged.
    pub(super) fn mend_table(&mut self) {
        if self.observed.is_loading() || self.leaves_ports() || !self.plane.forget_table() {
            return;
        }
        tracing::warn!("another program changed or deleted table inet dataplane; it is written again");
        let Err(error) = self.refresh_chains() else { return };
        tracing::error!("{error:#}; until it is there again, the driver drops what its chains would judge");
        self.desired.chains_mut().set_table_lost(true);
        self.plane.outdate();
        if let Err(error) = self.plane.commit(&self.observed, &mut self.desired, &self.packets) {
            tracing::error!("{error:#}");
        }
        self.plane.outdate();
    }

    /// Once a second: whether the table is there.
    pub(super) fn look_at_table(&mut self) {
        if self.plane.is_table_gone() {
            self.mend_table();
        }
    }

    /// What the table's rules have counted, by their handles; with [`POLICY_HANDLE`] what policies dropped.
    pub(super) fn kernel_counts(&self) -> BTreeMap<u64, OwnCount> {
        let mut sums: BTreeMap<u64, OwnCount> = BTreeMap::new();
        if !self.desired.chains().kernel_decides() || !self.plane.writes_tables() {
            return sums;
        }
        match netlink::own_counts() {
            Ok(counts) => {
                for ((_, handle), count) in counts {
                    let sum = sums.entry(handle & !OR_DROP).or_default();
                    sum.packets += count.packets;
                    sum.bytes += count.bytes;
                }
            }
            Err(error) => tracing::warn!("the counters of table inet dataplane cannot be read: {error}"),
        }
        sums
    }

    /// What the table has dropped.
    pub(super) fn kernel_rules_row(&self) -> Option<KernelRulesRow> {
        if !self.desired.chains().kernel_decides() {
            return None;
        }
        let counts = self.kernel_counts();
        let chains = self.desired.chains();
        let all = ChainName::ALL.into_iter().flat_map(|chain| chains.rules(chain));
        let drops = all.filter(|one| matches!(one.rule.action(), Action::Drop | Action::Reject(_)));
        let handles = drops.map(|one| one.handle).chain([POLICY_HANDLE]);
        let (mut packets, mut bytes) = (0, 0);
        for count in handles.filter_map(|handle| counts.get(&handle)) {
            packets += count.packets;
            bytes += count.bytes;
        }
        Some(KernelRulesRow { table: "inet dataplane".to_owned(), dropped_packets: packets, dropped_bytes: bytes })
    }

    /// What the doctor says of the table.
    pub(super) fn table_finding(&self) -> Option<Finding> {
        let wanted = self.wanted_table().ok()??;
        let (status, found, fix) = if self.plane.has_table(Some(&wanted)) {
            (Status::Ok, "own rules with state or translation are in table inet dataplane".to_owned(), "")
        } else {
            let found = "table inet dataplane is not there as it is to be: its chains drop at the driver meanwhile";
            (Status::Fail, found.to_owned(), "nft list table inet dataplane  # the log says more")
        };
        Some(Finding { check: "own table".to_owned(), status, found, fix: fix.to_owned() })
    }
}
