//! Which processes have a socket open, from /proc: of others' processes only root may see that.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::control::open_socket::{ProcessRow, RecipientRow, SocketEnd, SocketRow};

/// How long what was found is believed where a socket is not in it.
const FRESH: Duration = Duration::from_secs(1);

/// The processes of this machine, by the numbers of their sockets.
#[derive(Debug, Default)]
pub(super) struct Processes {
    by_socket: HashMap<u32, Vec<ProcessRow>>,
    read: Option<Instant>,
}

impl Processes {
    /// Those that have a socket open; /proc is read again if it is not among the known ones.
    fn of(&mut self, inode: u32) -> Vec<ProcessRow> {
        let stale = self.read.is_none_or(|read| read.elapsed() > FRESH);
        if inode != 0 && stale && !self.by_socket.contains_key(&inode) {
            self.by_socket = read_all(Path::new("/proc"));
            self.read = Some(Instant::now());
        }
        self.by_socket.get(&inode).cloned().unwrap_or_default()
    }

    /// Puts the processes into a row.
    pub(super) fn complete_row(&mut self, row: &mut SocketRow) {
        row.processes.extend(row.inodes.iter().flat_map(|inode| self.of(*inode)));
        row.processes.sort();
        row.processes.dedup();
    }

    /// Puts the processes into one socket.
    pub(super) fn complete_end(&mut self, socket: &mut SocketEnd) {
        socket.processes = self.of(socket.inode);
    }

    /// Puts the processes into the sockets of an answer.
    pub(super) fn complete(&mut self, recipient: &mut RecipientRow) {
        for socket in recipient.socket.iter_mut().chain(&mut recipient.copies) {
            self.complete_end(socket);
        }
    }
}

/// The number of the descriptor by which a process has a socket open.
pub(super) fn descriptor(pid: u32, socket: u32) -> Option<i32> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut numbers = open.filter_map(|fd| {
        let link = fs::read_link(fd.path()).ok()?;
        (inode(link.to_str()?)? == socket).then(|| fd.file_name().to_str()?.parse().ok()).flatten()
    });
    numbers.next()
}

/// All processes with sockets below a folder like /proc.
fn read_all(proc: &Path) -> HashMap<u32, Vec<ProcessRow>> {
    let mut found: HashMap<u32, Vec<ProcessRow>> = HashMap::new();
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let open = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let mut sockets: Vec<_> = open.filter_map(|fd| inode(fs::read_link(fd.path()).ok()?.to_str()?)).collect();
        sockets.sort_unstable();
        sockets.dedup();
        if sockets.is_empty() {
            continue;
        }
        let text = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let row = ProcessRow { pid, name: text("comm").trim_end().to_owned(), unit: unit(&text("cgroup")) };
        for socket in sockets {
            found.entry(socket).or_default().push(row.clone());
        }
    }
    found
}

/// The number in `socket:[4711]`.
fn inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The innermost service or scope in `/proc/PID/cgroup`, in the hierarchy of systemd: `0::/system.slice/ssh.service`.
fn unit(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(path_of_systemd)?;
    let is_unit = |name: &&str| [".service", ".scope"].iter().any(|end| name.ends_with(end));
    path.rsplit('/').find(is_unit).map(str::to_owned)
}

/// The path on a line of the unified hierarchy, or of systemd's own.
fn path_of_systemd(line: &str) -> Option<&str> {
    line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path))
}

/// Processes in a few words: `812 (sshd), ssh.service`.
fn listed(processes: &[ProcessRow]) -> String {
    let word = |process: &ProcessRow| {
        let unit = process.unit.as_ref().map(|unit| format!(", {unit}")).unwrap_or_default();
        format!("{} ({}){unit}", process.pid, process.name)
    };
    processes.iter().map(word).collect::<Vec<_>>().join("; ")
}

/// The processes that get a packet; none where no socket does.
pub(super) fn in_words(recipient: &RecipientRow) -> Option<String> {
    let socket = recipient.socket.as_ref()?;
    Some(match (socket.inode, socket.processes.as_slice()) {
        (0, _) => "none: the kernel answers for a connection that is closed, or not accepted yet".to_owned(),
        (inode, []) => {
            format!("not visible here: socket {inode} of user {}; only root sees others' processes", socket.uid)
        }
        (_, processes) => listed(processes),
    })
}

/// The same in a line of `trace`, with what the kernel answers.
pub(super) fn briefly(recipient: &RecipientRow) -> String {
    match (&recipient.socket, recipient.answer.as_str()) {
        (Some(socket), answer) => {
            let processes = listed(&socket.processes);
            let answer = if answer == "socket" { String::new() } else { format!(", answer {answer}") };
            format!("socket {} {processes}", socket.words()).trim_end().to_owned() + &answer
        }
        (None, "kernel") => "no socket".to_owned(),
        (None, answer) => format!("no socket, answer {answer}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_sockets() {
        assert_eq!(inode("socket:[4711]"), Some(4711));
        for other in ["socket:[x]", "pipe:[1]", "/dev/null", "anon_inode:[eventpoll]", "socket:[4711"] {
            assert_eq!(inode(other), None, "{other}");
        }
    }

    #[test]
    fn units_of_processes() {
        for (cgroup, want) in [
            ("0::/system.slice/ssh.service\n", Some("ssh.service")),
            ("0::/user.slice/user-0.slice/session-3.scope\n", Some("session-3.scope")),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/a@b.service/sub\n", Some("a@b.service")),
            ("12:pids:/x\n1:name=systemd:/system.slice/nginx.service\n", Some("nginx.service")),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit(cgroup).as_deref(), want, "{cgroup}");
        }
    }

    #[test]
    fn own_sockets_are_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket));
        let inode = inode(fs::read_link(link).expect("a link").to_str().expect("UTF-8")).expect("a socket");
        let found = Processes::default().of(inode);
        assert!(found.iter().any(|process| process.pid == std::process::id()), "{found:?}");
    }
}
