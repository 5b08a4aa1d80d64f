//! `dataplane completions` and `dataplane man`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, reason, session};

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane completions bash >/etc/bash_completion.d/dataplane\n  \
                        dataplane completions zsh >/usr/local/share/zsh/site-functions/_dataplane")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn dispatch(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "dataplane", &mut script);
        session::print(&String::from_utf8(script)?)
    }
}

/// Write the manual pages to a directory
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dataplane man /usr/local/share/man/man1")]
pub(super) struct Man {
    /// The directory; it is made if it does not exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Writes the page of a command and those of its verbs.
fn pages(command: &clap::Command, directory: &Path) -> io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages(verb, directory)?;
    }
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(directory.join(page.get_filename()), with_examples(&String::from_utf8_lossy(&text)))
}

/// `clap_mangen` puts what stands behind the help, the examples, under the heading EXTRA.
fn with_examples(page: &str) -> String {
    page.replace("\n.SH EXTRA\n", "\n.SH EXAMPLES\n")
}

impl Man {
    pub(super) fn dispatch(self) -> anyhow::Result<()> {
        let directory = &self.directory;
        fs::create_dir_all(directory)
            .and_then(|()| {
                let mut command = Cli::command().disable_help_subcommand(true);
                command.build();
                pages(&command, directory)
            })
            .and_then(|()| fs::write(directory.join("dataplane-reasons.7"), reason::page()))
            .with_context(|| format!("cannot write manual pages into {}", directory.display()))
    }
}
