//! What outlives the daemon: the running config, and the handles of its rules.
//!
//! ```text
//! DIR/running.toml    the running config, as `config show` prints it
//! DIR/history.toml    of the configs before it, the latest last, the time and the user of their end
//! DIR/history-N.toml  what each of them says
//! DIR/pending.toml    while a config waits for `config confirm`: until when, and the config to go back to
//! DIR/pending.copy    the same once more: without it nobody would know what to go back to
//! DIR/handles.json    for each rule its chain, text, handle and counter; names of ports switched off
//! DIR/journal.json    single rules that came and went since, a line each
//! DIR/journal.length  how many lines that are
//! DIR/NAME.damaged-T  what could not be trusted, set aside T seconds after 1970 UTC
//! ```
//!
//! All of it is for the daemon's user alone. What a daemon that starts makes of it is in `recovery.rs`.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, bail};
use dataplane_common::abi::Features;
use rustix::{
    fd::OwnedFd,
    fs::{FlockOperation, Mode, OFlags, flock, open},
};
use serde::{Deserialize, Serialize, Serializer};

use super::{
    chains::Chains,
    confirm::Pending,
    former,
    journal::{Journal, Line},
    recovery::Fault,
    running::RunningConfig,
    seal,
};
use crate::{control::json, rule::ChainName};

/// The state directory, locked for this daemon.
pub(super) struct State {
    directory: PathBuf,
    lock: OwnedFd,
    pub(super) journal: Journal,
    /// Whether what could not be trusted was set aside.
    kept: bool,
}

/// What the config cannot say.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct RuleHandles<Rules = Vec<Entry>> {
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
    pub rules: Rules,
    /// Chains that drop something, or might; none: written by a daemon that did not say.
    #[serde(default)]
    pub chains: Option<Vec<String>>,
    /// Patterns of the ports; none as above.
    #[serde(default)]
    pub ports: Option<Vec<String>>,
    /// Whether the config waits for `config confirm`.
    #[serde(default)]
    #[serde(rename = "probation")]
    pub pending_config: bool,
}

/// One rule.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry<Chain = String, Rule = String> {
    pub chain: Chain,
    pub rule: Rule,
    pub handle: u64,
    pub counter: u32,
}

/// The entries of all rules, which are written one by one: there may be a hundred thousand.
pub(super) struct Entries<'c>(pub &'c Chains);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.entries())
    }
}

/// A text that is not made before it is written.
#[derive(Debug)]
pub(super) struct Shown<T>(pub T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
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
        close_to_others(directory).with_context(|| format!("cannot close the files in {}", directory.display()))?;
        let journal = Journal::new(directory.join("journal.json"));
        Ok(Self { directory: directory.to_owned(), lock, journal, kept: false })
    }

    /// Writes down that a config waits for confirmation, or that none does.
    pub(super) fn write_pending(&self, pending: Option<&Pending>) -> anyhow::Result<()> {
        if let Some(pending) = pending {
            let text = seal::toml(toml_edit::ser::to_string(pending)?);
            self.write(PENDING[1], &text)?;
            self.write(PENDING[0], &text)?;
        } else {
            for name in PENDING {
                let path = self.path(name);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                    }
                    _ => {}
                }
            }
        }
        self.settle()
    }

    /// What was renamed or removed is so on the disk, too.
    fn settle(&self) -> anyhow::Result<()> {
        rustix::fs::fsync(&self.lock).with_context(|| format!("cannot force {} to the disk", self.directory.display()))
    }

    /// The path of one of its files.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes everything down. A crash leaves the old files or the new ones.
    pub(super) fn save(
        &mut self,
        running: &RunningConfig,
        features: Features,
        pending_config: bool,
    ) -> anyhow::Result<()> {
        let handles = || {
            let (ports, chains) = (running.ports(), running.chains());
            let used = ChainName::ALL.into_iter().filter(|chain| chains.is_in_use(*chain));
            json::line(&RuleHandles {
                next: chains.next(),
                off: ports.off(),
                features: features.bits(),
                rules: Entries(chains),
                chains: Some(used.map(|chain| chain.name().to_owned()).collect()),
                ports: Some(ports.config().iter().map(|port| port.pattern.as_str().to_owned()).collect()),
                pending_config,
            })
        };
        // Of a hundred thousand rules, each takes a while.
        let (running, rule_handles) = thread::scope(|scope| {
            let handles = scope.spawn(|| handles().map(seal::json));
            let running = seal::toml(former::readable(running.config().to_toml()));
            let handles = handles.join().unwrap_or_else(|panic| resume_unwind(panic));
            handles.map(|handles| (running, handles))
        })?;
        self.write("running.toml", &running)?;
        self.write("handles.json", &rule_handles)?;
        self.settle()?;
        self.journal.begin([&running, &rule_handles]);
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
        let written = private().create(true).write(true).truncate(true).open(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&new, &path)).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Keeps what cannot be trusted, and what belongs to it, under other names, too: nothing is lost when it is written anew.
    pub(super) fn set_aside(&mut self, faults: &[Fault]) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.kept, true) || faults.is_empty() {
            return Ok(());
        }
        let history = faults.iter().any(|fault| fault.file == super::recovery::HISTORY);
        let all = faults.iter().any(|fault| fault.grave);
        for entry in
            fs::read_dir(&self.directory).with_context(|| format!("cannot read {}", self.directory.display()))?
        {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let named = faults.iter().any(|fault| fault.file == name) || all && TOGETHER.contains(&name);
            let of_history = name.starts_with("history") && history;
            if name.contains(".damaged-") || !(named || of_history) {
                continue;
            }
            let aside = self.path(&format!("{name}.damaged-{}", super::confirm::now()));
            // One of somebody else, who lets nobody read it, can still be renamed.
            let kept = fs::hard_link(&path, &aside).or_else(|_| fs::copy(&path, &aside).map(drop));
            match kept.or_else(|_| fs::rename(&path, &aside)) {
                Ok(()) => tracing::warn!("the contents of {} are kept as {}", path.display(), aside.display()),
                Err(error) => {
                    self.kept = false;
                    return Err(error)
                        .with_context(|| format!("cannot keep {} as {}", path.display(), aside.display()));
                }
            }
        }
        self.settle()
    }
}

/// What says together which rules there are.
const TOGETHER: [&str; 4] = ["running.toml", "handles.json", "journal.json", "journal.length"];

/// While a config waits for confirmation; the second is what is left if something happens to the first.
pub(super) const PENDING: [&str; 2] = ["pending.toml", "pending.copy"];

/// A file for the daemon's user alone: rules say what a network is like, and what is looked for in it.
pub(super) fn private() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.mode(0o600);
    options
}

/// Files of daemons that did not care who reads them.
fn close_to_others(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
            let mode = fs::Permissions::from_mode(metadata.permissions().mode() & 0o600);
            if let Err(error) = fs::set_permissions(entry.path(), mode) {
                tracing::warn!("other users can read {}: {error}", entry.path().display());
            }
        }
    }
    Ok(())
}
