//! `dataplane import`.
//!
//! A file of another filter is untrusted: it is read and translated here, and the daemon never sees it.

use std::{
    fs,
    io::{self, Read as _},
    path::PathBuf,
};

use clap::Subcommand;

use super::session;
use crate::{
    control::{
        json,
        protocol::{Failure, FailureKind},
    },
    import::{Language, import},
};

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  nft list ruleset | dataplane import nft - >dataplane.toml\n  iptables-save | dataplane import iptables - >dataplane.toml"
)]
pub(super) enum Import {
    /// Translate the output of `nft list ruleset` to a config; exit code 5 if anything cannot be translated
    #[command(
        after_help = "Examples:\n  dataplane import nft ruleset.nft >dataplane.toml\n  nft -j list ruleset | dataplane import nft - >dataplane.toml\n  dataplane config diff dataplane.toml"
    )]
    Nft {
        /// The rule set, as text or JSON; `-` is stdin
        file: PathBuf,
    },
    /// Translate the output of `iptables-save` or `ip6tables-save` to a config; exit code 5 if anything cannot be translated
    #[command(
        after_help = "Examples:\n  dataplane import iptables rules.v4 >dataplane.toml\n  { iptables-save; ip6tables-save; } | dataplane import iptables -"
    )]
    Iptables {
        /// The saved rules, of one family or of both; `-` is stdin
        file: PathBuf,
    },
}

impl Import {
    pub(super) fn dispatch(self, json: bool) -> anyhow::Result<()> {
        let (language, file) = match self {
            Self::Nft { file } => (Language::Nft, file),
            Self::Iptables { file } => (Language::Iptables, file),
        };
        let (text, name) = read(&file)?;
        let imported = import(language, &text, &name)?;
        for note in &imported.notes {
            eprintln!("note: {note}");
        }
        let toml = imported.config.to_toml();
        session::print(&if json { json::from_toml(&toml)? + "\n" } else { toml })
    }
}

/// The text of a file, and what messages call it.
fn read(file: &PathBuf) -> Result<(String, String), Failure> {
    let (bytes, name) = if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        (io::stdin().read_to_end(&mut bytes).map(|_| bytes), "stdin".to_owned())
    } else {
        (fs::read(file), file.display().to_string())
    };
    let bytes = bytes.map_err(|error| {
        let missing = error.kind() == io::ErrorKind::NotFound;
        let kind = if missing { FailureKind::NotFound } else { FailureKind::Failed };
        Failure::new(kind, format!("cannot read {name}: {error}"))
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::new(FailureKind::Rejected, format!("{name} is not UTF-8; save it as UTF-8")))?;
    Ok((text, name))
}
