//! The socket's address: connecting without ever waiting for long.

use std::{io, os::unix::net::UnixStream, path::Path, time::Duration};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_fd, socket_with, sockopt,
};

/// Connects, and gives up after `patience` when the listener's queue stays full (unix(7): `SO_SNDTIMEO` bounds connect).
///
/// # Errors
/// `NotFound` and `ConnectionRefused` when no program listens, `WouldBlock` when one listens and does not accept.
pub(super) fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(patience))?;
    connect_fd(&fd, &address)?;
    Ok(UnixStream::from(fd))
}
