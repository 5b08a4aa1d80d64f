//! `dataplane import`.
//!
//! A file of another filter is untrusted: it is read and translated here, and the daemon never sees it.

use std::{
    fs,
    io::{self, Read as _},
    path::PathBuf,
};

use clap::{Args, Subcommand};

use super::session::{self, Session, unexpected};
use crate::{
    config::{self, PortConfig},
    control::{
        json,
        protocol::{Data, Failure, FailureKind, Request},
    },
    import::{Extent, Language, LeftOut, import},
};

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  nft list ruleset | dataplane import nft - >dataplane.toml\n  iptables-save | dataplane import iptables - >dataplane.toml"
)]
pub(super) enum Import {
    /// Translate the output of `nft list ruleset` to a config; exit code 5 if anything cannot be translated
    #[command(
        after_help = "Examples:\n  dataplane import nft ruleset.nft >dataplane.toml\n  nft -j list ruleset | dataplane import nft - >dataplane.toml\n  dataplane import nft ruleset.nft --keep-going --ports eth0,eth1"
    )]
    Nft {
        /// The rule set, as text or JSON; `-` is stdin
        file: PathBuf,
        #[command(flatten)]
        how: How,
    },
    /// Translate the output of `iptables-save` or `ip6tables-save` to a config; exit code 5 if anything cannot be translated
    #[command(
        after_help = "Examples:\n  dataplane import iptables rules.v4 >dataplane.toml\n  { iptables-save; ip6tables-save; } | dataplane import iptables -"
    )]
    Iptables {
        /// The saved rules, of one family or of both; `-` is stdin
        file: PathBuf,
        #[command(flatten)]
        how: How,
    },
}

/// How a file becomes a config.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Print a config also when constructs cannot be translated: without them, which comments at its top name; exit code 5
    #[arg(long)]
    keep_going: bool,
    /// Ports of the config in place of `*`: names with commas, or `running` for those of the running config
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    ports: Vec<String>,
}

impl How {
    fn ports(&self, session: &Session) -> anyhow::Result<Vec<PortConfig>> {
        if self.ports == ["running"] {
            return match session.call(&Request::ConfigShow)? {
                Data::Config(text) => Ok(config::parse(&text, "the running config")?.ports),
                data => Err(unexpected(&data)),
            };
        }
        let port = |name: &String| {
            let text = format!("[ports]\n{} = {{ mode = \"auto\" }}\n", json::line(name)?);
            Ok(config::parse(&text, "--ports")?.ports)
        };
        let ports: anyhow::Result<Vec<_>> = self.ports.iter().map(port).collect();
        Ok(ports?.concat())
    }
}

impl Import {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let (language, file, how) = match self {
            Self::Nft { file, how } => (Language::Nft, file, how),
            Self::Iptables { file, how } => (Language::Iptables, file, how),
        };
        let (text, name) = read(&file)?;
        let ports = how.ports(session)?;
        let extent = if how.keep_going { Extent::Possible } else { Extent::Whole };
        let mut imported = import(language, extent, &text, &name)?;
        for note in &imported.notes {
            eprintln!("note: {note}");
        }
        if !ports.is_empty() {
            imported.config.ports = ports;
        }
        let toml = imported.config.to_toml();
        let comments = imported.left_out.as_ref().map(LeftOut::comments).unwrap_or_default();
        session::print(&if session.json { json::from_toml(&toml)? + "\n" } else { comments + &toml })?;
        imported.left_out.map_or(Ok(()), |left_out| Err(left_out.error.into()))
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
