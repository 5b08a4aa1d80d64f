//! The thread that follows connections: it owns the sockets, what is known of connections, their rows and the epoch. Nothing of
//! it passes through the ring.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::AtomicU64,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use dataplane_common::abi::flow::MOMENT;
use rustix::{
    event::{EventfdFlags, eventfd},
    time::{ClockId, clock_gettime},
};

use super::{
    flow_grace::Graces,
    flow_handle::{Command, Handle, Views},
    flow_survey::Survey,
};
use crate::{
    flow::{Announcement, AnySeen, Filter, FlowStats, Flows, Named, Origin, Settings, WatchedSets},
    kernel::{FlowMaps, FlowSwitch, Mapping},
    netlink::{
        self,
        conntrack::{Commits, Conntrack, Listing, StreamState},
    },
};

/// Announcements that are read before they are taken in.
const TURN: usize = 1024;
/// So many ends at once are a flush of the kernel's table: no row counts before the first of them is taken in.
const FLUSH: usize = 64;
/// Datagrams of a list in one turn, of some hundred connections each.
const PIECES: usize = 4;
/// Connections that are looked at in one turn, for lists.
const CHUNK: usize = 1024;
/// Words of 64 rows that are looked at in one turn, for counts.
const WORDS: usize = 64;
/// Longest sleep: commands wake the thread, and the count of what is armed is due once in [`ROUND`].
const NAP: Duration = Duration::from_millis(50);
/// Between two counts of what is armed.
const ROUND: Duration = Duration::from_secs(1);

/// Begins to follow. `offset`: how far this clock is ahead of the kernel half's.
///
/// # Errors
/// The kernel does not let connections be followed.
pub(super) fn spawn(
    maps: FlowMaps,
    settings: Settings,
    local: &BTreeSet<IpAddr>,
    offset: i128,
) -> Result<(Handle, thread::JoinHandle<()>), String> {
    let mut conntrack = Conntrack::open().map_err(|error| error.to_string())?;
    // Whoever judged the rules may have seen older ones.
    let generation = conntrack.generation().map_err(|error| error.to_string())?;
    let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| error.to_string())?;
    let (commands, received) = channel();
    let handle = Handle::new(commands, waker);
    let graces = Graces::begin(handle.waker()).map_err(|error| error.to_string())?;
    let (switch, memory) = maps.parts();
    let mut flows = Flows::new(memory, seed(), settings);
    flows.raise(Duration::ZERO);
    if let Some(generation) = generation {
        flows.hold(generation, Duration::ZERO);
    }
    flows.set_local(local, Duration::ZERO);
    let follower = Follower {
        conntrack,
        flows,
        switch,
        commands: received,
        wake: Arc::clone(handle.waker()),
        stats: handle.counts(),
        graces,
        grows: false,
        listing: None,
        jobs: VecDeque::new(),
        survey: Survey::default(),
        watched: WatchedSets::default(),
        born: Instant::now(),
        offset,
    };
    let thread = thread::Builder::new().name("flows".to_owned()).spawn(move || follower.run());
    thread.map(|thread| (handle, thread)).map_err(|error| error.to_string())
}

/// A list that is being made.
struct Job {
    which: Vec<Which>,
    filter: Filter,
    limit: usize,
    views: Views,
    answer: Sender<Views>,
}

enum Which {
    Known(Named),
    Seen(AnySeen),
}

struct Follower {
    conntrack: Conntrack,
    flows: Flows<Mapping<AtomicU64>>,
    switch: FlowSwitch,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
    stats: Arc<Mutex<FlowStats>>,
    graces: Graces,
    /// Rows are moved when packets are through that they may have carried.
    grows: bool,
    listing: Option<Listing>,
    jobs: VecDeque<Job>,
    survey: Survey,
    watched: WatchedSets,
    born: Instant,
    offset: i128,
}

impl Follower {
    fn run(mut self) {
        self.publish();
        if let Err(error) = self.follow() {
            tracing::error!("connections cannot be followed any more: {error}; all of them are left to the kernel");
        }
    }

    /// Until it is told to stop.
    fn follow(&mut self) -> Result<(), netlink::Error> {
        loop {
            let more = self.listen()?;
            self.release()?;
            if !self.obey() {
                return Ok(());
            }
            let now = self.born.elapsed();
            self.list(now)?;
            self.flows.tick(now);
            self.work()?;
            self.publish();
            self.retire();
            let busy = self.jobs() | self.count(now) | more | self.listing.is_some();
            let due = self.flows.due().map_or(NAP, |due| due.saturating_sub(self.born.elapsed()).min(NAP));
            let slept = self.conntrack.wait(self.wake.as_fd(), Some(if busy { Duration::ZERO } else { due }));
            slept.map_err(netlink::Error::Receive)?;
        }
    }

    /// Reads what was announced. Says whether there may be more.
    ///
    /// Rules first, and again behind each turn: with a commit no row counts, whatever else there is to do.
    fn listen(&mut self) -> Result<bool, netlink::Error> {
        self.rules()?;
        let (mut heard, mut last) = (Vec::new(), StreamState::Announced);
        while heard.len() < TURN && last == StreamState::Announced {
            last = self.conntrack.next(|announcement| heard.push(announcement))?;
        }
        let now = self.born.elapsed();
        let ends = heard.iter().filter(|announcement| matches!(announcement, Announcement::Destroy(_))).count();
        if last == StreamState::Overrun {
            tracing::debug!("announcements of connections were lost; all are listed again");
            self.flows.overrun(now);
            self.publish();
        } else if ends > FLUSH {
            self.flows.raise(now);
            self.publish();
        }
        for announcement in &heard {
            match announcement {
                Announcement::Update(seen) => self.flows.update(seen, Origin::Announced, now),
                Announcement::Destroy(seen) => self.flows.destroy(seen),
            }
        }
        self.rules()?;
        Ok(last != StreamState::Nothing)
    }

    fn rules(&mut self) -> Result<(), netlink::Error> {
        let Commits { count, mut rules, sets } = self.conntrack.commits()?;
        for (set, generation) in sets {
            if self.watched.changed(set, generation) {
                rules = Some(generation);
            }
        }
        if count > 0 {
            let now = self.born.elapsed();
            match rules {
                Some(generation) => self.flows.hold(generation, now),
                None => self.flows.raise(now),
            }
            self.publish();
        }
        Ok(())
    }

    /// Writes the words of the kernel half, where they are not as they should be.
    fn publish(&mut self) {
        self.switch.write(&self.flows.control());
    }

    /// Does what it is told. Says whether it goes on.
    fn obey(&mut self) -> bool {
        // Its number does not matter.
        let _awake = rustix::io::read(&*self.wake, &mut [0_u8; 8]);
        loop {
            let now = self.born.elapsed();
            match self.commands.try_recv() {
                Ok(Command::Settings(settings)) => self.flows.set(settings, now),
                Ok(Command::Local(local)) => self.flows.set_local(&local, now),
                Ok(Command::Maps(maps)) => {
                    let (switch, memory) = maps.parts();
                    // Rows of the memory of before come back to no one.
                    self.graces.forget();
                    self.grows = false;
                    self.flows.replace(memory, seed(), now);
                    self.switch = switch;
                    self.survey.restart();
                    self.publish();
                }
                Ok(Command::Views { which, filter, limit, answer }) => {
                    let which = match which {
                        Some(seen) => seen.into_iter().map(Which::Seen).collect(),
                        None => self.flows.names().into_iter().map(Which::Known).collect(),
                    };
                    self.jobs.push_back(Job { which, filter, limit, views: Views::default(), answer });
                }
                Ok(Command::Judged(generation, sets)) => {
                    self.flows.judged(generation);
                    if let Some(changed) = self.watched.judged(generation, sets) {
                        self.flows.hold(changed, now);
                        self.publish();
                    }
                }
                Ok(Command::Flush) => {
                    self.flows.raise(now);
                    self.publish();
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// Lists all connections, where that is due, a piece at a time.
    fn list(&mut self, now: Duration) -> Result<(), netlink::Error> {
        if self.flows.begin_round(now) {
            self.listing = Some(self.conntrack.list()?);
        }
        let Some(mut listing) = self.listing.take() else { return Ok(()) };
        for _ in 0..PIECES {
            let flows = &mut self.flows;
            match self.conntrack.read(&mut listing, |seen| flows.update(&seen, Origin::Listed, now)) {
                Ok(true) => {
                    self.flows.end_round();
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!("connections could not be listed: {error}");
                    self.flows.resync_by(now + ROUND);
                    return Ok(());
                }
            }
        }
        self.listing = Some(listing);
        Ok(())
    }

    /// Has the kernel change what is to be changed.
    fn work(&mut self) -> Result<(), netlink::Error> {
        let work = self.flows.take_work();
        if work.changes.is_empty() {
            return Ok(());
        }
        let changes: Vec<_> = work.changes.iter().map(|(change, _)| *change).collect();
        let mut refused = Vec::new();
        self.conntrack.change(&changes, |place, error| {
            // Most are gone by now.
            if error.raw_os_error() != Some(libc::ENOENT) {
                tracing::debug!("a connection cannot be changed: {error}");
            }
            refused.push(place);
        })?;
        for (change, id) in refused.into_iter().filter_map(|place| work.changes.get(place)) {
            self.flows.forget(&change.connection, *id);
        }
        Ok(())
    }

    /// Has others wait for the packets that may still be led to rows that were freed.
    fn retire(&mut self) {
        if !self.graces.is_free() {
            return;
        }
        self.grows = self.flows.is_crowded();
        if self.grows {
            self.flows.pause(self.born.elapsed());
            self.publish();
        }
        let retired = self.flows.retire();
        if self.grows || retired.iter().any(Option::is_some) {
            self.graces.wait_for(retired);
        }
    }

    fn release(&mut self) -> Result<(), netlink::Error> {
        let Some((passed, [four, six])) = self.graces.passed() else { return Ok(()) };
        self.flows.release([&four, &six]);
        if std::mem::take(&mut self.grows) {
            self.flows.grow(&passed);
            self.survey.restart();
            // That takes a while: no row is armed under rules that came meanwhile.
            self.rules()?;
            self.publish();
        }
        Ok(())
    }

    /// Goes on with the lists that were asked for. Says whether there is more to do.
    fn jobs(&mut self) -> bool {
        let Some(job) = self.jobs.front_mut() else { return false };
        let now = (moment(self.offset), self.born.elapsed());
        let chunk = job.which.len().saturating_sub(CHUNK)..;
        for which in job.which.drain(chunk) {
            let view = match which {
                Which::Known(named) => self.flows.known(&named, now),
                Which::Seen(seen) => Some(self.flows.view(&seen, now)),
            };
            let Some(view) = view.filter(|view| job.filter.takes(view)) else { continue };
            job.views.total += 1;
            if job.views.rows.len() < job.limit {
                job.views.rows.push(view);
            }
        }
        if job.which.is_empty()
            && let Some(job) = self.jobs.pop_front()
        {
            // It was taken by then, or is not wanted any more.
            let _sent = job.answer.send(job.views);
        }
        !self.jobs.is_empty()
    }

    /// Goes on with the count of what is armed, and says what is known. Says whether there is more to do.
    fn count(&mut self, now: Duration) -> bool {
        let survey = &mut self.survey;
        let mut goes_on = false;
        if survey.due <= now {
            if let Some([armed, packets]) = self.flows.survey(survey.next..survey.next + WORDS, moment(self.offset)) {
                survey.next += WORDS;
                survey.sums = [survey.sums[0] + armed, survey.sums[1] + packets];
                goes_on = true;
            } else {
                survey.last = std::mem::take(&mut survey.sums);
                (survey.next, survey.due) = (0, now + ROUND);
            }
        }
        let [armed, packets] = survey.last;
        let stats = self.flows.stats();
        let stats = FlowStats { armed, carried: stats.carried + packets, ..stats };
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
        goes_on
    }
}

/// Now, as the kernel half counts leases.
fn moment(offset: i128) -> u32 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec) - offset;
    // Its lower bits are what the kernel half has.
    (now >> MOMENT).cast_unsigned() as u32
}

/// A number that senders cannot know.
fn seed() -> u64 {
    RandomState::new().hash_one(0)
}
