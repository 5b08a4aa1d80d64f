//! What `metrics` tells of this daemon, and where it can be asked for over HTTP.

use std::{collections::BTreeMap, net::SocketAddr};

use tokio::{runtime::Handle, sync::mpsc};

use super::{
    Daemon,
    query::{digest, link_rows},
};
use crate::{
    config::MetricsConfig,
    control::{
        http::{Exposition, Limits},
        protocol::Failure,
        row::{Finding, Status},
        server::Call,
    },
    metrics::{RULES, Scrape},
    rule::ChainName,
};

impl Daemon {
    /// OpenMetrics text.
    pub(super) fn metrics(&self) -> Result<String, Failure> {
        let (mut ports, rows) = (Vec::new(), self.port_rows(None)?);
        let links = link_rows(&rows);
        for port in rows {
            // By reason only where there are counters: a port that is waited for has none.
            let reasons = match self.plane.slot(port.ifindex) {
                Some(slot) => digest(&self.plane.port_counters(slot)?).1,
                None => BTreeMap::new(),
            };
            ports.push((port, reasons));
        }
        let installed = ChainName::ALL
            .into_iter()
            .flat_map(|chain| self.desired.chains().rules(chain).iter().map(move |installed| (chain, installed)));
        // Only those that are told are read.
        let kernel = self.kernel_counts();
        let rules = installed
            .clone()
            .take(RULES)
            .map(|(chain, installed)| self.rule_row(chain, installed, &kernel))
            .collect::<Result<_, _>>()?;
        let renewed = ports.iter().filter_map(|(_, reasons)| reasons.get("flow_renew")).sum();
        Ok(Scrape {
            ports,
            links,
            rules,
            all_rules: installed.count() as u64,
            neighbours: self.neighbours().count() as u64,
            mirror: self.observed.mirror_row(),
            flows: self.flow_counts(Some(renewed)),
            sflow: self.sflow.counts(),
            steer: self.steering.counters(),
            missed: self.plane.missed()?,
            uptime: self.born.elapsed(),
            pending: self.store.pending_config().map(|pending| pending.row().seconds),
        }
        .text())
    }
}

/// Metrics over HTTP: what the config says, and what could be had of it.
pub(super) struct MetricsEndpoint {
    /// What the config says.
    wanted: MetricsConfig,
    /// Where the ring is asked.
    calls: mpsc::Sender<Call>,
    /// Where it is served.
    service: Handle,
    /// What is served; or why not, and then it is tried again each second: an address may come late.
    served: Option<Result<Exposition, String>>,
}

impl MetricsEndpoint {
    /// Nowhere yet.
    pub(super) fn new(calls: mpsc::Sender<Call>, service: Handle) -> Self {
        Self { wanted: MetricsConfig::default(), calls, service, served: None }
    }

    /// Serves what a config says, and nothing else any more.
    pub(super) fn want(&mut self, wanted: MetricsConfig) {
        self.wanted = wanted;
        let served = self.served.as_ref().and_then(|served| served.as_ref().ok()).map(Exposition::address);
        if served == wanted.listen && served.is_some() {
            return;
        }
        self.served = None;
        if let Some(address) = wanted.listen {
            self.open(address);
        }
    }

    /// Tries again what did not work.
    pub(super) fn retry(&mut self) {
        if let (Some(address), Some(Err(_))) = (self.wanted.listen, &self.served) {
            self.open(address);
        }
    }

    fn open(&mut self, address: SocketAddr) {
        let failed_before = matches!(self.served, Some(Err(_)));
        let _in_service = self.service.enter();
        let opened =
            Exposition::open(address, self.calls.clone(), Limits::default()).map_err(|error| error.to_string());
        match &opened {
            Ok(_) => tracing::info!("metrics are at http://{address}/metrics"),
            Err(error) if !failed_before => {
                tracing::warn!("cannot serve metrics on {address}: {error}; the daemon retries each second");
            }
            Err(_) => {}
        }
        self.served = Some(opened);
    }

    /// What the operator should know at once.
    pub(super) fn trouble(&self) -> Option<String> {
        let error = self.served.as_ref()?.as_ref().err()?;
        let address = self.wanted.listen?;
        Some(format!(
            "cannot serve metrics on {address} now: {error}; the daemon retries each second; `ss -ltnp` shows who has the port"
        ))
    }

    /// Whether metrics can be had where the config says.
    pub(super) fn finding(&self) -> Option<Finding> {
        let address = self.wanted.listen?;
        let (status, found, fix) = match self.served.as_ref()? {
            Ok(_) => (Status::Ok, format!("served at http://{address}/metrics"), ""),
            Err(error) => (
                Status::Warn,
                format!("cannot be served on {address}: {error}"),
                "ip addr; ss -ltnp  # take an address of this machine, and a free port from 1024 on",
            ),
        };
        Some(Finding { check: "metrics".to_owned(), status, found, fix: fix.to_owned() })
    }
}
