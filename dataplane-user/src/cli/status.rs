//! `dataplane status`.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use super::{
    clock::LocalTime,
    doctor,
    session::{Session, unexpected},
    units::{grouped, lasting, scaled},
};
use crate::control::{
    protocol::{Data, Request},
    row::{MirrorState, Stats},
    status::{StatusReport, StatusRow},
};

/// Time between the two looks at the counters.
const LOOK: Duration = Duration::from_millis(300);

/// Show the state of the router in a few lines
///
/// Version, ports, traffic, routes, rules, connections, a config that waits for confirmation, whether the config file differs
/// from what is running, and the worst finding of `doctor`. Traffic is measured for 0.3 seconds.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane status\n  dataplane status -j | jq .bits_per_second")]
pub(super) struct Status;

impl Status {
    pub(super) fn dispatch(session: &Session) -> anyhow::Result<()> {
        let (before, begun) = (stats(session)?, Instant::now());
        let row = match session.call(&Request::Status)? {
            Data::Status(row) => row,
            data => return Err(unexpected(&data)),
        };
        let findings = doctor::findings(session, None, None)?;
        thread::sleep(LOOK.saturating_sub(begun.elapsed()));
        let (time, after) = (begun.elapsed(), stats(session)?);
        let report = StatusReport::new(row, (&before, &after, time), &findings);
        session.print(&report, || text(&report))
    }
}

fn stats(session: &Session) -> anyhow::Result<Stats> {
    match session.call(&Request::Stats { iface: None })? {
        Data::Stats(stats) => Ok(stats),
        data => Err(unexpected(&data)),
    }
}

fn text(report: &StatusReport) -> String {
    let StatusRow { version, uptime, since, state, routes4, routes6, rules, sets, flows, pending, config } =
        &report.daemon;
    let mut text = format!("dataplane {version}, up {}, since {}\n", lasting(*uptime), LocalTime::of(*since));
    let mut line = |name: &str, value: &str| text.push_str(&[&format!("{name:<8} "), value, "\n"].concat());
    line("ports", &ports(report.up, report.ports, &report.modes));
    let (bits, packets) = (report.bits_per_second, report.packets_per_second);
    let way = |bits, packets| format!("{}bit/s {}packets/s", scaled(bits), scaled(packets));
    line("traffic", &format!("rx {}, tx {}", way(bits.rx, packets.rx), way(bits.tx, packets.tx)));
    if report.dropped_per_second > 0 {
        line("dropped", &format!("{}packets/s; `dataplane stats` says why", scaled(report.dropped_per_second)));
    }
    let loading = if *state == MirrorState::Loading { ", still reading the kernel's tables" } else { "" };
    line("routes", &format!("{} IPv4, {} IPv6{loading}", grouped(*routes4), grouped(*routes6)));
    line("rules", &format!("{}, {} sets", grouped(*rules), grouped(*sets)));
    line("flows", &grouped(*flows));
    if let Some(pending) = pending {
        let left = lasting(pending.seconds);
        line("confirm", &format!("rolled back in {left} ({}); `dataplane config confirm` keeps it", pending.by));
    }
    line(
        "config",
        &match (config.warning(), &config.file) {
            (Some((found, fix)), _) => format!("{found}\n{:<8} fix: {fix}", ""),
            (None, Some(file)) => format!("as in {file}"),
            (None, None) => "no file was given; `dataplane config show` prints what is running".to_owned(),
        },
    );
    line(
        "doctor",
        &match &report.finding {
            None => "ok".to_owned(),
            Some(finding) => {
                let more = match report.findings - 1 {
                    0 => String::new(),
                    more => format!(" (and {more} more: `dataplane doctor`)"),
                };
                let fix =
                    if finding.fix.is_empty() { String::new() } else { format!("\n{:<8} fix: {}", "", finding.fix) };
                format!("{}: {}: {}{more}{fix}", finding.status.name(), finding.check, finding.found)
            }
        },
    );
    text
}

fn ports(up: u64, all: u64, modes: &BTreeMap<String, u64>) -> String {
    if all == 0 {
        return "none; `dataplane attach IFACE...` attaches some".to_owned();
    }
    let modes: Vec<_> = modes.iter().map(|(mode, count)| format!("{count} {mode}")).collect();
    let modes = if modes.is_empty() { String::new() } else { format!(": {}", modes.join(", ")) };
    format!("{up} of {all} up{modes}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{
        row::{Counts, Finding, LinkRow, Status as Health},
        status::{FileRow, PendingRow},
    };

    fn look(bytes: u64, dropped: u64) -> Stats {
        let link =
            LinkRow { ifindex: 7, rx_bytes: bytes, tx_bytes: 2 * bytes, rx_packets: bytes / 100, ..LinkRow::default() };
        Stats { links: vec![link], totals: Counts::new(0, 0, dropped, 0), ..Stats::default() }
    }

    fn report(daemon: StatusRow, findings: &[Finding]) -> StatusReport {
        StatusReport::new(daemon, (&look(0, 0), &look(1_000_000, 30), Duration::from_millis(500)), findings)
    }

    #[test]
    fn rates_and_the_worst_finding() {
        let finding = |check: &str, status| Finding {
            check: check.to_owned(),
            status,
            found: "found".to_owned(),
            fix: "cure".to_owned(),
        };
        let findings = [
            finding("a", Health::Warn),
            finding("b", Health::Fail),
            finding("c", Health::Ok),
            finding("d", Health::Fail),
        ];
        let report = report(StatusRow::default(), &findings);
        assert_eq!((report.bits_per_second.rx, report.bits_per_second.tx), (16_000_000, 32_000_000));
        assert_eq!((report.packets_per_second.rx, report.dropped_per_second), (20_000, 60));
        assert_eq!((report.doctor, report.findings), (Health::Fail, 3));
        let text = text(&report);
        assert!(
            text.contains("doctor   fail: b: found (and 2 more: `dataplane doctor`)\n         fix: cure\n"),
            "{text}"
        );
        assert!(text.contains("traffic  rx 16.0 Mbit/s 20.0 kpackets/s, tx 32.0 Mbit/s 0 packets/s\n"), "{text}");
        assert!(text.contains("dropped  60 packets/s"), "{text}");
    }

    #[test]
    fn what_waits_and_what_differs_is_shown() {
        let row = FileRow {
            file: Some("/etc/d.toml".to_owned()),
            differs: Some(true),
            add: 1,
            remove: 2,
            ..FileRow::default()
        };
        let pending = PendingRow { seconds: 83, by: "b.toml, uid 0".to_owned() };
        let text = text(&report(StatusRow { pending: Some(pending), config: row, ..StatusRow::default() }, &[]));
        for part in [
            "confirm  rolled back in 1 min 23 s (b.toml, uid 0); `dataplane config confirm` keeps it\n",
            "config   /etc/d.toml differs from the running config (+1 -2 ~0), and a restart does not take it\n",
            "fix: dataplane config diff /etc/d.toml; dataplane config apply /etc/d.toml\n",
            "doctor   ok\n",
            "ports    none",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
    }
}
