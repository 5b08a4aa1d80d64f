//! `dataplane stats`.

use std::{
    io::{self, IsTerminal as _},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use dataplane_common::Reason;

use super::{
    iface, reason,
    session::{self, Session, unexpected},
    table::{self, LEFT, RIGHT, dash, table},
    units::{interval, scaled},
};
use crate::control::{
    protocol::{Data, Request},
    rate::{LinkRates, Rates, Watched},
    row::{self, Counts, MirrorRow, MirrorState},
};

/// Count packets by verdict and reason
///
/// Every received packet is counted once: `rx` is the sum of `forwarded`, `delivered`, `dropped` and `passed`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dataplane stats\n  dataplane stats eth0 --watch\n  dataplane stats --watch --interval 5 --count 12\n  \
                  dataplane stats -j | jq .totals\n  dataplane stats --reasons"
)]
pub(super) struct Stats {
    /// Only this port
    #[arg(value_name = "IFACE", value_parser = iface)]
    iface: Option<String>,
    /// Print again after each interval, with packets per second; with -j one object a line
    #[arg(long)]
    watch: bool,
    /// Time between two outputs
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval, requires = "watch")]
    interval: Duration,
    /// Number of outputs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), requires = "watch")]
    count: Option<u64>,
    /// Print all reasons with meaning and advice, as `dataplane reason list`
    #[arg(long, conflicts_with_all = ["iface", "watch"])]
    reasons: bool,
}

impl Stats {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        if self.reasons {
            return reason::print(session);
        }
        let request = Request::Stats { iface: self.iface };
        let mut earlier: Option<(row::Stats, Instant)> = None;
        let mut looks = 0;
        loop {
            let now = Instant::now();
            let stats = match session.call(&request)? {
                Data::Stats(stats) => stats,
                data => return Err(unexpected(&data)),
            };
            if !self.watch {
                return session
                    .print(&stats, || if session.brief { brief(&stats) } else { text(&stats, None, table::width()) });
            }
            if !session.json && io::stdout().is_terminal() {
                // Home, and clear what is below: less flicker than clearing everything.
                session::print("\x1b[H\x1b[J")?;
            }
            let rates = earlier.as_ref().map(|(before, then)| Rates::between(before, &stats, now - *then));
            let watched = Watched { stats, rates };
            session.print(&watched, || text(&watched.stats, watched.rates.as_ref(), table::width()) + "\n")?;
            looks += 1;
            if self.count == Some(looks) {
                return Ok(());
            }
            earlier = Some((watched.stats, now));
            thread::sleep(self.interval.saturating_sub(now.elapsed()));
        }
    }
}

/// Totals, reasons that count, ports; with rates since an earlier look.
fn text(stats: &row::Stats, rates: Option<&Rates>, width: Option<usize>) -> String {
    let mut text = table(
        [("", LEFT), ("RX", RIGHT), ("FORWARDED", RIGHT), ("DELIVERED", RIGHT), ("DROPPED", RIGHT), ("KERNEL", RIGHT)],
        [Some(cells("packets", &stats.totals)), rates.map(|rates| cells("per second", &rates.totals))]
            .into_iter()
            .flatten(),
    );
    let reasons = reasons(stats, rates);
    if !reasons.is_empty() {
        text.push('\n');
        text.push_str(&if rates.is_some() {
            let columns = [("PACKETS", RIGHT, 0), ("PER SECOND", RIGHT, 0), ("REASON", LEFT, 0), ("MEANING", LEFT, 0)];
            table::wrapped(columns, reasons, width)
        } else {
            let rows = reasons.into_iter().map(|[packets, _, name, meaning]| [packets, name, meaning]);
            table::wrapped([("PACKETS", RIGHT, 0), ("REASON", LEFT, 0), ("MEANING", LEFT, 0)], rows, width)
        });
    }
    if let Some(kernel) = &stats.kernel_rules {
        let dropped = kernel.dropped_packets.to_string();
        text += &["\nown rules in the kernel (table ", &kernel.table, ") dropped ", &dropped, " packets\n"].concat();
    }
    if !stats.ports.is_empty() {
        text.push('\n');
        text.push_str(&ports(stats, width));
    }
    if let Some(rates) = rates.filter(|rates| !rates.ports.is_empty()) {
        text.push('\n');
        let columns = [
            ("PER SECOND", LEFT, 0),
            ("RX BIT/S", RIGHT, 0),
            ("TX BIT/S", RIGHT, 0),
            ("RX", RIGHT, 0),
            ("FORWARDED", RIGHT, 0),
            ("DELIVERED", RIGHT, 0),
            ("DROPPED", RIGHT, 0),
            ("KERNEL", RIGHT, 0),
        ];
        let lines = rates.ports.iter().map(|(name, counts)| {
            let link = rates.links.get(name);
            let bits = |bits: fn(&LinkRates) -> u64| {
                link.map_or_else(|| "-".to_owned(), |link| scaled(bits(link)).trim_end().to_owned())
            };
            let [name, rx, forwarded, delivered, dropped, passed] = cells(name, counts);
            [name, bits(|link| link.rx_bits), bits(|link| link.tx_bits), rx, forwarded, delivered, dropped, passed]
        });
        text.push_str(&table::fitting(columns, lines, width));
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

/// A line for each port.
fn brief(stats: &row::Stats) -> String {
    let columns =
        [("", LEFT), ("RX", RIGHT), ("FORWARDED", RIGHT), ("DELIVERED", RIGHT), ("DROPPED", RIGHT), ("KERNEL", RIGHT)];
    let ports = stats.ports.iter().map(|port| cells(&port.name, &port.counts));
    table(columns, ports.chain([cells("total", &stats.totals)]))
}

fn numbers(counts: &Counts) -> [String; 5] {
    [counts.rx, counts.forwarded, counts.delivered, counts.dropped, counts.passed].map(|number| number.to_string())
}

fn cells(heading: &str, counts: &Counts) -> [String; 6] {
    let [rx, forwarded, delivered, dropped, passed] = numbers(counts);
    [heading.to_owned(), rx, forwarded, delivered, dropped, passed]
}

/// Each port in two parts: what the kernel counts at the link, as `ifconfig -s` heads it, then what became of the packets
/// here.
fn ports(stats: &row::Stats, width: Option<usize>) -> String {
    let columns = [
        ("NAME", LEFT, 0),
        ("MODE", LEFT, 5),
        ("STATE", LEFT, 4),
        ("MTU", RIGHT, 9),
        ("RX-OK", RIGHT, 6),
        ("RX-BYTES", RIGHT, 7),
        ("RX-ERR", RIGHT, 3),
        ("RX-DRP", RIGHT, 3),
        ("TX-OK", RIGHT, 6),
        ("TX-BYTES", RIGHT, 7),
        ("TX-ERR", RIGHT, 3),
        ("TX-DRP", RIGHT, 3),
        ("RX", RIGHT, 0),
        ("FORWARDED", RIGHT, 0),
        ("DELIVERED", RIGHT, 0),
        ("DROPPED", RIGHT, 0),
        ("KERNEL", RIGHT, 0),
    ];
    let rows = stats.ports.iter().map(|port| {
        let link = stats.links.iter().find(|link| link.ifindex == port.ifindex);
        let counter = |counter: fn(&row::LinkRow) -> u64| dash(link.map(counter));
        let [rx, forwarded, delivered, dropped, passed] = numbers(&port.counts);
        [
            port.name.clone(),
            port.mode.clone(),
            port.state.clone(),
            port.mtu.to_string(),
            counter(|link| link.rx_packets),
            counter(|link| link.rx_bytes),
            counter(|link| link.rx_errors),
            counter(|link| link.rx_dropped),
            counter(|link| link.tx_packets),
            counter(|link| link.tx_bytes),
            counter(|link| link.tx_errors),
            counter(|link| link.tx_dropped),
            rx,
            forwarded,
            delivered,
            dropped,
            passed,
        ]
    });
    table::fitting(columns, rows, width)
}

/// Packets, packets per second, name and meaning of each reason that has counted, in the order of the manual. Reasons that
/// only a newer daemon knows come last.
fn reasons(stats: &row::Stats, rates: Option<&Rates>) -> Vec<[String; 4]> {
    let known = Reason::ALL.iter().map(|reason| (reason.name(), reason.meaning()));
    let unknown = stats.reasons.keys().map(|name| (name.as_str(), "a reason of another version"));
    let unknown = unknown.filter(|(name, _)| Reason::ALL.iter().all(|reason| reason.name() != *name));
    known
        .chain(unknown)
        .filter_map(|(name, meaning)| {
            let packets = stats.reasons.get(name).copied().filter(|packets| *packets > 0)?;
            let rate = rates.and_then(|rates| rates.reasons.get(name)).copied().unwrap_or_default();
            Some([packets.to_string(), rate.to_string(), name.to_owned(), meaning.to_owned()])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::row::{PortRow, RoutesRow};

    #[test]
    fn rates_stand_beside_counts() {
        let stats = |forwarded: u64| row::Stats {
            totals: Counts::new(forwarded, 0, 0, 0),
            reasons: [("forwarded".to_owned(), forwarded), ("of_tomorrow".to_owned(), 1)].into(),
            ports: vec![PortRow {
                name: "a".to_owned(),
                ifindex: 7,
                mode: "native".to_owned(),
                state: "up".to_owned(),
                mac: None,
                mtu: 1500,
                vlan: None,
                routes: RoutesRow::default(),
                taken: None,
                ipsec: false,
                netfilter: "none".to_owned(),
                flows: "none".to_owned(),
                header: "ethernet".to_owned(),
                layer3: None,
                switching: None,
                peer: "none".to_owned(),
                counts: Counts::new(forwarded, 0, 0, 0),
            }],
            links: vec![row::LinkRow {
                name: "a".to_owned(),
                ifindex: 7,
                rx_packets: 5000,
                rx_bytes: 100 * (forwarded + 2000),
                tx_packets: 20,
                ..row::LinkRow::default()
            }],
            mirror: MirrorRow::default(),
            heartbeat: 60,
            flows: None,
            kernel_rules: None,
        };
        let rates = Rates::between(&stats(1000), &stats(3000), Duration::from_secs(2));
        let text = text(&stats(3000), Some(&rates), Some(80));
        let want = [
            "              RX  FORWARDED  DELIVERED  DROPPED  KERNEL",
            "packets     3000       3000          0        0       0",
            "per second  1000       1000          0        0       0",
            "",
            "PACKETS  PER SECOND  REASON       MEANING",
            "   3000        1000  forwarded    Forwarded to the next hop.",
            "      1           0  of_tomorrow  a reason of another version",
            "",
            "NAME  MODE    STATE  RX-OK  TX-OK    RX  FORWARDED  DELIVERED  DROPPED  KERNEL",
            "a     native  up      5000     20  3000       3000          0        0       0",
            "",
            "PER SECOND  RX BIT/S  TX BIT/S    RX  FORWARDED  DELIVERED  DROPPED  KERNEL",
            "a              800 k         0  1000       1000          0        0       0",
        ];
        // The table of the ports is that of the golden; here it has no more than fits.
        assert_eq!(text.lines().collect::<Vec<_>>(), want);
    }
}
