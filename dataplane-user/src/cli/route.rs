//! `dataplane route`.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use dataplane_common::Reason;

use super::{
    address, iface,
    route_filter::{GRAMMAR, RouteFilter},
    session::{Session, unexpected},
    usage,
};
use crate::control::{
    protocol::{Data, Failure, FailureKind, Request},
    row::{DecisionRow, RouteRow, Table},
};

/// Protocol of routes added here (`RTA_PROTOCOL`): a number that `/etc/iproute2/rt_protos` does not use.
const PROTOCOL: u8 = 218;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  dataplane route list\n  dataplane route get 198.18.1.2 from 198.18.0.2 iif eth0")]
pub(super) enum Route {
    /// List the mirrored routes, as `ip route` does
    #[command(
        visible_alias = "show",
        aliases = ["ls", "lst"],
        override_usage = format!("dataplane route list [OPTIONS]\n         {}", GRAMMAR.replacen(" [dev", "\n         [dev", 1)),
        after_help = "Examples:\n  dataplane route list\n  dataplane route list 198.18.1.0/24\n  dataplane -6 route list default -j\n  \
                      dataplane route list match 198.18.1.2 dev eth0"
    )]
    List {
        /// Which routes: to a prefix, within one (`root`), or covering an address (`match`); of a device, router, protocol, table
        #[arg(value_name = "WORDS")]
        words: Vec<String>,
    },
    /// Show the verdict on a packet to an address, with next hop and reason
    #[command(
        override_usage = "dataplane route get [OPTIONS] ADDR [from ADDR] [iif IFACE]",
        after_help = "Examples:\n  dataplane route get 198.18.1.2\n  dataplane route get 2001:db8:1::2 from 2001:db8::2 iif eth0"
    )]
    Get {
        /// Destination address
        #[arg(value_name = "ADDR", value_parser = address)]
        addr: IpAddr,
        /// `from ADDR`: the source address; `iif IFACE`: the port that the packet comes in on
        #[arg(value_name = "from ADDR | iif IFACE")]
        words: Vec<String>,
    },
    /// Add a route to the kernel's table, as `ip route add` does
    ///
    /// The route is added to the kernel's table, with protocol 218 unless `proto` names another.
    #[command(
        after_help = "Examples:\n  dataplane route add 203.0.113.0/24 via 198.18.1.2\n  dataplane route add blackhole 2001:db8:bad::/48"
    )]
    Add {
        /// The route, in the grammar of `ip route`
        #[arg(required = true, value_name = "ROUTE")]
        words: Vec<String>,
    },
    /// Add a route to the kernel's table, or change the one that is there, as `ip route replace` does
    ///
    /// With protocol 218 unless `proto` names another.
    #[command(
        visible_alias = "change",
        after_help = "Example:\n  dataplane route replace 203.0.113.0/24 via 198.18.1.3"
    )]
    Replace {
        /// The route, in the grammar of `ip route`
        #[arg(required = true, value_name = "ROUTE")]
        words: Vec<String>,
    },
    /// Delete a route from the kernel's table
    ///
    /// Only a route of protocol 218, unless `proto` names another: routes of routing daemons stay.
    #[command(
        visible_alias = "delete",
        after_help = "Examples:\n  dataplane route del 203.0.113.0/24\n  dataplane route del 203.0.113.0/24 proto static"
    )]
    Del {
        /// The route, in the grammar of `ip route`
        #[arg(required = true, value_name = "ROUTE")]
        words: Vec<String>,
    },
}

impl Route {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let request = match self {
            Self::List { words } => return list(session, &words),
            Self::Get { addr, words } => get(addr, &words).map_err(usage)?,
            Self::Add { words } => return change(session, "add", &words),
            Self::Replace { words } => return change(session, "replace", &words),
            Self::Del { words } => return change(session, "del", &words),
        };
        match session.call(&request)? {
            Data::Decision(row) => session.print(&row, || decision_text(&row)),
            data => Err(unexpected(&data)),
        }
    }
}

fn list(session: &Session, words: &[String]) -> anyhow::Result<()> {
    let filter = RouteFilter::read(words, session.v4, prefix).map_err(usage)?;
    match session.call(&Request::RouteList { prefix: filter.exact.clone(), table: filter.table })? {
        Data::Routes(mut rows) => {
            rows.retain(|row| filter.fits(row));
            session.print(&rows, || rows.iter().map(route_text).collect())
        }
        data => Err(unexpected(&data)),
    }
}

/// Changes the kernel's table in the daemon's network namespace. `ip` knows its own grammar best.
fn change(session: &Session, verb: &str, words: &[String]) -> anyhow::Result<()> {
    let mut command = session.beside_daemon("ip")?;
    command.args(["route", verb]).args(words);
    if !words.iter().any(|word| ["proto", "protocol"].contains(&word.as_str())) {
        command.args(["proto", &PROTOCOL.to_string()]);
    }
    let output = command.output().context("cannot run `ip`; install iproute2")?;
    let said = String::from_utf8_lossy(&output.stderr);
    match (output.status.success(), output.status.code()) {
        (true, _) => Ok(()),
        // `ip` tells apart what it does not understand (1, 255) and what the kernel refuses (2).
        (false, Some(2)) if said.contains("No such process") => {
            let text = format!("no route `{}` of protocol {PROTOCOL}; `ip route` lists all", words.join(" "));
            Err(Failure::new(FailureKind::NotFound, text).into())
        }
        (false, Some(2)) => bail!("the kernel refuses `ip route {verb} {}`: {}", words.join(" "), said.trim()),
        (false, _) => Err(usage(format!("`ip route {verb} {}`: {}", words.join(" "), said.trim()))),
    }
}

/// The keywords of `route get`, each at most once, in any order.
fn get(addr: IpAddr, words: &[String]) -> Result<Request, String> {
    let (mut from, mut iif) = (None, None);
    let mut words = words.iter();
    while let Some(keyword) = words.next() {
        let value = || format!("'{keyword}' needs a value after it");
        match keyword.as_str() {
            "from" if from.is_none() => {
                let text = words.clone().next().ok_or_else(value)?;
                let source: IpAddr = text.parse().map_err(|_| format!("'{text}' after 'from' is not an address"))?;
                if source.is_ipv4() != addr.is_ipv4() {
                    return Err(format!("{addr} and {source} are not of the same family"));
                }
                from = Some(source);
            }
            "iif" if iif.is_none() => {
                let text = words.clone().next().ok_or_else(value)?;
                iif = Some(iface(text).map_err(|error| format!("'{text}' after 'iif': {error}"))?);
            }
            "from" | "iif" => return Err(format!("'{keyword}' is given twice")),
            _ => return Err(format!("'{keyword}' is not known here; the grammar is: ADDR [from ADDR] [iif IFACE]")),
        }
        words.next();
    }
    Ok(Request::RouteGet { addr, from, iif })
}

/// A prefix in its canonical form; a bare address stands for itself alone.
fn prefix(text: &str) -> Result<String, String> {
    let (addr, len) = text.split_once('/').map_or((text, None), |(addr, len)| (addr, Some(len)));
    let addr: IpAddr = addr.parse().map_err(|_| {
        "expected ADDR or ADDR/LEN, such as 198.18.0.0/24; the default routes are 0.0.0.0/0 and ::/0".to_owned()
    })?;
    let (width, bits) = match addr {
        IpAddr::V4(addr) => (32, u128::from(addr.to_bits()) << 96),
        IpAddr::V6(addr) => (128, addr.to_bits()),
    };
    let len = match len {
        None => width,
        Some(len) => {
            len.parse().ok().filter(|len| *len <= width).ok_or(format!("the length is a number from 0 to {width}"))?
        }
    };
    if bits.checked_shl(len).unwrap_or(0) != 0 {
        return Err(format!("{addr} has bits set after the first {len}"));
    }
    Ok(format!("{addr}/{len}"))
}

/// One line in the grammar of `ip route`.
fn route_text(row: &RouteRow) -> String {
    let kind = if row.kind == "unicast" { String::new() } else { format!("{} ", row.kind) };
    let mut text = format!("{kind}{}", row.dst);
    for hop in &row.nexthops {
        // Writing to a string cannot fail.
        if row.nexthops.len() > 1 {
            text.push_str(" nexthop");
        }
        // ip-route(8): a router of the other family is named with its family.
        let foreign = matches!(hop.via, Some(IpAddr::V6(_))) && !row.dst.contains(':');
        text.push_str(&way(hop.via, hop.dev.as_deref(), foreign));
        if row.nexthops.len() > 1 {
            let _ = write!(text, " weight {}", hop.weight);
        }
    }
    if let Some(mtu) = row.mtu {
        let _ = write!(text, " mtu {mtu}");
    }
    text.push('\n');
    text
}

fn way(via: Option<IpAddr>, dev: Option<&str>, foreign: bool) -> String {
    let family = if foreign { "inet6 " } else { "" };
    let via = via.map_or_else(String::new, |via| format!(" via {family}{via}"));
    let dev = dev.map_or_else(String::new, |dev| format!(" dev {dev}"));
    format!("{via}{dev}")
}

/// The route as `ip route get` shows it, then the reason.
fn decision_text(row: &DecisionRow) -> String {
    let lladdr = row.lladdr.as_ref().map_or_else(String::new, |lladdr| format!(" lladdr {lladdr}"));
    let prefix = row.prefix.as_ref().map_or_else(String::new, |prefix| format!(" prefix {prefix}"));
    let table = match row.table {
        Table::Mirror => "mirror",
        Table::Kernel => "kernel",
    };
    let meaning = Reason::ALL.iter().find(|reason| reason.name() == row.reason).map_or("", |reason| reason.meaning());
    format!(
        "{} {}{}{lladdr}{prefix} table {table}\n    {}: {meaning}\n",
        row.verdict,
        row.dst,
        way(row.via, row.dev.as_deref(), row.dst.is_ipv4() && row.via.is_some_and(|via| via.is_ipv6())),
        row.reason,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let rows = [
            ("198.18.0.0/15", Some("198.18.0.0/15")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("::/0", Some("::/0")),
            ("198.18.0.1", Some("198.18.0.1/32")),
            ("2001:DB8:0:0::/32", Some("2001:db8::/32")),
            ("2001:db8::1", Some("2001:db8::1/128")),
            ("198.18.0.1/24", None),
            ("2001:db8::1/127", None),
            ("198.18.0.0/33", None),
            ("::/129", None),
            ("::/-1", None),
            ("eth0", None),
            ("", None),
        ];
        for (text, want) in rows {
            assert_eq!(prefix(text).ok().as_deref(), want, "{text}");
        }
    }

    #[test]
    fn keywords_of_get() {
        let (v4, v6): (IpAddr, IpAddr) = ("198.18.0.2".parse().expect("v4"), "2001:db8::2".parse().expect("v6"));
        let rows = [
            (v4, "", Ok((None, None))),
            (v4, "from 198.18.0.2", Ok((Some(v4), None))),
            (v6, "iif eth0 from 2001:db8::2", Ok((Some(v6), Some("eth0")))),
            (v4, "iif from", Ok((None, Some("from")))),
            (v4, "from", Err("needs a value")),
            (v4, "from eth0", Err("not an address")),
            (v4, "from 2001:db8::2", Err("family")),
            (v4, "iif eth0 iif eth1", Err("twice")),
            (v4, "iif a/b", Err("after 'iif'")),
            (v4, "oif eth0", Err("'oif' is not known")),
        ];
        for (addr, words, want) in rows {
            let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
            match (get(addr, &words), want) {
                (Ok(found), Ok((from, iif))) => {
                    assert_eq!(found, Request::RouteGet { addr, from, iif: iif.map(str::to_owned) }, "{words:?}");
                }
                (Err(found), Err(want)) => assert!(found.contains(want), "{words:?}: {found}"),
                (found, _) => panic!("{words:?}: {found:?}"),
            }
        }
    }
}
