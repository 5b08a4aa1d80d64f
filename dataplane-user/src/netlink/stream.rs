//! A socket for announcements that is read without a runtime, by a thread of its own.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::Socket;

use super::{
    Error,
    socket::{BUFFER, Message, RecvResult, judge, messages},
};

/// Reads announcements.
pub(super) struct Stream {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Stream {
    /// A socket of `protocol` in the caller's network namespace, within `groups`, with room for `bytes` that were not read yet.
    pub(super) fn open(protocol: isize, groups: &[u32], bytes: usize) -> Result<Self, Error> {
        let mut socket = Socket::new(protocol).map_err(Error::open)?;
        // With CAP_NET_ADMIN past the system's limit, otherwise up to it.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, bytes)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, bytes))
            .map_err(|error| Error::open(error.into()))?;
        socket.bind_auto().map_err(Error::open)?;
        for &group in groups {
            socket.add_membership(group).map_err(|source| Error::Subscribe { group, source })?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER) })
    }

    /// The next datagram if there is one.
    pub(super) fn poll(&mut self) -> Result<RecvResult, Error> {
        self.buffer.clear();
        judge(self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT).map(drop))
    }

    /// The messages of the last datagram.
    pub(super) fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        messages(&self.buffer)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
