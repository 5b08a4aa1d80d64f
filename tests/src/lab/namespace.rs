//! A network namespace and what is run in it.

use std::{
    fs::File,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::command::{self, Output, Running};

/// How long a command in a namespace may take unless told otherwise.
const LIMIT: Duration = Duration::from_secs(30);

/// A named network namespace of a laboratory, which owns it.
#[derive(Clone, Debug)]
pub struct Namespace {
    short: String,
    full: String,
}

impl Namespace {
    pub(super) fn new(short: &str, full: String) -> Self {
        Self { short: short.to_owned(), full }
    }

    /// The name in the laboratory.
    pub fn short(&self) -> &str {
        &self.short
    }

    /// The name that `ip netns` knows.
    pub fn full(&self) -> &str {
        &self.full
    }

    /// The file that holds the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new("/var/run/netns").join(&self.full)
    }

    /// A command that enters the namespace. Not `ip netns exec`, which mounts a new /sys and hides bpffs.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Runs a command line, split at blanks; its stdout, or an error with all it said.
    pub fn run(&self, line: &str) -> anyhow::Result<String> {
        self.attempt(line)?.checked()
    }

    /// Runs a command line, split at blanks; failing is for the caller to judge.
    pub fn attempt(&self, line: &str) -> anyhow::Result<Output> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        self.output(self.command(program).args(words), LIMIT)
    }

    /// Runs a command made by [`Self::command`], with a limit.
    pub fn output(&self, command: &mut Command, limit: Duration) -> anyhow::Result<Output> {
        command::output(command, limit).with_context(|| format!("in namespace {}", self.short))
    }

    /// Starts a command made by [`Self::command`] that goes on beside the test; what it prints goes to `log`.
    pub fn spawn(&self, command: &mut Command, log: &Path) -> anyhow::Result<Running> {
        Running::spawn(command, log).with_context(|| format!("in namespace {}", self.short))
    }

    /// Calls a function in the namespace, in a thread of its own. A socket made there stays there, whoever uses it later.
    pub fn inside<T: Send>(&self, function: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let file = File::open(self.path()).with_context(|| format!("can not open {}", self.path().display()))?;
        let enter = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("can not enter namespace {}", self.short))?;
            function()
        };
        let outcome = thread::scope(|scope| scope.spawn(enter).join());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Sets a kernel parameter of the namespace.
    pub fn sysctl(&self, name: &str, value: &str) -> anyhow::Result<()> {
        self.run(&format!("sysctl -qw {name}={value}"))?;
        Ok(())
    }
}
