//! Those who watch live packets.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dataplane_common::abi::{Features, Limit, PANES, Pane, SIGHTING_BYTES, Sighting, Watch};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::{Daemon, sight};
use crate::{
    control::{
        protocol::{Data, Failure, FailureKind, Reply},
        row::PacketRow,
    },
    lower::watch::panes,
    rule::{LinkPattern, parse_watched},
};

/// How many packets a second all watchers together are told of, and how many at once.
const RATE: u64 = 10_000;
const BURST: u64 = 1_000;
/// How often watchers that have left are looked for, and what was missed is told.
const LOOK: Duration = Duration::from_millis(500);
/// How often the ring is looked into meanwhile: it wakes nobody.
pub(super) const GLANCE: Duration = Duration::from_millis(10);
/// How many batches are taken at a glance.
pub(super) const GLANCES: usize = 16;
/// Bytes of each frame that are told at least, so that its headers can be read.
const HEADERS: u32 = 128;

/// Those who watch.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    all: Vec<Watcher>,
    /// When to look after them.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Watcher {
    panes: Vec<Pane>,
    /// A bit for each of its boxes.
    bits: u32,
    bytes: u32,
    packets: Sender<Data>,
    /// What it had no room for.
    missed: u64,
    /// What the kernel half had not told when it came.
    before: u64,
    /// What it was told of that.
    told: u64,
}

impl Watchers {
    /// What programs must be able to.
    pub(super) fn features(&self) -> Features {
        if self.all.is_empty() { Features::empty() } else { Features::TRACING }
    }

    /// When [`Daemon::look_after_watchers`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// All boxes together, one watcher's behind the other's.
    fn watch(&mut self) -> Watch {
        let mut watch = Watch { limit: limit(), ..Watch::default() };
        for watcher in &mut self.all {
            watcher.bits = 0;
            for pane in &watcher.panes {
                watcher.bits |= 1 << watch.count;
                watch.panes[watch.count as usize] = *pane;
                watch.count += 1;
            }
            watch.bytes = watch.bytes.max(watcher.bytes);
        }
        watch.skips = watch.panes[..watch.count as usize].iter().map(|pane| pane.skips).min().unwrap_or(0);
        watch
    }
}

/// As [`Limit`] counts: nanoseconds, in 256ths, for each packet.
fn limit() -> Limit {
    let second = 1_000_000_000;
    Limit { cost: (second << 8) / RATE, depth: second / RATE * BURST, ..Limit::default() }
}

impl Daemon {
    /// Begins to tell somebody of packets.
    pub(super) fn trace(
        &mut self,
        (filter, one_in, bytes): (&str, u32, u32),
        packets: Sender<Data>,
    ) -> Result<Reply, Failure> {
        let watched = parse_watched(filter)
            .map_err(|error| Failure::new(FailureKind::Rejected, error.render(filter, "filter")))?;
        let links = |pattern: &LinkPattern| self.fitting(pattern);
        let panes =
            panes(&watched, one_in, &links).map_err(|error| Failure::new(FailureKind::Rejected, error.to_string()))?;
        let used: usize = self.watchers.all.iter().map(|watcher| watcher.panes.len()).sum();
        if used + panes.len() > PANES {
            let said = format!(
                "this needs {} of {PANES} comparisons, and others who watch use {used}: ask for less, or wait for them",
                panes.len()
            );
            return Err(Failure::new(FailureKind::Failed, said));
        }
        let bytes = bytes.clamp(HEADERS, SIGHTING_BYTES as u32);
        let before = self.tables.missed()?;
        self.watchers.all.push(Watcher { panes, bits: 0, bytes, packets, missed: 0, before, told: 0 });
        if let Err(error) = self.watch() {
            self.watchers.all.pop();
            if let Err(error) = self.watch() {
                tracing::error!("what is watched for could not be written again: {error:#}");
            }
            return Err(Failure::new(FailureKind::Failed, format!("{error:#}")));
        }
        Ok(Data::Watching.into())
    }

    /// Says what is watched for, and loads programs that look, or that do not.
    fn watch(&mut self) -> anyhow::Result<()> {
        let watch = self.watchers.watch();
        self.tables.write_watch(&watch)?;
        let features = self.object.features().difference(Features::TRACING) | self.watchers.features();
        self.load(features)?;
        // Also behind the last one, so that what it left in the ring is nobody else's.
        self.watchers.due = Some(Instant::now() + LOOK);
        Ok(())
    }

    /// Tells those who watch for a packet.
    pub(super) fn show(&mut self, sightings: &[Sighting]) {
        if self.watchers.all.is_empty() {
            return;
        }
        let since = since_1970();
        self.find_rules();
        for sighting in sightings {
            let row = self.packet_row(sighting, since);
            let panes = sighting.panes;
            for watcher in self.watchers.all.iter_mut().filter(|watcher| watcher.bits & panes != 0) {
                if let Err(TrySendError::Full(_)) = watcher.packets.try_send(Data::Packet(row.clone().into())) {
                    watcher.missed += 1;
                }
            }
        }
    }

    fn packet_row(&self, sighting: &Sighting, since: u64) -> PacketRow {
        PacketRow {
            time: since.saturating_add(sighting.time),
            port: self.name(sighting.port),
            tier: if sighting.tier == 0 { "xdp" } else { "tc" }.to_owned(),
            judgement: self.judgement(sighting),
            length: sighting.length,
            packet: self.line(sighting),
            frame: hex::encode(sight::bytes(sighting)),
        }
    }

    /// Lets go of watchers that have left, and tells the others what they missed.
    pub(super) fn look_after_watchers(&mut self) {
        let before = self.watchers.all.len();
        self.watchers.all.retain(|watcher| !watcher.packets.is_closed());
        self.watchers.due = (!self.watchers.all.is_empty()).then(|| Instant::now() + LOOK);
        if self.watchers.all.len() != before
            && let Err(error) = self.watch()
        {
            tracing::error!("the programs that watch packets could not be taken back: {error:#}");
        }
        let total = self.tables.missed().unwrap_or_default();
        for watcher in &mut self.watchers.all {
            let missed = watcher.missed + total.saturating_sub(watcher.before);
            if missed > watcher.told && watcher.packets.try_send(Data::Missed(missed)).is_ok() {
                watcher.told = missed;
            }
        }
    }
}

/// What must be added to a time of the monotonic clock, to have it since 1970, in nanoseconds.
fn since_1970() -> u64 {
    let clock = clock_gettime(ClockId::Monotonic);
    let monotonic = Duration::new(clock.tv_sec.unsigned_abs(), clock.tv_nsec.unsigned_abs() as u32);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(monotonic).as_nanos() as u64
}
