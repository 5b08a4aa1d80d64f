//! `dataplane attach`, `dataplane detach` and `dataplane port`.

use clap::{Args, Subcommand, builder::PossibleValuesParser, builder::TypedValueParser as _};

use super::{
    iface,
    session::{Session, unexpected},
    table::{LEFT, RIGHT, dash, table},
};
use crate::{
    control::{
        protocol::{Data, Request, Selection},
        row::PortRow,
    },
    model::ModeChoice,
};

/// Attach to interfaces
///
/// An interface that is attached already gets the mode given. The mode in use is printed, and shown by `dataplane port list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane attach eth0 eth1\n  dataplane attach eth0 --mode native")]
pub(super) struct Attach {
    /// Names of interfaces
    #[arg(required = true, value_name = "IFACE", value_parser = iface)]
    ifaces: Vec<String>,
    /// `auto` chooses native XDP or tc, never generic XDP
    #[arg(long, default_value = "auto", value_parser = mode())]
    mode: ModeChoice,
}

fn mode() -> impl clap::builder::TypedValueParser<Value = ModeChoice> {
    PossibleValuesParser::new(["auto", "native", "generic", "tc"])
        .try_map(|name| name.parse::<ModeChoice>().map_err(|error| error.to_string()))
}

impl Attach {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        match session.call(&Request::Attach { ifaces: self.ifaces, mode: self.mode })? {
            Data::Ports(rows) if session.json => session.print(&rows, String::new),
            Data::Ports(rows) => {
                for row in rows {
                    eprintln!("{}: attached, mode {}", row.name, row.mode);
                }
                Ok(())
            }
            data => Err(unexpected(&data)),
        }
    }
}

/// Detach from interfaces: the kernel alone has them again
///
/// Traffic goes on through the kernel.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane detach eth0\n  dataplane detach --all")]
pub(super) struct Detach {
    /// Names of interfaces
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "IFACE", value_parser = iface)]
    ifaces: Vec<String>,
    /// Every attached interface
    #[arg(long)]
    all: bool,
}

impl Detach {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let selection = if self.all { Selection::All } else { Selection::Ifaces(self.ifaces) };
        session.change(&Request::Detach(selection))
    }
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  dataplane port list")]
pub(super) enum Port {
    /// List the ports with the mode in use and their packets
    #[command(after_help = "Examples:\n  dataplane port list\n  dataplane port list -j | jq '.[].mode'")]
    List,
}

impl Port {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let Self::List = self;
        match session.call(&Request::PortList)? {
            Data::Ports(rows) => session.print(&rows, || text(&rows)),
            data => Err(unexpected(&data)),
        }
    }
}

/// The state, and what the kernel keeps to itself.
fn state(row: &PortRow) -> String {
    match (&row.taken, row.ipsec) {
        (Some(by), _) => format!("{}, taken by {by}", row.state),
        (None, true) => format!("{}, some IPsec", row.state),
        (None, false) => row.state.clone(),
    }
}

/// The table of `port list`; `stats` has it too.
pub(super) fn text(rows: &[PortRow]) -> String {
    let columns = [
        ("NAME", LEFT),
        ("IFINDEX", RIGHT),
        ("MODE", LEFT),
        ("STATE", LEFT),
        ("MAC", LEFT),
        ("MTU", RIGHT),
        ("VLAN", RIGHT),
        ("RX", RIGHT),
        ("FORWARDED", RIGHT),
        ("DELIVERED", RIGHT),
        ("DROPPED", RIGHT),
        ("PASSED", RIGHT),
    ];
    let rows = rows.iter().map(|row| {
        [
            row.name.clone(),
            row.ifindex.to_string(),
            row.mode.clone(),
            state(row),
            dash(row.mac.as_ref()),
            row.mtu.to_string(),
            dash(row.vlan),
            row.counts.rx.to_string(),
            row.counts.forwarded.to_string(),
            row.counts.delivered.to_string(),
            row.counts.dropped.to_string(),
            row.counts.passed.to_string(),
        ]
    });
    table(columns, rows)
}
