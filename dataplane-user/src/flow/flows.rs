//! The connections of both families, and the words of the kernel half's control.

use std::{collections::BTreeSet, net::IpAddr, ops::Range, sync::atomic::AtomicU64, time::Duration};

use dataplane_common::abi::{FlowControl, flow::MOMENT};

use super::{
    AnySeen, Connections, Counts, Epochs, Named, NotFast, Origin, Table, View, Work, Zoned, state::Known, view,
    view::Now,
};
use crate::{fib::Memory, model::Family, retired::Grace};

/// After connections found no room, all are listed again once so much of it is free, and no sooner than so.
const AGAIN: Duration = Duration::from_secs(10);

/// What the operator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Connections that have rows at most.
    pub max: u32,
    /// How long a row stays armed.
    pub lease: Duration,
}

/// How often what happened, and what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStats {
    /// Rows in use, two for each connection.
    pub rows: u64,
    /// Connections that may have rows.
    pub max: u64,
    /// Rows that are armed.
    pub armed: u64,
    /// Connections that the kernel was asked about, or will be.
    pub asked: u64,
    /// Connections that found no room.
    pub full: u64,
    /// Connections that announce nothing.
    pub silent: u64,
    /// How often rows that were armed counted no longer.
    pub epochs: u64,
    /// How often announcements were lost.
    pub overruns: u64,
    /// How often all connections were listed.
    pub resyncs: u64,
    /// Announcements of connections.
    pub events: u64,
    /// Packets that rows carried.
    pub carried: u64,
}

/// All connections.
pub struct Flows<M> {
    v4: Connections<u32, M>,
    v6: Connections<u128, M>,
    epochs: Epochs,
    settings: Settings,
    seed: u64,
    work: Work,
    events: u64,
    overruns: u64,
    resyncs: u64,
    /// When all are to be listed from the beginning.
    resync: Option<Duration>,
    /// How many had found no room when all were listed last.
    full: u64,
}

impl<M: Memory<Word = AtomicU64>> Flows<M> {
    /// None is known, and all are to be listed. `memory` is that of both families; `seed` is random.
    pub fn new((v4, v6): (M, M), seed: u64, settings: Settings) -> Self {
        Self {
            v4: Connections::new(Table::new(v4, seed), settings.max),
            v6: Connections::new(Table::new(v6, seed), settings.max),
            epochs: Epochs::default(),
            settings,
            seed,
            work: Work::default(),
            events: 0,
            overruns: 0,
            resyncs: 0,
            resync: Some(Duration::ZERO),
            full: 0,
        }
    }

    /// Whether a table is to grow.
    pub fn is_crowded(&self) -> bool {
        self.v4.is_crowded() || self.v6.is_crowded()
    }

    /// Rows that were armed count no longer, and none is armed before [`Self::grow`].
    pub fn pause(&mut self, now: Duration) {
        self.epochs.raise(now);
        self.epochs.pause();
    }

    /// Gives both families as many rows as they need. `passed`: since [`Self::pause`].
    pub fn grow(&mut self, passed: &Grace) {
        if self.v4.is_crowded() {
            self.v4.grow(passed);
        }
        if self.v6.is_crowded() {
            self.v6.grow(passed);
        }
        self.epochs.resume();
    }

    /// Goes on in other memory, in which nothing is yet. Who has rows keeps them.
    pub fn replace(&mut self, (v4, v6): (M, M), seed: u64, now: Duration) {
        self.seed = seed;
        self.epochs.raise(now);
        self.epochs.resume();
        self.v4.replace(Table::new(v4, seed));
        self.v6.replace(Table::new(v6, seed));
    }

    /// What the kernel half is to go by.
    pub fn control(&mut self) -> FlowControl {
        let [epoch, arming] = self.epochs.words();
        let lease = u32::try_from(self.settings.lease.as_nanos() >> MOMENT).unwrap_or(u32::MAX >> 1);
        let (mask4, mask6) = (self.v4.table().mask(), self.v6.table().mask());
        FlowControl { seed: self.seed, epoch, arming, lease: lease.min(u32::MAX >> 1), mask4, mask6, reserved: 0 }
    }

    /// Takes other settings.
    pub fn set(&mut self, settings: Settings, now: Duration) {
        if settings.max > self.settings.max {
            self.resync_by(now);
        }
        self.settings = settings;
    }

    /// Addresses of this machine.
    pub fn set_local(&mut self, local: &BTreeSet<IpAddr>, now: Duration) {
        fn of<A: Family>(local: &BTreeSet<IpAddr>) -> BTreeSet<A> {
            local.iter().filter_map(|address| A::from_ip(*address)).collect()
        }
        let changed = [self.v4.set_local(of(local)), self.v6.set_local(of(local))];
        if changed.contains(&true) {
            self.resync_by(now);
        }
    }

    /// Takes in what the kernel says of a connection that it has.
    pub fn update(&mut self, seen: &AnySeen, origin: Origin, now: Duration) {
        self.events += u64::from(origin == Origin::Announced);
        let [four, six] = [self.v4.table().used() / 2, self.v6.table().used() / 2];
        self.v4.max = self.settings.max.saturating_sub(six);
        self.v6.max = self.settings.max.saturating_sub(four);
        match seen {
            AnySeen::V4(seen) => self.v4.update(seen, origin, now, &mut self.work),
            AnySeen::V6(seen) => self.v6.update(seen, origin, now, &mut self.work),
        }
    }

    /// A connection is gone.
    pub fn destroy(&mut self, seen: &AnySeen) {
        self.events += 1;
        match seen {
            AnySeen::V4(seen) => self.v4.destroy(seen),
            AnySeen::V6(seen) => self.v6.destroy(seen),
        }
    }

    /// The kernel does not have it, or does not change it.
    pub fn forget(&mut self, named: &Named, id: u32) {
        match named {
            Named::V4(zone, tuple) => self.v4.forget((*zone, *tuple), id),
            Named::V6(zone, tuple) => self.v6.forget((*zone, *tuple), id),
        }
    }

    /// What is due at a time.
    pub fn tick(&mut self, now: Duration) {
        self.v4.tick(now, &mut self.work);
        self.v6.tick(now, &mut self.work);
        self.epochs.tick(now);
        let full = self.counts().full;
        if full > self.full && self.room() && self.resync.is_none() {
            self.resync = Some(now + AGAIN);
        }
    }

    /// Whether an eighth of the rows is free.
    fn room(&mut self) -> bool {
        let used = u64::from(self.v4.table().used() / 2) + u64::from(self.v6.table().used() / 2);
        used < u64::from(self.settings.max) / 8 * 7
    }

    /// When [`Self::tick`] is due.
    pub fn due(&self) -> Option<Duration> {
        [self.v4.due(), self.v6.due(), self.epochs.due(), self.resync].into_iter().flatten().min()
    }

    /// What the kernel is to change.
    pub fn take_work(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    /// Rows that were armed count no longer.
    pub fn raise(&mut self, now: Duration) {
        self.epochs.raise(now);
    }

    /// Rules have changed to those of a generation: rows that were armed count no longer, and none is armed before these are
    /// judged.
    pub fn hold(&mut self, generation: u32, now: Duration) {
        self.epochs.raise(now);
        self.epochs.hold(generation);
    }

    /// Rules of a generation forbid nothing.
    pub fn judged(&mut self, generation: u32) {
        self.epochs.judged(generation);
    }

    /// Announcements were lost: rows may be there of connections that are no more.
    pub fn overrun(&mut self, now: Duration) {
        self.overruns += 1;
        self.epochs.raise(now);
        self.resync_by(now);
    }

    /// All are to be listed at a time, or earlier.
    pub fn resync_by(&mut self, time: Duration) {
        self.resync = Some(self.resync.map_or(time, |due| due.min(time)));
    }

    /// Begins to list all of them, if it is time. Says whether it does: a list that is being read is given up then.
    pub fn begin_round(&mut self, now: Duration) -> bool {
        let begins = self.resync.take_if(|due| *due <= now).is_some();
        if begins {
            self.resyncs += 1;
            self.full = self.counts().full;
            self.v4.begin_round();
            self.v6.begin_round();
        }
        begins
    }

    /// The list is complete.
    pub fn end_round(&mut self) {
        self.v4.end_round();
        self.v6.end_round();
    }

    /// The rows of both families that were freed since this was called last.
    pub fn retire(&mut self) -> [Option<crate::retired::Retired<Vec<u32>>>; 2] {
        [self.v4.table().retire(), self.v6.table().retire()]
    }

    /// They can be used again.
    pub fn release(&mut self, [four, six]: [&[u32]; 2]) {
        self.v4.table().release(four);
        self.v6.table().release(six);
    }

    fn counts(&self) -> Counts {
        let [a, b] = [self.v4.counts(), self.v6.counts()];
        Counts { full: a.full + b.full, silent: a.silent + b.silent }
    }

    /// What happened so far, and what there is, but for what is armed and was carried by rows in use: [`Self::survey`].
    pub fn stats(&mut self) -> FlowStats {
        let counts = self.counts();
        FlowStats {
            rows: u64::from(self.v4.table().used()) + u64::from(self.v6.table().used()),
            max: self.settings.max.into(),
            armed: 0,
            asked: (self.v4.pending() + self.v6.pending()) as u64,
            full: counts.full,
            silent: counts.silent,
            epochs: self.epochs.raised(),
            overruns: self.overruns,
            resyncs: self.resyncs,
            events: self.events,
            carried: self.v4.table().carried() + self.v6.table().carried(),
        }
    }

    /// [`Table::survey`] of both families; none behind the last row. `moment`: now, as leases are counted.
    pub fn survey(&mut self, words: Range<usize>, moment: u32) -> Option<[u64; 2]> {
        let control = self.control();
        if words.start * 64 > control.mask4.max(control.mask6) as usize {
            return None;
        }
        let four = self.v4.table().survey(words.clone(), &control, moment);
        let six = self.v6.table().survey(words, &control, moment);
        Some([four[0] + six[0], four[1] + six[1]])
    }

    /// All that are known.
    pub fn names(&self) -> Vec<Named> {
        let v4 = self.v4.iter().map(|(key, _)| u32::named(*key));
        v4.chain(self.v6.iter().map(|(key, _)| u128::named(*key))).collect()
    }

    /// One that is known.
    pub fn known(&mut self, named: &Named, now: Now) -> Option<View> {
        let control = self.control();
        match named {
            Named::V4(zone, tuple) => view::known(&mut self.v4, (*zone, *tuple), control, now),
            Named::V6(zone, tuple) => view::known(&mut self.v6, (*zone, *tuple), control, now),
        }
    }

    /// One that the kernel has, known or not.
    pub fn view(&mut self, seen: &AnySeen, now: Now) -> View {
        let control = self.control();
        let room = self.room();
        match seen {
            AnySeen::V4(seen) => view::seen(&mut self.v4, seen, control, now, room),
            AnySeen::V6(seen) => view::seen(&mut self.v6, seen, control, now, room),
        }
    }
}

/// Why a known connection is not carried, as far as that is not for its rows to say.
pub(super) fn waits<A: Zoned>(known: &Known<A>) -> Option<NotFast> {
    use super::Place;
    match known.place {
        Place::Young => Some(NotFast::Young),
        Place::Asked => Some(NotFast::Asked),
        Place::TwoZones => Some(NotFast::TwoZones),
        Place::Crowded => Some(NotFast::Crowded),
        Place::Listed(_) => None,
    }
}
