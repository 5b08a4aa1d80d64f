//! `dataplane completions` and `dataplane man`.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, reason, session};

/// Print the completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane completions bash >/etc/bash_completion.d/dataplane\n  \
                        dataplane completions zsh >/usr/local/share/zsh/site-functions/_dataplane")]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn dispatch(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "dataplane", &mut script);
        session::print(&String::from_utf8(script)?)
    }
}

/// Write the manual pages into a directory
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dataplane man /usr/local/share/man/man1")]
pub(super) struct Man {
    /// Made if it does not exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub(super) fn dispatch(self) -> anyhow::Result<()> {
        let directory = &self.directory;
        fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
            .and_then(|()| fs::write(directory.join("dataplane-reasons.7"), reason::page()))
            .with_context(|| format!("cannot write manual pages into {}", directory.display()))
    }
}
