//! `dataplane lab`: a router between two hosts to play with, in network namespaces of its own.

use std::{
    env, fs,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use rustix::process::{Pid, Signal, kill_process};

use super::{session, usage};
use crate::control::{
    client::Client,
    protocol::{Failure, FailureKind, Request},
};

/// Where labs keep sockets, state and logs.
const HOME: &str = "/run/dataplane/lab";
/// How long a daemon may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A router between two hosts in network namespaces, to try things
///
/// The lab does not touch the interfaces of this machine. It needs root.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  dataplane lab up demo\n  dataplane lab shell demo\n  dataplane lab down demo")]
pub(super) enum Lab {
    /// Build a lab, start a daemon on its router and attach both ports
    #[command(
        after_help = "Examples:\n  dataplane lab up demo\n\nThe picture:\n\n  client                            router                             server\n  eth0 ------------------- client0         server0 ------------------- eth0\n  198.18.0.2/24            198.18.0.1/24   198.18.1.1/24      198.18.1.2/24\n  2001:db8::2/64        2001:db8::1/64     2001:db8:1::1/64  2001:db8:1::2/64"
    )]
    Up(Name),
    /// Open a shell on a machine of the lab
    ///
    /// In it, all verbs of `dataplane` use the lab's daemon.
    #[command(
        after_help = "Examples:\n  dataplane lab shell demo\n  dataplane lab shell demo client\n  dataplane lab shell demo client -- ping -c 3 198.18.1.2"
    )]
    Shell(Shell),
    /// List the labs
    #[command(visible_alias = "show", aliases = ["ls", "lst"], after_help = "Example:\n  dataplane lab list")]
    List,
    /// Remove a lab
    #[command(after_help = "Examples:\n  dataplane lab down demo")]
    Down(Name),
}

#[derive(Debug, Args)]
pub(super) struct Name {
    /// Name of the lab
    #[arg(value_parser = name)]
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct Shell {
    /// Name of the lab
    #[arg(value_parser = name)]
    name: String,
    /// The machine
    #[arg(value_enum, default_value_t = Machine::Router)]
    machine: Machine,
    /// Command to run in place of a shell
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Machine {
    Client,
    Router,
    Server,
}

impl Machine {
    const ALL: [Self; 3] = [Self::Client, Self::Router, Self::Server];

    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Router => "router",
            Self::Server => "server",
        }
    }
}

/// A link of the picture: the host, the router's port, the third digit group of both networks.
const LINKS: [(Machine, &str, u8); 2] = [(Machine::Client, "client0", 0), (Machine::Server, "server0", 1)];

/// A name that fits into those of namespaces and folders.
fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if text.is_empty() || text.len() > 32 || text.starts_with('-') || !text.chars().all(fits) {
        return Err("a lab's name has 1 to 32 letters, digits and '-'".to_owned());
    }
    Ok(text.to_owned())
}

impl Lab {
    pub(super) fn dispatch(self) -> anyhow::Result<()> {
        if let Self::List = self {
            return list();
        }
        ensure!(rustix::process::geteuid().is_root(), "a lab is made of network namespaces, which needs root");
        match self {
            Self::List => Ok(()),
            Self::Up(Name { name }) => LabDirs(name).up(),
            Self::Down(Name { name }) => LabDirs(name).down(),
            Self::Shell(Shell { name, machine, command }) => LabDirs(name).enter(machine, &command),
        }
    }
}

/// Prints the names of the labs.
fn list() -> anyhow::Result<()> {
    let entries = fs::read_dir(HOME).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.push(String::new());
    session::print(&names.join("\n"))
}

/// A lab by its name.
struct LabDirs(String);

impl LabDirs {
    fn home(&self) -> PathBuf {
        Path::new(HOME).join(&self.0)
    }

    fn socket(&self) -> PathBuf {
        self.home().join("socket")
    }

    fn bpffs(&self) -> PathBuf {
        self.home().join("bpffs")
    }

    fn namespace(&self, machine: Machine) -> String {
        format!("lab-{}-{}", self.0, machine.name())
    }

    /// A command in the namespace of a machine. Not `ip netns exec`: that would hide the BPF file system.
    fn within(&self, machine: Machine, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/var/run/netns/{}", self.namespace(machine))).arg(program);
        command
    }

    fn up(&self) -> anyhow::Result<()> {
        if self.home().exists() {
            return Err(usage(format!("there is a lab {0} already; `dataplane lab down {0}` takes it away", self.0)));
        }
        let built = self.build().and_then(|()| self.start());
        if let Err(error) = built {
            if let Err(more) = self.down() {
                eprintln!("warning: {more:#}");
            }
            return Err(error.context(format!("lab {} was taken away again", self.0)));
        }
        let name = &self.0;
        session::print(&format!(
            "lab {name} is up\n\
             \x20 dataplane lab shell {name}           # the router; `dataplane stats` and all other verbs work there\n\
             \x20 dataplane lab shell {name} client    # then: ping 198.18.1.2, or 2001:db8:1::2\n\
             \x20 dataplane lab down {name}\n",
        ))
    }

    fn build(&self) -> anyhow::Result<()> {
        for machine in Machine::ALL {
            self.add(machine)?;
        }
        for (host, port, net) in LINKS {
            self.link(host, port, net)?;
        }
        for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            run(self.within(Machine::Router, "sysctl").args(["-qw", setting]))?;
        }
        Ok(())
    }

    fn add(&self, machine: Machine) -> anyhow::Result<()> {
        let namespace = self.namespace(machine);
        run(Command::new("ip").args(["netns", "add", &namespace]))?;
        // An address is usable at once.
        run(self.within(machine, "sysctl").args(["-qw", "net.ipv6.conf.default.accept_dad=0"]))?;
        run(Command::new("ip").args(["-n", &namespace, "link", "set", "lo", "up"]))
    }

    /// A veth pair between a host and the router, and the host's way out.
    fn link(&self, host: Machine, port: &str, net: u8) -> anyhow::Result<()> {
        let (here, router) = (self.namespace(host), self.namespace(Machine::Router));
        let veth = ["link", "add", "eth0", "netns", &here, "type", "veth", "peer", "name", port, "netns", &router];
        run(Command::new("ip").args(veth))?;
        for (namespace, dev, digit) in [(&here, "eth0", 2), (&router, port, 1)] {
            let [v4, v6] = [format!("198.18.{net}.{digit}/24"), format!("2001:db8:{net}::{digit}/64")];
            run(Command::new("ip").args(["-n", namespace, "address", "add", &v4, "dev", dev]))?;
            run(Command::new("ip").args(["-n", namespace, "address", "add", &v6, "dev", dev, "nodad"]))?;
            run(Command::new("ip").args(["-n", namespace, "link", "set", dev, "up"]))?;
        }
        for gateway in [format!("198.18.{net}.1"), format!("2001:db8:{net}::1")] {
            run(Command::new("ip").args(["-n", &here, "route", "add", "default", "via", &gateway]))?;
        }
        Ok(())
    }

    /// Starts a daemon in the router, which outlives this process, and attaches both ports.
    fn start(&self) -> anyhow::Result<()> {
        for folder in ["state", "bpffs"] {
            let folder = self.home().join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(self.bpffs()))?;
        let log = self.home().join("log");
        let log = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let program = env::current_exe().context("cannot tell where this program is")?;
        let mut command = self.within(Machine::Router, program);
        command.arg("run").arg("--socket").arg(self.socket()).arg("--bpffs").arg(self.bpffs());
        command.arg("--state").arg(self.home().join("state"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut daemon = command.spawn().context("cannot start the daemon; is nsenter (util-linux) there?")?;
        fs::write(self.home().join("pid"), daemon.id().to_string()).context("cannot write the daemon's pid")?;
        self.answered(&mut daemon)?;
        let ports = LINKS.map(|(_, port, _)| port.to_owned()).to_vec();
        Client::connect(&self.socket())?
            .call(&Request::Attach { ifaces: ports, mode: crate::model::ModeChoice::Auto })?;
        Ok(())
    }

    /// Waits for the daemon.
    fn answered(&self, daemon: &mut Child) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            let ended = daemon.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(self.home().join("log")).unwrap_or_default();
                bail!("the lab's daemon does not answer; it said:\n{log}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn down(&self) -> anyhow::Result<()> {
        let namespaces: Vec<_> = Machine::ALL
            .into_iter()
            .map(|machine| self.namespace(machine))
            .filter(|name| Path::new("/var/run/netns").join(name).exists())
            .collect();
        if namespaces.is_empty() && !self.home().exists() {
            return Err(self.unknown());
        }
        let ended = self.end();
        let mounted = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let bpffs = self.bpffs().display().to_string();
        if mounted.lines().any(|line| line.split(' ').nth(1) == Some(bpffs.as_str())) {
            run(Command::new("umount").arg(&bpffs))?;
        }
        for namespace in namespaces {
            run(Command::new("ip").args(["netns", "del", &namespace]))?;
        }
        if self.home().exists() {
            fs::remove_dir_all(self.home()).with_context(|| format!("cannot remove {}", self.home().display()))?;
        }
        ended
    }

    /// Ends the lab's daemon, if it is still the one that was started.
    fn end(&self) -> anyhow::Result<()> {
        let Ok(text) = fs::read_to_string(self.home().join("pid")) else { return Ok(()) };
        let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(()) };
        let ours = || {
            let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&self.socket().display().to_string())
        };
        if ours() {
            kill_process(pid, Signal::TERM).with_context(|| format!("cannot end the lab's daemon (pid {text})"))?;
        }
        let end = Instant::now() + PATIENCE;
        while ours() {
            ensure!(Instant::now() < end, "the lab's daemon (pid {text}) does not end; `kill -9 {text}`");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn enter(&self, machine: Machine, words: &[String]) -> anyhow::Result<()> {
        if !Path::new("/var/run/netns").join(self.namespace(machine)).exists() {
            return Err(self.unknown());
        }
        let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
        let (program, words) = words.split_first().map_or((&shell, &[][..]), |(first, rest)| (first, rest));
        let mut command = self.within(machine, program);
        command.args(words).env("DATAPLANE_SOCKET", self.socket());
        // The verbs are found there even if this program is not on the PATH.
        if let Some(folder) = env::current_exe().ok().as_deref().and_then(Path::parent) {
            let path = env::var_os("PATH").unwrap_or_default();
            let folders = [folder.to_owned()].into_iter().chain(env::split_paths(&path));
            command.env("PATH", env::join_paths(folders).unwrap_or(path));
        }
        // Only comes back when it did not work.
        Err(anyhow::Error::new(command.exec()).context("cannot run nsenter (util-linux)"))
    }

    fn unknown(&self) -> anyhow::Error {
        let text = format!("there is no lab {0}; `dataplane lab up {0}` makes one", self.0);
        Failure::new(FailureKind::NotFound, text).into()
    }
}

/// Runs a command that says nothing when all is well.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_labs() {
        for good in ["demo", "a-1", "X"] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a/b", "..", "a b", "ü", "123456789012345678901234567890123"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
