//! Packets that the kernel half tells of.

#![expect(unsafe_code, reason = "tokio wants a promise about the descriptor that it waits on")]

use std::io;

use aya::maps::{Map, MapData, RingBuf};
use dataplane_common::abi::{EVENT_RING, Event, map};
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes as _;

use super::TableError;

/// Events that are handed over at a time, so that whoever reads them has time for other things.
const BATCH: usize = 64;

/// The ring of events.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// From the map. Inside of a tokio runtime only.
    pub(super) fn new(map: Map) -> Result<Self, TableError> {
        let ring = RingBuf::try_from(map).map_err(|error| TableError::Map { name: map::EVENTS, error })?;
        let failed = |error| TableError::Memory { name: map::EVENTS, bytes: EVENT_RING, error };
        // SAFETY: the ring owns its descriptor, always gives the same one, and is dropped after the registration.
        let ring = unsafe { AsyncFd::register(ring) };
        Ok(Self { ring: ring.map_err(|error| failed(error.into_parts().1))? })
    }

    /// Waits for events, and takes some of them. Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> io::Result<Vec<Event>> {
        let mut ready = self.ring.readable_mut().await?;
        let ring = ready.get_inner_mut();
        let mut events = Vec::new();
        while events.len() < BATCH {
            let Some(item) = ring.next() else { break };
            events.extend(Event::read_from_bytes(&item));
        }
        if events.len() < BATCH {
            ready.clear_ready();
        }
        Ok(events)
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
