//! What a scenario must not leave behind. Only what this process made counts: other programs may load and free BPF objects
//! beside it, and other tests may run.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use serde::Deserialize;

use super::{SETTING_UP, clean, command};

/// The kernel frees programs a moment after their last holder is gone.
const SETTLING: Duration = Duration::from_secs(3);

/// A BPF program or link. The kernel gives out ascending numbers, so none comes again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Object {
    Program(u32),
    Link(u32),
}

/// What the daemons of this process' laboratories held or pinned whenever [`note`] looked.
static MADE: Mutex<BTreeSet<Object>> = Mutex::new(BTreeSet::new());

/// The state of the machine as far as this process' laboratories change it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leftovers {
    /// Namespaces with the names of this process.
    namespaces: BTreeSet<String>,
    /// Mounts below this process' temporary folders.
    mounts: BTreeSet<String>,
    /// Processes in whose command line the name of one of this process' laboratories stands.
    processes: BTreeSet<String>,
    /// Programs and links that our daemons made, and that are still there.
    objects: BTreeSet<Object>,
}

/// What bpftool lists.
#[derive(Deserialize)]
struct Listed {
    id: u32,
    /// Paths, where it was told to find them.
    #[serde(default)]
    pinned: Vec<String>,
}

impl Leftovers {
    /// Looks at the machine.
    pub fn now() -> anyhow::Result<Self> {
        let prefix = clean::prefix_of(std::process::id());
        note()?;
        let made = MADE.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Without daemons there is nothing to compare with, and bpftool need not run.
        let alive = if made.is_empty() { BTreeSet::new() } else { alive()? };
        Ok(Self {
            namespaces: names(Path::new("/var/run/netns")).filter(|name| name.starts_with(&prefix)).collect(),
            mounts: clean::mounts(&prefix).into_iter().collect(),
            processes: processes(&prefix).into_iter().map(|(pid, line)| format!("{pid} ({line})")).collect(),
            objects: made.intersection(&alive).copied().collect(),
        })
    }

    /// Whether nothing is there that was not there before; waits a moment for the kernel to free what is no longer held.
    /// `self` was taken before.
    pub fn check(&self) -> anyhow::Result<()> {
        let end = Instant::now() + SETTLING;
        loop {
            let left = self.left(&Self::now()?);
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("left behind: {}", left.join("; "));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn left(&self, after: &Self) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(after.namespaces.difference(&self.namespaces).map(|name| format!("namespace {name}")));
        left.extend(after.mounts.difference(&self.mounts).map(|point| format!("mount {point}")));
        left.extend(after.processes.difference(&self.processes).map(|process| format!("process {process}")));
        left.extend(after.objects.difference(&self.objects).map(|object| match object {
            Object::Program(id) => format!("BPF program {id}"),
            Object::Link(id) => format!("BPF link {id}"),
        }));
        left
    }
}

/// Notes which programs and links our daemons hold or have pinned. Called before a daemon ends and before its pins go: what
/// outlives both would be left behind.
pub(super) fn note() -> anyhow::Result<()> {
    let prefix = clean::prefix_of(std::process::id());
    let mut found: BTreeSet<Object> = processes(&prefix).iter().flat_map(|(pid, _)| held(pid)).collect();
    let mounts = clean::mounts(&prefix);
    if !mounts.is_empty() {
        let own = |listed: &Listed| {
            listed.pinned.iter().any(|path| mounts.iter().any(|mount| Path::new(path).starts_with(mount)))
        };
        let of = |kind, object: fn(u32) -> Object| {
            anyhow::Ok(list(kind)?.into_iter().filter(own).map(move |listed| object(listed.id)))
        };
        found.extend(of("prog", Object::Program)?);
        found.extend(of("link", Object::Link)?);
    }
    MADE.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
    Ok(())
}

/// All programs and links of the machine.
fn alive() -> anyhow::Result<BTreeSet<Object>> {
    let programs = list("prog")?.into_iter().map(|listed| Object::Program(listed.id));
    Ok(programs.chain(list("link")?.into_iter().map(|listed| Object::Link(listed.id))).collect())
}

/// What bpftool lists, with the paths of pins. An object that goes while it lists makes it fail: then it lists again.
fn list(object: &str) -> anyhow::Result<Vec<Listed>> {
    let mut tries = 0;
    loop {
        tries += 1;
        let output = command::output(Command::new("bpftool").args(["-j", "-f", object, "list"]), SETTING_UP)?;
        // bpftool says `[]` or nothing at all when there is nothing.
        let read = if output.stdout.trim().is_empty() { Ok(Vec::new()) } else { serde_json::from_str(&output.stdout) };
        match read {
            Ok(listed) if output.status.success() || tries == TRIES => return Ok(listed),
            Err(error) if tries == TRIES => bail!("`bpftool {object} list` printed {}: {error}", output.stdout),
            _ => {}
        }
    }
}

/// How often bpftool may list while others load and free objects.
const TRIES: u32 = 20;

/// The programs and links that a process holds, as /proc/PID/fdinfo says (kernel/bpf/syscall.c, `bpf_prog_show_fdinfo` and
/// `bpf_link_show_fdinfo`).
fn held(pid: &str) -> Vec<Object> {
    let dir = Path::new("/proc").join(pid).join("fdinfo");
    let texts = names(&dir).filter_map(|name| fs::read_to_string(dir.join(name)).ok());
    texts.flat_map(|text| ids(&text)).collect()
}

fn ids(fdinfo: &str) -> Vec<Object> {
    let fields = fdinfo.lines().filter_map(|line| line.split_once(':'));
    let wanted = fields.filter_map(|(name, value)| {
        let id = value.trim().parse().ok()?;
        match name {
            "prog_id" => Some(Object::Program(id)),
            "link_id" => Some(Object::Link(id)),
            _ => None,
        }
    });
    wanted.collect()
}

/// The id and the command line of each process that has the prefix in that line.
fn processes(prefix: &str) -> BTreeSet<(String, String)> {
    let pids = names(Path::new("/proc")).filter(|name| name.parse::<u32>().is_ok());
    let lines = pids.filter_map(|pid| {
        let line = fs::read(Path::new("/proc").join(&pid).join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(prefix).then(|| (pid, line.trim().to_owned()))
    });
    lines.collect()
}

fn names(dir: &Path) -> impl Iterator<Item = String> + use<> {
    dir.read_dir().into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_new_is_told() {
        let before = Leftovers {
            namespaces: BTreeSet::new(),
            mounts: BTreeSet::new(),
            processes: BTreeSet::new(),
            objects: BTreeSet::from([Object::Program(1)]),
        };
        let mut after = before.clone();
        assert!(before.left(&after).is_empty());
        after.namespaces.insert("dp-1-0-a".to_owned());
        after.mounts.insert("/tmp/dp-1-0/bpffs".to_owned());
        after.processes.insert("7 (dataplane run)".to_owned());
        after.objects.insert(Object::Program(2));
        after.objects.insert(Object::Link(3));
        assert_eq!(before.left(&after).len(), 5);
        after.objects.remove(&Object::Program(1));
        assert_eq!(after.left(&before), ["BPF program 1"]);
    }

    #[test]
    fn ids_are_read_from_fdinfo() {
        let text = "pos:\t0\nlink_type:\txdp\nlink_id:\t158\nprog_tag:\tabc\nprog_id:\t362\n";
        assert_eq!(ids(text), [Object::Link(158), Object::Program(362)]);
        assert!(ids("pos:\t0\nflags:\t02\n").is_empty());
    }
}
