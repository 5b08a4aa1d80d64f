//! A Debian machine of its own, made for one run: a minimal root file system, and namespaces in which its systemd runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::command::run;

/// How long systemd may take to come up: it takes a second.
const BOOT: Duration = Duration::from_mins(1);
/// What the first process does before it becomes systemd.
const SCRIPT: &str = include_str!("boot.sh");
/// Where a machine may have groups of processes: systemd's own of old, and those of today's kernels.
const GROUPS: [&str; 3] = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
/// What the machine's commands find in their environment.
const ENVIRONMENT: [&str; 5] = [
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LC_ALL=C.UTF-8",
    "DEBIAN_FRONTEND=noninteractive",
    "SYSTEMD_PAGER=",
];

/// Makes the root of a machine from the package sources of this one. `packages` are laid in its /root, and what the first of
/// them needs is downloaded, not installed.
pub(super) fn make_root(root: &Path, packages: &[PathBuf]) -> anyhow::Result<()> {
    let first = packages.first().and_then(|path| path.file_name()).context("no package")?.to_string_lossy();
    let copies = packages.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let mut debian = Command::new("mmdebstrap");
    debian.args(["--quiet", "--mode=root", "--variant=apt", "--include=systemd", "--skip=cleanup/apt"]);
    debian.args(["--dpkgopt=force-unsafe-io", "--aptopt=Dpkg::Use-Pty \"0\""]);
    debian.arg(format!("--customize-hook=copy-in {copies} /root"));
    debian.arg(format!("--customize-hook=chroot \"$1\" apt-get -qq -o APT::Install-Recommends=true install --yes --download-only /root/{first}"));
    debian.arg("bookworm").arg(root).args(sources()?);
    run(&mut debian)
        .context("no Debian root could be made; where the mirror can not be reached, this can not be tested")
}

/// The files with this machine's sources of Debian 12.
fn sources() -> anyhow::Result<Vec<PathBuf>> {
    let files =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let ends = |file: &PathBuf| file.extension().is_some_and(|end| end == "list" || end == "sources");
    let mut found: Vec<_> = files.filter(ends).chain([PathBuf::from("/etc/apt/sources.list")]).collect();
    found.retain(|file| fs::read_to_string(file).is_ok_and(|text| is_debian_12(&text)));
    found.sort();
    ensure!(!found.is_empty(), "apt has no source of Debian 12 here: /etc/apt/sources.list names none");
    Ok(found)
}

fn is_debian_12(sources: &str) -> bool {
    let mut words = sources.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    words.any(|word| word == "bookworm")
}

/// A running machine; ended, and its root removed, when this is dropped.
pub(super) struct Machine {
    root: PathBuf,
    starter: Child,
    /// Its first process, as this machine numbers it.
    pub(super) first: u32,
    groups: Vec<PathBuf>,
}

/// What a command of the machine said.
pub(super) struct Said {
    pub(super) ok: bool,
    /// Both streams.
    pub(super) text: String,
}

impl Machine {
    /// Boots the machine whose root this is.
    pub(super) fn boot(root: &Path) -> anyhow::Result<Self> {
        let groups = make_groups()?;
        let mut starter = Command::new("sh");
        starter.args(["-c", SCRIPT, "boot"]).arg(root).args(&groups);
        // Systemd's console is of no use here; what it says is in its journal.
        starter.stdin(Stdio::null()).stdout(Stdio::null());
        let starter = starter.spawn().context("sh did not start")?;
        let mut machine = Self { root: root.to_owned(), starter, first: 0, groups };
        machine.wait()?;
        Ok(machine)
    }

    /// Waits until all has started.
    fn wait(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + BOOT;
        let own = namespace("self")?;
        let mut last = String::new();
        while Instant::now() < end {
            if let Some(status) = self.starter.try_wait()? {
                bail!("the machine ended before it was up: {status}");
            }
            let pid = self.starter.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            if let Some(first) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) {
                self.first = first;
                if namespace(&first.to_string()).is_ok_and(|name| name != own) {
                    let Said { text, .. } = self.run("systemctl is-system-running")?;
                    if matches!(text.trim(), "running" | "degraded") {
                        return Ok(());
                    }
                    last = text;
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the machine was not up after {BOOT:?}; systemd says {last}");
    }

    /// Runs a line of shell on the machine.
    pub(super) fn run(&self, line: &str) -> anyhow::Result<Said> {
        said(self.command(line))
    }

    /// The same, and it must succeed.
    pub(super) fn must(&self, line: &str) -> anyhow::Result<String> {
        let Said { ok, text } = self.run(line)?;
        ensure!(ok, "`{line}` failed on the machine:\n{text}");
        Ok(text)
    }

    fn command(&self, line: &str) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &self.first.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid"]);
        nsenter.args(["env", "--ignore-environment", "--chdir=/root"]).args(ENVIRONMENT).args(["sh", "-c", line]);
        nsenter
    }

    /// A file of the machine, as this one sees it. What is mounted there is not seen.
    pub(super) fn file(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// Runs a command to its end.
pub(super) fn said(mut command: Command) -> anyhow::Result<Said> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{name} did not start"))?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok(Said { ok: output.status.success(), text })
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It takes the first process with it (`--kill-child`), and that all others of its namespace.
        let _ = self.starter.kill();
        let _ = self.starter.wait();
        for group in &self.groups {
            remove_group(group);
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// What tells the network namespace of a process.
pub(super) fn namespace(process: &str) -> anyhow::Result<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/net")).with_context(|| format!("no process {process}"))
}

/// Groups of processes for the machine: systemd makes its own below them.
fn make_groups() -> anyhow::Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for parent in GROUPS.map(Path::new).into_iter().filter(|parent| parent.join("cgroup.procs").is_file()) {
        let group = parent.join(format!("dataplane-deb-{}", std::process::id()));
        fs::create_dir(&group).with_context(|| format!("can not make {}", group.display()))?;
        made.push(group);
    }
    Ok(made)
}

/// Removes a group and those below it. The kernel is done with a process a moment after its end.
fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_group(&entry.path());
    }
    for _ in 0..50 {
        if fs::remove_dir(group).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    eprintln!("clean-up: can not remove {}", group.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_debian_12_are_told_from_others() {
        assert!(is_debian_12("deb http://deb.debian.org/debian bookworm main\n"));
        assert!(is_debian_12("Types: deb\nSuites: bookworm bookworm-updates\n"));
        assert!(!is_debian_12("# deb http://deb.debian.org/debian bookworm main\ndeb http://x.example/ stable main\n"));
    }

    #[test]
    fn both_streams_of_a_command_are_read() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo out; echo err >&2; exit 3"]);
        let Said { ok, text } = said(shell).expect("a shell");
        assert!(!ok);
        assert_eq!(text, "out\nerr\n");
    }
}
