//! `dataplane config`.
//!
//! A file is untrusted: it is read, parsed and found valid here. The daemon gets canonical text, and validates it again; a
//! large file it gets as it is.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
    string::FromUtf8Error,
};

use clap::Subcommand;

use super::{
    care::CareArgs,
    clock::LocalTime,
    paint::{GREEN, RED, YELLOW, paint},
    session::{self, Session, unexpected},
    unified::unified,
};
use crate::{
    config::{self, LoadError},
    control::{
        json,
        protocol::{ConfigText, Data, Failure, FailureKind, Request},
        row::{Difference, HistoryRow},
    },
};

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  dataplane config show >dataplane.toml\n  dataplane config check dataplane.toml\n  dataplane config apply dataplane.toml"
)]
pub(super) enum Config {
    /// Print the running config as TOML
    #[command(
        aliases = ["list", "ls", "lst"],
        after_help = "Examples:\n  dataplane config show >dataplane.toml\n  dataplane config show -j | jq .ports"
    )]
    Show,
    /// Validate a file, without a daemon and without root
    #[command(after_help = "Example:\n  dataplane config check dataplane.toml")]
    Check {
        /// The config file; `-` is stdin
        file: PathBuf,
    },
    /// Show what `apply` would change, as a unified diff from the running config to the file; exit code 6 if anything
    #[command(after_help = "Example:\n  dataplane config diff dataplane.toml || dataplane config apply dataplane.toml")]
    Diff {
        /// The config file to compare with the running config; `-` is stdin
        file: PathBuf,
    },
    /// Replace the running config, all or nothing, and print what changed
    #[command(
        after_help = "Examples:\n  dataplane config apply dataplane.toml\n  dataplane config apply dataplane.toml --confirm 60\n  dataplane config confirm"
    )]
    Apply {
        /// The config file; `-` is stdin
        file: PathBuf,
        #[command(flatten)]
        care: CareArgs,
    },
    /// Keep the config that `apply --confirm` put in force
    #[command(after_help = "Example:\n  dataplane config confirm")]
    Confirm,
    /// Return to the config before, and print what changed
    #[command(after_help = "Examples:\n  dataplane config rollback\n  dataplane config rollback --list")]
    Rollback {
        /// Only list the configs before, as `config history`
        #[arg(long)]
        list: bool,
        /// Roll back even if the config before may drop this session
        #[arg(long)]
        force: bool,
    },
    /// List the configs before, latest first, with time and user of the change
    #[command(after_help = "Example:\n  dataplane config history -j | jq -r '.[0].config' >before.toml")]
    History,
}

impl Config {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<ExitCode> {
        match self {
            Self::Show => show(session)?,
            Self::Check { file } => {
                let (_, config, text) = read(&file)?;
                config::check_assertions(&config, &text, Path::new(&name(&file)))?;
                match config.assertions.len() {
                    0 => eprintln!("{}: valid", name(&file)),
                    held => eprintln!("{}: valid; assertions that hold: {held}", name(&file)),
                }
            }
            Self::Diff { file } => {
                let (wanted, ..) = read(&file)?;
                let difference = diff(session, &wanted)?;
                if !difference.is_empty() {
                    return Ok(ExitCode::from(FailureKind::Differences.exit_code()));
                }
            }
            Self::Confirm => session.change(&Request::ConfigConfirm)?,
            Self::History | Self::Rollback { list: true, .. } => history(session)?,
            Self::Rollback { list: false, force } => {
                let difference = compare(session, &CareArgs::forced(force).around(Request::ConfigRollback))?;
                eprintln!("{}", if difference.is_empty() { "nothing to change" } else { "rolled back" });
            }
            Self::Apply { file, care } => {
                let difference = compare(session, &care.apply(to_apply(&file)?))?;
                care.remind();
                eprintln!("{}: {}", name(&file), if difference.is_empty() { "nothing to change" } else { "applied" });
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

fn history(session: &Session) -> anyhow::Result<()> {
    match session.call(&Request::ConfigHistory)? {
        Data::History(rows) => session.print(&rows, || {
            let heading = |row: &HistoryRow| format!("# replaced by uid {} at {}\n", row.uid, LocalTime::of(row.time));
            rows.iter().map(|row| heading(row) + &row.config + "\n").collect()
        }),
        data => Err(unexpected(&data)),
    }
}

/// Prints the difference between the running config and another: what it is as JSON, where it is as text.
fn diff(session: &Session, wanted: &ConfigText) -> anyhow::Result<Difference> {
    let request = Request::ConfigDiff(wanted.clone());
    let difference = match session.call(&request)? {
        Data::Difference(difference) => difference,
        data => return Err(unexpected(&data)),
    };
    if session.json || difference.is_empty() {
        session.print(&difference, String::new)?;
        return Ok(difference);
    }
    match session.call(&Request::ConfigShow)? {
        Data::Config(running) => {
            let found = unified(("running", &running), (&wanted.path, &wanted.toml));
            session::print(&found.text)?;
            eprintln!("{}: +{} -{} lines", wanted.path, found.added, found.removed);
        }
        _ => session::print(&text(&difference))?,
    }
    Ok(difference)
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
    let colour = |sign| match sign {
        "+" => GREEN,
        "-" => RED,
        _ => YELLOW,
    };
    let line = |sign, line: &String| format!("{}\n", paint(&format!("{sign} {line}"), colour(sign)));
    signs.into_iter().flat_map(|(sign, lines)| lines.iter().map(move |text| line(sign, text))).collect()
}

/// What messages call a file.
fn name(file: &Path) -> String {
    if is_stdin(file) { "stdin".to_owned() } else { file.display().to_string() }
}

/// Bytes from which on a file is left to the daemon to validate: to do that twice would take longer than all else.
const LARGE: usize = 1 << 18;

/// What is sent of a file: canonical text, with the elements of its sets; or, of a large one that names no other, the file.
fn to_apply(file: &Path) -> anyhow::Result<ConfigText> {
    let bytes = bytes_of(file).map_err(unread)?;
    match String::from_utf8(bytes) {
        Ok(toml) if toml.len() >= LARGE && !toml.contains("file") => Ok(ConfigText { path: name(file), toml }),
        text => Ok(valid(file, text.map_or_else(FromUtf8Error::into_bytes, String::into_bytes))?.0),
    }
}

/// A file that is valid, as canonical text, with the elements of its sets; the config, and the text of the file.
pub(super) fn read(file: &Path) -> anyhow::Result<(ConfigText, config::Config, String)> {
    valid(file, bytes_of(file).map_err(unread)?)
}

/// The same of what is in a file.
fn valid(file: &Path, bytes: Vec<u8>) -> anyhow::Result<(ConfigText, config::Config, String)> {
    // Files of sets are relative to the config; of one on stdin, to the working directory.
    let path = if is_stdin(file) { Path::new("stdin") } else { file };
    let (config, text) = config::load_bytes(bytes, path).map_err(unread)?;
    Ok((ConfigText { path: name(file), toml: config.to_toml() }, config, text))
}

fn unread(error: LoadError) -> anyhow::Error {
    match error {
        LoadError::Invalid(error) => anyhow::Error::from(error),
        LoadError::Unread { ref cause, .. } => {
            let missing = cause.kind() == io::ErrorKind::NotFound;
            let kind = if missing { FailureKind::NotFound } else { FailureKind::Failed };
            Failure::new(kind, error.to_string()).into()
        }
    }
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

fn bytes_of(file: &Path) -> Result<Vec<u8>, LoadError> {
    if !is_stdin(file) {
        return fs::read(file).map_err(|cause| LoadError::Unread { path: file.to_owned(), cause });
    }
    let mut bytes = Vec::new();
    let read = io::stdin().read_to_end(&mut bytes);
    read.map_err(|cause| LoadError::Unread { path: "stdin".into(), cause })?;
    Ok(bytes)
}
