//! `dataplane neigh`.

use clap::Subcommand;

use super::session::{Session, unexpected};
use crate::control::{
    protocol::{Data, Request},
    row::NeighbourRow,
};

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  dataplane neigh list")]
pub(super) enum Neigh {
    /// List the neighbours, as `ip neigh` does
    #[command(after_help = "Examples:\n  dataplane neigh list\n  dataplane neigh list -j")]
    List,
}

impl Neigh {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let Self::List = self;
        match session.call(&Request::NeighList)? {
            Data::Neighbours(rows) => session.print(&rows, || rows.iter().map(text).collect()),
            data => Err(unexpected(&data)),
        }
    }
}

fn text(row: &NeighbourRow) -> String {
    let lladdr = row.lladdr.as_ref().map_or_else(String::new, |lladdr| format!(" lladdr {lladdr}"));
    format!("{} dev {}{lladdr} {}\n", row.dst, row.dev, row.state.to_uppercase())
}
