//! The directory where links and maps outlive the daemon.
//!
//! ```text
//! DIR/links/IFINDEX-HOOK             what keeps a program attached
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
    fs::{FlockOperation, FsWord, Mode, OFlags, flock, open, statfs},
    mount::{MountFlags, mount},
};
use thiserror::Error;

/// Where maps and links are pinned unless somebody says otherwise.
pub const BPFFS: &str = "/sys/fs/bpf/dataplane";

/// `BPF_FS_MAGIC` of the kernel.
const MAGIC: FsWord = 0xcafe_4a11;
/// Where the BPF file system usually is.
const USUAL: &str = "/sys/fs/bpf";

/// Why the directory can not be used.
#[derive(Debug, Error)]
pub enum BpffsError {
    /// It can not be made, mounted or read.
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
    /// Another daemon holds it.
    #[error("another daemon uses {0}; stop it first, or give this one its own directory with --bpffs")]
    Busy(PathBuf),
}

/// The directory, locked for this daemon as long as this lives.
#[derive(Debug)]
pub struct Bpffs {
    root: PathBuf,
    epoch: String,
    _lock: OwnedFd,
}

/// Where the maps of loaded programs are pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
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
        let lock = open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed("open")(errno.into()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(BpffsError::Busy(root.to_owned())),
            Err(errno) => return Err(failed("lock")(errno.into())),
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let bpffs = Self { root: root.to_owned(), epoch: format!("{:x}", now.as_nanos()), _lock: lock };
        for directory in [bpffs.links(), bpffs.epoch()] {
            fs::create_dir_all(&directory).map_err(failed("create directories in"))?;
        }
        Ok(bpffs)
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
    pub fn place(&self, number: u32) -> Result<Place, BpffsError> {
        let own = self.epoch();
        let routing = own.join(format!("routing-{number}"));
        let failed = |error| BpffsError::Io { what: "create directories in", path: own.clone(), error };
        fs::create_dir_all(&routing).map_err(failed)?;
        Ok(Place { lasting: self.lasting(), own, routing })
    }

    /// Removes the pins of routing tables. Programs that still use them keep them.
    pub fn forget_routing(&self, place: &Place) {
        remove(&place.routing);
    }

    /// Removes the maps of all other daemons and layouts. Programs that still use them keep them.
    pub fn forget_others(&self) {
        for directory in directories(&self.root) {
            if directory != self.links() && directory != self.lasting() {
                remove(&directory);
            }
        }
        for directory in self.earlier() {
            remove(&directory);
        }
    }
}

/// Sub-directories of a directory; none when it can not be read.
fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Removes a directory of pins. What can not be removed stays, and is tried again at the next start.
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
            "this mount namespace is private (`ip netns exec` makes such ones), and what is pinned in it ends with its last \
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
