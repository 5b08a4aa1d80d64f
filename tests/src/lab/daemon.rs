//! A `dataplane run` in a namespace, with its own socket, state and bpffs.

use std::{
    env, fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

use super::{
    Namespace, SETTING_UP, Stats,
    command::{self, Output, Running},
    leftover,
};

/// How long a daemon may take until its socket answers.
const STARTING: Duration = Duration::from_secs(20);
/// How long a daemon may take to end after SIGTERM.
const ENDING: Duration = Duration::from_secs(10);
/// How long a verb may take.
const VERB: Duration = Duration::from_secs(30);

static DAEMONS: AtomicU32 = AtomicU32::new(0);

/// A daemon. When dropped it is detached and ended, its bpffs unmounted.
#[derive(Debug)]
pub struct Daemon {
    namespace: Namespace,
    binary: PathBuf,
    dir: PathBuf,
    configured: bool,
    /// Words in front of the program.
    wrapper: Vec<String>,
    /// Words behind `run`.
    options: Vec<String>,
    process: Option<Running>,
    /// Whether our bpffs is mounted and has to be unmounted.
    mounted: bool,
}

/// The program under test: `DATAPLANE_BIN`, or `target/release/dataplane` of the target folder that holds this very program.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(named) = env::var_os("DATAPLANE_BIN") {
        let named = PathBuf::from(named);
        if !named.is_file() {
            bail!("DATAPLANE_BIN is {}, which is no file", named.display());
        }
        return Ok(named);
    }
    let this = env::current_exe().context("can not tell where this program is")?;
    let found = this.ancestors().skip(1).map(|dir| dir.join("release/dataplane")).find(|file| file.is_file());
    found.context("there is no target/release/dataplane: `cargo xtask build` makes it, or name one in DATAPLANE_BIN")
}

impl Daemon {
    pub(super) fn start(namespace: &Namespace, lab: &Path, config: Option<&str>) -> anyhow::Result<Self> {
        let dir = lab.join(format!("daemon-{}", DAEMONS.fetch_add(1, Ordering::Relaxed)));
        for name in ["state", "bpffs"] {
            fs::create_dir_all(dir.join(name)).with_context(|| format!("can not make {}/{name}", dir.display()))?;
        }
        if let Some(text) = config {
            fs::write(dir.join("config.toml"), text).context("can not write the daemon's configuration")?;
        }
        let mut daemon = Self {
            namespace: namespace.clone(),
            binary: binary()?,
            dir,
            configured: config.is_some(),
            wrapper: Vec::new(),
            options: Vec::new(),
            process: None,
            mounted: false,
        };
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(daemon.bpffs()))?;
        daemon.mounted = true;
        daemon.restart()?;
        Ok(daemon)
    }

    /// Starts it again after [`Self::kill9`] or [`Self::terminate`], with the same folders; ends the running one before.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.answer()
    }

    /// The same, without waiting until it answers.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate(ENDING)?;
        }
        let mut command = self.start_command();
        command
            .arg("run")
            .args(&self.options)
            .arg("--socket")
            .arg(self.socket())
            .arg("--state")
            .arg(self.dir.join("state"));
        command.arg("--bpffs").arg(self.bpffs());
        if self.configured {
            command.arg("--config").arg(self.config());
        }
        self.process = Some(self.namespace.spawn(&mut command, &self.dir.join("log"))?);
        Ok(())
    }

    /// The program in its namespace, behind what runs it.
    fn start_command(&self) -> Command {
        let Some((program, words)) = self.wrapper.split_first() else { return self.namespace.command(&self.binary) };
        let mut command = self.namespace.command(program);
        command.args(words).arg(&self.binary);
        command
    }

    /// Starts it through another program, and with more options, the next time.
    pub fn wrap(&mut self, wrapper: &[&str], options: &[&str]) {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        (self.wrapper, self.options) = (owned(wrapper), owned(options));
    }

    /// Waits for its end; somebody else saw to that.
    pub fn await_end(&mut self) -> anyhow::Result<ExitStatus> {
        let mut process = self.process.take().context("the daemon is not running")?;
        process.wait(STARTING)
    }

    /// Starts another build of the program the next time: an upgrade.
    pub fn upgrade(&mut self, binary: &Path) {
        binary.clone_into(&mut self.binary);
    }

    /// Waits until the socket answers.
    fn answer(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + STARTING;
        loop {
            if let Some(status) = self.process.as_mut().and_then(|process| process.ended().transpose()).transpose()? {
                bail!("the daemon ended at once ({status}); its log:\n{}", self.log());
            }
            if UnixStream::connect(self.socket()).is_ok() && self.attempt(&["port", "list", "-j"])?.status.success() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("the daemon's socket {} does not answer; its log:\n{}", self.socket().display(), self.log());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a verb of the command line against this daemon; its stdout, or an error with all it said.
    pub fn cli(&self, args: &[&str]) -> anyhow::Result<String> {
        self.attempt(args)?.checked()
    }

    /// Runs a verb; failing is for the caller to judge.
    pub fn attempt(&self, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.namespace.command(&self.binary);
        command.args(args).env("DATAPLANE_SOCKET", self.socket());
        self.namespace.output(&mut command, VERB)
    }

    /// Runs a reading verb with `-j` and reads what it prints.
    pub fn read<T: DeserializeOwned>(&self, args: &[&str]) -> anyhow::Result<T> {
        let args: Vec<_> = args.iter().copied().chain(["-j"]).collect();
        let text = self.cli(&args)?;
        serde_json::from_str(&text).with_context(|| format!("`dataplane {}` printed\n{text}", args.join(" ")))
    }

    /// The counters.
    pub fn stats(&self) -> anyhow::Result<Stats> {
        self.read(&["stats"])
    }

    /// Kills it as `kill -9` does; what it attached stays.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        leftover::note()?;
        let mut process = self.process.take().context("the daemon is not running")?;
        process.kill9()
    }

    /// Ends it with SIGTERM; what it attached stays.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        leftover::note()?;
        let mut process = self.process.take().context("the daemon is not running")?;
        process.terminate(ENDING)
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Running::pid)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Its bpffs, a mount of its own.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpffs")
    }

    /// Its configuration file; there is one if it was started with a configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// What it logged until now, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Takes the data plane off all ports, ends the daemon, unmounts its bpffs. Dropping does the same, but can not tell.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let noted = leftover::note();
        let detached = if self.process.is_some() { self.cli(&["detach", "--all"]).map(drop) } else { Ok(()) };
        let ended = self.process.take().map_or(Ok(()), |mut process| process.terminate(ENDING).map(drop));
        // Pins that are left go with the mount, and with them what they hold attached.
        let unmounted = if self.mounted { run(Command::new("umount").arg(self.bpffs())) } else { Ok(()) };
        self.mounted &= unmounted.is_err();
        noted.and(detached).and(ended).and(unmounted)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("clean-up of the daemon in {}: {error:#}", self.namespace.short());
        }
        if thread::panicking() {
            eprintln!("log of the daemon in {}:\n{}", self.namespace.short(), self.log());
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    command::output(command, SETTING_UP)?.checked().map(drop)
}
