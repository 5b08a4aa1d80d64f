//! What becomes of a connection: the kernel is asked to be indifferent to what passes it by, and when it announces that it is,
//! the connection gets its rows.
//!
//! An announcement shows two things: that what was asked for is in force, and that the kernel will announce the connection's
//! end. One that was made while no one listened announces nothing as long as it lives (`nf_conntrack_events` 2): its rows would
//! outlive it. So no row is written before an announcement of the connection itself has come; a list proves nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::atomic::AtomicU64,
    time::Duration,
};

use super::{
    Change, ESTABLISHED, Named, NotFast, Protocol, Seen, Status, Tcp, Tuple,
    table::{FlowFamily, Table},
};
use crate::fib::Memory;

/// A TCP connection that ends earlier is not worth a change.
pub const YOUNG: Duration = Duration::from_millis(50);
/// What has not announced a change by then announces nothing.
pub const SILENT: Duration = Duration::from_secs(5);

/// A connection as the kernel finds it.
pub type Key<A> = (u16, Tuple<A>);

/// Where a message about a connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The kernel announced it.
    Announced,
    /// It was in a list.
    Listed,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It may end before it is worth a change.
    Young,
    /// The kernel was asked; UDP: to forget it after so many seconds.
    Asked,
    /// It has rows: of its first tuple, and of its answers.
    Listed([u32; 2]),
    /// Another zone has one of its tuples.
    TwoZones,
    /// Its rows have no room before the table grows.
    Crowded,
}

/// A connection that is known.
#[derive(Clone, Copy, Debug)]
pub struct Known<A> {
    /// As [`Seen::id`].
    pub id: u32,
    /// As [`Seen::status`].
    pub status: Status,
    /// Its mark.
    pub mark: u32,
    /// As [`Seen::reply`].
    pub reply: Tuple<A>,
    /// How far it is.
    pub place: Place,
    /// Since when it is known.
    pub since: Duration,
    /// The list that it was in last, or that was begun last when it was announced.
    round: u8,
}

/// What is to be done outside.
#[derive(Debug, Default)]
pub struct Work {
    /// What the kernel is to change, and the number of the connection that is meant.
    pub changes: Vec<(Change, u32)>,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that found no room.
    pub full: u64,
    /// Connections that announced nothing.
    pub silent: u64,
}

/// The connections of a family that have rows, or may soon.
pub struct Connections<A, M> {
    pub(super) known: HashMap<Key<A>, Known<A>>,
    pub(super) table: Table<A, M>,
    /// In the order in which they are due.
    young: VecDeque<(Duration, Key<A>, u32, u32)>,
    asked: VecDeque<(Duration, Key<A>, u32)>,
    /// How many known connections are in each zone.
    pub(super) zones: BTreeMap<u16, u32>,
    local: BTreeSet<A>,
    round: u8,
    /// Rows are there for no more connections.
    pub max: u32,
    /// Some connection waits for the table to grow.
    pub(super) crowded: bool,
    pub(super) counts: Counts,
}

/// A family's connections as the kernel knows them.
pub trait Zoned: FlowFamily {
    /// A connection by its zone and first tuple.
    fn named(key: Key<Self>) -> Named;
}

impl Zoned for u32 {
    fn named((zone, tuple): Key<Self>) -> Named {
        Named::V4(zone, tuple)
    }
}

impl Zoned for u128 {
    fn named((zone, tuple): Key<Self>) -> Named {
        Named::V6(zone, tuple)
    }
}

impl<A: Zoned, M: Memory<Word = AtomicU64>> Connections<A, M> {
    /// None is known yet.
    pub fn new(table: Table<A, M>, max: u32) -> Self {
        Self {
            known: HashMap::new(),
            table,
            young: VecDeque::new(),
            asked: VecDeque::new(),
            zones: BTreeMap::new(),
            local: BTreeSet::new(),
            round: 0,
            max,
            crowded: false,
            counts: Counts::default(),
        }
    }

    /// The rows.
    pub fn table(&mut self) -> &mut Table<A, M> {
        &mut self.table
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// All that are known.
    pub fn iter(&self) -> impl Iterator<Item = (&Key<A>, &Known<A>)> {
        self.known.iter()
    }

    /// One that is known.
    pub fn get(&self, key: &Key<A>) -> Option<&Known<A>> {
        self.known.get(key)
    }

    /// How many have no rows yet, since the kernel has not announced that it did as it was asked.
    pub fn pending(&self) -> usize {
        self.asked.len() + self.young.len()
    }

    /// Why a connection is not to be carried, if it is not.
    pub fn not_fast(&self, seen: &Seen<A>) -> Option<NotFast> {
        let known = self.known.get(&(seen.zone, seen.original)).filter(|known| known.id == seen.id);
        let status = seen.status;
        Some(if status.contains(Status::HELPER) {
            NotFast::Helper
        } else if status.contains(Status::SEQ_ADJUST) {
            NotFast::SequenceNumbers
        } else if seen.synproxy {
            NotFast::SynProxy
        } else if status.contains(Status::OFFLOAD) {
            NotFast::Offloaded
        } else if status.contains(Status::NAT_CLASH) {
            NotFast::Clash
        } else if self.local.contains(&seen.original.source) || self.local.contains(&seen.reply.source) {
            NotFast::Local
        } else if seen.original == seen.reply {
            NotFast::Clash
        } else if status.contains(Status::DYING) {
            NotFast::NotEstablished
        } else {
            match (seen.original.protocol, seen.tcp) {
                (Protocol::Tcp, Some(tcp)) if tcp.state == ESTABLISHED && status.contains(Status::ASSURED) => {
                    return None;
                }
                // A message without a state says that it is as before.
                (Protocol::Tcp, None) if known.is_some() => return None,
                (Protocol::Tcp, _) => NotFast::NotEstablished,
                (Protocol::Udp, _) if status.contains(Status::SEEN_REPLY) => return None,
                (Protocol::Udp, _) => NotFast::OneWay,
            }
        })
    }

    /// Takes in what the kernel says of a connection that it has.
    pub fn update(&mut self, seen: &Seen<A>, origin: Origin, now: Duration, work: &mut Work) {
        let key = (seen.zone, seen.original);
        if let Some(known) = self.known.get(&key)
            && (known.id != seen.id || known.reply != seen.reply)
        {
            self.remove(&key);
        }
        if self.not_fast(seen).is_some() {
            self.remove(&key);
            return;
        }
        let announced = origin == Origin::Announced;
        let Some(known) = self.known.get_mut(&key) else {
            self.begin(key, seen, announced, now, work);
            return;
        };
        known.round = self.round;
        known.status = seen.status;
        let mark = seen.mark.unwrap_or(known.mark);
        let marked = std::mem::replace(&mut known.mark, mark) != mark;
        match known.place {
            Place::Listed(rows) if marked => self.table.set_mark(rows, mark),
            Place::Asked if announced && seen.tcp.as_ref().is_none_or(Tcp::is_liberal) => self.list(key),
            _ => {}
        }
    }

    /// A connection that may be carried is seen for the first time.
    fn begin(&mut self, key: Key<A>, seen: &Seen<A>, announced: bool, now: Duration, work: &mut Work) {
        let place = if key.1.protocol == Protocol::Tcp { Place::Young } else { Place::Asked };
        let known = Known {
            id: seen.id,
            status: seen.status,
            mark: seen.mark.unwrap_or_default(),
            reply: seen.reply,
            place,
            since: now,
            round: self.round,
        };
        self.known.insert(key, known);
        *self.zones.entry(key.0).or_default() += 1;
        match (place, seen.timeout) {
            (Place::Young, _) => self.young.push_back((now + YOUNG, key, seen.id, 0)),
            // It announces its changes, and nothing of it needs to be changed.
            (_, _) if announced => self.list(key),
            (_, Some(timeout)) => {
                work.changes.push((Change { connection: A::named(key), timeout: Some(timeout) }, seen.id));
                self.asked.push_back((now + SILENT, key, seen.id));
            }
            (_, None) => self.remove(&key),
        }
    }

    pub(super) fn put(&mut self, key: &Key<A>, place: Place) {
        if let Some(known) = self.known.get_mut(key) {
            known.place = place;
        }
    }

    pub(super) fn remove(&mut self, key: &Key<A>) {
        self.unlist(key);
        if self.known.remove(key).is_some()
            && let Some(count) = self.zones.get_mut(&key.0)
        {
            *count -= 1;
            if *count == 0 {
                self.zones.remove(&key.0);
            }
        }
    }

    /// A connection is gone. One that came after it with the same tuple is not.
    pub fn destroy(&mut self, seen: &Seen<A>) {
        self.forget((seen.zone, seen.original), seen.id);
    }

    /// The kernel has no such connection, or does not change it.
    pub fn forget(&mut self, key: Key<A>, id: u32) {
        if self.known.get(&key).is_some_and(|known| known.id == id) {
            self.remove(&key);
        }
    }

    /// What is due at a time: asks about those that have lived long enough, and forgets those that announce nothing.
    pub fn tick(&mut self, now: Duration, work: &mut Work) {
        while let Some((_, key, id, _)) = self.young.pop_front_if(|(due, ..)| *due <= now) {
            let Some(known) = self.known.get_mut(&key) else { continue };
            if known.id == id && known.place == Place::Young {
                known.place = Place::Asked;
                work.changes.push((Change { connection: A::named(key), timeout: None }, id));
                self.asked.push_back((now + SILENT, key, id));
            }
        }
        while let Some((_, key, id)) = self.asked.pop_front_if(|(due, ..)| *due <= now) {
            if self.known.get(&key).is_some_and(|known| known.id == id && known.place == Place::Asked) {
                self.counts.silent += 1;
                self.remove(&key);
            }
        }
    }

    /// When [`Self::tick`] is due.
    pub fn due(&self) -> Option<Duration> {
        let first = [self.young.front().map(|young| young.0), self.asked.front().map(|asked| asked.0)];
        first.into_iter().flatten().min()
    }

    /// A list of all connections begins.
    pub fn begin_round(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// The list is complete: what was neither in it nor announced since it began is no more.
    pub fn end_round(&mut self) {
        let round = self.round;
        let gone: Vec<_> = self.known.iter().filter(|(_, known)| known.round != round).map(|(key, _)| *key).collect();
        for key in &gone {
            self.remove(key);
        }
    }

    /// Addresses of this machine. Says whether they are others than before: then all connections are to be listed.
    pub fn set_local(&mut self, local: BTreeSet<A>) -> bool {
        if local == self.local {
            return false;
        }
        let gone = |(key, known): (&Key<A>, &Known<A>)| {
            (local.contains(&key.1.source) || local.contains(&known.reply.source)).then_some(*key)
        };
        let gone: Vec<_> = self.known.iter().filter_map(gone).collect();
        for key in &gone {
            self.remove(key);
        }
        self.local = local;
        true
    }
}
