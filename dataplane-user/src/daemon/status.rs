//! What the daemon says of itself in a few lines, and whether the config file still says what is running.

use std::{
    path::{Path, PathBuf},
    thread,
};

use super::{Daemon, chains::Chains, confirm, difference::difference, operate::failure, running::RunningConfig};
use crate::{
    config,
    control::{
        protocol::{Data, Failure, FailureKind, Reply},
        row::{Finding, Status},
        status::{ChainRow, FileRow, StatusRow},
    },
    rule::{ChainName, Policy},
};

/// The config file that the daemon was started with.
#[derive(Clone, Debug, Default)]
pub(super) struct ConfigFile {
    /// Where it is.
    pub path: Option<PathBuf>,
    /// Whether each start takes it, or only the first one.
    pub each_start: bool,
}

impl ConfigFile {
    pub(super) fn new(config: Option<&Path>, first: Option<&Path>) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { path: config.or(first).map(absolute), each_start: config.is_some() }
    }

    /// Reads it, and compares it with what is running.
    pub(super) fn compare(&self, running: &RunningConfig) -> FileRow {
        let Some(path) = &self.path else { return FileRow::default() };
        let row = FileRow { file: Some(path.display().to_string()), each_start: self.each_start, ..FileRow::default() };
        match config::load(path) {
            Ok((wanted, _)) => {
                let found = difference(running, &wanted);
                FileRow {
                    differs: Some(!found.is_empty()),
                    add: found.add.len() as u64,
                    remove: found.remove.len() as u64,
                    change: found.change.len() as u64,
                    ..row
                }
            }
            Err(error) => FileRow { error: Some(error.to_string()), ..row },
        }
    }
}

impl Daemon {
    /// All but the comparison with the config file.
    pub(super) fn status_row(&self) -> StatusRow {
        let mirror = self.observed.mirror_row();
        let chains = self.desired.chains();
        let rules: usize = ChainName::ALL.iter().map(|chain| chains.rules(*chain).len()).sum();
        let uptime = self.born.elapsed().as_secs();
        StatusRow {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime,
            since: confirm::now().saturating_sub(uptime),
            state: mirror.state,
            routes4: mirror.routes4,
            routes6: mirror.routes6,
            rules: rules as u64,
            sets: chains.sets().len() as u64,
            flows: self.flow_counts(None).map_or(0, |counts| counts.rows / 2),
            pending: self.store.pending_config().map(confirm::PendingConfig::row),
            config: FileRow::default(),
        }
    }

    /// Rows of `chain list`.
    pub(super) fn chain_rows(&self) -> Vec<ChainRow> {
        let chains = self.desired.chains();
        let row = |chain: ChainName| ChainRow {
            chain,
            policy: chains.policy(chain).to_string(),
            rules: chains.rules(chain).len() as u64,
        };
        ChainName::ALL.into_iter().map(row).collect()
    }

    /// Sets what becomes of packets that no rule of a chain decides.
    pub(super) fn chain_policy(&mut self, chain: ChainName, policy: &str) -> Result<Reply, Failure> {
        let policy: Policy = policy.parse().map_err(|_| {
            Failure::new(FailureKind::Rejected, format!("`{policy}` is no policy; take accept or drop"))
        })?;
        if let Some(said) = chain.misplaced_policy(policy) {
            return Err(Failure::new(FailureKind::Rejected, said));
        }
        let change = |chains: &mut Chains| {
            chains.set_policy(chain, policy);
            Ok(())
        };
        self.change_chains(change).map_err(failure)?;
        Ok(Data::Done.into())
    }

    /// Logs it when the config file has been edited and this start did not take it.
    pub(super) fn notice_file(&self) {
        if self.file.path.is_none() || self.file.each_start {
            return;
        }
        let (file, running) = (self.file.clone(), self.desired.running().clone());
        let compare = move || {
            if let Some((found, fix)) = file.compare(&running).warning() {
                tracing::warn!("{found}: {fix}");
            }
        };
        if let Err(error) = thread::Builder::new().name("config-file".to_owned()).spawn(compare) {
            tracing::warn!("the config file is not compared with the running config: {error}");
        }
    }

    /// The config that waits for confirmation, as a finding.
    pub(super) fn pending_finding(&self) -> Option<Finding> {
        let pending = self.store.pending_config()?.row();
        Some(Finding {
            check: "confirm".to_owned(),
            status: Status::Warn,
            found: format!("the running config is rolled back in {} s ({})", pending.seconds, pending.by),
            fix: "dataplane config confirm  # keeps it; `dataplane config rollback` takes it back now".to_owned(),
        })
    }
}
