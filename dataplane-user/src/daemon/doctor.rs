//! What only the daemon knows of its health.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::Daemon;
use crate::{
    control::{
        protocol::Whereabouts,
        row::{Finding, Status},
    },
    model::FDB_HOSTS,
    rule::{Action, ChainName},
};

/// As others can find it.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl Daemon {
    fn bridge_finding(&self) -> Option<Finding> {
        self.observed.model().fdb.has_refused().then(|| Finding {
            check: "bridges".to_owned(),
            status: Status::Warn,
            found: format!(
                "{FDB_HOSTS} hosts behind bridges are known, and no more can be; the kernel's bridge sends what is for others"
            ),
            fix: "bridge fdb show  # a host that makes up addresses? `bridge link set dev MEMBER learning off` stops it".to_owned(),
        })
    }

    /// Ports that are waited for, and routes that are left to the kernel.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for wanted in self.desired.ports().config() {
            let name = wanted.pattern.as_str();
            if !wanted.pattern.is_glob() && self.observed.link_called(name).is_none() {
                findings.push(Finding {
                    check: format!("port: {name}"),
                    status: Status::Warn,
                    found: "absent: it is attached when it comes".to_owned(),
                    fix: format!("dataplane detach {name}  # if it is not to come"),
                });
            }
        }
        findings.extend(self.plane.losses().map(|observed| match observed {
            Ok(()) => Finding {
                check: "losses".to_owned(),
                status: Status::Ok,
                found: "frames that a way out does not take are counted as redirect_failed".to_owned(),
                fix: String::new(),
            },
            Err(error) => Finding {
                check: "losses".to_owned(),
                status: Status::Warn,
                found: format!("frames that a way out does not take count as forwarded: {error}"),
                fix: "restart the daemon as root, or with CAP_PERFMON, on a kernel with BTF".to_owned(),
            },
        }));
        findings.extend(self.bridge_finding());
        findings.extend(self.pending_finding());
        findings.extend(self.passed_by_findings());
        findings.extend(self.flow_findings());
        findings.extend(self.gate());
        findings.extend(self.table_finding());
        findings.extend(self.delivery_finding());
        findings.extend(self.steer_findings());
        findings.extend(self.proxy_finding());
        findings.extend(self.rejecting());
        findings.push(self.alone());
        findings.push(self.pin_finding());
        findings.extend(self.metrics_endpoint.finding());
        findings.extend(self.sflow.finding());
        findings.extend(self.state_findings());
        let unwritten = self.plane.unwritten().cloned();
        let stale = || "the rules in force are not those of the config".to_owned();
        findings.extend(unwritten.or_else(|| self.plane.is_stale().then(stale)).map(|found| Finding {
            check: "maps".to_owned(),
            status: Status::Fail,
            found,
            fix: "the log says what is missing (memory, file descriptors); it is tried again each second".to_owned(),
        }));
        for problem in self.plane.problems() {
            findings.push(Finding {
                check: "mirror".to_owned(),
                status: Status::Warn,
                found: problem.to_string(),
                fix: problem.cure().to_owned(),
            });
        }
        if self.plane.problems().is_empty() {
            findings.push(Finding {
                check: "mirror".to_owned(),
                status: Status::Ok,
                found: "all routes are followed".to_owned(),
                fix: String::new(),
            });
        }
        findings
    }

    /// Where the doctor is to look.
    pub(super) fn whereabouts(&self) -> Whereabouts {
        Whereabouts {
            pid: std::process::id(),
            namespace: std::fs::metadata("/proc/thread-self/ns/net").map(|file| file.ino()).unwrap_or_default(),
            bpffs: absolute(self.plane.root()),
            state: absolute(&self.store.path("")),
        }
    }

    /// Whether senders of rejected packets are answered, when a rule says so.
    fn rejecting(&self) -> Option<Finding> {
        let mut rules = ChainName::ALL.into_iter().flat_map(|chain| self.desired.chains().rules(chain));
        rules.find(|installed| matches!(installed.rule.action(), Action::Reject(_)))?;
        let (status, found, fix) = match self.packets.unanswered() {
            None => (Status::Ok, "senders of rejected packets are answered".to_owned(), ""),
            Some(error) => (
                Status::Warn,
                format!("rejected packets are dropped without an answer: {error}"),
                "restart the daemon as root, or with CAP_NET_RAW",
            ),
        };
        Some(Finding { check: "reject".to_owned(), status, found, fix: fix.to_owned() })
    }

    /// Whether packets of links that are not ready wait, when the config says so.
    fn gate(&self) -> Option<Finding> {
        let check = "until_ready".to_owned();
        if let Some(found) = self.plane.gate_trouble() {
            return Some(Finding { check, status: Status::Fail, found, fix: "modprobe nf_tables".to_owned() });
        }
        let name = self.plane.gate_name(&self.desired)?;
        let found = format!("packets of links that are not ready wait at table inet {name}");
        Some(Finding { check, status: Status::Ok, found, fix: String::new() })
    }
}
