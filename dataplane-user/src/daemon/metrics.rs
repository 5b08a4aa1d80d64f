//! What `metrics` tells of this daemon.

use std::collections::BTreeMap;

use super::{Daemon, answer::digest};
use crate::{
    control::protocol::Failure,
    metrics::{RULES, Scrape},
    rule::ChainName,
};

impl Daemon {
    /// OpenMetrics text.
    pub(super) fn metrics(&self) -> Result<String, Failure> {
        let mut ports = Vec::new();
        for port in self.port_rows(None)? {
            // By reason only where there are counters: a port that is waited for has none.
            let reasons = match self.slot(port.ifindex) {
                Some(slot) => digest(&self.tables.port_counters(slot)?).1,
                None => BTreeMap::new(),
            };
            ports.push((port, reasons));
        }
        let standing = ChainName::ALL
            .into_iter()
            .flat_map(|chain| self.chains.rules(chain).iter().map(move |standing| (chain, standing)));
        // Only those that are told are read.
        let rules = standing
            .clone()
            .take(RULES)
            .map(|(chain, standing)| self.rule_row(chain, standing))
            .collect::<Result<_, _>>()?;
        Ok(Scrape {
            ports,
            rules,
            all_rules: standing.count() as u64,
            neighbours: self.neighbour_rows().len() as u64,
            mirror: self.mirror_row(),
            missed: self.tables.missed()?,
            uptime: self.born.elapsed(),
        }
        .text())
    }
}
