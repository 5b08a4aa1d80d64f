//! Those who watch live packets.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dataplane_common::abi::{
    Features, Limit, TRACE_FILTERS, TRACE_RECORD_BYTES, TraceConfig, TraceFilter, TraceRecord, skips,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::{Daemon, plane::Facts, recipient::Recipients, trace_row};
use crate::{
    control::{
        protocol::{Data, Failure, FailureKind, Reply},
        row::PacketRow,
    },
    lower::trace_filter::trace_filters,
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
pub(super) struct TraceSubscribers {
    all: Vec<TraceSubscriber>,
    /// One packet in so many is exported by sFlow; none: none.
    sampling: Option<u32>,
    /// When to look after them.
    due: Option<Instant>,
}

#[derive(Debug)]
struct TraceSubscriber {
    trace_filters: Vec<TraceFilter>,
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

impl TraceSubscribers {
    /// What programs must be able to.
    pub(super) fn features(&self) -> Features {
        if self.is_idle() { Features::empty() } else { Features::TRACING }
    }

    /// When [`Daemon::expire_subscribers`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether no packet is wanted.
    fn is_idle(&self) -> bool {
        self.all.is_empty() && self.sampling.is_none()
    }

    /// Takes one packet in so many for sFlow, or none. [`Daemon::watch`] follows.
    pub(super) fn set_sampling(&mut self, one_in: Option<u32>) {
        self.sampling = one_in;
    }

    /// The bits of the boxes of sFlow: it has the first, which every packet fits.
    fn sampled(&self) -> u32 {
        u32::from(self.sampling.is_some())
    }

    /// All boxes together, one watcher's behind the other's.
    fn watch(&mut self) -> TraceConfig {
        let mut watch = TraceConfig { limit: limit(), ..TraceConfig::default() };
        if let Some(one_in) = self.sampling {
            watch.filters[0] = TraceFilter { skips: skips(one_in), ..TraceFilter::ALL };
            (watch.count, watch.bytes) = (1, HEADERS);
        }
        for subscriber in &mut self.all {
            subscriber.bits = 0;
            for trace_filter in &subscriber.trace_filters {
                subscriber.bits |= 1 << watch.count;
                watch.filters[watch.count as usize] = *trace_filter;
                watch.count += 1;
            }
            watch.bytes = watch.bytes.max(subscriber.bytes);
        }
        watch.skips =
            watch.filters[..watch.count as usize].iter().map(|trace_filter| trace_filter.skips).min().unwrap_or(0);
        watch
    }
}

/// As [`Limit`] counts: nanoseconds, in 256ths, for each packet.
fn limit() -> Limit {
    let second = 1_000_000_000;
    Limit { cost: (second << 8) / RATE, depth: second / RATE * BURST, ..Limit::default() }
}

impl TraceSubscribers {
    /// How many comparisons are used.
    fn used(&self) -> usize {
        let sampling = usize::from(self.sampling.is_some());
        sampling + self.all.iter().map(|subscriber| subscriber.trace_filters.len()).sum::<usize>()
    }

    /// One more.
    fn push(&mut self, trace_filters: Vec<TraceFilter>, bytes: u32, packets: Sender<Data>, before: u64) {
        self.all.push(TraceSubscriber { trace_filters, bits: 0, bytes, packets, missed: 0, before, told: 0 });
    }

    /// The last one does not come to be.
    fn pop(&mut self) {
        self.all.pop();
    }

    /// When to look after them again; also behind the last one, so that what it left in the ring is nobody else's.
    fn put_off(&mut self) {
        self.due = Some(Instant::now() + LOOK);
    }

    /// Hands a packet to those who watch for it.
    fn hand(&mut self, trace_filters: u32, row: &PacketRow) {
        for subscriber in self.all.iter_mut().filter(|subscriber| subscriber.bits & trace_filters != 0) {
            if let Err(TrySendError::Full(_)) = subscriber.packets.try_send(Data::Packet(row.clone().into())) {
                subscriber.missed += 1;
            }
        }
    }

    /// Lets go of those that have left; whether there were some.
    fn let_go(&mut self) -> bool {
        let before = self.all.len();
        self.all.retain(|subscriber| !subscriber.packets.is_closed());
        self.due = (!self.is_idle()).then(|| Instant::now() + LOOK);
        self.all.len() != before
    }

    /// Tells them what they missed, of which the kernel half knows `total`.
    fn tell_missed(&mut self, total: u64) {
        for subscriber in &mut self.all {
            let missed = subscriber.missed + total.saturating_sub(subscriber.before);
            if missed > subscriber.told && subscriber.packets.try_send(Data::Missed(missed)).is_ok() {
                subscriber.told = missed;
            }
        }
    }
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
        let links = |pattern: &LinkPattern| self.observed.fitting(pattern);
        let trace_filters = trace_filters(&watched, one_in, &links)
            .map_err(|error| Failure::new(FailureKind::Rejected, error.to_string()))?;
        let used = self.packets.trace_subscribers().used();
        if used + trace_filters.len() > TRACE_FILTERS {
            let said = format!(
                "this needs {} of {TRACE_FILTERS} comparisons, and others who watch use {used}: ask for less, or wait for them",
                trace_filters.len()
            );
            return Err(Failure::new(FailureKind::Failed, said));
        }
        let bytes = bytes.clamp(HEADERS, TRACE_RECORD_BYTES as u32);
        let before = self.plane.missed()?;
        self.packets.trace_subscribers_mut().push(trace_filters, bytes, packets, before);
        if let Err(error) = self.watch() {
            self.packets.trace_subscribers_mut().pop();
            if let Err(error) = self.watch() {
                tracing::error!("the filters of trace subscribers could not be written again: {error:#}");
            }
            return Err(Failure::new(FailureKind::Failed, format!("{error:#}")));
        }
        Ok(Data::Watching.into())
    }

    /// Says what is watched for, and loads programs that look, or that do not.
    pub(super) fn watch(&mut self) -> anyhow::Result<()> {
        let watch = self.packets.trace_subscribers_mut().watch();
        self.plane.watch(&watch, Facts::new(&self.observed, &self.desired, &self.packets))?;
        self.packets.trace_subscribers_mut().put_off();
        Ok(())
    }

    /// Tells those who watch for a packet.
    pub(super) fn show(&mut self, trace_records: &[TraceRecord]) {
        if self.packets.features().is_empty() {
            return;
        }
        let sampled = self.packets.trace_subscribers().sampled();
        let since = since_1970();
        let mut recipients = Recipients::default();
        for record in trace_records {
            if record.filters & sampled != 0 {
                self.sample(record);
            }
            if record.filters & !sampled == 0 {
                continue;
            }
            self.index_rules();
            let recipient = self.recipient(record, &mut recipients);
            let mut row = self.packet_row(record, since);
            row.judgement.recipient = recipient;
            self.packets.trace_subscribers_mut().hand(record.filters, &row);
        }
    }

    fn packet_row(&self, record: &TraceRecord, since: u64) -> PacketRow {
        PacketRow {
            time: since.saturating_add(record.time),
            port: self.name(record.port),
            tier: if record.tier == 0 { "xdp" } else { "tc" }.to_owned(),
            judgement: self.verdict_row(record),
            length: record.length,
            packet: self.line(record),
            frame: hex::encode(trace_row::bytes(record)),
        }
    }

    /// Lets go of watchers that have left, and tells the others what they missed.
    pub(super) fn expire_subscribers(&mut self) {
        if self.packets.trace_subscribers_mut().let_go()
            && let Err(error) = self.watch()
        {
            tracing::error!("the programs with tracing could not be replaced: {error:#}");
        }
        let total = self.plane.missed().unwrap_or_default();
        self.packets.trace_subscribers_mut().tell_missed(total);
    }
}

/// What must be added to a time of the monotonic clock, to have it since 1970, in nanoseconds.
fn since_1970() -> u64 {
    let clock = clock_gettime(ClockId::Monotonic);
    let monotonic = Duration::new(clock.tv_sec.unsigned_abs(), clock.tv_nsec.unsigned_abs() as u32);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(monotonic).as_nanos() as u64
}
