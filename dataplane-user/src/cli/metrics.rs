//! `dataplane metrics`.

use clap::Args;

use super::session::{Session, unexpected};
use crate::control::protocol::{Data, Request};

/// Print counters and states as OpenMetrics text
///
/// Of ports every reason is there, of rules the first thousand. With -j the text is one string.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane metrics\n  dataplane metrics | grep ^dataplane_rule")]
pub(super) struct Metrics {}

impl Metrics {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        match session.call(&Request::Metrics)? {
            Data::Metrics(text) => session.print(&text, || text.clone()),
            data => Err(unexpected(&data)),
        }
    }
}
