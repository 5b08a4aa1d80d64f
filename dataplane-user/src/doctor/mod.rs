//! What may be wrong with a machine that shall forward, and what cures it.
//!
//! `facts` looks, `machine`, `port` and `network` judge; judging is pure. It needs no daemon, and asks one that is there for
//! what only it knows.

mod facts;
mod machine;
mod network;
mod port;
mod routing_rule;
#[cfg(test)]
mod tests;

pub use facts::{Conntrack, Facts, PortFacts, Unknown};

use crate::control::row::{Finding, Status};

/// Judges what was found, check by check.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    machine::judge(facts, &mut findings);
    if facts.elsewhere.is_some() {
        return findings;
    }
    network::judge(facts, &mut findings);
    routing_rule::judge(facts, &mut findings);
    for port in &facts.ports {
        port::judge(facts, port, &mut findings);
    }
    findings
}

/// The worst of them; `ok` when there is none.
pub fn worst(findings: &[Finding]) -> Status {
    findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Ok)
}

/// All is well.
fn fine(check: impl Into<String>, found: impl Into<String>) -> Finding {
    Finding { check: check.into(), status: Status::Ok, found: found.into(), fix: String::new() }
}

/// Something is not as it should be.
fn fault(check: impl Into<String>, status: Status, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { check: check.into(), status, found: found.into(), fix: fix.into() }
}
