//! The connections that the kernel tracks, followed and changed; and the commits of nftables, after which they may be judged
//! otherwise.
//!
//! New connections are not announced to us: while no one listens to that group, the kernel does not even make those messages.
//! The kernel is not asked to wait for us (`NETLINK_BROADCAST_ERROR`): a daemon that hangs would fill its table. What is lost
//! is listed again.

mod message;

use std::{collections::BTreeSet, io, os::fd::AsFd as _, time::Duration};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::BorrowedFd,
};

use super::{
    Error,
    attribute::Attributes,
    netfilter::{
        GENERATION, GROUP, HEADER, NFT_MSG_DELRULE, NFT_MSG_DELSETELEM, NFT_MSG_GETGEN, NFT_MSG_NEWGEN,
        NFT_MSG_NEWSETELEM, NFTABLES, is_missing, number,
    },
    ruleset::set_of,
    socket::{Answer, Message, RecvResult, Requester},
    stream::Stream,
};
use crate::{
    flow::{Announcement, AnySeen, Change, Named, SetKey, Tuple},
    model::Family,
};

/// `NFNLGRP_CONNTRACK_UPDATE` and `NFNLGRP_CONNTRACK_DESTROY`.
const GROUPS: [u32; 2] = [2, 3];
/// Room for announcements: with the system's own, a third of 200,000 in a burst are lost; with this, none.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How many changes are sent at once: one system call for each costs three times as much.
const BATCH: usize = 64;

/// What was there to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// Nothing.
    Nothing,
    /// Announcements, of connections that are followed or not.
    Announced,
    /// The kernel had to throw announcements away.
    Overrun,
}

/// Sockets in the network namespace of the thread that opened them.
pub struct Conntrack {
    /// Announcements of connections, and of rules; none of a client that only asks.
    news: Option<(Stream, Stream)>,
    /// Something that is more than elements of sets was announced, and its commit was not.
    more: bool,
    /// Elements of these were, too.
    elements: BTreeSet<SetKey>,
    changes: Requester,
    lists: Requester,
}

/// What was announced of nftables' rules.
#[derive(Debug, Default)]
pub struct Commits {
    /// How many commits, lost announcements as one.
    pub count: u32,
    /// The generation after the last of them that changed more than elements of sets.
    pub rules: Option<u32>,
    /// Sets whose elements came or went, and the generation after that.
    pub sets: Vec<(SetKey, u32)>,
}

/// A list that is being read.
pub struct Listing(Answer);

impl Conntrack {
    /// Opens the sockets, and listens from now on.
    ///
    /// # Errors
    /// The kernel has no conntrack or no nftables, or does not let this user follow them.
    pub fn open() -> Result<Self, Error> {
        let netfilter = libc::NETLINK_NETFILTER as isize;
        Ok(Self {
            news: Some((
                Stream::open(netfilter, &GROUPS, RECEIVE_BUFFER)?,
                Stream::open(netfilter, &[GROUP], RECEIVE_BUFFER)?,
            )),
            ..Self::requests()?
        })
    }

    /// Opens the sockets for who only asks, and hears nothing.
    ///
    /// # Errors
    /// The kernel has no netfilter.
    pub fn requests() -> Result<Self, Error> {
        let netfilter = libc::NETLINK_NETFILTER as isize;
        Ok(Self {
            news: None,
            more: false,
            elements: BTreeSet::new(),
            changes: Requester::open(netfilter)?,
            lists: Requester::open(netfilter)?,
        })
    }

    /// Waits until there is something to read here or at another descriptor, or a time is over.
    pub fn wait(&self, other: BorrowedFd<'_>, time: Option<Duration>) -> io::Result<()> {
        let at = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut all = vec![at(other)];
        all.extend(self.news.iter().flat_map(|(events, rules)| [at(events.as_fd()), at(rules.as_fd())]));
        let time = time.map(|time| Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        match poll(&mut all, time.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads one datagram of announcements, if there is one.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn next(&mut self, mut each: impl FnMut(Announcement)) -> Result<StreamState, Error> {
        let Some((events, _)) = &mut self.news else { return Ok(StreamState::Nothing) };
        Ok(match events.poll()? {
            RecvResult::Nothing => StreamState::Nothing,
            RecvResult::Overrun => StreamState::Overrun,
            RecvResult::Datagram => {
                events.messages().filter_map(|message| message::announcement(&message)).for_each(&mut each);
                StreamState::Announced
            }
        })
    }

    /// Reads what was announced of rules since.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn commits(&mut self) -> Result<Commits, Error> {
        let mut commits = Commits::default();
        let Some((_, rules)) = &mut self.news else { return Ok(commits) };
        loop {
            match rules.poll()? {
                RecvResult::Nothing => return Ok(commits),
                RecvResult::Overrun => {
                    commits.count += 1;
                    commits.rules = generation(&mut self.changes)?.or(commits.rules);
                }
                RecvResult::Datagram => {
                    for message in rules.messages() {
                        let kind = message.kind.wrapping_sub(NFTABLES);
                        match kind {
                            NFT_MSG_NEWGEN => {
                                commits.count += 1;
                                let sets = std::mem::take(&mut self.elements);
                                let more = std::mem::take(&mut self.more);
                                let Some(generation) = generation_in(&message) else { continue };
                                commits.rules = more.then_some(generation).or(commits.rules);
                                commits.sets.extend(sets.into_iter().map(|set| (set, generation)));
                            }
                            // Which sets rules decide by, others know.
                            NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM => self.elements.extend(set_of(message.payload)),
                            // Sets without elements and objects change no rule.
                            kind => self.more |= kind <= NFT_MSG_DELRULE,
                        }
                    }
                }
            }
        }
    }

    /// The generation of nftables' rules; none where there are no nftables.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn generation(&mut self) -> Result<Option<u32>, Error> {
        generation(&mut self.changes)
    }

    /// Changes connections, all that can be. Gives those that the kernel refused, by their place, and why.
    ///
    /// # Errors
    /// The socket is broken; some may have been changed.
    pub fn change(&mut self, all: &[Change], mut refused: impl FnMut(usize, &io::Error)) -> Result<(), Error> {
        for (batch, changes) in all.chunks(BATCH).enumerate() {
            let requests = changes.iter().map(request);
            for (place, error) in self.changes.each("connections", message::NEW, requests)? {
                refused(batch * BATCH + place, &error);
            }
        }
        Ok(())
    }

    /// Makes the kernel forget a connection. Returns whether it was there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn delete(&mut self, named: &Named, id: u32) -> Result<bool, Error> {
        let request = match named {
            Named::V4(zone, tuple) => message::exactly(*zone, tuple, id),
            Named::V6(zone, tuple) => message::exactly(*zone, tuple, id),
        };
        match self.changes.tell("connections", message::DELETE, NLM_F_ACK, &request) {
            Ok(()) => Ok(true),
            Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins to list all connections. One that is being read already is given up.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn list(&mut self) -> Result<Listing, Error> {
        // The rest of an answer that was given up would be in the way of the next one.
        self.lists = Requester::open(libc::NETLINK_NETFILTER as isize)?;
        self.lists.ask("connections", message::GET, NLM_F_DUMP, &[0; HEADER]).map(Listing)
    }

    /// Reads a piece of a list. Says whether it was the last one.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn read(&mut self, listing: &mut Listing, mut each: impl FnMut(AnySeen)) -> Result<bool, Error> {
        self.lists.read(&mut listing.0, |message| {
            if message.kind == message::NEW {
                message::seen(message.payload).into_iter().for_each(&mut each);
            }
        })
    }
}

fn generation(requester: &mut Requester) -> Result<Option<u32>, Error> {
    match requester.get("rules' generation", NFTABLES | NFT_MSG_GETGEN, &[0; HEADER], generation_in) {
        Err(error) if is_missing(&error) => Ok(None),
        other => other,
    }
}

fn generation_in(message: &Message<'_>) -> Option<u32> {
    let is = message.kind == NFTABLES | NFT_MSG_NEWGEN;
    Attributes::behind(message.payload, HEADER)
        .find(|(kind, _)| is && *kind == GENERATION)
        .and_then(|(_, id)| number(id))
}

fn request(change: &Change) -> Vec<u8> {
    fn of<A: message::Addresses>(zone: u16, tuple: &Tuple<A>, timeout: Option<u32>) -> Vec<u8> {
        match timeout {
            None => message::liberal(zone, tuple),
            Some(seconds) => message::timeout(zone, tuple, seconds),
        }
    }
    match &change.connection {
        Named::V4(zone, tuple) => of(*zone, tuple, change.timeout),
        Named::V6(zone, tuple) => of(*zone, tuple, change.timeout),
    }
}

/// Reads datagrams as the kernel would send them: for those that try what breaks it. Returns how many connections are in it.
pub fn announced(datagram: &[u8]) -> usize {
    let seen = super::socket::messages(datagram).filter_map(|message| message::announcement(&message));
    seen.filter(|announcement| match announcement {
        Announcement::Update(AnySeen::V4(seen)) | Announcement::Destroy(AnySeen::V4(seen)) => is_plausible(seen),
        Announcement::Update(AnySeen::V6(seen)) | Announcement::Destroy(AnySeen::V6(seen)) => is_plausible(seen),
    })
    .count()
}

fn is_plausible<A: Family>(seen: &crate::flow::Seen<A>) -> bool {
    assert_eq!(seen.original.protocol, seen.reply.protocol, "one connection, one protocol");
    true
}
