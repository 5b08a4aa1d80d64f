//! `dataplane doctor`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{
    iface,
    paint::{GREEN, RED, YELLOW, paint},
    port,
    session::{Session, unexpected},
};
use crate::{
    control::{
        protocol::{Data, Failure, FailureKind, Request},
        row::{Finding, PortRow, Status},
    },
    doctor::{self, Facts, Unknown},
    kernel::BPFFS,
};

/// Check the machine and the daemon, and show the cure of each fault
///
/// Works with and without a daemon. The exit code is 7 if something does not work; what works, but slower or otherwise than
/// expected, is a warning.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dataplane doctor\n  dataplane doctor eth0\n  dataplane doctor -j | jq '.[] | select(.status != \"ok\")'"
)]
pub(super) struct Doctor {
    /// Check only this interface; default: all ports, or all interfaces while no daemon runs
    #[arg(value_name = "IFACE", value_parser = iface)]
    iface: Option<String>,
    /// Directory of pinned maps and links; default: that of the daemon
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,
}

impl Doctor {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<ExitCode> {
        let findings = findings(session, self.iface.as_deref(), self.bpffs.as_deref())?;
        session.print(&findings, || text(&findings))?;
        Ok(match doctor::worst(&findings) {
            Status::Fail => ExitCode::from(FailureKind::Degraded.exit_code()),
            Status::Warn | Status::Ok => ExitCode::SUCCESS,
        })
    }
}

/// What is found of the machine and, where a daemon answers, of it.
pub(super) fn findings(session: &Session, iface: Option<&str>, named: Option<&Path>) -> anyhow::Result<Vec<Finding>> {
    let (known, rows) = match ask(session) {
        Ok((known, rows)) => (known, Ok(rows)),
        Err(failure) => (Vec::new(), Err(failure.to_string())),
    };
    // Older daemons do not say.
    let place = match session.call(&Request::Whereabouts) {
        Ok(Data::Whereabouts(place)) => Some(place),
        _ => None,
    };
    // What the daemon reports of its own pins is enough, unless `--bpffs` names others.
    let usual = port::places(&session.socket).into_iter().find(|place| place.exists()).unwrap_or_else(|| BPFFS.into());
    let bpffs = match (named, &place) {
        (Some(named), _) => Some(named),
        (None, Some(_)) => None,
        (None, None) => Some(usual.as_path()),
    };
    let facts = Facts::gather(iface, bpffs, place, rows).map_err(|error| match error.downcast_ref::<Unknown>() {
        Some(unknown) => Failure::new(FailureKind::NotFound, unknown.to_string()).into(),
        None => error,
    })?;
    let mut findings = doctor::judge(&facts);
    // Of the directory that `--bpffs` names: what was found there.
    findings.extend(known.into_iter().filter(|one| named.is_none() || one.check != "bpffs"));
    // Older daemons do not know the request.
    if let Ok(Data::Status(status)) = session.call(&Request::Status) {
        findings.extend(status.config.finding());
    }
    Ok(findings)
}

/// The ports of a daemon, each with its packets by reason.
type Ports = Vec<(PortRow, BTreeMap<String, u64>)>;

/// What only the daemon knows, and its ports.
fn ask(session: &Session) -> anyhow::Result<(Vec<Finding>, Ports)> {
    let findings = match session.call(&Request::Doctor)? {
        Data::Findings(findings) => findings,
        data => return Err(unexpected(&data)),
    };
    let ports = match session.call(&Request::PortList)? {
        Data::Ports(ports) => ports,
        data => return Err(unexpected(&data)),
    };
    let mut rows = Vec::new();
    for port in ports.into_iter().filter(|port| port.ifindex != 0) {
        match session.call(&Request::Stats { iface: Some(port.name.clone()) }) {
            Ok(Data::Stats(stats)) => rows.push((port, stats.reasons)),
            // Gone meanwhile.
            _ => rows.push((port, BTreeMap::new())),
        }
    }
    Ok((findings, rows))
}

/// What is wrong first; a line for each check, and one for its cure.
fn text(findings: &[Finding]) -> String {
    let mut sorted: Vec<_> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.status));
    let width = sorted.iter().map(|finding| finding.check.chars().count()).max().unwrap_or_default();
    let line = |finding: &&Finding| {
        let colour = match finding.status {
            Status::Ok => GREEN,
            Status::Warn => YELLOW,
            Status::Fail => RED,
        };
        let status = paint(&format!("{:<4}", finding.status.name()), colour);
        let head = format!("{status}  {:<width$}  {}\n", finding.check, finding.found);
        if finding.fix.is_empty() { head } else { format!("{head}      {:<width$}  fix: {}\n", "", finding.fix) }
    };
    sorted.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::json;

    fn findings() -> Vec<Finding> {
        let row = |check: &str, status, found: &str, fix: &str| Finding {
            check: check.to_owned(),
            status,
            found: found.to_owned(),
            fix: fix.to_owned(),
        };
        vec![
            row("kernel", Status::Ok, "6.18.5", ""),
            row("netfilter", Status::Warn, "bypassed: ip filter fwd", "nft list ruleset"),
            row("forwarding ipv4", Status::Fail, "off", "sysctl -w net.ipv4.ip_forward=1"),
        ]
    }

    #[test]
    fn what_fails_comes_first_with_its_cure() {
        let want = "fail  forwarding ipv4  off\n                       fix: sysctl -w net.ipv4.ip_forward=1\n\
                    warn  netfilter        bypassed: ip filter fwd\n                       fix: nft list ruleset\n\
                    ok    kernel           6.18.5\n";
        assert_eq!(text(&findings()), want);
    }

    #[test]
    fn json_has_the_fields_that_scripts_rely_on() {
        let want = r#"[{"check":"kernel","status":"ok","found":"6.18.5","fix":""}]"#;
        assert_eq!(json::line(&findings()[..1].to_vec()).expect("JSON"), want);
    }
}
