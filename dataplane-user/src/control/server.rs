//! The daemon's end of the control socket.
//!
//! Each connection is a task of its own, bounded in time and memory, that hands requests to the ring as [`Call`]s. No peer
//! can hold up another, or the ring.

use std::{io, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

pub use super::address::BindError;
use super::{
    address::{self, Address},
    json,
    protocol::{Answer, CHANGE_LIMIT, Data, Failure, FailureKind, REQUEST_LIMIT, Reply, Request},
};

/// How much of a stream waits for a slow peer; what does not find room is counted, and told.
const STREAM: usize = 1 << 12;

/// A request on its way to the ring.
#[derive(Debug)]
pub struct Call {
    /// What is asked; the peer may ask it.
    pub request: Request,
    /// Who asks.
    pub peer: Peer,
    /// Where what follows the answer goes, for requests that ask for more than one.
    pub stream: Option<mpsc::Sender<Data>>,
    /// Where the answer goes. Dropping it tells the peer that the daemon stops.
    pub reply: oneshot::Sender<Result<Reply, Failure>>,
}

/// The process at the other end, as the kernel saw it connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process, where the kernel tells.
    pub pid: Option<i32>,
}

impl Peer {
    /// Root and the daemon's own user may change things; others only read.
    fn may_change(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }
}

/// How long peers are borne, and how many.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For one request line to arrive in full, silence before it included.
    pub request: Duration,
    /// For a peer to take the next 64 KiB of its answer.
    pub write: Duration,
    /// For the ring to take a call.
    pub ring: Duration,
    /// Connections at once from users who may only read.
    pub guests: usize,
    /// Between two looks whether the socket is still there.
    pub look: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            write: Duration::from_secs(10),
            ring: Duration::from_secs(30),
            guests: 64,
            look: Duration::from_secs(1),
        }
    }
}

/// A socket that listens. It is removed when this, or the future of [`Server::serve`], is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    /// Removes the socket.
    address: Address,
    limits: Limits,
}

impl Server {
    /// Listens on `path`; must run inside a tokio runtime. What a dead daemon left there is replaced.
    ///
    /// # Errors
    /// See [`BindError`]; above all, another daemon that is alive.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let (listener, address) = address::claim(path)?;
        let listener = listen(listener, path)?;
        Ok(Self { listener, address, limits: Limits::default() })
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Serves until the receiver of `calls` is closed or dropped; answers under way then get a second to leave.
    pub async fn serve(self, calls: mpsc::Sender<Call>) {
        let Self { mut listener, mut address, limits } = self;
        let mut look = tokio::time::interval(limits.look);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let guests = Arc::new(Semaphore::new(limits.guests));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = calls.closed() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(welcome(stream, calls.clone(), limits, Arc::clone(&guests)));
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: other connections will end and give theirs back.
                        tracing::warn!("cannot accept a connection on the control socket: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                _ = look.tick() => {
                    if address.is_gone() && let Some(again) = again(address.path()).await {
                        (listener, address) = again;
                    }
                }
            }
        }
        drop(address);
        let drained = async { while connections.join_next().await.is_some() {} };
        if timeout(Duration::from_secs(1), drained).await.is_err() {
            tracing::debug!("the control socket closes with answers that nobody took");
        }
    }
}

/// Listens anew where somebody removed the socket: else nobody could reach the daemon until it ends.
async fn again(path: &Path) -> Option<(UnixListener, Address)> {
    let wanted = path.to_owned();
    let claimed = spawn_blocking(move || address::claim(&wanted)).await.ok()?;
    let made = claimed.and_then(|(listener, address)| Ok((listen(listener, path)?, address)));
    match made {
        Ok(made) => {
            tracing::warn!("the control socket {} was removed; it is there again", path.display());
            Some(made)
        }
        Err(error) => {
            tracing::debug!("the control socket {} is gone: {error}", path.display());
            None
        }
    }
}

fn listen(listener: std::os::unix::net::UnixListener, path: &Path) -> Result<UnixListener, BindError> {
    UnixListener::from_std(listener).map_err(|source| BindError::Io {
        action: "listen on",
        path: path.to_owned(),
        source,
    })
}

/// One connection from its first to its last byte.
async fn welcome(stream: UnixStream, calls: mpsc::Sender<Call>, limits: Limits, guests: Arc<Semaphore>) {
    let peer = match stream.peer_cred() {
        Ok(cred) => Peer { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() },
        Err(error) => return tracing::warn!("a peer of the control socket without credentials is refused: {error}"),
    };
    // Those who may change things never wait for those who may not: they need no seat.
    let seat = if peer.may_change() { None } else { Some(guests.try_acquire_owned()) };
    let full = matches!(seat, Some(Err(_)));
    let mut connection = Connection { stream, peer, calls, limits, buffer: Vec::new() };
    let ended = if full {
        let message = format!("{} connections are open already; try again", limits.guests);
        connection.answer(Answer::Failure(Failure::new(FailureKind::Failed, message))).await
    } else {
        connection.converse().await
    };
    drop(seat);
    if let Err(error) = ended {
        tracing::debug!(?peer, "connection to the control socket ended: {error}");
    }
}

/// One peer.
struct Connection {
    stream: UnixStream,
    peer: Peer,
    calls: mpsc::Sender<Call>,
    limits: Limits,
    /// Read, and not yet part of a request.
    buffer: Vec<u8>,
}

impl Connection {
    /// Answers requests until the peer has no more, or one makes no sense.
    async fn converse(&mut self) -> io::Result<()> {
        loop {
            let calls = self.calls.clone();
            let line = tokio::select! {
                line = timeout(self.limits.request, self.line()) => line,
                () = calls.closed() => return Ok(()),
            };
            let request = match line {
                Ok(Ok(Some(line))) => parse(&line),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
                    let message = format!("the request is longer than {} bytes", self.limit());
                    Err(Failure::new(FailureKind::Usage, message))
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let message = format!("no request within {} s", self.limits.request.as_secs_f32());
                    Err(Failure::new(FailureKind::Usage, message))
                }
            };
            match request {
                Ok(request) => {
                    let (stream, follows) = mpsc::channel(STREAM);
                    let stream = matches!(request, Request::Trace { .. }).then_some(stream);
                    let streams = stream.is_some();
                    let answer = self.ask(request, stream).await;
                    let done = matches!(answer, Answer::Reply(_));
                    self.answer(answer).await?;
                    if streams && done {
                        return self.stream(follows).await;
                    }
                }
                // What follows on the stream cannot be trusted to begin with a request.
                Err(failure) => return self.answer(Answer::Failure(failure)).await,
            }
        }
    }

    /// Bytes that a request of this peer may have.
    fn limit(&self) -> usize {
        if self.peer.may_change() { CHANGE_LIMIT } else { REQUEST_LIMIT }
    }

    /// The next line without its end; `None` at the end of the stream.
    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            if searched >= self.limit() {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let room = (self.limit() - searched).min(64 << 10);
            let read = (&mut self.stream).take(room as u64).read_buf(&mut self.buffer).await?;
            match read {
                0 if searched == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        }
    }

    /// Writes what follows an answer, until the peer says anything or leaves.
    async fn stream(&mut self, mut follows: mpsc::Receiver<Data>) -> io::Result<()> {
        let mut word = [0; 1];
        loop {
            let data = tokio::select! {
                data = follows.recv() => data,
                _ = self.stream.read(&mut word) => None,
            };
            let Some(data) = data else { return Ok(()) };
            let line = json::line(&Answer::Reply(data.into()))? + "\n";
            timeout(self.limits.write, self.stream.write_all(line.as_bytes())).await??;
        }
    }

    /// Hands a request to the ring and waits for what it says.
    async fn ask(&self, request: Request, stream: Option<mpsc::Sender<Data>>) -> Answer {
        if request.is_change() && !self.peer.may_change() {
            let message = format!("user {} may read but not change anything; use root", self.peer.uid);
            return Answer::Failure(Failure::new(FailureKind::Failed, message));
        }
        let (reply, answer) = oneshot::channel();
        let call = Call { request, peer: self.peer, stream, reply };
        let result = match self.calls.send_timeout(call, self.limits.ring).await {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(stopping())),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(stopping()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                Err(Failure::new(FailureKind::Failed, "the daemon is busy; its log says with what; try again"))
            }
        };
        match result {
            Ok(reply) => Answer::Reply(reply),
            Err(failure) => Answer::Failure(failure),
        }
    }

    /// Writes one answer.
    async fn answer(&mut self, answer: Answer) -> io::Result<()> {
        // A full routing table is tens of megabytes of text: not on the thread of the ring.
        let line = spawn_blocking(move || json::line(&answer)).await??;
        for piece in line.as_bytes().chunks(64 << 10).chain([b"\n".as_slice()]) {
            timeout(self.limits.write, self.stream.write_all(piece)).await??;
        }
        Ok(())
    }
}

fn parse(line: &[u8]) -> Result<Request, Failure> {
    json::parse(line).map_err(|error| {
        let message =
            format!("the daemon does not know this request ({error}); is `dataplane --version` the daemon's?");
        Failure::new(FailureKind::Usage, message)
    })
}

fn stopping() -> Failure {
    Failure::new(FailureKind::Unreachable, "the daemon is stopping; `dataplane run` starts it again")
}
