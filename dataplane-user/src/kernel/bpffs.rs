//! The directory where links and maps outlive the daemon.
//!
//! ```text
//! DIR/links/IFINDEX-HOOK             what keeps a program attached
//! DIR/steer/link-0 ...               what steers sockets: its link and its maps (`steer.rs`)
//! DIR/closed                         a directory while everything is dropped, because the config in force is not known
//! DIR/expedited                      a directory while links are made in haste (`haste.rs`)
//! DIR/FINGERPRINT/COUNTERS ...       counters, carried from daemon to daemon of one map layout
//! DIR/FINGERPRINT/EPOCH/ports ...    all other maps: made anew at every start, filled, then swapped in
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use dataplane_common::abi;
use rustix::{
    fd::OwnedFd,
    fs::{FlockOperation, FsWord, Mode, OFlags, flock, fstat, open, stat, statfs},
    mount::{MountFlags, mount},
};
use thiserror::Error;

use super::{earlier_slots, haste, steer};

/// Where maps and links are pinned by default.
pub const BPFFS: &str = "/sys/fs/bpf/dataplane";

/// `BPF_FS_MAGIC` of the kernel.
const MAGIC: FsWord = 0xcafe_4a11;
/// Where the BPF file system usually is.
const USUAL: &str = "/sys/fs/bpf";

/// Why the directory cannot be used.
#[derive(Debug, Error)]
pub enum BpffsError {
    /// It cannot be made, mounted or read.
    #[error(
        "cannot {what} {path}: {error}; mount a BPF file system there (`mount -t bpf bpf {path}`) or name another with --bpffs"
    )]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// How it failed.
        error: io::Error,
    },
    /// It was there, and is no more.
    #[error("the BPF file system at {0} is gone")]
    Unmounted(PathBuf),
    /// Another daemon holds it.
    #[error("another daemon uses {0}; stop it first, or give this one its own directory with --bpffs")]
    Busy(PathBuf),
}

/// The directory, locked for this daemon as long as this lives.
#[derive(Debug)]
pub struct Bpffs {
    root: PathBuf,
    epoch: String,
    lock: OwnedFd,
}

/// Where the maps of loaded programs are pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinDirs {
    /// What every daemon takes over.
    pub lasting: PathBuf,
    /// What each daemon makes anew.
    pub own: PathBuf,
    /// What is made anew when routes outgrow it.
    pub routing: PathBuf,
}

impl Bpffs {
    /// Makes the directory, mounts a BPF file system when there is none, and locks it.
    pub fn open(root: &Path) -> Result<Self, BpffsError> {
        let failed = |what| {
            let path = root.to_owned();
            move |error: io::Error| BpffsError::Io { what, path, error }
        };
        prepare(root)?;
        let lock = lock(root)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let bpffs = Self { root: root.to_owned(), epoch: format!("{:x}", now.as_nanos()), lock };
        for directory in [bpffs.links(), bpffs.epoch()] {
            fs::create_dir_all(&directory).map_err(failed("create directories in"))?;
        }
        Ok(bpffs)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the directory that is there now, where it was removed, or another file system was mounted. The lock on the one of
    /// before is given up then, and with it what only that file system holds.
    ///
    /// # Errors
    /// There is no BPF file system, or it is not ours.
    pub fn mend(&mut self) -> Result<(), BpffsError> {
        let failed = |what| {
            let path = self.root.clone();
            move |error: io::Error| BpffsError::Io { what, path, error }
        };
        if !is_bpffs(&self.root).map_err(|errno| failed("inspect")(errno.into()))? {
            return Err(BpffsError::Unmounted(self.root.clone()));
        }
        let number = |file: rustix::io::Result<rustix::fs::Stat>| file.map(|stat| (stat.st_dev, stat.st_ino));
        let there = number(stat(&self.root)).ok();
        if there.is_none() || there != number(fstat(&self.lock)).ok() {
            fs::create_dir_all(&self.root).map_err(failed("create"))?;
            self.lock = lock(&self.root)?;
        }
        for directory in [self.links(), self.epoch()].into_iter().filter(|directory| !directory.exists()) {
            fs::create_dir_all(&directory).map_err(failed("create directories in"))?;
        }
        Ok(())
    }

    /// Where links are pinned.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Where the maps of this layout are pinned that every daemon takes over.
    pub fn lasting(&self) -> PathBuf {
        self.root.join(format!("{:016x}", abi::FINGERPRINT))
    }

    /// Where this daemon's own maps are pinned.
    pub fn epoch(&self) -> PathBuf {
        self.lasting().join(&self.epoch)
    }

    /// The maps that an earlier daemon of this layout left, latest first.
    pub fn earlier(&self) -> Vec<PathBuf> {
        let mut found: Vec<_> = directories(&self.lasting()).into_iter().filter(|path| *path != self.epoch()).collect();
        found.sort();
        found.reverse();
        found
    }

    /// Where the maps of programs are pinned whose routing tables are the `number`th that this daemon made.
    pub fn pin_dirs(&self, number: u32) -> Result<PinDirs, BpffsError> {
        let own = self.epoch();
        let routing = own.join(format!("routing-{number}"));
        let failed = |error| BpffsError::Io { what: "create directories in", path: own.clone(), error };
        fs::create_dir_all(&routing).map_err(failed)?;
        Ok(PinDirs { lasting: self.lasting(), own, routing })
    }

    /// Removes the pins of routing tables. Programs that still use them keep them.
    pub fn forget_routing(&self, dirs: &PinDirs) {
        remove(&dirs.routing);
    }

    /// Whether the attached programs drop everything, because the config that must be in force is not known.
    pub fn is_closed(&self) -> bool {
        self.closed().exists()
    }

    /// Notes that it is so, or not.
    pub fn set_closed(&self, closed: bool) -> Result<(), BpffsError> {
        let path = self.closed();
        let done = match closed {
            true => fs::create_dir_all(&path),
            false if path.exists() => fs::remove_dir(&path),
            false => Ok(()),
        };
        done.map_err(|error| BpffsError::Io { what: "write", path, error })
    }

    fn closed(&self) -> PathBuf {
        self.root.join("closed")
    }

    /// Removes the maps of daemons of this layout that have no ports. Those of the one whose programs are attached stay.
    pub fn forget_empty(&self) {
        for directory in self.earlier().into_iter().filter(|directory| earlier_slots(directory).is_empty()) {
            remove(&directory);
        }
    }

    /// Removes the maps of all other daemons and layouts. Programs that still use them keep them.
    pub fn forget_others(&self) {
        for directory in directories(&self.root) {
            let kept = [
                self.links(),
                self.lasting(),
                self.closed(),
                self.root.join(steer::DIRECTORY),
                haste::mark(&self.root),
            ];
            if !kept.contains(&directory) {
                remove(&directory);
            }
        }
        for directory in self.earlier() {
            remove(&directory);
        }
    }
}

/// The lock on a directory.
fn lock(root: &Path) -> Result<OwnedFd, BpffsError> {
    let failed = |what, errno: rustix::io::Errno| BpffsError::Io { what, path: root.to_owned(), error: errno.into() };
    let lock = open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open", errno))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BpffsError::Busy(root.to_owned())),
        Err(errno) => Err(failed("lock", errno)),
    }
}

/// Sub-directories of a directory; none when it cannot be read.
fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Removes a directory of pins. If that fails, the next start tries again.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::debug!(path = %path.display(), %error, "pins stay");
    }
}

/// Makes sure that `root` is a directory in a BPF file system; that may take the right to mount.
///
/// # Errors
/// See [`BpffsError`].
pub fn prepare(root: &Path) -> Result<(), BpffsError> {
    mount_under(root)?;
    let failed = |error| BpffsError::Io { what: "create", path: root.to_owned(), error };
    fs::create_dir_all(root).map_err(failed)
}

/// Mounts a BPF file system at its usual place, or at `root` when that is elsewhere, unless one is there.
fn mount_under(root: &Path) -> Result<(), BpffsError> {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let at = existing.to_owned();
    let failed = |what, error: rustix::io::Errno| BpffsError::Io { what, path: root.to_owned(), error: error.into() };
    if is_bpffs(&at).map_err(|error| failed("inspect", error))? {
        return Ok(());
    }
    let target = if root.starts_with(USUAL) { Path::new(USUAL) } else { root };
    fs::create_dir_all(target).map_err(|error| BpffsError::Io { what: "create", path: target.to_owned(), error })?;
    tracing::info!(path = %target.display(), "mounting a BPF file system");
    if is_private() {
        tracing::warn!(
            "this mount namespace is private (`ip netns exec` makes such ones), and its pins end with its last \
             process: after a `kill -9` the kernel forwards alone; start with `nsenter --net=/var/run/netns/NAME` instead"
        );
    }
    mount("bpf", target, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
        .map_err(|error| failed("mount a BPF file system at", error))
}

/// Whether other processes do not see what this one mounts.
fn is_private() -> bool {
    let namespace = |process| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    namespace("self") != namespace("1")
}

/// Whether a path is on a BPF file system; one that is not there yet is where its nearest ancestor is.
pub fn is_bpffs(path: &Path) -> rustix::io::Result<bool> {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    Ok(statfs(existing)?.f_type == MAGIC)
}
