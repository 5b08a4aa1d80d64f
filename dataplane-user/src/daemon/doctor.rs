//! What only the daemon knows of its health.

use super::Daemon;
use crate::control::row::{Finding, Status};

impl Daemon {
    /// Ports that are waited for, and routes that are left to the kernel.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for wanted in self.ports.config() {
            let name = wanted.pattern.as_str();
            if !wanted.pattern.is_glob() && self.model.link_named(name).is_none() {
                findings.push(Finding {
                    check: format!("port: {name}"),
                    status: Status::Warn,
                    found: "absent: it is attached when it comes".to_owned(),
                    fix: format!("dataplane detach {name}  # if it is not to come"),
                });
            }
        }
        findings.extend(self.observed.as_ref().map(|observed| match observed {
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
}
