//! `dataplane socket`.

use std::net::IpAddr;

use clap::{Args, Subcommand};

use super::{
    process::Processes,
    session::{Session, unexpected},
    table::{LEFT, RIGHT, dash, table},
    usage,
};
use crate::control::{
    open_socket::{ProcessRow, SocketRow},
    protocol::{Data, Request},
};

/// What a filter is made of.
const WORDS: &str = "proto tcp|udp|raw, addr ADDR, port PORT, dev IFACE, process NAME, pid PID, unit UNIT, user UID, \
                     filter yes|no|some";

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  dataplane socket list")]
pub(super) enum Socket {
    List(List),
}

/// List the sockets that take packets, and whether the filter lets these in
///
/// Column FILTER says for the attached ports whether chains prerouting and input let in a packet of a new sender: yes, no,
/// or some, where it depends on the sender or a limit. Sockets of other network namespaces, such as those of containers,
/// are not seen.
#[derive(Debug, Args)]
#[command(
    visible_alias = "show",
    aliases = ["ls", "lst"],
    after_help = "Examples:\n  dataplane socket list\n  dataplane socket list proto tcp port 443 -j\n  dataplane socket list process nginx filter no"
)]
pub(super) struct List {
    /// Pairs of a word and a value, all of which must hold
    #[arg(value_name = "FILTER", long_help = format!("Pairs of a word and a value, all of which must hold: {WORDS}"))]
    filter: Vec<String>,
}

impl Socket {
    /// What the object alone means.
    pub(super) const fn listing() -> Self {
        Self::List(List { filter: Vec::new() })
    }

    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let Self::List(List { filter }) = self;
        let filter = parse(&filter.join(" ")).map_err(usage)?;
        match session.call(&Request::SocketList)? {
            Data::Sockets(mut rows) => {
                let mut processes = Processes::default();
                for row in &mut rows {
                    processes.complete_row(row);
                }
                let family = session.v4.map(|v4| if v4 { "ipv4" } else { "ipv6" });
                rows.retain(|row| {
                    let listed = family.is_none_or(|family| row.families.iter().any(|one| one == family));
                    listed && filter.iter().all(|term| term.takes(row))
                });
                session.print(&rows, || text(&rows))
            }
            data => Err(unexpected(&data)),
        }
    }
}

/// One pair of a filter.
#[derive(Debug, PartialEq, Eq)]
enum Term {
    Protocol(String),
    Address(IpAddr),
    Port(u16),
    Device(String),
    Process(String),
    Pid(u32),
    Unit(String),
    User(u32),
    Filter(String),
}

impl Term {
    fn takes(&self, row: &SocketRow) -> bool {
        let any = |fits: &dyn Fn(&ProcessRow) -> bool| row.processes.iter().any(fits);
        match self {
            Self::Protocol(protocol) => row.proto == *protocol,
            Self::Address(address) => row.address == *address,
            Self::Port(port) => row.port == Some(*port),
            Self::Device(dev) => row.dev.as_ref() == Some(dev),
            Self::Process(name) => any(&|process| process.name == *name),
            Self::Pid(pid) => any(&|process| process.pid == *pid),
            Self::Unit(unit) => any(&|process| {
                process.unit.as_ref().is_some_and(|own| own == unit || own.strip_suffix(".service") == Some(unit))
            }),
            Self::User(uid) => row.uid == *uid,
            Self::Filter(word) => row.filter.values().any(|port| port.as_ref() == Some(word)),
        }
    }
}

fn parse(text: &str) -> Result<Vec<Term>, String> {
    let mut words = text.split_whitespace();
    let mut terms = Vec::new();
    while let Some(word) = words.next() {
        if ["tcp", "udp", "raw"].contains(&word) {
            terms.push(Term::Protocol(word.to_owned()));
            continue;
        }
        let value = words.next().ok_or_else(|| format!("`{word}` has no value; there are: {WORDS}"))?;
        terms.push(term(word, value)?);
    }
    Ok(terms)
}

fn term(word: &str, value: &str) -> Result<Term, String> {
    let wrong = |what: &str| format!("`{value}` behind `{word}` is not {what}");
    let own = value.to_owned();
    Ok(match word {
        "proto" if ["tcp", "udp", "raw"].contains(&value) => Term::Protocol(own),
        "proto" => return Err(wrong("tcp, udp or raw")),
        "addr" => Term::Address(value.parse().map_err(|_| wrong("an address, such as 0.0.0.0 or ::1"))?),
        "port" => Term::Port(value.parse().map_err(|_| wrong("a port from 0 to 65535"))?),
        "dev" => Term::Device(own),
        "process" => Term::Process(own),
        "pid" => Term::Pid(value.parse().map_err(|_| wrong("the number of a process"))?),
        "unit" => Term::Unit(own),
        "user" => Term::User(value.parse().map_err(|_| wrong("the number of a user"))?),
        "filter" if ["yes", "no", "some"].contains(&value) => Term::Filter(own),
        "filter" => return Err(wrong("yes, no or some")),
        _ => return Err(format!("`{word}` is not a word of this filter; there are: {WORDS}")),
    })
}

fn text(rows: &[SocketRow]) -> String {
    let columns =
        [("PROTO", LEFT), ("LOCAL", LEFT), ("SOCKETS", RIGHT), ("PROCESS", LEFT), ("UNIT", LEFT), ("FILTER", LEFT)];
    table(columns, rows.iter().map(cells))
}

fn cells(row: &SocketRow) -> [String; 6] {
    let both = row.families.len() > 1;
    let address = match row.address {
        // As ss(8) has it.
        IpAddr::V6(address) if both && address.is_unspecified() => "*".to_owned(),
        IpAddr::V6(address) => format!("[{address}]"),
        IpAddr::V4(address) => address.to_string(),
    };
    let dev = row.dev.as_ref().map(|dev| format!("%{dev}")).unwrap_or_default();
    let port = row.port.map_or_else(|| format!("protocol {}", row.protocol), |port| port.to_string());
    let mut units: Vec<_> = row.processes.iter().filter_map(|process| process.unit.as_deref()).collect();
    units.dedup();
    let units = if units.is_empty() { dash(None::<&str>) } else { units.join(",") };
    [row.proto.clone(), format!("{address}{dev}:{port}"), row.sockets.to_string(), processes(row), units, filter(row)]
}

/// `nginx 812,813`, processes of one name together.
fn processes(row: &SocketRow) -> String {
    let mut names: Vec<(&str, Vec<String>)> = Vec::new();
    for process in &row.processes {
        match names.iter_mut().find(|(name, _)| *name == process.name) {
            Some((_, pids)) => pids.push(process.pid.to_string()),
            None => names.push((&process.name, vec![process.pid.to_string()])),
        }
    }
    let words: Vec<_> = names.iter().map(|(name, pids)| format!("{name} {}", pids.join(","))).collect();
    if words.is_empty() { dash(None::<&str>) } else { words.join("; ") }
}

/// One word where it is the same for all ports.
fn filter(row: &SocketRow) -> String {
    let word = |port: &Option<String>| dash(port.as_deref());
    let mut words: Vec<_> = row.filter.values().map(word).collect();
    words.dedup();
    match words.as_slice() {
        [] => dash(None::<&str>),
        [one] => one.clone(),
        _ => row
            .filter
            .iter()
            .map(|(port, admission)| format!("{port} {}", word(admission)))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read() {
        for (text, want) in [
            ("", Some(vec![])),
            ("tcp port 22", Some(vec![Term::Protocol("tcp".to_owned()), Term::Port(22)])),
            (
                "addr ::1 filter no",
                Some(vec![Term::Address("::1".parse().expect("v6")), Term::Filter("no".to_owned())]),
            ),
            ("unit ssh pid 7", Some(vec![Term::Unit("ssh".to_owned()), Term::Pid(7)])),
            ("port", None),
            ("port x", None),
            ("proto icmp", None),
            ("filter maybe", None),
            ("colour blue", None),
        ] {
            assert_eq!(parse(text).ok(), want, "{text}");
        }
    }
}
