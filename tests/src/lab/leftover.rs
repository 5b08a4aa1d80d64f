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
    /// Ids of network programs that no living process of somebody else holds.
    programs: BTreeSet<u32>,
    /// Ids of network links, likewise.
    links: BTreeSet<u32>,
}

/// What bpftool lists.
#[derive(Deserialize)]
struct Object {
    id: u32,
    #[serde(rename = "type", default)]
    kind: String,
    /// Who holds it; empty when only pins, links or devices do.
    #[serde(default)]
    pids: Vec<Holder>,
}

#[derive(Deserialize)]
struct Holder {
    pid: u32,
}

impl Leftovers {
    /// Looks at the machine.
    pub fn now() -> anyhow::Result<Self> {
        let prefix = clean::prefix_of(std::process::id());
        Ok(Self {
            namespaces: names(Path::new("/var/run/netns")).filter(|name| name.starts_with(&prefix)).collect(),
            mounts: clean::mounts(&prefix).into_iter().collect(),
            processes: processes(&prefix),
            programs: objects("prog", &["xdp", "sched_cls"])?,
            links: objects("link", &["xdp", "tcx"])?,
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
        left.extend(after.programs.difference(&self.programs).map(|id| format!("BPF program {id}")));
        left.extend(after.links.difference(&self.links).map(|id| format!("BPF link {id}")));
        left
    }
}

fn objects(object: &str, kinds: &[&str]) -> anyhow::Result<BTreeSet<u32>> {
    let text = command::output(Command::new("bpftool").args(["-j", object, "list"]), SETTING_UP)?.checked()?;
    let own = std::process::id();
    // bpftool says `[]` or an empty text when there is nothing.
    let all: Vec<Object> = if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text)? };
    let held_elsewhere =
        |object: &Object| !object.pids.is_empty() && object.pids.iter().all(|holder| holder.pid != own);
    let ours = all.into_iter().filter(|object| kinds.contains(&object.kind.as_str()) && !held_elsewhere(object));
    Ok(ours.map(|object| object.id).collect())
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

fn names(dir: &Path) -> impl Iterator<Item = String> {
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
}
