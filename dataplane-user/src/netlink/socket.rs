//! Netlink sockets: one that is only read, for announcements, and one for questions.

use std::io;
use std::os::fd::AsFd as _;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN,
    NetlinkBuffer,
};
use netlink_sys::{AsyncSocket as _, Socket, SocketAddr, TokioSocket};

use super::Error;
use super::attribute::u32_at;

/// Larger than any message the kernel makes in one piece.
pub(super) const BUFFER: usize = 1 << 18;
/// Room for announcements that we have not read yet; a full table's worth of routes.
const RECEIVE_BUFFER: usize = 32 << 20;
/// How often a dump that was interrupted by changes is repeated before it is an error.
pub(super) const ATTEMPTS: u32 = 16;
/// Length of a message header, and of what the messages are aligned to.
const HEADER: usize = 16;
const ALIGN: usize = 4;

/// One message out of a datagram.
pub(super) struct Message<'a> {
    /// Its type.
    pub(super) kind: u16,
    /// `NLM_F_*`.
    pub(super) flags: u16,
    sequence: u32,
    /// The socket that a message is about, or for.
    pub(super) sender: u32,
    /// What follows the header.
    pub(super) payload: &'a [u8],
}

/// The messages of a datagram; ends at the first broken one.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(datagram).ok()?;
        let length = buffer.length() as usize;
        let payload = datagram.get(HEADER..length)?;
        let message = Message {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            sender: buffer.port_number(),
            payload,
        };
        datagram = datagram.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some(message)
    })
}

/// Reads announcements.
pub(super) struct Listener {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// What became of a read.
pub(super) enum RecvResult {
    /// A datagram.
    Datagram,
    /// Nothing is left to read now.
    Nothing,
    /// The kernel had to throw announcements away (`ENOBUFS`).
    Overrun,
}

impl Listener {
    /// A socket of `protocol` in the caller's network namespace, within `groups`.
    pub(super) fn open(protocol: isize, groups: &[u32]) -> Result<Self, Error> {
        let mut socket = TokioSocket::new(protocol).map_err(Error::open)?;
        let inner = socket.socket_mut();
        enlarge(inner)?;
        inner.bind_auto().map_err(Error::open)?;
        for &group in groups {
            inner.add_membership(group).map_err(|source| Error::Subscribe { group, source })?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Waits for a datagram. May be dropped while waiting.
    pub(super) async fn wait(&mut self) -> Result<RecvResult, Error> {
        self.buffer.clear();
        let heard = std::future::poll_fn(|context| self.socket.poll_recv(context, &mut self.buffer)).await;
        judge(heard)
    }

    /// The next datagram if there is one.
    pub(super) fn poll(&mut self) -> Result<RecvResult, Error> {
        self.buffer.clear();
        judge(self.socket.socket_ref().recv(&mut self.buffer, libc::MSG_DONTWAIT).map(drop))
    }

    /// The messages of the last datagram.
    pub(super) fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        messages(&self.buffer)
    }
}

/// What a read came to.
pub(super) fn judge(heard: io::Result<()>) -> Result<RecvResult, Error> {
    match heard {
        Ok(()) => Ok(RecvResult::Datagram),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(RecvResult::Nothing),
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(RecvResult::Overrun),
        Err(error) => Err(Error::Receive(error)),
    }
}

/// With `CAP_NET_ADMIN` past the system's limit, otherwise up to it.
fn enlarge(socket: &Socket) -> Result<(), Error> {
    let fd = socket.as_fd();
    rustix::net::sockopt::set_socket_recv_buffer_size_force(fd, RECEIVE_BUFFER)
        .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(fd, RECEIVE_BUFFER))
        .map_err(|error| Error::open(error.into()))
}

/// Sends requests. The kernel works on an answer while we read it, so nothing here waits for long. The rest of an answer that
/// was left half read is skipped.
pub(super) struct Requester {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requester {
    /// A socket of `protocol` in the caller's network namespace.
    pub(super) fn open(protocol: isize) -> Result<Self, Error> {
        let mut socket = Socket::new(protocol).map_err(Error::open)?;
        socket.bind_auto().map_err(Error::open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(Error::open)?;
        // Kernels before 4.20 do not know it; they only filter less.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// The number of this socket, by which announcements name it.
    pub(super) fn port(&mut self) -> Result<u32, Error> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address).map_err(Error::open)?;
        Ok(address.port_number())
    }

    /// Everything that `request` of type `kind` lists; again from the start when it changed meanwhile.
    pub(super) fn dump<T>(
        &mut self,
        what: &'static str,
        kind: u16,
        request: &[u8],
        parse: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            let consistent = self.exchange(what, kind, NLM_F_DUMP, request, |message| found.extend(parse(message)))?;
            if consistent {
                return Ok(found);
            }
        }
        Err(Error::Unsettled { what, attempts: ATTEMPTS })
    }

    /// The one answer to `request`, or `None` where the kernel knows no such thing.
    pub(super) fn get<T>(
        &mut self,
        what: &'static str,
        kind: u16,
        request: &[u8],
        parse: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut found = None;
        match self.exchange(what, kind, NLM_F_ACK, request, |message| found = parse(message)) {
            Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            other => other.map(|_| found),
        }
    }

    /// Sends a request for a change.
    pub(super) fn tell(&mut self, what: &'static str, kind: u16, flags: u16, request: &[u8]) -> Result<(), Error> {
        self.exchange(what, kind, flags, request, |_| {}).map(drop)
    }

    /// Sends requests in one datagram, each on its own. Returns those that the kernel refused, by their place, and why: it has
    /// done them all when this returns.
    pub(super) fn each(
        &mut self,
        what: &'static str,
        kind: u16,
        requests: impl Iterator<Item = Vec<u8>>,
    ) -> Result<Vec<(usize, io::Error)>, Error> {
        let first = self.sequence.wrapping_add(1);
        let mut batch = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            batch.extend(message(kind, NLM_F_REQUEST, self.sequence, &request));
            batch.resize(batch.len().next_multiple_of(ALIGN), 0);
        }
        self.socket.send(&batch, 0).map_err(|source| Error::Ask { what, source })?;
        let count = self.sequence.wrapping_sub(first).wrapping_add(1);
        let mut refused = Vec::new();
        loop {
            self.buffer.clear();
            match judge(self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT).map(drop))? {
                RecvResult::Nothing => return Ok(refused),
                // Which were refused is lost; what follows from the others does not depend on it.
                RecvResult::Overrun => continue,
                RecvResult::Datagram => {}
            }
            for message in messages(&self.buffer).filter(|message| message.kind == NLMSG_ERROR) {
                let place = message.sequence.wrapping_sub(first);
                let error = u32_at(message.payload, 0).unwrap_or_default().cast_signed();
                if place < count && error < 0 {
                    refused.push((place as usize, io::Error::from_raw_os_error(error.wrapping_neg())));
                }
            }
        }
    }

    /// Does all of it or nothing (`nfnetlink_rcv_batch` in the kernel): between a beginning and an end, in one datagram.
    pub(super) fn transact(&mut self, what: &'static str, subsystem: u8, parts: Vec<Part>) -> Result<(), Error> {
        const BEGIN: u16 = 0x10;
        const END: u16 = 0x11;
        // `struct nfgenmsg`, with the subsystem in network order.
        let frame = |kind| Part { kind, flags: 0, payload: vec![0, 0, 0, subsystem] };
        let last = parts.len();
        let mut batch = Vec::new();
        for (index, part) in std::iter::once(frame(BEGIN)).chain(parts).chain([frame(END)]).enumerate() {
            let acknowledged = if index == last { NLM_F_ACK } else { 0 };
            self.sequence = self.sequence.wrapping_add(1);
            let flags = NLM_F_REQUEST | part.flags | acknowledged;
            batch.extend(message(part.kind, flags, self.sequence, &part.payload));
            batch.resize(batch.len().next_multiple_of(ALIGN), 0);
        }
        // A transaction is one datagram, which must fit; where the limit of the system stands against it, sending says so.
        let _best_effort =
            rustix::net::sockopt::set_socket_send_buffer_size_force(self.socket.as_fd(), 2 * batch.len());
        self.socket.send(&batch, 0).map_err(|source| Error::Ask { what, source })?;
        let acknowledged = self.sequence.wrapping_sub(1);
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(Error::Receive)?,
            };
            for message in messages(&self.buffer).filter(|message| message.kind == NLMSG_ERROR) {
                match u32_at(message.payload, 0).unwrap_or_default().cast_signed() {
                    0.. if message.sequence == acknowledged => return Ok(()),
                    0.. => {}
                    error => return Err(Error::Write { what, source: io::Error::from_raw_os_error(-error) }),
                }
            }
        }
    }

    /// Sends, then reads to the end of the answer. Says whether the answer is of one piece.
    fn exchange(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: u16,
        request: &[u8],
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<bool, Error> {
        let mut answer = self.ask(what, kind, flags, request)?;
        loop {
            if self.read(&mut answer, &mut each)? {
                return Ok(answer.consistent);
            }
        }
    }

    /// Sends a question whose answer is read piece by piece.
    pub(super) fn ask(&mut self, what: &'static str, kind: u16, flags: u16, request: &[u8]) -> Result<Answer, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = message(kind, NLM_F_REQUEST | flags, self.sequence, request);
        self.socket.send(&message, 0).map_err(|source| Error::Ask { what, source })?;
        Ok(Answer { what, consistent: true })
    }

    /// Reads one datagram of an answer: the kernel makes it on the spot. Says whether it was the last one.
    pub(super) fn read(&mut self, answer: &mut Answer, mut each: impl FnMut(&Message<'_>)) -> Result<bool, Error> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            read => read.map_err(Error::Receive)?,
        };
        for message in messages(&self.buffer).filter(|message| message.sequence == self.sequence) {
            answer.consistent &= message.flags & NLM_F_DUMP_INTR == 0;
            match message.kind {
                NLMSG_DONE | NLMSG_ERROR => return status(answer.what, message.payload).map(|()| true),
                NLMSG_NOOP | NLMSG_OVERRUN => {}
                _ => each(&message),
            }
        }
        Ok(false)
    }
}

/// One message of a transaction.
pub(super) struct Part {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) payload: Vec<u8>,
}

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + payload.len());
    message.extend_from_slice(&((HEADER + payload.len()) as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&sequence.to_ne_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(payload);
    message
}

/// An answer that is being read.
pub(super) struct Answer {
    what: &'static str,
    /// Whether nothing changed while the kernel was listing.
    pub(super) consistent: bool,
}

/// The number that ends an answer: 0 or a negative errno.
fn status(what: &'static str, payload: &[u8]) -> Result<(), Error> {
    match u32_at(payload, 0).unwrap_or_default().cast_signed() {
        0.. => Ok(()),
        error => Err(Error::Refused { what, source: io::Error::from_raw_os_error(-error) }),
    }
}
