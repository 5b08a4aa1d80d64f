//! What the programs tell of single packets.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use aya::maps::{MapData, RingBuf};
use dataplane_common::abi::{Event, map};
use tokio::io::{Interest, unix::AsyncFd};
use zerocopy::FromBytes as _;

use super::{Object, TableError};

/// Events that are taken at once; the others wait for the next turn.
const TURN: usize = 64;

/// The ring that they come through. It outlives every exchange of the programs.
#[derive(Debug)]
pub struct Events(AsyncFd<Ring>);

struct Ring(RingBuf<MapData>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(map::EVENTS)
    }
}

impl Events {
    /// Takes the ring out of a loaded object, inside a runtime.
    pub fn take(object: &mut Object) -> Result<Self, TableError> {
        let name = map::EVENTS;
        let ring = object.take_map(name)?.try_into().map_err(|error| TableError::Map { name, error })?;
        let failed = |error: io::Error| TableError::Map { name, error: error.into() };
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for owners that change their file; the ring never does"
        )]
        let ring = AsyncFd::with_interest(Ring(ring), Interest::READABLE);
        Ok(Self(ring.map_err(failed)?))
    }

    /// Waits until there are some, and gives them to `take`, not too many. Nothing is lost when it is not waited for to the end.
    ///
    /// # Errors
    /// The runtime ends.
    pub async fn next(&mut self, mut take: impl FnMut(&Event)) -> io::Result<()> {
        let mut ready = self.0.readable_mut().await?;
        for _ in 0..TURN {
            let Some(item) = ready.get_inner_mut().0.next() else {
                ready.clear_ready();
                return Ok(());
            };
            // Nothing else is written into it.
            if let Ok(event) = Event::ref_from_bytes(&item) {
                take(event);
            }
        }
        Ok(())
    }
}
