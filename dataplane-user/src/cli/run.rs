//! `dataplane run`.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::journal::{self, Journal};
use crate::{daemon, kernel::BPFFS};

/// Run the daemon in the foreground
///
/// Without a config it attaches nothing and drops nothing. SIGTERM stops the daemon and leaves the data plane forwarding;
/// the next daemon adopts it. The log goes to stderr; `RUST_LOG` sets its level.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane run\n  dataplane run --config /etc/dataplane.toml\n  \
                        dataplane run --user dataplane --bpffs /run/dataplane-bpffs\n  \
                        dataplane run --socket /run/b.sock --state /var/lib/b --bpffs /sys/fs/bpf/b")]
pub(super) struct Run {
    /// Config to start with, in place of the remembered one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Config of the first start, if there is no remembered one
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    first_config: Option<PathBuf>,
    /// Run as this user; missing directories are made for it
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Directory of the state that survives a restart
    #[arg(long, value_name = "DIR", default_value = "/var/lib/dataplane")]
    state: PathBuf,
    /// Directory in which maps and links are pinned; each daemon needs its own
    #[arg(long, value_name = "DIR", default_value = BPFFS)]
    bpffs: PathBuf,
}

impl Run {
    pub(super) fn dispatch(self, socket: PathBuf) -> anyhow::Result<()> {
        let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new("info"))?;
        let stderr = io::stderr();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        if journal::is_journal() {
            log.event_format(Journal).init();
        } else {
            log.with_ansi(stderr.is_terminal()).init();
        }
        let Self { config, first_config, user, state, bpffs } = self;
        daemon::run(&daemon::Options { config, first_config, user, socket, state, bpffs })
    }
}
