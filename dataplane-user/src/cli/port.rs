//! `dataplane port`, with `dataplane attach` and `dataplane detach` as short forms.

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

/// Attach the programs to interfaces
///
/// An interface that is already attached changes to the given mode. The mode in use is printed; `dataplane port list` shows it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane port attach eth0 eth1\n  dataplane attach eth0 --mode native")]
pub(super) struct Attach {
    /// Interface names
    #[arg(required = true, value_name = "IFACE", value_parser = iface)]
    ifaces: Vec<String>,
    /// Which programs run; `auto` chooses native XDP or tc, never generic XDP
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

/// Detach the programs from interfaces
///
/// Traffic continues through the kernel, without the rules of `dataplane`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane port detach eth0\n  dataplane detach --all")]
pub(super) struct Detach {
    /// Interface names
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "IFACE", value_parser = iface)]
    ifaces: Vec<String>,
    /// All attached interfaces
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
#[command(
    after_help = "Examples:\n  dataplane port list\n  dataplane port attach eth0 eth1\n  dataplane port detach eth0"
)]
pub(super) enum Port {
    /// List the ports with the mode in use and their packets
    #[command(after_help = "Examples:\n  dataplane port list\n  dataplane port list -j | jq '.[].mode'")]
    List,
    Attach(Attach),
    Detach(Detach),
}

impl Port {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Attach(attach) => return attach.dispatch(session),
            Self::Detach(detach) => return detach.dispatch(session),
            Self::List => {}
        }
        match session.call(&Request::PortList)? {
            Data::Ports(rows) => session.print(&rows, || text(&rows)),
            data => Err(unexpected(&data)),
        }
    }
}

/// The state of a port, and what is left to the kernel.
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
        ("KERNEL", RIGHT),
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
