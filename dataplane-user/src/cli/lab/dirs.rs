//! A lab's namespaces, links, folders and daemon.

use std::{
    env, fs,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};

use super::HOME;
use crate::{
    cli::{
        bench::{self, Place},
        session, usage,
    },
    control::{
        client::Client,
        protocol::{Failure, FailureKind, Request},
    },
    model::{Mode, ModeChoice},
    netlink::ethtool::set_offloads,
};

/// How long a daemon may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Machine {
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

/// A lab by its name.
#[derive(Clone, Debug)]
pub(in crate::cli) struct LabDirs(pub(in crate::cli) String);

/// How a lab is made.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cli) struct LabOptions {
    /// At the driver; the hosts are ready for it.
    pub(in crate::cli) native: bool,
    /// Queues of each interface; none: as the kernel makes them.
    pub(in crate::cli) queues: Option<usize>,
}

/// Offloads of hosts whose frames go through XDP: by names of the kernel.
const HOST_OFFLOADS: [(&str, bool); 3] =
    [("rx-gro", true), ("tx-checksum-ip-generic", false), ("tx-checksum-sctp", false)];

impl LabDirs {
    pub(in crate::cli) fn home(&self) -> PathBuf {
        Path::new(HOME).join(&self.0)
    }

    pub(in crate::cli) fn socket(&self) -> PathBuf {
        self.home().join("socket")
    }

    fn bpffs(&self) -> PathBuf {
        self.home().join("bpffs")
    }

    pub(in crate::cli) fn namespace(&self, machine: Machine) -> String {
        format!("lab-{}-{}", self.0, machine.name())
    }

    /// A command in the namespace of a machine. Not `ip netns exec`: that would hide the BPF file system.
    fn within(&self, machine: Machine, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/var/run/netns/{}", self.namespace(machine))).arg(program);
        command
    }

    /// Where its interfaces are.
    pub(in crate::cli) fn place(&self, machine: Machine) -> anyhow::Result<Place> {
        let path = Path::new("/var/run/netns").join(self.namespace(machine));
        if !path.exists() {
            return Err(self.unknown());
        }
        Place::of(&path)
    }

    pub(in crate::cli) fn up(&self, options: LabOptions) -> anyhow::Result<()> {
        self.raise(options)?;
        let name = &self.0;
        session::print(&format!(
            "lab {name} is up\n\
             \x20 dataplane lab shell {name}           # the router; `dataplane stats` and all other verbs work there\n\
             \x20 dataplane lab shell {name} client    # then: ping 198.18.1.2, or 2001:db8:1::2\n\
             \x20 dataplane lab down {name}\n",
        ))
    }

    /// Makes it and says nothing.
    pub(in crate::cli) fn raise(&self, options: LabOptions) -> anyhow::Result<()> {
        if self.home().exists() {
            return Err(usage(format!("there is a lab {0} already; `dataplane lab down {0}` takes it away", self.0)));
        }
        let built = self.build(options).and_then(|()| self.start(options));
        if let Err(error) = built {
            if let Err(more) = self.down() {
                eprintln!("warning: {more:#}");
            }
            return Err(error.context(format!("lab {} was taken away again", self.0)));
        }
        Ok(())
    }

    fn build(&self, options: LabOptions) -> anyhow::Result<()> {
        for machine in Machine::ALL {
            self.add(machine)?;
        }
        for (host, port, net) in LINKS {
            self.link(host, port, net, options.queues)?;
            if options.native {
                self.place(host)?.within(|| Ok(set_offloads(bench::index("eth0")?, &HOST_OFFLOADS)?))?;
            }
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
    fn link(&self, host: Machine, port: &str, net: u8, queues: Option<usize>) -> anyhow::Result<()> {
        let (here, router) = (self.namespace(host), self.namespace(Machine::Router));
        let queues = queues.map(|number| number.to_string());
        let queues: Vec<_> = queues.iter().flat_map(|number| ["numtxqueues", number, "numrxqueues", number]).collect();
        let mut veth = Command::new("ip");
        veth.args(["link", "add", "eth0", "netns", &here]).args(&queues).args(["type", "veth", "peer", "name", port]);
        run(veth.args(["netns", &router]).args(&queues))?;
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
    fn start(&self, options: LabOptions) -> anyhow::Result<()> {
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
        let mode = if options.native { ModeChoice::Fixed(Mode::Native) } else { ModeChoice::Auto };
        Client::connect(&self.socket())?.call(&Request::Attach { ifaces: ports, mode })?;
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

    pub(in crate::cli) fn down(&self) -> anyhow::Result<()> {
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

    pub(in crate::cli) fn enter(&self, machine: Machine, words: &[String]) -> anyhow::Result<()> {
        if !Path::new("/var/run/netns").join(self.namespace(machine)).exists() {
            return Err(self.unknown());
        }
        let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
        let (program, words) = words.split_first().map_or((&shell, &[][..]), |(first, rest)| (first, rest));
        let mut command = self.within(machine, program);
        command.args(words).env("DATAPLANE_SOCKET", self.socket());
        // The prompt says where one is: bash's, as Debian sets it up, and a plain shell's.
        let place = [&self.0, ":", machine.name()].concat();
        command.env("PS1", format!("{place}# ")).env("debian_chroot", place);
        // The verbs are found there even if this program is not on the PATH.
        if let Some(folder) = env::current_exe().ok().as_deref().and_then(Path::parent) {
            let path = env::var_os("PATH").unwrap_or_default();
            let folders = [folder.to_owned()].into_iter().chain(env::split_paths(&path));
            command.env("PATH", env::join_paths(folders).unwrap_or(path));
        }
        // Only comes back when it did not work.
        Err(anyhow::Error::new(command.exec()).context("cannot run nsenter (util-linux)"))
    }

    pub(in crate::cli) fn unknown(&self) -> anyhow::Error {
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
