//! `dataplane metrics`.

use clap::Args;

use super::session::{Session, unexpected};
use crate::control::{
    plain::plain,
    protocol::{Data, Request},
};

/// Print counters and states as OpenMetrics text
///
/// Each port has a series for every reason; the first thousand rules have packets and bytes. With -j the text is one string.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dataplane metrics\n  dataplane metrics --plain | promtool check metrics\n  dataplane metrics | grep ^dataplane_rule"
)]
pub(super) struct Metrics {
    /// Print the older Prometheus text format, which node_exporter and promtool read
    #[arg(long)]
    plain: bool,
}

impl Metrics {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        match session.call(&Request::Metrics)? {
            Data::Metrics(text) => {
                let text = if self.plain { plain(&text) } else { text };
                session.print(&text, || text.clone())
            }
            data => Err(unexpected(&data)),
        }
    }
}
