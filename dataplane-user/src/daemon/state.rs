//! What outlives the daemon: the running config, and the handles of its rules.
//!
//! ```text
//! DIR/running.toml    the running config, as `config show` prints it
//! DIR/history.toml    of the configs before it, the latest last, the time and the user of their end
//! DIR/history-N.toml  what each of them says
//! DIR/pending.toml    while a config waits for `config confirm`: until when, and the config to go back to
//! DIR/handles.json    for each rule its chain, text, handle and counter; names of ports switched off
//! DIR/journal.json    single rules that came and went since, a line each
//! ```

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use dataplane_common::abi::Features;
use rustix::{
    fd::OwnedFd,
    fs::{FlockOperation, Mode, OFlags, flock, open},
};
use serde::{Deserialize, Serialize};

use super::{
    confirm::Pending,
    filter::Chains,
    journal::{Journal, Line},
    port::Ports,
};
use crate::{
    config::{self, Config},
    control::json,
};

/// The state directory, locked for this daemon.
pub(super) struct State {
    directory: PathBuf,
    _lock: OwnedFd,
    journal: Journal,
}

/// What the config cannot say.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// The next rule gets this handle.
    pub next: u64,
    /// Ports that a pattern of the config fits, but that the operator has switched off.
    #[serde(default)]
    pub off: Vec<String>,
    /// What programs were loaded with: the next daemon begins with that, and need not load them again.
    #[serde(default)]
    pub features: u32,
    /// By chain, in order.
    #[serde(default)]
    pub rules: Vec<Entry>,
}

/// One rule.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub chain: String,
    pub rule: String,
    pub handle: u64,
    pub counter: u32,
}

impl State {
    /// Makes the directory and locks it.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| {
            format!("cannot make the state directory {}; name another with --state", directory.display())
        })?;
        let lock = open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open {}; it must belong to the daemon's user", directory.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "another daemon uses the state directory {}; stop it first, or give this one its own with --state",
                directory.display()
            );
        }
        let journal = Journal::new(directory.join("journal.json"));
        Ok(Self { directory: directory.to_owned(), _lock: lock, journal })
    }

    /// Whether an earlier daemon left a config.
    pub(super) fn remembers(&self) -> bool {
        self.directory.join("running.toml").exists()
    }

    /// What an earlier daemon was doing. What cannot be read is left where it is and said: an operator who finds no rules
    /// must know why.
    pub(super) fn remember(&self) -> (Ports, Chains, Config, Features) {
        let parse = |text: &str, path: &str| Ok((config::parse(text, path)?, text.to_owned()));
        let (mut running, toml) = self.read("running.toml", parse).unwrap_or_default();
        let (mut ledger, json) = self.ledger();
        self.journal.replay([&toml, &json], &mut running, &mut ledger);
        let features = Features::from_bits_truncate(ledger.features).difference(Features::TRACING);
        (Ports::new(&running, &ledger), Chains::new(&running, &ledger), running, features)
    }

    /// With the text that says it.
    fn ledger(&self) -> (Ledger, String) {
        // What daemons wrote until version 0.1.
        let former = || self.read("handles.toml", |text, _| Ok((toml_edit::de::from_str(text)?, text.to_owned())));
        let parse = |text: &str, _: &str| Ok((json::parse(text.as_bytes())?, text.to_owned()));
        self.read("handles.json", parse).or_else(former).unwrap_or_default()
    }

    /// The config that nobody has confirmed yet.
    pub(super) fn pending(&self) -> Option<Pending> {
        self.read("pending.toml", |text, _| Ok(toml_edit::de::from_str(text)?))
    }

    /// Writes down that a config waits for confirmation, or that none does.
    pub(super) fn write_pending(&self, pending: Option<&Pending>) -> anyhow::Result<()> {
        if let Some(pending) = pending {
            return self.write("pending.toml", &toml_edit::ser::to_string(pending)?);
        }
        let path = self.directory.join("pending.toml");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The path of one of its files.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn read<T>(&self, name: &str, parse: impl FnOnce(&str, &str) -> anyhow::Result<T>) -> Option<T> {
        let path = self.directory.join(name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!("cannot read {}: {error}; starting without it", path.display());
                return None;
            }
        };
        match parse(&text, &path.display().to_string()) {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::error!("cannot use {}: {error:#}; starting without it", path.display());
                None
            }
        }
    }

    /// Writes everything down. A crash leaves the old files or the new ones.
    pub(super) fn save(
        &mut self,
        running: &Config,
        ports: &Ports,
        chains: &Chains,
        features: Features,
    ) -> anyhow::Result<()> {
        let ledger =
            Ledger { next: chains.next(), off: ports.off(), features: features.bits(), rules: chains.ledger() };
        let (running, ledger) = (running.to_toml(), json::line(&ledger)?);
        self.write("running.toml", &running)?;
        self.write("handles.json", &ledger)?;
        self.journal.begin([&running, &ledger]);
        Ok(())
    }

    /// Writes a single change down; says whether it is time to write down everything.
    pub(super) fn note(&mut self, line: &Line) -> anyhow::Result<bool> {
        self.journal.note(line)?;
        Ok(self.journal.is_long())
    }

    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.directory.join(name);
        let new = self.directory.join(format!("{name}.new"));
        let written = fs::File::create(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&new, &path)).with_context(|| format!("cannot write {}", path.display()))
    }
}
