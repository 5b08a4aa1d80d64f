//! `dataplane stats`.

use std::{
    io::{self, IsTerminal as _},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use dataplane_common::Reason;

use super::{
    iface, port,
    session::{self, Session, unexpected},
    table::{LEFT, RIGHT, table},
};
use crate::control::{
    protocol::{Data, Request},
    row::{self, Counts, MirrorRow, MirrorState},
};

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);

/// Packets by what became of them, and why
///
/// Every packet that a port received is counted once: `rx` is the sum of `forwarded`, `delivered`, `dropped` and `passed`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dataplane stats\n  dataplane stats eth0 --watch\n  dataplane stats -j | jq .totals"
)]
pub(super) struct Stats {
    /// Only this port
    #[arg(value_name = "IFACE", value_parser = iface)]
    iface: Option<String>,
    /// Again each second, with packets per second; with -j one object a line
    #[arg(long)]
    watch: bool,
}

impl Stats {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let request = Request::Stats { iface: self.iface };
        let mut earlier: Option<(row::Stats, Instant)> = None;
        loop {
            let now = Instant::now();
            let stats = match session.call(&request)? {
                Data::Stats(stats) => stats,
                data => return Err(unexpected(&data)),
            };
            if !self.watch {
                return session.print(&stats, || text(&stats, None));
            }
            if !session.json && io::stdout().is_terminal() {
                // Home, and clear what is below: less flicker than clearing everything.
                session::print("\x1b[H\x1b[J")?;
            }
            let before = earlier.as_ref().map(|(stats, then)| (stats, now - *then));
            session.print(&stats, || text(&stats, before) + "\n")?;
            earlier = Some((stats, now));
            thread::sleep(TICK.saturating_sub(now.elapsed()));
        }
    }
}

/// Totals, reasons that count, ports; with rates since an earlier look.
fn text(stats: &row::Stats, before: Option<(&row::Stats, Duration)>) -> String {
    let mut text = table(
        [("", LEFT), ("RX", RIGHT), ("FORWARDED", RIGHT), ("DELIVERED", RIGHT), ("DROPPED", RIGHT), ("PASSED", RIGHT)],
        [
            Some(cells("packets", &stats.totals)),
            before.map(|(earlier, time)| cells("per second", &rates(stats, earlier, time))),
        ]
        .into_iter()
        .flatten(),
    );
    let reasons = reasons(stats, before);
    if !reasons.is_empty() {
        text.push('\n');
        text.push_str(&if before.is_some() {
            let columns = [("PACKETS", RIGHT), ("PER SECOND", RIGHT), ("REASON", LEFT), ("MEANING", LEFT)];
            table(columns, reasons)
        } else {
            let rows = reasons.into_iter().map(|[packets, _, name, meaning]| [packets, name, meaning]);
            table([("PACKETS", RIGHT), ("REASON", LEFT), ("MEANING", LEFT)], rows)
        });
    }
    if !stats.ports.is_empty() {
        text.push('\n');
        text.push_str(&port::text(&stats.ports));
    }
    if stats.mirror.state == MirrorState::Loading {
        let MirrorRow { routes4, routes6, .. } = stats.mirror;
        text += &[
            "\nstill reading the kernel's routes: ",
            &routes4.to_string(),
            " IPv4 and ",
            &routes6.to_string(),
            " IPv6 so far\n",
        ]
        .concat();
    }
    text
}

fn cells(heading: &str, counts: &Counts) -> [String; 6] {
    let numbers = [counts.rx, counts.forwarded, counts.delivered, counts.dropped, counts.passed];
    let [rx, forwarded, delivered, dropped, passed] = numbers.map(|number| number.to_string());
    [heading.to_owned(), rx, forwarded, delivered, dropped, passed]
}

/// Packets, packets per second, name and meaning of each reason that has counted, in the order of the manual. Reasons that
/// only a newer daemon knows come last.
fn reasons(stats: &row::Stats, before: Option<(&row::Stats, Duration)>) -> Vec<[String; 4]> {
    let known = Reason::ALL.iter().map(|reason| (reason.name(), reason.meaning()));
    let unknown = stats.reasons.keys().map(|name| (name.as_str(), "a reason of another version"));
    let unknown = unknown.filter(|(name, _)| Reason::ALL.iter().all(|reason| reason.name() != *name));
    known
        .chain(unknown)
        .filter_map(|(name, meaning)| {
            let packets = stats.reasons.get(name).copied().filter(|packets| *packets > 0)?;
            let rate = before.map_or(0, |(earlier, time)| {
                rate(packets, earlier.reasons.get(name).copied().unwrap_or_default(), time)
            });
            Some([packets.to_string(), rate.to_string(), name.to_owned(), meaning.to_owned()])
        })
        .collect()
}

fn rates(stats: &row::Stats, earlier: &row::Stats, time: Duration) -> Counts {
    let (new, old) = (&stats.totals, &earlier.totals);
    Counts {
        rx: rate(new.rx, old.rx, time),
        forwarded: rate(new.forwarded, old.forwarded, time),
        delivered: rate(new.delivered, old.delivered, time),
        dropped: rate(new.dropped, old.dropped, time),
        passed: rate(new.passed, old.passed, time),
    }
}

/// Packets per second. A counter that went back belongs to a port that was detached: no packets, rather than nonsense.
fn rate(new: u64, old: u64, time: Duration) -> u64 {
    let packets = u128::from(new.saturating_sub(old));
    u64::try_from(packets * 1_000_000_000 / time.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_per_second() {
        let rows = [(1000, 0, 1000, 1000), (1000, 0, 500, 2000), (5, 9, 1000, 0), (u64::MAX, 0, 1000, u64::MAX)];
        for (new, old, millis, want) in rows {
            assert_eq!(rate(new, old, Duration::from_millis(millis)), want, "{new} {old} {millis}");
        }
        assert_eq!(rate(u64::MAX, 0, Duration::ZERO), u64::MAX);
    }

    #[test]
    fn rates_stand_beside_counts() {
        let stats = |forwarded: u64| row::Stats {
            totals: Counts::new(forwarded, 0, 0, 0),
            reasons: [("forwarded".to_owned(), forwarded), ("of_tomorrow".to_owned(), 1)].into(),
            ports: Vec::new(),
            mirror: MirrorRow::default(),
            heartbeat: 60,
        };
        let text = text(&stats(3000), Some((&stats(1000), Duration::from_secs(2))));
        let want = "              RX  FORWARDED  DELIVERED  DROPPED  PASSED\n\
                    packets     3000       3000          0        0       0\n\
                    per second  1000       1000          0        0       0\n\
                    \n\
                    PACKETS  PER SECOND  REASON       MEANING\n   \
                       3000        1000  forwarded    Forwarded to the next hop.\n      \
                          1           0  of_tomorrow  a reason of another version\n";
        assert_eq!(text, want);
    }
}
