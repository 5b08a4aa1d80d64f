//! The socket in the file system: made with its final permissions, never taken from a daemon that lives, removed at the end.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, Mode, fchmod, flock},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt},
};

use super::socket;

/// Of the socket: whom root lets into its group may connect.
const MODE: u32 = 0o660;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// How long to wait for another daemon that is making its socket in the same directory.
const LOCK_TRIES: u32 = 20;

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon is alive behind this path.
    #[error("another daemon answers on {} (pid {pid}); stop it, or give this one its own --socket, --state and --bpffs", path.display())]
    Live {
        /// Of the socket.
        path: PathBuf,
        /// Of the process that listens, as this process's PID namespace numbers it.
        pid: i32,
    },
    /// Something else has this name.
    #[error("{} exists and is not a socket; remove it or choose another --socket", path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot {action} {}: {source}; choose another --socket, or give this user access", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BindError {
    fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }
}

/// A path that is ours; the socket is removed when this is dropped, unless another has taken its place.
#[derive(Debug)]
pub(super) struct Address {
    path: PathBuf,
    /// Device and inode of the socket.
    identity: (u64, u64),
}

impl Address {
    /// Where the socket is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing has this name any more. What somebody else put there is theirs.
    pub(super) fn is_gone(&self) -> bool {
        fs::symlink_metadata(&self.path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Listens on `path`: makes its directory, clears what a dead daemon left.
///
/// # Errors
/// See [`BindError`]; nothing was changed then.
pub(super) fn claim(path: &Path) -> Result<(UnixListener, Address), BindError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(|error| BindError::io("make the directory", directory, error))?;
    let lock = fs::File::open(directory).map_err(|error| BindError::io("open the directory", directory, error))?;
    // Two daemons that start at once must not both find the same dead socket. Closing the file unlocks.
    serialise(&lock);
    clear(path)?;
    let fd = make(path).map_err(|error| BindError::io("listen on", path, error))?;
    let found = fs::symlink_metadata(path).map_err(|error| BindError::io("look at", path, error))?;
    let address = Address { path: path.to_owned(), identity: (found.dev(), found.ino()) };
    // umask(2) may have taken bits away, never added any: from here on it is as promised.
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
        .map_err(|error| BindError::io("set the mode of", path, error))?;
    listen(&fd, BACKLOG).map_err(|error| BindError::io("listen on", path, error))?;
    Ok((UnixListener::from(fd), address))
}

/// Takes the lock of the directory. Anybody who can read the directory could hold it, so going on without it comes last.
fn serialise(directory: &fs::File) {
    for _ in 0..LOCK_TRIES {
        if flock(directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    tracing::warn!("another process holds a lock on the directory of the socket; continuing without it");
}

/// Removes the socket of a dead daemon.
fn clear(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::io("look at", path, error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match socket::connect(path, Duration::from_secs(1)) {
        Ok(stream) => {
            let pid = sockopt::socket_peercred(&stream).map_or(0, |peer| peer.pid.as_raw_nonzero().get());
            Err(BindError::Live { path: path.to_owned(), pid })
        }
        // Only this proves that nobody listens: a busy daemon lets the connection wait.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| BindError::io("remove the old socket", path, error))
        }
        Err(error) => Err(BindError::io("find out who listens on", path, error)),
    }
}

/// A bound socket. Linux gives it the mode of the descriptor less the umask (`unix_bind_bsd`), so no moment is more open.
fn make(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&fd, Mode::from_raw_mode(MODE))?;
    bind(&fd, &address)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_moment_is_more_open() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("new.sock");
        let _fd = make(&path).expect("a socket");
        let mode = fs::symlink_metadata(&path).expect("the socket").mode() & 0o7777;
        assert_eq!(mode & !MODE, 0, "{mode:o} before the mode is set");
    }
}
