//! Everything is listed again now and then, beside what is followed: what an announcement should have brought and did not
//! must not matter for long.
//!
//! It goes as any listing does, routes in pieces. Announcements of a kind during its listing are kept with it: it is not known
//! whether the list includes them.

use std::time::Instant;

use super::listing::Reading;
use super::{Error, Mirror, SLICE, Stale};
use crate::model::{Event, Snapshot, Touched};

/// How far a comparison is.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// It was requested, and has not begun.
    due: bool,
    /// What is still to be compared of one that has begun.
    left: Option<Stale>,
}

impl Comparison {
    /// Whether it begins as soon as nothing is stale.
    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// These are listed, but not compared: they were known to be old.
    pub(super) fn skip(&mut self, kinds: Stale) {
        if let Some(left) = &mut self.left {
            *left -= kinds;
        }
    }

    fn contains(&self, kind: Stale) -> bool {
        self.left.is_some_and(|left| left.contains(kind))
    }
}

impl Mirror {
    /// Requests a comparison: everything is listed, as [`Event::Compared`] where it must be as it was announced.
    pub fn compare(&mut self) {
        self.comparison.due = true;
    }

    /// Whether a comparison came to its end since the last call.
    pub fn compared(&mut self) -> bool {
        self.comparison.left.take_if(|left| left.is_empty()).is_some()
    }

    /// Makes the next [`Mirror::next`] list the hosts behind bridges again.
    pub fn list_hosts(&mut self) {
        self.mark_stale(Stale::FDB);
    }

    /// Begins a comparison that is due, once all that is known to be stale is listed.
    pub(super) fn begin_comparison(&mut self) {
        if self.comparison.due && self.is_settled() && self.comparison.left.is_none() {
            self.stale = Stale::all();
            self.comparison = Comparison { due: false, left: Some(Stale::all()) };
        }
    }

    /// Gives the listing of a kind.
    pub(super) fn tell(&mut self, kind: Stale, snapshot: Option<Snapshot>) -> Result<(), Error> {
        let place = self.pending.len();
        let all = !self.comparison.contains(kind) || self.catch_up(kind)?;
        let Some(snapshot) = snapshot else {
            self.comparison.skip(kind);
            return Ok(());
        };
        let event = if all && self.comparison.contains(kind) {
            let mut announced = Touched::default();
            self.pending[place..].iter().for_each(|event| announced.announce(event));
            Event::Compared(snapshot, announced)
        } else {
            Event::Snapshot(snapshot)
        };
        self.pending.insert(place, event);
        self.comparison.skip(kind);
        Ok(())
    }

    /// Gives the listing of a family's routes.
    pub(super) fn tell_routes(&mut self, reading: Reading) -> Result<(), Error> {
        let kind = reading.stale();
        let mut all = false;
        self.reading = Some(reading);
        if self.comparison.contains(kind) {
            let caught_up = self.wait_for_changes().and_then(|()| self.catch_up(kind));
            all = caught_up.inspect_err(|_| {
                self.reading = None;
                self.stale |= kind;
            })?;
        }
        // Gone if too much was announced: it is listed once more.
        if let Some(reading) = self.reading.take() {
            self.pending.extend(reading.finish(all && self.comparison.contains(kind)));
            self.comparison.skip(kind);
        }
        Ok(())
    }

    /// Takes in what was announced until now. Says whether that was all.
    fn catch_up(&mut self, kind: Stale) -> Result<bool, Error> {
        self.drain(Instant::now() + SLICE).inspect_err(|_| self.stale |= kind)
    }
}
