//! Listing a family's routes piece by piece: there may be a million, and others want to be answered meanwhile.

use std::time::Instant;

use netlink_packet_core::NLM_F_DUMP;

use super::expiry::{self, Expiring, Lifetime};
use super::socket::{ATTEMPTS, Answer, Requester};
use super::{Error, Stale, is_foreign, route};
use crate::model::{Event, Family, IpVersion, Listing, Snapshot, Touched};

/// More announcements than this during a listing are as good as an overrun: it begins again.
const HELD: usize = 1 << 16;

/// Routes of one family, as far as they are read.
pub(super) struct Reading {
    /// A socket of its own: an answer that is being read stands in the way of all others, and one that is given up can only
    /// be closed.
    requester: Requester,
    answer: Answer,
    found: Found,
    attempts: u32,
    /// Announcements meanwhile: they may be newer than the listing, so they are repeated afterwards.
    held: Vec<Event>,
}

enum Found {
    V4(Listing<u32>),
    V6(Listing<u128>),
}

impl Found {
    fn new(version: IpVersion) -> Self {
        match version {
            IpVersion::V4 => Self::V4(Listing::default()),
            IpVersion::V6 => Self::V6(Listing::default()),
        }
    }
}

impl Reading {
    /// Requests all routes of a family.
    pub(super) fn begin(version: IpVersion) -> Result<Self, Error> {
        let mut requester = Requester::open(libc::NETLINK_ROUTE as isize)?;
        let answer = ask(&mut requester, version)?;
        Ok(Self { requester, answer, found: Found::new(version), attempts: 1, held: Vec::new() })
    }

    /// Of which family.
    pub(super) fn version(&self) -> IpVersion {
        match self.found {
            Found::V4(_) => IpVersion::V4,
            Found::V6(_) => IpVersion::V6,
        }
    }

    /// Its kind.
    pub(super) fn stale(&self) -> Stale {
        match self.found {
            Found::V4(_) => Stale::ROUTES4,
            Found::V6(_) => Stale::ROUTES6,
        }
    }

    /// How many routes there are so far.
    pub(super) fn len(&self) -> usize {
        match &self.found {
            Found::V4(listing) => listing.len(),
            Found::V6(listing) => listing.len(),
        }
    }

    /// Remembers an announcement. `false` if there were too many.
    pub(super) fn hold(&mut self, event: &Event) -> bool {
        let ours = match event {
            Event::Route4(..) | Event::Route4Gone(_) => self.version() == IpVersion::V4,
            Event::Route6(..) | Event::Route6Gone(_) => self.version() == IpVersion::V6,
            _ => false,
        };
        if ours {
            self.held.push(event.clone());
        }
        self.held.len() <= HELD
    }

    /// Reads on until `end`. Says whether that was all; again from the start when the kernel says that it changed meanwhile.
    pub(super) fn read(&mut self, end: Instant, expiring: &mut Expiring) -> Result<bool, Error> {
        let version = self.version();
        loop {
            let found = &mut self.found;
            let last = self.requester.read(&mut self.answer, |message| match found {
                Found::V4(listing) => route::parse(message.payload).into_iter().for_each(|route| listing.push(route)),
                Found::V6(listing) => {
                    expiring.note(message.kind, message.payload);
                    let used = expiry::lifetime(message.payload) != Lifetime::Over;
                    let route = route::parse(message.payload).filter(|_| used);
                    if let Some(route) = route {
                        listing.push(route);
                    }
                }
            });
            match last {
                Ok(false) => {}
                Ok(true) if self.answer.consistent => return Ok(true),
                Ok(true) if self.attempts == ATTEMPTS => {
                    return Err(Error::Unsettled { what: "routes", attempts: ATTEMPTS });
                }
                Ok(true) => {
                    self.attempts += 1;
                    self.found = Found::new(version);
                    self.answer = ask(&mut self.requester, version)?;
                }
                // A kernel without IPv6 has no routes of it.
                Err(error) if version == IpVersion::V6 && is_foreign(&error) => return Ok(true),
                Err(error) => return Err(error),
            }
            if Instant::now() >= end {
                return Ok(false);
            }
        }
    }

    /// All of it, then what came meanwhile. `compared`: it must be as it was announced, but for what came meanwhile.
    pub(super) fn finish(self, compared: bool) -> impl Iterator<Item = Event> {
        let snapshot = match self.found {
            Found::V4(listing) => Snapshot::Routes4(listing.finish()),
            Found::V6(listing) => Snapshot::Routes6(listing.finish()),
        };
        let all = if compared {
            let mut announced = Touched::default();
            self.held.iter().for_each(|event| announced.announce(event));
            Event::Compared(snapshot, announced)
        } else {
            Event::Snapshot(snapshot)
        };
        std::iter::once(all).chain(self.held)
    }
}

fn ask(requester: &mut Requester, version: IpVersion) -> Result<Answer, Error> {
    let mut request = [0; route::HEADER];
    request[0] = match version {
        IpVersion::V4 => u32::NUMBER,
        IpVersion::V6 => u128::NUMBER,
    };
    requester.ask("routes", libc::RTM_GETROUTE, NLM_F_DUMP, &request)
}
