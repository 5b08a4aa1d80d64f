//! `dataplane neigh`.

use clap::Subcommand;

use super::{
    iface,
    session::{Session, unexpected},
};
use crate::control::{
    protocol::{Data, Request},
    row::NeighbourRow,
};

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  dataplane neigh list")]
pub(super) enum Neigh {
    /// List the neighbours, as `ip neigh` does
    #[command(
        visible_alias = "show",
        aliases = ["ls", "lst"],
        after_help = "Examples:\n  dataplane neigh list\n  dataplane -4 neigh list eth0 -j"
    )]
    List {
        /// Only those on this interface
        #[arg(value_name = "IFACE", value_parser = iface)]
        iface: Option<String>,
    },
}

impl Neigh {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let Self::List { iface } = self;
        match session.call(&Request::NeighList)? {
            Data::Neighbours(mut rows) => {
                rows.retain(|row| session.is_listed(row.dst) && iface.as_ref().is_none_or(|iface| row.dev == *iface));
                session.print(&rows, || rows.iter().map(text).collect())
            }
            data => Err(unexpected(&data)),
        }
    }
}

fn text(row: &NeighbourRow) -> String {
    let lladdr = row.lladdr.as_ref().map_or_else(String::new, |lladdr| format!(" lladdr {lladdr}"));
    format!("{} dev {}{lladdr} {}\n", row.dst, row.dev, row.state.to_uppercase())
}
