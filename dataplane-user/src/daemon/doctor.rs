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
    rule::{Action, ChainName},
};

/// As others can find it.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl Daemon {
    /// Ports that are waited for, and routes that are left to the kernel.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for wanted in self.ports.config() {
            let name = wanted.pattern.as_str();
            if !wanted.pattern.is_glob() && self.link_called(name).is_none() {
                findings.push(Finding {
                    check: format!("port: {name}"),
                    status: Status::Warn,
                    found: "absent: it is attached when it comes".to_owned(),
                    fix: format!("dataplane detach {name}  # if it is not to come"),
                });
            }
        }
        findings.extend(self.tx_error_status.as_ref().map(|observed| match observed {
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
        findings.extend(self.passed_by_findings());
        findings.extend(self.gate_finding());
        findings.extend(self.rejecting());
        findings.push(self.alone());
        findings.push(self.pin_finding());
        findings.extend(self.metrics_endpoint.finding());
        findings.extend(self.state_findings());
        let unwritten = self.unwritten.clone();
        let stale = || "the rules in force are not those of the config".to_owned();
        findings.extend(unwritten.or_else(|| self.committed.is_stale.then(stale)).map(|found| Finding {
            check: "maps".to_owned(),
            status: Status::Fail,
            found,
            fix: "the log says what is missing (memory, file descriptors); it is tried again each second".to_owned(),
        }));
        for problem in &self.problems {
            findings.push(Finding {
                check: "mirror".to_owned(),
                status: Status::Warn,
                found: problem.to_string(),
                fix: problem.cure().to_owned(),
            });
        }
        if self.problems.is_empty() {
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
            bpffs: absolute(self.bpffs.root()),
            state: absolute(&self.state.path("")),
        }
    }

    /// Whether senders of rejected packets are answered, when a rule says so.
    fn rejecting(&self) -> Option<Finding> {
        let mut rules = ChainName::ALL.into_iter().flat_map(|chain| self.chains.rules(chain));
        rules.find(|installed| matches!(installed.rule.action(), Action::Reject(_)))?;
        let (status, found, fix) = match self.packet_log.rejecter.missing() {
            None => (Status::Ok, "senders of rejected packets are answered".to_owned(), ""),
            Some(error) => (
                Status::Warn,
                format!("rejected packets are dropped without an answer: {error}"),
                "restart the daemon as root, or with CAP_NET_RAW",
            ),
        };
        Some(Finding { check: "reject".to_owned(), status, found, fix: fix.to_owned() })
    }
}
