//! The answer of `status`: the daemon in a few lines.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    rate::{LinkRates, per_second},
    row::{Finding, MirrorState, Stats, Status},
};

/// What the daemon knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRow {
    /// Of the daemon.
    pub version: String,
    /// Seconds since it started.
    pub uptime: u64,
    /// When that was: seconds since 1970 UTC.
    pub since: u64,
    /// Whether the kernel's tables have been read.
    pub state: MirrorState,
    /// IPv4 routes of all tables.
    pub routes4: u64,
    /// IPv6 routes of all tables.
    pub routes6: u64,
    /// Rules of all chains.
    pub rules: u64,
    /// Named sets.
    pub sets: u64,
    /// Connections that have rows at the driver.
    pub flows: u64,
    /// The config that waits for `config confirm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingRow>,
    /// The config file that the daemon was started with.
    pub config: FileRow,
}

/// One row of `stats --reasons`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonRow {
    /// Name of a [`dataplane_common::Reason`].
    pub name: String,
    /// Name of its [`dataplane_common::Verdict`].
    pub verdict: String,
    /// One line.
    pub meaning: String,
    /// What to do about it.
    pub advice: String,
}

/// One row of `chain list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRow {
    /// Its name.
    pub chain: crate::rule::ChainName,
    /// `accept` or `drop`.
    pub policy: String,
    /// How many rules it has.
    pub rules: u64,
}

/// A config that is rolled back unless it is confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRow {
    /// Seconds until then.
    pub seconds: u64,
    /// The change and the user who made it.
    pub by: String,
}

/// How the running config compares with the config file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRow {
    /// Its path; none where the daemon was started without one.
    pub file: Option<String>,
    /// Whether it says something else than what is running; none where it cannot be read.
    pub differs: Option<bool>,
    /// Whether each start takes the file (`--config`), or only the first one (`--first-config`).
    #[serde(default)]
    pub each_start: bool,
    /// How many things are only in the file.
    #[serde(default)]
    pub add: u64,
    /// How many are only running.
    #[serde(default)]
    pub remove: u64,
    /// How many are in both, with other values.
    #[serde(default)]
    pub change: u64,
    /// Why it cannot be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl FileRow {
    /// What a restart would ignore or undo, and the cure; none where file and running config agree.
    pub fn warning(&self) -> Option<(String, String)> {
        let file = self.file.as_deref()?;
        if let Some(error) = &self.error {
            let first = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
            return Some((format!("{file} cannot be compared: {first}"), format!("dataplane config check {file}")));
        }
        if self.differs != Some(true) {
            return None;
        }
        let counts = format!("+{} -{} ~{}", self.add, self.remove, self.change);
        Some(if self.each_start {
            let found = format!("the running config differs from {file} ({counts}), and a restart takes the file");
            (found, format!("dataplane config show >{file}  # keeps what is running"))
        } else {
            let found = format!("{file} differs from the running config ({counts}), and a restart does not take it");
            (found, format!("dataplane config diff {file}; dataplane config apply {file}"))
        })
    }

    /// As a finding of `doctor`; none where there is no file.
    pub fn finding(&self) -> Option<Finding> {
        let file = self.file.as_deref()?;
        let (status, found, fix) = match self.warning() {
            Some((found, fix)) => (Status::Warn, found, fix),
            None => (Status::Ok, format!("{file} is what is running"), String::new()),
        };
        Some(Finding { check: "config file".to_owned(), status, found, fix })
    }
}

/// Received and transmitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Both {
    /// Through all ports.
    pub rx: u64,
    /// Through all ports.
    pub tx: u64,
}

/// What `status` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StatusReport {
    /// What the daemon knows of itself.
    #[serde(flatten)]
    pub daemon: StatusRow,
    /// How many ports the config names or its patterns fit.
    pub ports: u64,
    /// How many of these are attached and up.
    pub up: u64,
    /// How many there are of each mode.
    pub modes: BTreeMap<String, u64>,
    /// As the kernel counts them at the links.
    pub bits_per_second: Both,
    /// The same in frames.
    pub packets_per_second: Both,
    /// Packets per second that were dropped here.
    pub dropped_per_second: u64,
    /// The worst of all findings of `doctor`.
    pub doctor: Status,
    /// That finding, where it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
    /// How many findings are not `ok`.
    pub findings: u64,
}

impl StatusReport {
    /// Puts together what the daemon, the counters at two moments, and the checks say.
    pub fn new(daemon: StatusRow, (before, after, time): (&Stats, &Stats, Duration), findings: &[Finding]) -> Self {
        let mut modes = BTreeMap::new();
        for port in after.ports.iter().filter(|port| port.state == "up" || port.state == "down") {
            *modes.entry(port.mode.clone()).or_default() += 1;
        }
        let (mut bits, mut packets) = (Both::default(), Both::default());
        for link in &after.links {
            // A device of the same name that was made anew counts from zero.
            let Some(earlier) = before.links.iter().find(|row| row.ifindex == link.ifindex) else { continue };
            let rates = LinkRates::between(earlier, link, time);
            (bits.rx, bits.tx) = (bits.rx.saturating_add(rates.rx_bits), bits.tx.saturating_add(rates.tx_bits));
            (packets.rx, packets.tx) = (packets.rx + rates.rx_packets, packets.tx + rates.tx_packets);
        }
        let wrong = findings.iter().filter(|finding| finding.status != Status::Ok);
        // The first of the worst.
        let worst = wrong.clone().rev().max_by_key(|finding| finding.status);
        Self {
            daemon,
            ports: after.ports.len() as u64,
            up: after.ports.iter().filter(|port| port.state == "up").count() as u64,
            modes,
            bits_per_second: bits,
            packets_per_second: packets,
            dropped_per_second: per_second(after.totals.dropped, before.totals.dropped, time),
            doctor: worst.map_or(Status::Ok, |finding| finding.status),
            finding: worst.cloned(),
            findings: wrong.count() as u64,
        }
    }
}

/// Where a daemon is: who looks after it must look there, and not where he is himself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// Its process, as it sees itself.
    pub pid: u32,
    /// The number of its network namespace, as in `/proc/PID/ns/net`.
    pub namespace: u64,
    /// Where its maps and links are pinned.
    pub bpffs: PathBuf,
    /// What outlives it.
    pub state: PathBuf,
}
