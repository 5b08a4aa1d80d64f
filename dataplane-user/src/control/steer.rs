//! Steered sockets in answers, and sockets on the way to the daemon (`SCM_RIGHTS`).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::open_socket::SocketEnd;

/// How many descriptors come with one piece of a request; the kernel closes what is beyond.
const MOST: usize = 4;

/// A row of `steer list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteerRow {
    /// Its number.
    pub id: u32,
    /// `tcp` or `udp`, prefix and ports, as they are written.
    pub matches: String,
    /// Where the socket came from, as it was written.
    pub to: String,
    /// Without its socket, no other gets what matches.
    pub or_drop: bool,
    /// Whether it is of the config.
    pub config: bool,
    /// The socket; none where it is closed.
    pub socket: Option<SocketEnd>,
    /// A process that has the socket open, as far as the user of the command line may see it.
    #[serde(default)]
    pub process: Option<String>,
    /// Lookups that matched: new connections of TCP, datagrams of UDP.
    pub packets: u64,
    /// Of these, those that the socket got.
    pub steered: u64,
    /// Those that came while it had no socket, and were looked up as without it.
    pub passed: u64,
    /// Those that came while it had no socket, and went to none.
    pub dropped: u64,
}

/// Reads bytes into a buffer, and takes the descriptors that come with them.
pub(super) fn receive(stream: BorrowedFd<'_>, bytes: &mut [u8], sockets: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    sockets.truncate(MOST);
    Ok(received.bytes)
}

/// Sends bytes with descriptors; how many bytes were taken.
pub(super) fn send(stream: BorrowedFd<'_>, bytes: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if sockets.len() > MOST || !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one request"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd as _, unix::net::UnixStream};

    use super::*;

    #[test]
    fn descriptors_come_with_the_bytes() {
        let (near, far) = UnixStream::pair().expect("a pair");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        assert_eq!(send(near.as_fd(), b"one\n", &[socket.as_fd()]).expect("sent"), 4);
        let (mut bytes, mut sockets) = ([0; 16], Vec::new());
        assert_eq!(receive(far.as_fd(), &mut bytes, &mut sockets).expect("received"), 4);
        let taken: Vec<_> = sockets.drain(..).map(std::net::UdpSocket::from).collect();
        assert_eq!(taken[0].local_addr().expect("an address"), socket.local_addr().expect("an address"));
        send(near.as_fd(), b"two\n", &[]).expect("sent");
        assert_eq!(receive(far.as_fd(), &mut bytes, &mut sockets).expect("received"), 4);
        assert!(sockets.is_empty());
        assert!(send(near.as_fd(), b"x", &[socket.as_fd(); MOST + 1]).is_err());
    }
}
