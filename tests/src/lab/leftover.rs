//! What a scenario must not leave behind: looked at before, compared after.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use serde::Deserialize;

use super::{SETTING_UP, clean, command};

/// The kernel frees programs a moment after their last holder is gone.
const SETTLING: Duration = Duration::from_secs(3);

/// The state of the machine as far as laboratories change it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leftovers {
    /// Namespaces with the names of this process.
    namespaces: BTreeSet<String>,
    /// Mounts below this process' temporary folders.
    mounts: BTreeSet<String>,
    /// Processes in whose command line the name of one of this process' laboratories stands.
    processes: BTreeSet<String>,
    /// Ids of network programs.
    programs: BTreeSet<u32>,
    /// Ids of network links.
    links: BTreeSet<u32>,
}

/// What bpftool lists.
#[derive(Deserialize)]
struct Object {
    id: u32,
    #[serde(rename = "type", default)]
    kind: Kind,
}

/// A type by its name, or, where bpftool is older than the type, by its number (`enum bpf_link_type` of the kernel).
#[derive(Deserialize)]
#[serde(untagged)]
enum Kind {
    Name(String),
    Number(u32),
}

/// `BPF_LINK_TYPE_TCX`.
const TCX: u32 = 11;

impl Kind {
    fn is(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Number(own) => *own == TCX && name == "tcx",
        }
    }
}

impl Default for Kind {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Leftovers {
    /// Looks at the machine.
    pub fn now() -> anyhow::Result<Self> {
        let prefix = clean::prefix_of(std::process::id());
        Ok(Self {
            namespaces: names(Path::new("/var/run/netns")).filter(|name| name.starts_with(&prefix)).collect(),
            mounts: clean::mounts(&prefix).into_iter().collect(),
            processes: processes(&prefix),
            programs: objects("prog", &["xdp", "sched_cls", "raw_tracepoint"])?,
            links: objects("link", &["xdp", "tcx", "raw_tracepoint"])?,
        })
    }

    /// Whether nothing is there that was not there before; waits a moment for the kernel to free what is no longer held.
    /// `self` was taken before.
    pub fn check(&self) -> anyhow::Result<()> {
        let end = Instant::now() + SETTLING;
        loop {
            let mut after = Self::now()?;
            after.forgive_others();
            let left = self.left(&after);
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("left behind: {}", left.join("; "));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Forgets programs and links that another living process holds: they are its business. A process of ours that should
    /// be gone is told by its name.
    fn forgive_others(&mut self) {
        for (kind, id) in held_elsewhere() {
            match kind {
                "prog_id" => self.programs.remove(&id),
                _ => self.links.remove(&id),
            };
        }
    }

    fn left(&self, after: &Self) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(after.namespaces.difference(&self.namespaces).map(|name| format!("namespace {name}")));
        left.extend(after.mounts.difference(&self.mounts).map(|point| format!("mount {point}")));
        left.extend(after.processes.difference(&self.processes).map(|process| format!("process {process}")));
        left.extend(after.programs.difference(&self.programs).map(|id| format!("BPF program {id}")));
        left.extend(after.links.difference(&self.links).map(|id| format!("BPF link {id}")));
        left
    }
}

fn objects(object: &str, kinds: &[&str]) -> anyhow::Result<BTreeSet<u32>> {
    let text = command::output(Command::new("bpftool").args(["-j", object, "list"]), SETTING_UP)?.checked()?;
    // bpftool says `[]` or nothing at all when there is nothing.
    let all: Vec<Object> = if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text)? };
    Ok(all.into_iter().filter(|object| kinds.iter().any(|kind| object.kind.is(kind))).map(|object| object.id).collect())
}

/// The ids of programs and links that other processes hold, as /proc/PID/fdinfo tells (kernel/bpf/syscall.c,
/// `bpf_prog_show_fdinfo` and `bpf_link_show_fdinfo`).
fn held_elsewhere() -> Vec<(&'static str, u32)> {
    let own = std::process::id();
    let others = names(Path::new("/proc")).filter(|name| name.parse::<u32>().is_ok_and(|pid| pid != own));
    let dirs = others.map(|pid| Path::new("/proc").join(pid).join("fdinfo"));
    let texts = dirs.flat_map(|dir| names(&dir).filter_map(move |name| fs::read_to_string(dir.join(name)).ok()));
    texts.flat_map(|text| ids(&text)).collect()
}

fn ids(fdinfo: &str) -> Vec<(&'static str, u32)> {
    let fields = fdinfo.lines().filter_map(|line| line.split_once(':'));
    let wanted = fields.filter_map(|(name, value)| {
        let name = ["prog_id", "link_id"].into_iter().find(|wanted| *wanted == name)?;
        Some((name, value.trim().parse().ok()?))
    });
    wanted.collect()
}

fn processes(prefix: &str) -> BTreeSet<String> {
    let pids = names(Path::new("/proc")).filter(|name| name.parse::<u32>().is_ok());
    let lines = pids.filter_map(|pid| {
        let line = fs::read(Path::new("/proc").join(&pid).join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(prefix).then(|| format!("{pid} ({})", line.trim()))
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
            programs: BTreeSet::from([1]),
            links: BTreeSet::new(),
        };
        let mut after = before.clone();
        assert!(before.left(&after).is_empty());
        after.namespaces.insert("dp-1-0-a".to_owned());
        after.mounts.insert("/tmp/dp-1-0/bpffs".to_owned());
        after.processes.insert("7 (dataplane run)".to_owned());
        after.programs.insert(2);
        after.links.insert(3);
        assert_eq!(before.left(&after).len(), 5);
        after.programs.remove(&1);
        assert_eq!(after.left(&before), ["BPF program 1"]);
    }

    #[test]
    fn ids_are_read_from_fdinfo() {
        let text = "pos:\t0\nlink_type:\txdp\nlink_id:\t158\nprog_tag:\tabc\nprog_id:\t362\n";
        assert_eq!(ids(text), [("link_id", 158), ("prog_id", 362)]);
        assert!(ids("pos:\t0\nflags:\t02\n").is_empty());
    }
}
