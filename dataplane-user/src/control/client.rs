//! The command line's end of the control socket: blocking, and never for ever.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::Shutdown,
    os::fd::{AsFd as _, BorrowedFd},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    json,
    protocol::{CHANGE_LIMIT, Data, Failure, FailureKind, Reply, Request, Response},
    socket, steer,
};

/// How long the daemon may take to accept and to read.
const SEND_PATIENCE: Duration = Duration::from_secs(5);
/// How long the daemon may take between two pieces of an answer: a config with a full routing table takes seconds.
const ANSWER_PATIENCE: Duration = Duration::from_mins(1);

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

/// Ends a connection when it is dropped.
#[derive(Debug)]
pub struct HangUp(UnixStream);

impl Drop for HangUp {
    fn drop(&mut self) {
        // The other end may have done so before.
        let _gone = self.0.shutdown(Shutdown::Both);
    }
}

/// Whether a daemon may listen on `path`, whatever it says: certainly not where there is no socket, or none answers.
pub fn may_listen(path: &Path) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    let outcome = socket::connect(path, SEND_PATIENCE);
    outcome.map_or_else(|error| !matches!(error.kind(), NotFound | ConnectionRefused), |_| true)
}

impl Client {
    /// Connects to the daemon that listens on `path`.
    ///
    /// # Errors
    /// [`FailureKind::Unreachable`], with what to do about it.
    pub fn connect(path: &Path) -> Result<Self, Failure> {
        let stream = socket::connect(path, SEND_PATIENCE)
            .and_then(|stream| {
                stream.set_write_timeout(Some(SEND_PATIENCE))?;
                stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
                Ok(stream)
            })
            .map_err(|error| unreachable(path, &error))?;
        Ok(Self { stream: BufReader::new(stream), path: path.to_owned() })
    }

    /// The process id of the daemon, as the kernel knows it.
    ///
    /// # Errors
    /// [`FailureKind::Failed`], when the daemon is in a process namespace that can not be seen from here.
    pub fn daemon(&self) -> Result<u32, Failure> {
        let failed = |text: String| Failure::new(FailureKind::Failed, text);
        let credentials = rustix::net::sockopt::socket_peercred(self.stream.get_ref())
            .map_err(|error| failed(format!("cannot tell who listens on {}: {error}", self.path.display())))?;
        Ok(credentials.pid.as_raw_nonzero().get().cast_unsigned())
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// What the daemon refused, or [`FailureKind::Unreachable`] when it does not answer.
    pub fn call(&mut self, request: &Request) -> Result<Reply, Failure> {
        self.call_with(request, &[])
    }

    /// The same with descriptors, which come with the first byte of the request.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_with(&mut self, request: &Request, sockets: &[BorrowedFd<'_>]) -> Result<Reply, Failure> {
        let mut line = json::line(request).map_err(|error| Failure::new(FailureKind::Failed, error.to_string()))?;
        line.push('\n');
        if line.len() > CHANGE_LIMIT {
            let message = format!("the request is {} bytes long, the daemon takes {CHANGE_LIMIT}", line.len());
            return Err(Failure::new(FailureKind::Rejected, message));
        }
        // A daemon that refuses the connection says why before it cuts it: that counts more than the failed write.
        let sent = match sockets {
            [] => Ok(0),
            sockets => steer::send(self.stream.get_ref().as_fd(), line.as_bytes(), sockets),
        };
        let sent = sent.and_then(|sent| self.stream.get_mut().write_all(&line.as_bytes()[sent..]));
        let answer = self.answer();
        match (sent, answer) {
            (_, Ok(Response::Reply(reply))) => Ok(reply),
            (_, Ok(Response::Failure(failure))) | (Ok(()), Err(failure)) => Err(failure),
            (Err(error), Err(_)) => Err(unreachable(&self.path, &error)),
        }
    }

    /// Ends the connection when it is dropped, also while another thread waits for what follows an answer.
    ///
    /// # Errors
    /// [`FailureKind::Unreachable`], when there are no file descriptors.
    pub fn hang_up(&self) -> Result<HangUp, Failure> {
        self.stream.get_ref().try_clone().map(HangUp).map_err(|error| unreachable(&self.path, &error))
    }

    /// Whether more of the stream is here already.
    pub fn has_more(&self) -> bool {
        !self.stream.buffer().is_empty()
    }

    /// Waits for what follows an answer, for however long that takes; `None` when the daemon ends the stream.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn follow(&mut self) -> Result<Option<Data>, Failure> {
        self.stream.get_ref().set_read_timeout(None).map_err(|error| unreachable(&self.path, &error))?;
        if self.stream.fill_buf().map_err(|error| unreachable(&self.path, &error))?.is_empty() {
            return Ok(None);
        }
        match self.answer()? {
            Response::Reply(reply) => Ok(Some(reply.data)),
            Response::Failure(failure) => Err(failure),
        }
    }

    fn answer(&mut self) -> Result<Response, Failure> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).map_err(|error| unreachable(&self.path, &error))?;
        if line.last() != Some(&b'\n') {
            let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended before the answer");
            return Err(unreachable(&self.path, &cut));
        }
        json::parse(&line).map_err(|error| {
            let message = format!(
                "the answer of the daemon on {} makes no sense ({error}); `dataplane --version` and the daemon's must be the same",
                self.path.display()
            );
            Failure::new(FailureKind::Failed, message)
        })
    }
}

/// Says what went wrong with the daemon on `path`, and what to do next.
fn unreachable(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    let message = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "no daemon answers on {path} ({error}); start it with `dataplane run --socket {path}`, or name its socket with --socket"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("no access to {path} ({error}); use root, or a user in the group of the socket")
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("the daemon on {path} does not answer in time; its log says what it is busy with")
        }
        _ => format!(
            "the daemon on {path} is gone ({error}); its log says why, `dataplane run --socket {path}` starts it"
        ),
    };
    Failure::new(FailureKind::Unreachable, message)
}
