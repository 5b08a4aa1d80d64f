//! Packets that the kernel half sends to the controller.

#![expect(unsafe_code, reason = "tokio wants a promise about the descriptor that it waits on")]

use std::{io, marker::PhantomData};

use aya::maps::{Map, MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::TableError;

/// Events that are handed over at a time, so that whoever reads them has time for other things.
const BATCH: usize = 64;

/// A ring of events of one kind.
pub struct Events<T> {
    ring: AsyncFd<RingBuf<MapData>>,
    kind: PhantomData<T>,
}

impl<T: FromBytes + Immutable + KnownLayout> Events<T> {
    /// From the map of this name and size. Inside of a tokio runtime only.
    pub(super) fn new(map: Map, name: &'static str, bytes: usize) -> Result<Self, TableError> {
        let ring = RingBuf::try_from(map).map_err(|error| TableError::Map { name, error })?;
        let failed = |error| TableError::Memory { name, bytes, error };
        // SAFETY: the ring owns its descriptor, always gives the same one, and is dropped after the registration.
        let ring = unsafe { AsyncFd::register(ring) };
        Ok(Self { ring: ring.map_err(|error| failed(error.into_parts().1))?, kind: PhantomData })
    }

    /// Waits for events, and takes some of them. Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> io::Result<Vec<T>> {
        let mut ready = self.ring.readable_mut().await?;
        let events = take(ready.get_inner_mut());
        if events.len() < BATCH {
            ready.clear_ready();
        }
        Ok(events)
    }

    /// Takes some of the records that are there, from a ring that wakes no reader.
    pub fn take(&mut self) -> Vec<T> {
        take(self.ring.get_mut())
    }
}

fn take<T: FromBytes + Immutable + KnownLayout>(ring: &mut RingBuf<MapData>) -> Vec<T> {
    let mut events = Vec::new();
    while events.len() < BATCH {
        let Some(item) = ring.next() else { break };
        events.extend(T::read_from_bytes(&item));
    }
    events
}

impl<T> std::fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
