//! `dataplane flow`.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    session::{self, Session, unexpected},
    table::{LEFT, RIGHT, table},
    units::interval,
};
use crate::{
    control::{
        flow::{FlowRow, TupleRow, WayRow},
        protocol::{Data, Request},
    },
    flow::WORDS,
};

/// Rows of a list unless more are asked for.
const LIMIT: u32 = 10_000;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  dataplane flow list\n  dataplane flow del saddr 198.18.0.2")]
pub(super) enum Flow {
    List(List),
    Del(Del),
    /// Send all connections through the kernel once
    ///
    /// Each comes back with its first packet that netfilter lets through. No connection is ended.
    #[command(after_help = "Example:\n  dataplane flow flush")]
    Flush,
    Top(Top),
}

/// List connections, and how each of their directions is carried
#[derive(Debug, Args)]
#[command(
    visible_alias = "show",
    aliases = ["ls", "lst"],
    after_help = "Examples:\n  dataplane flow list\n  dataplane flow list dport 443 state fast -j\n  dataplane flow list --why-not"
)]
pub(super) struct List {
    /// Pairs of a word and a value, all of which must hold
    #[arg(value_name = "FILTER", long_help = format!("Pairs of a word and a value, all of which must hold: {WORDS}"))]
    filter: Vec<String>,
    /// Also those that the kernel alone carries, with the reasons
    #[arg(long)]
    why_not: bool,
    /// So many rows at most
    #[arg(long, value_name = "ROWS", default_value_t = LIMIT)]
    limit: u32,
}

/// Have the kernel forget connections
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dataplane flow del saddr 198.18.0.2 dport 443 proto tcp")]
pub(super) struct Del {
    /// As in `flow list`
    #[arg(value_name = "FILTER", required = true)]
    filter: Vec<String>,
}

/// Show the connections that carry the most packets
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane flow top\n  dataplane flow top --count 1 -j")]
pub(super) struct Top {
    /// As in `flow list`
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// Time between two looks, such as 1, 0.5 or 2m
    #[arg(long, value_name = "TIME", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Connections that are shown
    #[arg(long, value_name = "ROWS", default_value_t = 20)]
    rows: usize,
    /// End after so many looks
    #[arg(long, value_name = "LOOKS")]
    count: Option<u64>,
}

impl Flow {
    /// What the object alone means.
    pub(super) const fn listing() -> Self {
        Self::List(List { filter: Vec::new(), why_not: false, limit: LIMIT })
    }

    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List(List { filter, why_not, limit }) => {
                let mut rows = list(session, &filter, why_not, limit)?;
                rows.retain(|row| session.is_listed(row.original.saddr));
                session.print(&rows, || text(&rows))
            }
            Self::Del(Del { filter }) => match session.call(&Request::FlowDel { filter: filter.join(" ") })? {
                Data::Deleted(deleted) => session.print(&Deleted { deleted }, || format!("deleted {deleted}\n")),
                data => Err(unexpected(&data)),
            },
            Self::Flush => session.change(&Request::FlowFlush),
            Self::Top(top) => top.run(session),
        }
    }
}

#[derive(Serialize)]
struct Deleted {
    deleted: u64,
}

fn list(session: &Session, filter: &[String], why_not: bool, limit: u32) -> anyhow::Result<Vec<FlowRow>> {
    match session.call(&Request::FlowList { filter: filter.join(" "), why_not, limit })? {
        Data::Flows(rows) => Ok(rows),
        data => Err(unexpected(&data)),
    }
}

fn text(rows: &[FlowRow]) -> String {
    let columns = [
        ("PROTO", LEFT),
        ("SOURCE", LEFT),
        ("DESTINATION", LEFT),
        ("TRANSLATED", LEFT),
        ("STATE", LEFT),
        ("FORTH", LEFT),
        ("BACK", LEFT),
        ("PACKETS", RIGHT),
        ("WHY", LEFT),
    ];
    table(columns, rows.iter().map(cells))
}

fn cells(row: &FlowRow) -> [String; 9] {
    let way = |way: &Option<WayRow>| way.as_ref().map_or_else(String::new, ToString::to_string);
    [
        row.proto.clone(),
        end(row.original.saddr, row.original.sport),
        end(row.original.daddr, row.original.dport),
        translated(&row.original, &row.reply),
        row.state.clone(),
        way(&row.forth),
        way(&row.back),
        row.packets.to_string(),
        row.why.clone().unwrap_or_default(),
    ]
}

fn end(address: std::net::IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// What the source and the destination become, where that is something else.
fn translated(original: &TupleRow, reply: &TupleRow) -> String {
    let mut parts = Vec::new();
    if (reply.daddr, reply.dport) != (original.saddr, original.sport) {
        parts.push(format!("from {}", end(reply.daddr, reply.dport)));
    }
    if (reply.saddr, reply.sport) != (original.daddr, original.dport) {
        parts.push(format!("to {}", end(reply.saddr, reply.sport)));
    }
    parts.join(" ")
}

/// A connection with its rate.
#[derive(Serialize)]
struct Rated {
    per_second: u64,
    #[serde(flatten)]
    row: FlowRow,
}

impl Top {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        let interval = self.interval;
        let look = || anyhow::Ok((list(session, &self.filter, false, u32::MAX)?, Instant::now()));
        let mut before = look()?;
        let mut looks = 0;
        loop {
            thread::sleep(interval.saturating_sub(before.1.elapsed()));
            let now = look()?;
            let mut rated = rated(&before.0, &now.0, now.1 - before.1);
            rated.truncate(self.rows);
            if !session.json && io::stdout().is_terminal() {
                // Home, and clear what is below.
                session::print("\x1b[H\x1b[J")?;
            }
            session.print(&rated, || busiest(&rated))?;
            looks += 1;
            if self.count == Some(looks) {
                return Ok(());
            }
            before = now;
        }
    }
}

/// The rates of connections between two looks, the busiest first.
fn rated(before: &[FlowRow], now: &[FlowRow], time: Duration) -> Vec<Rated> {
    let key = |row: &FlowRow| (row.proto == "tcp", row.zone, row.original);
    let earlier: HashMap<_, _> = before.iter().map(|row| (key(row), row.packets)).collect();
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = |row: &FlowRow| {
        // One that is new, or has other rows now, began at zero.
        let known = earlier.get(&key(row)).copied().filter(|known| *known <= row.packets);
        let packets = row.packets - known.unwrap_or_default();
        Rated { per_second: packets.saturating_mul(1000) / milliseconds, row: row.clone() }
    };
    let mut rated: Vec<_> = now.iter().map(rate).collect();
    rated.sort_by_key(|rated| std::cmp::Reverse((rated.per_second, rated.row.packets)));
    rated
}

fn busiest(rows: &[Rated]) -> String {
    let columns = [
        ("PER SECOND", RIGHT),
        ("PACKETS", RIGHT),
        ("PROTO", LEFT),
        ("SOURCE", LEFT),
        ("DESTINATION", LEFT),
        ("TRANSLATED", LEFT),
        ("STATE", LEFT),
    ];
    table(
        columns,
        rows.iter().map(|rated| {
            let [proto, source, destination, translated, state, _, _, packets, _] = cells(&rated.row);
            [rated.per_second.to_string(), packets, proto, source, destination, translated, state]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(port: u16, packets: u64) -> FlowRow {
        let tuple = |saddr: &str, sport, daddr: &str, dport| TupleRow {
            saddr: saddr.parse().expect("an address"),
            sport,
            daddr: daddr.parse().expect("an address"),
            dport,
        };
        FlowRow {
            proto: "udp".to_owned(),
            original: tuple("198.18.0.2", port, "198.18.1.2", 53),
            reply: tuple("198.18.1.2", 53, "198.18.1.1", port),
            zone: 0,
            mark: 0,
            status: Vec::new(),
            state: "fast".to_owned(),
            reason: None,
            why: None,
            age_ms: None,
            packets,
            forth: None,
            back: None,
        }
    }

    #[test]
    fn the_busiest_come_first() {
        let before = [row(1, 1000), row(2, 500), row(3, 900)];
        let now = [row(1, 1100), row(2, 2500), row(3, 40), row(4, 10)];
        let rated = rated(&before, &now, Duration::from_secs(2));
        let found: Vec<_> = rated.iter().map(|rated| (rated.row.original.sport, rated.per_second)).collect();
        assert_eq!(found, [(2, 1000), (1, 50), (3, 20), (4, 5)]);
    }

    #[test]
    fn translation_is_said_where_there_is_one() {
        let mut row = row(7, 0);
        assert_eq!(translated(&row.original, &row.reply), "from 198.18.1.1:7");
        row.reply.saddr = "203.0.113.9".parse().expect("an address");
        assert_eq!(translated(&row.original, &row.reply), "from 198.18.1.1:7 to 203.0.113.9:53");
        row.reply = TupleRow { saddr: row.original.daddr, sport: 53, daddr: row.original.saddr, dport: 7 };
        assert_eq!(translated(&row.original, &row.reply), "");
    }
}
