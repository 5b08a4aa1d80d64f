//! Taking off what a daemon left that does not run any more.

use std::path::Path;

use dataplane_common::abi::Ifindex;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};
use thiserror::Error;

use super::{Hook, LinkError, Links, SteerError, steer};

/// Why the programs stay.
#[derive(Debug, Error)]
pub enum LeftError {
    /// A daemon is there.
    #[error("a daemon holds {0}, though it does not answer: end it first, then say this again")]
    Held(String),
    /// The directory cannot be opened.
    #[error("cannot open {path}: {error}; it takes root, or the daemon's user")]
    Closed {
        /// Which.
        path: String,
        /// Why.
        error: Errno,
    },
    /// Sockets are still steered.
    #[error(transparent)]
    Steer(#[from] SteerError),
    /// One link stays.
    #[error("cannot take the program off interface {ifindex}: {error}")]
    Link {
        /// Of which interface.
        ifindex: Ifindex,
        /// Why.
        error: LinkError,
    },
}

/// What was taken off.
#[derive(Debug, Default)]
pub struct TakenOff {
    /// Programs of ports.
    pub ports: Vec<(Ifindex, Hook)>,
    /// Whether there were entries for sockets.
    pub steer: bool,
}

/// Takes all programs off whose links are pinned under `root`, while no daemon holds it. Gives what was attached; nothing where
/// there is no such directory.
///
/// # Errors
/// See [`LeftError`]. Programs that could be taken off are off.
pub fn detach_left(root: &Path) -> Result<TakenOff, LeftError> {
    let path = || root.display().to_string();
    let lock = match open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(lock) => lock,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(TakenOff::default()),
        Err(error) => return Err(LeftError::Closed { path: path(), error }),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(LeftError::Held(path())),
        Err(error) => return Err(LeftError::Closed { path: path(), error }),
    }
    let steer = steer::take_off(root)?;
    let mut links = Links::new(root.join("links"));
    let ports = links.list();
    // XDP first, as each port is detached: what it hands over must still meet tc.
    for (ifindex, hook) in &ports {
        links.detach(*ifindex, *hook).map_err(|error| LeftError::Link { ifindex: *ifindex, error })?;
    }
    Ok(TakenOff { ports, steer })
}
