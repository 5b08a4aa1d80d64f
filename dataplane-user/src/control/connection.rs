//! One peer of the control socket, from its first to its last byte.

use std::{
    io,
    ops::ControlFlow,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    guest::{Bytes, Desk, Guests, Seat},
    json,
    page::{Cursor, Line, Part},
    protocol::{CHANGE_LIMIT, Data, Failure, FailureKind, REQUEST_LIMIT, Request, Response},
    server::{Call, Limits, Peer, hung_up},
    steer,
};

/// How much of a stream waits for a slow peer; what does not find room is counted, and told.
const STREAM: usize = 1 << 12;
/// What is read, or written, at once. Each guest may hold so much of a request, and of an answer.
const PIECE: usize = 64 << 10;
/// Between two looks whether a peer who waits for an answer is still there; and how long one waits who is refused a seat.
const LOOK: Duration = Duration::from_millis(100);
/// How long a guest's answer may wait for room, at its desk.
const ROOM: Duration = Duration::from_millis(250);

/// What was read: a line or the end of the stream, or why none was.
type Read = Result<Option<Vec<u8>>, Failure>;

/// One connection from its first to its last byte.
pub(super) async fn welcome(stream: UnixStream, calls: mpsc::Sender<Call>, limits: Limits, guests: Arc<Guests>) {
    let peer = match stream.peer_cred() {
        Ok(cred) => Peer { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() },
        Err(error) => return tracing::warn!("a peer of the control socket without credentials is refused: {error}"),
    };
    // Those who may change things never wait for those who may not: they need no seat.
    let seat = if peer.may_change() { None } else { guests.seat(peer.uid) };
    let full = seat.is_none() && !peer.may_change();
    let mut connection =
        Connection { stream: stream.into(), peer, calls, limits, seat, buffer: Vec::new(), sockets: Vec::new() };
    let ended = if full {
        // Else those who do not take no for an answer would keep this thread busy.
        if let Ok(_waits) = guests.refused.try_acquire() {
            sleep(LOOK).await;
        }
        let message = format!("{} connections are open already; try again", limits.guests);
        connection.refuse(Failure::new(FailureKind::Failed, message)).await
    } else {
        connection.converse().await
    };
    if let Err(error) = ended {
        tracing::debug!(?peer, "connection to the control socket ended: {error}");
    }
}

/// One peer.
struct Connection {
    stream: Arc<UnixStream>,
    peer: Peer,
    calls: mpsc::Sender<Call>,
    limits: Limits,
    /// What a peer needs who may only read.
    seat: Option<Seat>,
    /// Read, and not yet part of a request.
    buffer: Vec<u8>,
    /// Descriptors that came with it; none of a peer who may only read.
    sockets: Vec<OwnedFd>,
}

impl Connection {
    /// Answers requests until the peer has no more, or one makes no sense.
    async fn converse(&mut self) -> io::Result<()> {
        loop {
            let calls = self.calls.clone();
            let request = tokio::select! {
                request = self.request() => request?,
                () = calls.closed() => return Ok(()),
            };
            match request {
                Ok(Some((request, held))) => {
                    if self.answer(request, held).await?.is_break() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                // What follows on the stream cannot be trusted to begin with a request.
                Err(failure) => return self.refuse(failure).await,
            }
        }
    }

    /// The next request, and what it holds of the bytes of guests; `None` at the end of the stream.
    async fn request(&mut self) -> io::Result<Result<Option<(Request, Option<Bytes>)>, Failure>> {
        match self.line(PIECE).await? {
            Ok(Some(line)) => return Ok(parse(&line).map(|request| Some((request, None)))),
            Ok(None) => return Ok(Ok(None)),
            Err(failure) if self.buffer.len() < PIECE => return Ok(Err(failure)),
            Err(_) => {}
        }
        // It is a long one. Guests hold only so many of these.
        let most = if self.peer.may_change() { CHANGE_LIMIT } else { REQUEST_LIMIT };
        let mut held = None;
        if let Some(seat) = &self.seat {
            let Some(bytes) = within(self.limits.ring, seat.request(most)).await? else { return Ok(Err(busy())) };
            held = Some(bytes);
            // Not twice as much, as it would be if it grew by itself.
            self.buffer.reserve_exact(most - self.buffer.len());
        }
        match self.line(most).await? {
            Ok(Some(line)) => Ok(spawn_blocking(move || parse(&line)).await?.map(|request| Some((request, held)))),
            Ok(None) => Ok(Ok(None)),
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// The next line without its end, if it comes in time and is not longer than `most`; `None` at the end of the stream.
    async fn line(&mut self, most: usize) -> io::Result<Read> {
        let mut searched = 0;
        let limit = self.limits.request;
        let read = async {
            loop {
                // `contains` is many times as fast, and most pieces of a long line have no end.
                let fresh = &self.buffer[searched..];
                let end = if fresh.contains(&b'\n') { fresh.iter().position(|&byte| byte == b'\n') } else { None };
                if let Some(end) = end {
                    let rest = self.buffer.split_off(searched + end + 1);
                    let mut line = std::mem::replace(&mut self.buffer, rest);
                    line.pop();
                    return Ok(Ok(Some(line)));
                }
                searched = self.buffer.len();
                if searched >= most {
                    let message = format!("the request is longer than {most} bytes");
                    return Ok(Err(Failure::new(FailureKind::Usage, message)));
                }
                match self.read((most - searched).min(PIECE)).await? {
                    0 if searched == 0 => return Ok(Ok(None)),
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    _ => {}
                }
            }
        };
        timeout(limit, read).await.unwrap_or_else(|_| {
            let message = format!("no request within {} s", limit.as_secs_f32());
            Ok(Err(Failure::new(FailureKind::Usage, message)))
        })
    }

    /// Reads so many bytes at most; 0 at the end of the stream.
    async fn read(&mut self, most: usize) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            let held = self.buffer.len();
            self.buffer.resize(held + most, 0);
            let bytes = &mut self.buffer[held..];
            let read = if self.peer.may_change() {
                let receive = || steer::receive(self.stream.as_fd(), bytes, &mut self.sockets);
                self.stream.try_io(Interest::READABLE, receive)
            } else {
                self.stream.try_read(bytes)
            };
            self.buffer.truncate(held + *read.as_ref().unwrap_or(&0));
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// Answers a request, page by page; says whether the connection ends with that.
    async fn answer(&mut self, request: Request, held: Option<Bytes>) -> io::Result<ControlFlow<()>> {
        if request.is_change() && !self.peer.may_change() {
            let message = format!("user {} may read but not change anything; use root", self.peer.uid);
            self.refuse(Failure::new(FailureKind::Failed, message)).await?;
            return Ok(ControlFlow::Continue(()));
        }
        let (stream, follows) = mpsc::channel(STREAM);
        let mut stream = matches!(request, Request::Trace { .. }).then_some(stream);
        let streams = stream.is_some();
        let again = request.is_listing().then(|| request.clone());
        let (mut request, mut line) = ((request, std::mem::take(&mut self.sockets)), Line::default());
        let (mut from, mut begun) = (None, false);
        loop {
            let page = self.page(request, from, stream.take(), &mut line).await?;
            begun |= page.is_ok();
            match page {
                Ok(next) => from = next,
                Err(failure) if !begun => {
                    self.refuse(failure).await?;
                    return Ok(ControlFlow::Continue(()));
                }
                // That it breaks off says enough.
                Err(failure) => return Err(io::Error::other(failure)),
            }
            begun = true;
            let (Some(_), Some(again)) = (&from, &again) else { break };
            request = (again.clone(), Vec::new());
        }
        drop(held);
        self.write(b"\n").await?;
        if !streams {
            return Ok(ControlFlow::Continue(()));
        }
        self.stream(follows).await?;
        Ok(ControlFlow::Break(()))
    }

    /// Asks the ring for a page, and writes it; says where the next one begins.
    async fn page(
        &self,
        (request, sockets): (Request, Vec<OwnedFd>),
        from: Option<Cursor>,
        stream: Option<mpsc::Sender<Data>>,
        line: &mut Line,
    ) -> io::Result<Result<Option<Cursor>, Failure>> {
        let Some((mut room, desk)) = self.room(&request).await? else { return Ok(Err(busy())) };
        let part = match self.ask((request, sockets), from, stream).await? {
            Ok(part) => part,
            Err(failure) => return Ok(Err(failure)),
        };
        let next = part.next.clone();
        // A config of a hundred thousand rules is megabytes of text.
        let mut writer = std::mem::take(line);
        let (written, piece) = spawn_blocking(move || {
            let piece = writer.piece(part);
            (writer, piece)
        })
        .await?;
        *line = written;
        let piece = piece?;
        if let Some(seat) = &self.seat
            && piece.len() > PIECE
        {
            let Some(more) = within(ROOM, seat.answer(piece.len() - PIECE)).await? else { return Ok(Err(busy())) };
            room.push(more);
        }
        drop(desk);
        self.write(piece.as_bytes()).await?;
        Ok(Ok(next))
    }

    /// What a guest needs to be answered: room for what any answer takes, and a desk. Not there in time: nothing.
    async fn room(&self, request: &Request) -> io::Result<Option<(Vec<Bytes>, Option<Desk>)>> {
        let Some(seat) = &self.seat else { return Ok(Some((Vec::new(), None))) };
        let both = async { Ok((vec![seat.answer(PIECE).await?], Some(seat.desk(request).await?))) };
        within(self.limits.ring, both).await
    }

    /// Hands a request to the ring and waits for what it says. An error is a peer who has gone.
    async fn ask(
        &self,
        (request, sockets): (Request, Vec<OwnedFd>),
        from: Option<Cursor>,
        stream: Option<mpsc::Sender<Data>>,
    ) -> io::Result<Result<Part, Failure>> {
        if hung_up(&self.stream) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let (reply, answer) = oneshot::channel();
        let connection = Some(Arc::clone(&self.stream));
        let call = Call { request, peer: self.peer, from, stream, sockets, reply, connection };
        let asked = async {
            match self.calls.send_timeout(call, self.limits.ring).await {
                Ok(()) => answer.await.unwrap_or_else(|_| Err(stopping())),
                Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(stopping()),
                Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                    Err(Failure::new(FailureKind::Failed, "the daemon is busy; its log says with what; try again"))
                }
            }
        };
        tokio::select! {
            biased;
            answer = asked => Ok(answer),
            () = self.gone() => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Waits until the peer has gone. One that only has nothing more to say still waits for its answer.
    async fn gone(&self) {
        loop {
            sleep(LOOK).await;
            if hung_up(&self.stream) {
                return;
            }
        }
    }

    /// Writes what follows an answer, until the peer says anything or leaves.
    async fn stream(&mut self, mut follows: mpsc::Receiver<Data>) -> io::Result<()> {
        loop {
            let data = tokio::select! {
                data = follows.recv() => data,
                _ = self.read(1) => None,
            };
            let Some(data) = data else { return Ok(()) };
            let line = json::line(&Response::Reply(data.into()))? + "\n";
            self.write(line.as_bytes()).await?;
        }
    }

    /// Says why a request is not fulfilled.
    async fn refuse(&self, failure: Failure) -> io::Result<()> {
        let line = json::line(&Response::Failure(failure))? + "\n";
        self.write(line.as_bytes()).await
    }

    /// Writes all of it, piece by piece.
    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            timeout(self.limits.write, write_all(&self.stream, piece)).await??;
        }
        Ok(())
    }
}

async fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What comes of it in time; nothing where it does not.
async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, tokio::sync::AcquireError>>,
) -> io::Result<Option<T>> {
    timeout(time, work).await.ok().transpose().map_err(io::Error::other)
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

fn busy() -> Failure {
    let message = "those who only read hold all that the daemon has for them; take the answers that wait, or try again";
    Failure::new(FailureKind::Failed, message)
}
