//! `dataplane` itself as a contestant, driven as a user would: a daemon, `attach`, `config apply`.

use std::{
    fmt,
    fs::File,
    net::IpAddr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    bridge::Bridging,
    chain::Chain,
    connection::{self, Netfilter},
    forward::Family,
    namespace,
};

/// A full table takes seconds to mirror.
const PATIENCE: Duration = Duration::from_mins(2);
/// Of the device under test.
const PORTS: [&str; 2] = ["a1", "b0"];
/// For `trace` to begin.
const WATCHING: Duration = Duration::from_secs(2);

/// `--mode` of `dataplane attach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// XDP in the driver.
    Native,
    /// tc ingress.
    Tc,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Tc => "tc",
        })
    }
}

/// The binary under test: `DATAPLANE_BIN`, else `target/release/dataplane` of this workspace.
pub fn binary() -> Result<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/dataplane");
    let path = std::env::var_os("DATAPLANE_BIN").map_or(built, PathBuf::from);
    let path = path.canonicalize().with_context(|| {
        format!("{} is not there; build it with `cargo xtask build`, or name it in DATAPLANE_BIN", path.display())
    })?;
    let help = Command::new(&path).args(["run", "--help"]).stdin(Stdio::null()).output();
    let help = help.with_context(|| format!("starting {}", path.display()))?;
    let understood = help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--bpffs");
    ensure!(understood, "{} has no verb `run` yet (`run --help` does not show --bpffs)", path.display());
    Ok(path)
}

static AGAINST: OnceLock<PathBuf> = OnceLock::new();

/// Names another build to compare with.
pub fn compare_with(path: &Path) -> Result<()> {
    let path = path.canonicalize().with_context(|| format!("{} is not there", path.display()))?;
    // Named once in a process; a second name would be the same.
    let _same = AGAINST.set(path);
    Ok(())
}

/// The other build.
pub fn against() -> Result<PathBuf> {
    AGAINST.get().cloned().context("no other build is named; `--against` names one")
}

/// A daemon in the device under test, with socket, state, bpffs and log in a directory of its own.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    directory: TempDir,
    child: Child,
    watcher: Option<Child>,
}

impl Daemon {
    /// Starts the daemon, and attaches ports.
    fn attached(chain: &Chain, binary: PathBuf, mode: Mode, ports: &[&str]) -> Result<Self> {
        let directory = TempDir::with_prefix("dataplane-bench-").context("making a directory for the daemon")?;
        std::fs::create_dir(directory.path().join("bpf")).context("making a mount point for bpffs")?;
        let child = spawn(chain, &binary, directory.path())?;
        let mut daemon = Self { binary, directory, child, watcher: None };
        daemon.wait(chain, "answers", |daemon| daemon.ask(chain, &["port", "list", "-j"]).map(drop))?;
        daemon.ask(chain, &[&["attach"], ports, &["--mode", &mode.to_string()]].concat())?;
        Ok(daemon)
    }

    /// The same beside netfilter, with room for the connections of the generator; waits until they are carried.
    pub fn start_following(chain: &Chain, mode: Mode, netfilter: Netfilter, families: &[Family]) -> Result<Self> {
        let mut daemon = Self::attached(chain, binary()?, mode, &PORTS)?;
        let room = 2 * (chain.table4.destinations.len() + chain.table6.destinations.len());
        let file = daemon.directory.path().join("config.toml");
        let ports = format!("[ports]\na1 = {{ mode = \"{mode}\" }}\nb0 = {{ mode = \"{mode}\" }}\n");
        std::fs::write(&file, format!("{ports}\n[flows]\nmax = {room}\n"))?;
        daemon.ask(chain, &["config", "apply", &file.to_string_lossy()])?;
        connection::establish(chain, netfilter, families, true)?;
        daemon.wait(chain, "carries all connections", |daemon| {
            let flows = connection::establish(chain, netfilter, families, false)?;
            // It counts once a second.
            sleep(Duration::from_millis(1500));
            let answer = daemon.ask(chain, &["stats", "-j"])?;
            let stats: Value = serde_json::from_str(&answer).with_context(|| format!("reading {answer:?}"))?;
            let armed = stats["flows"]["armed"].as_u64().unwrap_or_default();
            // Some tuples find no room.
            ensure!(armed >= (flows - flows / 100) as u64, "{armed} of {flows} connections are carried");
            Ok(())
        })?;
        Ok(daemon)
    }

    /// Starts the daemon, attaches bridges with their members, and waits until these have what comes in.
    pub fn start_on_bridges(chain: &Chain, mode: Mode, bridging: Bridging) -> Result<Self> {
        let mut daemon = Self::attached(chain, binary()?, mode, bridging.bridges())?;
        let routed = bridging == Bridging::Routed;
        daemon.wait(chain, "has the members", |daemon| {
            let answer = daemon.ask(chain, &["port", "list", "-j"])?;
            let rows: Value = serde_json::from_str(&answer).with_context(|| format!("reading {answer:?}"))?;
            let rows = rows.as_array().context("no list of ports")?;
            let on = rows.iter().filter(|row| row["switching"] == "on").count();
            ensure!(on == PORTS.len(), "{on} members switch: {answer}");
            Ok(())
        })?;
        for target in [IpAddr::from(chain.table4.destinations[0]), chain.table6.destinations[0].into()] {
            if routed {
                daemon.wait(chain, "forwards", |daemon| daemon.forwards(chain, target))?;
            }
        }
        Ok(daemon)
    }

    /// Starts the daemon, attaches both ports, applies the rules, and waits until the routes have arrived.
    pub fn start(chain: &Chain, binary: PathBuf, mode: Mode, rules: &[String]) -> Result<Self> {
        let mut daemon = Self::attached(chain, binary, mode, &PORTS)?;
        if !rules.is_empty() {
            daemon.apply(chain, mode, rules)?;
        }
        let targets: [IpAddr; 2] = [chain.table4.destinations[0].into(), chain.table6.destinations[0].into()];
        for target in targets {
            daemon.wait(chain, "forwards", |daemon| daemon.forwards(chain, target))?;
        }
        Ok(daemon)
    }

    /// Puts rules in place of those that are there.
    pub fn apply(&self, chain: &Chain, mode: Mode, rules: &[String]) -> Result<()> {
        let file = self.directory.path().join("config.toml");
        std::fs::write(&file, config(mode, rules)).with_context(|| format!("writing {}", file.display()))?;
        self.ask(chain, &["config", "apply", &file.to_string_lossy()]).map(drop)
    }

    /// Lets somebody watch one packet in `one_in`.
    pub fn watch(&mut self, chain: &Chain, one_in: u32) -> Result<()> {
        let socket = self.directory.path().join("socket");
        let mut command = Command::new(&self.binary);
        command.args(["trace", "--sample", &one_in.to_string()]).env("DATAPLANE_SOCKET", &socket);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.watcher = Some(chain.dut.enter(|| command.spawn().context("starting to watch"))?);
        // Until the programs that tell of packets are in place.
        sleep(WATCHING);
        Ok(())
    }

    /// Ends who watches; whether somebody did until now.
    fn unwatch(&mut self) -> Result<bool> {
        let Some(mut child) = self.watcher.take() else { return Ok(true) };
        let watched = child.try_wait().context("asking whether it still watches")?.is_none();
        child.kill().context("ending who watches")?;
        child.wait().context("waiting for who watches")?;
        Ok(watched)
    }

    fn forwards(&self, chain: &Chain, target: IpAddr) -> Result<()> {
        let answer = self.ask(chain, &["route", "get", &target.to_string(), "-j"])?;
        let route: Value = serde_json::from_str(&answer).with_context(|| format!("reading {answer:?}"))?;
        ensure!(route["decision"] == "forward", "`route get {target}` says {answer}");
        Ok(())
    }

    /// Repeats `attempt` until it succeeds, the daemon ends, or patience does.
    fn wait(&mut self, chain: &Chain, what: &str, attempt: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("asking for the daemon's state")? {
                bail!("the daemon ended with {status} before it {what}: {}", self.log());
            }
            match attempt(self) {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => {
                    let seconds = PATIENCE.as_secs();
                    let name = chain.dut.name();
                    return Err(
                        error.context(format!("no daemon in {name} that {what} after {seconds} s: {}", self.log()))
                    );
                }
                Err(_) => sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Runs a verb as a user would.
    fn ask(&self, chain: &Chain, arguments: &[&str]) -> Result<String> {
        let socket = self.directory.path().join("socket");
        chain
            .dut
            .enter(|| namespace::run(Command::new(&self.binary).args(arguments).env("DATAPLANE_SOCKET", &socket), ""))
    }

    /// Takes the programs off and ends the daemon; says how many packets the fast path forwarded.
    pub fn stop(mut self, chain: &Chain) -> Result<String> {
        ensure!(self.unwatch()?, "`trace` ended by itself: {}", self.log());
        let answer = self.ask(chain, &["stats", "-j"])?;
        let stats: Value = serde_json::from_str(&answer).with_context(|| format!("reading {answer:?}"))?;
        let total = |name: &str| {
            stats["totals"][name].as_u64().with_context(|| format!("`stats -j` has no count totals.{name}: {answer}"))
        };
        let (rx, forwarded) = (total("rx")?, total("forwarded")?);
        self.ask(chain, &["detach", "--all"])?;
        let ended_with = self.end()?;
        let ended = ended_with.success() || ended_with.signal() == Some(Signal::TERM.as_raw());
        ensure!(ended, "the daemon ended with {ended_with}: {}", self.log());
        Ok(format!("the fast path forwarded {forwarded} of {rx} packets"))
    }

    fn end(&mut self) -> Result<ExitStatus> {
        if let Some(process) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(process, Signal::TERM).context("ending the daemon")?;
        }
        self.child.wait().context("waiting for the daemon's end")
    }

    /// The last lines it wrote.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.unwatch();
        if matches!(self.child.try_wait(), Ok(None)) {
            // Its pins are in a mount namespace of its own and go with it.
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// Starts the daemon in a mount namespace of its own: its bpffs is seen by nobody else and vanishes with it. Each step
/// replaces the one before, so that the process we know is the daemon.
fn spawn(chain: &Chain, binary: &Path, directory: &Path) -> Result<Child> {
    const SCRIPT: &str = r#"mount -t bpf bpf "$2/bpf" && exec "$1" run --socket "$2/socket" --state "$2/state" --bpffs "$2/bpf/dataplane""#;
    let log = directory.join("log");
    let log = File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let errors = log.try_clone().context("sharing the daemon's log")?;
    chain.dut.enter(|| {
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"])
            .args([binary, directory])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .context("starting the daemon")
    })
}

/// A configuration with both ports and a forward chain.
fn config(mode: Mode, rules: &[String]) -> String {
    let quoted: Vec<_> = rules.iter().map(|rule| format!("  '{rule}',\n")).collect();
    format!(
        "[ports]\na1 = {{ mode = \"{mode}\" }}\nb0 = {{ mode = \"{mode}\" }}\n\n[chains.forward]\npolicy = \"accept\"\nrules = [\n{}]\n",
        quoted.concat(),
    )
}
