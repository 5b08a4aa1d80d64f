//! The daemon's end of the control socket.
//!
//! Each connection is a task of its own, bounded in time and memory, that hands requests to the ring as [`Call`]s. No peer
//! can hold up another, or the ring.

use std::{os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

pub use super::address::BindError;
use super::{
    address::{self, Address},
    connection::welcome,
    guest::Guests,
    page::{Cursor, Part},
    protocol::{Data, Failure, Request},
};

/// A request on its way to the ring.
#[derive(Debug)]
pub struct Call {
    /// What is asked; the peer may ask it.
    pub request: Request,
    /// Who asks.
    pub peer: Peer,
    /// Where the page begins that is wanted; none for the first.
    pub from: Option<Cursor>,
    /// Where what follows the answer goes, for requests that ask for more than one.
    pub stream: Option<mpsc::Sender<Data>>,
    /// Where the answer goes. Dropping it tells the peer that the daemon stops.
    pub reply: oneshot::Sender<Result<Part, Failure>>,
    /// Descriptors that came with it.
    pub sockets: Vec<OwnedFd>,
    /// The connection that it came by.
    pub connection: Option<Arc<UnixStream>>,
}

impl Call {
    /// Whether somebody still waits for the answer. What nobody waits for is not done: the caller may have gone because it
    /// took too long, and have done something else instead.
    pub fn is_wanted(&self) -> bool {
        !self.reply.is_closed() && !self.connection.as_deref().is_some_and(hung_up)
    }
}

/// Whether the other end of a connection is closed, and not only for writing.
pub(super) fn hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    // It is told without being asked for (poll(2)).
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
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
    pub fn may_change(self) -> bool {
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
    /// For the ring to take a call, and for one who may only read to have room for it.
    pub ring: Duration,
    /// Connections at once from users who may only read; one of them can have three in four.
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
    listener: std::os::unix::net::UnixListener,
    /// Removes the socket.
    address: Address,
    limits: Limits,
}

impl Server {
    /// Listens on `path`. What a dead daemon left there is replaced.
    ///
    /// # Errors
    /// See [`BindError`]; above all, another daemon that is alive.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let (listener, address) = address::claim(path)?;
        Ok(Self { listener, address, limits: Limits::default() })
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Serves until the receiver of `calls` is closed or dropped; answers under way then get a second to leave.
    pub async fn serve(self, calls: mpsc::Sender<Call>) {
        let Self { listener, mut address, limits } = self;
        let mut listener = match listen(listener, address.path()) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("{error}"),
        };
        let mut look = tokio::time::interval(limits.look);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let guests = Guests::new(limits.guests);
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
            tracing::debug!("the control socket closes with replies that no client has read");
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
            tracing::warn!("the control socket {} was removed; it is made again", path.display());
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
