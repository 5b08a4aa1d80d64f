//! The store: what outlives the daemon, and how far it is behind what is in force.

use std::{
    path::PathBuf,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use dataplane_common::abi::Features;

use super::{
    confirm::{self, Pending, PendingConfig},
    history::{History, PastConfig},
    journal,
    quarantine::Quarantine,
    recovery::Fault,
    running::RunningConfig,
    state::State,
};
use crate::config::{self, Config};

/// How long after a rollback that failed it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The state directory, and what is known of it.
pub(super) struct Store {
    state: State,
    history: History,
    /// The config in force waits for `config confirm`.
    pending_config: Option<PendingConfig>,
    /// Why what is in force could not be written down.
    unsaved: Option<String>,
    /// What is wrong with the state that was found.
    faults: Vec<Fault>,
    /// It cannot be trusted, and no operator has said yet what is to be in force.
    quarantine: Option<Quarantine>,
}

impl Store {
    pub(super) fn new(state: State, history: History, faults: Vec<Fault>, quarantine: Option<Quarantine>) -> Self {
        Self { state, history, pending_config: None, unsaved: None, faults, quarantine }
    }

    /// What a daemon that starts takes: a config given now in place of what was remembered, or the config before one that was
    /// not confirmed in time.
    pub(super) fn begin(
        &mut self,
        running: &mut RunningConfig,
        config: Option<&Config>,
        pending: Option<Pending>,
    ) -> anyhow::Result<()> {
        if let Some(config) = config {
            running.replace(config)?;
            self.set_aside()?;
            self.write_pending(None)?;
        } else if let Some(pending) = pending {
            let pending_config = pending.resume(confirm::now());
            if pending_config.until <= Instant::now() {
                running.replace(&config::parse(pending_config.before(), "pending.toml")?)?;
                tracing::warn!("the config was not confirmed before the daemon ended: rolling back to the one before");
            }
            // Until everything is in force and written down, what is pending stays on disk.
            self.pending_config = Some(pending_config);
        }
        Ok(())
    }

    /// The path of a file in the directory; of the directory, for no name.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.state.path(name)
    }

    /// Writes down what a next daemon must know; nothing while the state is not trusted.
    pub(super) fn save(&mut self, running: &RunningConfig, features: Features) {
        if self.quarantine.is_none() {
            let saved = self.state.save(running, features, self.pending_config.is_some());
            self.note_saved(saved);
        }
    }

    /// Writes one change down; says whether all must be written instead.
    #[must_use]
    pub(super) fn note(&mut self, line: &journal::Line) -> bool {
        !matches!(self.state.note(line), Ok(false) if self.unsaved.is_none())
    }

    /// Whether daemons of before could not read the journal, and everything should be written down: called each second.
    pub(super) fn has_old_news(&mut self) -> bool {
        self.state.journal.has_old_news()
    }

    /// Whether daemons of before could not read the journal.
    pub(super) fn has_news(&self) -> bool {
        self.state.journal.has_news()
    }

    fn note_saved(&mut self, saved: anyhow::Result<()>) {
        let unsaved = saved.err().map(|error| format!("{error:#}"));
        if let Some(error) = &unsaved
            && self.unsaved.is_none()
        {
            tracing::error!("cannot write the state: {error}; a restart would restore older rules and ports");
        } else if unsaved.is_none() && self.unsaved.is_some() {
            tracing::info!("the state is written again");
        }
        self.unsaved = unsaved;
    }

    /// Why what is in force could not be written down.
    pub(super) fn unsaved(&self) -> Option<&str> {
        self.unsaved.as_deref()
    }

    /// Has the journal forced to the disk, in a thread; gives the thread where one is at it.
    pub(super) fn settle(&mut self) -> Option<JoinHandle<()>> {
        self.state.journal.settle()
    }

    /// Whether a config was written down.
    pub(super) fn has_config(&self) -> bool {
        self.state.path("running.toml").exists()
    }

    /// What is wrong with the state that was found.
    pub(super) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Keeps what cannot be trusted under other names, too.
    pub(super) fn set_aside(&mut self) -> anyhow::Result<()> {
        self.state.set_aside(&self.faults)
    }

    /// The state that cannot be trusted, as long as no operator has said what is to be in force.
    pub(super) fn quarantine(&self) -> Option<&Quarantine> {
        self.quarantine.as_ref()
    }

    /// An operator has said it, and this is being done; or it did not work.
    pub(super) fn end_quarantine(&mut self, ending: bool) {
        if let Some(quarantine) = &mut self.quarantine {
            quarantine.end(ending);
        }
    }

    /// What an operator said is in force.
    pub(super) fn trust(&mut self) {
        self.quarantine = None;
        self.faults.clear();
    }

    /// The config that waits for confirmation.
    pub(super) fn pending_config(&self) -> Option<&PendingConfig> {
        self.pending_config.as_ref()
    }

    /// What is written down from now on says that a config waits for confirmation, or that none does.
    pub(super) fn set_probation(&mut self, pending_config: Option<PendingConfig>) {
        self.pending_config = pending_config;
    }

    /// No config waits any more; gives the one that did.
    pub(super) fn take_probation(&mut self) -> Option<PendingConfig> {
        self.pending_config.take()
    }

    /// The rollback did not work: it is tried again.
    pub(super) fn put_rollback_off(&mut self) {
        if let Some(pending_config) = &mut self.pending_config {
            pending_config.until = Instant::now() + AGAIN;
        }
    }

    /// Writes down that a config waits for confirmation, or that none does.
    pub(super) fn write_pending(&self, pending: Option<&Pending>) -> anyhow::Result<()> {
        self.state.write_pending(pending)
    }

    /// Removes what says that a config waits for confirmation.
    pub(super) fn forget_pending(&self) {
        if let Err(error) = self.state.write_pending(None) {
            tracing::error!("{error:#}; a restart may roll back again");
        }
    }

    /// The configs of before.
    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// The place and the text of the latest config of before that is as wanted.
    pub(super) fn latest_before(&self, is_it: impl Fn(&str) -> bool) -> Option<(usize, String)> {
        let texts = self.history.configs.iter().enumerate().rev();
        texts.filter_map(|(place, before)| Some((place, self.state.text(before)?))).find(|(_, text)| is_it(text))
    }

    /// A config is a config of before from now on.
    pub(super) fn push_history(&mut self, uid: u32, toml: String) {
        self.history.push(PastConfig::new(confirm::now(), uid, toml));
        self.save_history();
    }

    /// Forgets the configs of before from this place on.
    pub(super) fn truncate_history(&mut self, place: usize) {
        self.history.configs.truncate(place);
        self.save_history();
    }

    fn save_history(&mut self) {
        if let Err(error) = self.state.write_history(&mut self.history) {
            tracing::error!("{error:#}; a restart would restore an older history");
        }
    }
}
