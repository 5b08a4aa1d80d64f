//! Removes what laboratories made: processes, namespaces, mounts and folders whose names begin with their prefix.

use std::{fs, path::Path, process::Command};

use rustix::process::{Pid, Signal, kill_process};

use super::{SETTING_UP, command};

/// What the names of one process' laboratories begin with.
pub(super) fn prefix_of(pid: u32) -> String {
    format!("dp-{pid}-")
}

/// Removes everything of this process: for a signal handler's thread, where no `Drop` will run.
pub fn clear_own() {
    for problem in clear(&prefix_of(std::process::id())) {
        eprintln!("clean-up: {problem}");
    }
}

/// Removes what processes left that are no more.
pub(super) fn clear_dead() {
    let temporary = names_in(&std::env::temp_dir());
    let mut dead: Vec<_> = names_in(Path::new("/var/run/netns"))
        .into_iter()
        .chain(temporary)
        .filter_map(|name| owner(&name))
        .filter(|pid| !Path::new("/proc").join(pid.to_string()).exists())
        .collect();
    dead.sort_unstable();
    dead.dedup();
    for pid in dead {
        eprintln!("removing what process {pid} left");
        for problem in clear(&prefix_of(pid)) {
            eprintln!("clean-up: {problem}");
        }
    }
}

/// Removes everything whose name begins with the prefix; what could not be removed is told.
pub(super) fn clear(prefix: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let namespaces: Vec<_> =
        names_in(Path::new("/var/run/netns")).into_iter().filter(|name| name.starts_with(prefix)).collect();
    for name in &namespaces {
        end_processes(name);
    }
    for mount in mounts(prefix) {
        tell(&mut problems, Command::new("umount").args(["--lazy", &mount]));
    }
    for name in &namespaces {
        tell(&mut problems, Command::new("ip").args(["netns", "del", name]));
    }
    let temporary = std::env::temp_dir();
    for name in names_in(&temporary) {
        // The folder's name is the prefix without its last dash.
        if format!("{name}-").starts_with(prefix) && owner(&name).is_some() {
            let dir = temporary.join(name);
            if let Err(error) = fs::remove_dir_all(&dir) {
                problems.push(format!("can not remove {}: {error}", dir.display()));
            }
        }
    }
    problems
}

/// Ends the processes in one of our namespaces: nobody else has business there.
fn end_processes(namespace: &str) {
    let Ok(pids) = command::output(Command::new("ip").args(["netns", "pids", namespace]), SETTING_UP) else { return };
    for pid in pids.stdout.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
        // It may have ended in between.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Mount points below the folders of this prefix, the innermost first.
pub(super) fn mounts(prefix: &str) -> Vec<String> {
    let start = std::env::temp_dir().join(prefix.trim_end_matches('-')).to_string_lossy().into_owned();
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let ours = |point: &str| {
        // Either the folder of one laboratory (`dp-1-0/...`), or of all of one process (`dp-1-...`).
        point.strip_prefix(&start).is_some_and(|rest| rest.starts_with(['/', '-']))
    };
    let points = table.lines().filter_map(|line| line.split(' ').nth(1)).filter(|point| ours(point));
    let mut points: Vec<_> = points.map(str::to_owned).collect();
    points.reverse();
    points
}

/// The process whose laboratory has this name.
fn owner(name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix("dp-")?.split_once('-')?;
    number.starts_with(|c: char| c.is_ascii_digit()).then_some(())?;
    pid.parse().ok()
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = dir.read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn tell(problems: &mut Vec<String>, command: &mut Command) {
    if let Err(error) = command::output(command, SETTING_UP).and_then(command::Output::checked) {
        problems.push(format!("{error:#}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_have_an_owner() {
        let rows = [
            ("dp-12-0-router", Some(12)),
            ("dp-12-0", Some(12)),
            ("dp-12-x", None),
            ("dp-x-0", None),
            ("dp-12", None),
            ("other-12-0", None),
        ];
        for (name, expected) in rows {
            assert_eq!(owner(name), expected, "{name}");
        }
    }
}
