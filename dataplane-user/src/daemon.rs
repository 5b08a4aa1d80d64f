//! The ring. Stand-in: replaced at merge.

use std::path::PathBuf;

/// What `dataplane run` is told.
#[derive(Debug)]
pub struct Options {
    /// The config file.
    pub config: Option<PathBuf>,
    /// The control socket.
    pub socket: PathBuf,
    /// What outlives a restart.
    pub state: PathBuf,
    /// Where maps and links are pinned.
    pub bpffs: PathBuf,
}

#[expect(clippy::needless_pass_by_value, reason = "stand-in")]
/// Runs until it is told to stop.
pub fn run(options: Options) -> anyhow::Result<()> {
    anyhow::bail!("the daemon is not part of this build: {options:?}")
}
