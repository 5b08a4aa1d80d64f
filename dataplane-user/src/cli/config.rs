//! `dataplane config`.
//!
//! A file is untrusted: it is read, parsed and found valid here. The daemon gets canonical text, and validates it again.

use std::{fs, io, path::Path, path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::session::{self, Session, unexpected};
use crate::{
    config,
    control::{
        json,
        protocol::{ConfigText, Data, Failure, FailureKind, Request},
        row::Difference,
    },
};

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  dataplane config show >dataplane.toml\n  dataplane config check dataplane.toml\n  dataplane config apply dataplane.toml"
)]
pub(super) enum Config {
    /// Print the running config as TOML
    #[command(
        after_help = "Examples:\n  dataplane config show >dataplane.toml\n  dataplane config show -j | jq .ports"
    )]
    Show,
    /// Validate a file, without a daemon and without root
    #[command(after_help = "Example:\n  dataplane config check dataplane.toml")]
    Check {
        /// What to check
        file: PathBuf,
    },
    /// Show what `apply` would change: `+` only in the file, `-` only running, `~` different; exit code 6 if anything
    #[command(after_help = "Example:\n  dataplane config diff dataplane.toml || dataplane config apply dataplane.toml")]
    Diff {
        /// What to compare with the running config
        file: PathBuf,
    },
    /// Replace the running config, all or nothing, and print what changed
    #[command(after_help = "Example:\n  dataplane config apply dataplane.toml")]
    Apply {
        /// What to apply
        file: PathBuf,
    },
}

impl Config {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<ExitCode> {
        match self {
            Self::Show => show(session)?,
            Self::Check { file } => {
                read(&file)?;
                eprintln!("{}: valid", file.display());
            }
            Self::Diff { file } => {
                let difference = compare(session, &Request::ConfigDiff(read(&file)?))?;
                if !difference.is_empty() {
                    return Ok(ExitCode::from(FailureKind::Differences.exit_code()));
                }
            }
            Self::Apply { file } => {
                let difference = compare(session, &Request::ConfigApply(read(&file)?))?;
                eprintln!(
                    "{}: {}",
                    file.display(),
                    if difference.is_empty() { "nothing to change" } else { "applied" }
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(session: &Session) -> anyhow::Result<()> {
    match session.call(&Request::ConfigShow)? {
        Data::Config(text) if session.json => session::print(&(json::from_toml(&text)? + "\n")),
        Data::Config(text) => session::print(&text),
        data => Err(unexpected(&data)),
    }
}

fn compare(session: &Session, request: &Request) -> anyhow::Result<Difference> {
    match session.call(request)? {
        Data::Difference(difference) => {
            session.print(&difference, || text(&difference))?;
            Ok(difference)
        }
        data => Err(unexpected(&data)),
    }
}

fn text(difference: &Difference) -> String {
    let signs = [("-", &difference.remove), ("~", &difference.change), ("+", &difference.add)];
    signs.into_iter().flat_map(|(sign, lines)| lines.iter().map(move |line| format!("{sign} {line}\n"))).collect()
}

/// A file that is valid, as canonical text.
fn read(file: &Path) -> anyhow::Result<ConfigText> {
    let path = file.display().to_string();
    let bytes = fs::read(file).map_err(|error| {
        let kind = if error.kind() == io::ErrorKind::NotFound { FailureKind::NotFound } else { FailureKind::Failed };
        Failure::new(kind, format!("cannot read {path}: {error}"))
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let mut lines = valid.split(|byte| *byte == b'\n');
        let (line, column) = (lines.clone().count(), lines.next_back().map_or(0, <[u8]>::len) + 1);
        Failure::new(FailureKind::Rejected, format!("{path}:{line}:{column}: not UTF-8; save the file as UTF-8"))
    })?;
    let config = config::parse(&text, &path)?;
    Ok(ConfigText { path, toml: config.to_toml() })
}
