//! One measurement: frames from the generator to the sink.

#![expect(clippy::cast_precision_loss, reason = "packets and nanoseconds of a run stay far below 2^53")]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use dataplane_common::traffic::{TrafficProgress, bucket_time};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Place;
use crate::kernel::{Generator, Sink};

/// Frames that leave together when nothing holds them up: the kernel's default, and one round of a driver.
const BATCH: u32 = 64;
/// One frame in so many has a time, where that is not what is measured: the clock is dear.
const SELDOM: u64 = 63;
/// A run of the program, so that it can be ended in between.
const RUN: Duration = Duration::from_millis(250);
/// Runs of the program until its pace is known.
const FIRST: u32 = 1 << 14;
/// Most in one run.
const MOST: f64 = 16e6;

/// Set when the user wants to end it.
pub(super) static STOP: AtomicBool = AtomicBool::new(false);

/// Whether to end.
pub(super) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Generator and sink.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) generator: Generator,
    /// Where it runs.
    pub(super) source: Place,
    pub(super) cpus: usize,
    /// Without it what arrives is not counted.
    pub(super) sink: Option<Sink>,
}

/// How frames are sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) time: Duration,
    /// Packets a second of all CPUs together.
    pub(super) rate: Option<u64>,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Passed {
    pub(super) sent: u64,
    pub(super) bytes: u64,
    /// At the sink, if there is one.
    pub(super) received: Option<u64>,
    /// Sent in a second while it ran.
    pub(super) rate: f64,
    /// Of the times in between, at the sink.
    pub(super) times: Vec<u64>,
}

impl Passed {
    /// Packets that came through in a second; without a sink those that were sent.
    pub(super) fn delivered_rate(&self) -> f64 {
        let share = self.received.map_or(1.0, |received| received as f64 / self.sent.max(1) as f64);
        self.rate * share.min(1.0)
    }
}

impl Wire {
    /// Sends, and waits until all has arrived.
    pub(super) fn send(&self, plan: Plan) -> anyhow::Result<Passed> {
        let before = self.sink.as_ref().map(Sink::seen).transpose()?;
        let mut passed = Passed::default();
        let cpus: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..self.cpus).map(|cpu| scope.spawn(move || self.one(cpu, plan))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        for sent in cpus {
            let (progress, rate) = sent?;
            passed.sent += progress.sent;
            passed.bytes += progress.bytes;
            passed.rate += rate;
        }
        if let (Some(sink), Some(before)) = (&self.sink, before) {
            settle(sink)?;
            let after = sink.seen()?;
            passed.received = Some(after.packets - before.packets);
            passed.times = after.times.iter().zip(&before.times).map(|(after, before)| after - before).collect();
        }
        if stopped() {
            bail!("ended by a signal");
        }
        Ok(passed)
    }

    /// What one CPU sends: what it counted, and packets a second between the first and the last look at the clock of each run.
    fn one(&self, cpu: usize, plan: Plan) -> anyhow::Result<(TrafficProgress, f64)> {
        self.source.enter()?;
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(None, &only).with_context(|| format!("cannot run on CPU {cpu}; take fewer with --cpus"))?;
        let interval = plan.rate.map_or(0, |rate| (1_000_000_000 * self.cpus as u64 / rate).max(1));
        let (mask, batch) = if plan.rate.is_some() { (0, 1) } else { (SELDOM, BATCH) };
        let start = Instant::now();
        let begin = self.generator.progress(cpu)?;
        let mut now = begin;
        let (mut clock, mut frames, mut times) = (0_u64, 0_u64, FIRST);
        loop {
            let fresh = TrafficProgress { mask, interval, due: 0, first: [0; 2], last: [0; 2], ..now };
            self.generator.set_progress(cpu, &fresh)?;
            let run = Instant::now();
            self.generator.run(times, batch)?;
            let took = run.elapsed();
            now = self.generator.progress(cpu)?;
            clock += now.last[0] - now.first[0];
            frames += now.last[1] - now.first[1];
            let left = plan.time.saturating_sub(start.elapsed());
            if left.is_zero() || stopped() {
                break;
            }
            let wanted = left.min(RUN).as_secs_f64() / took.as_secs_f64().max(1e-6) * f64::from(times);
            #[expect(clippy::cast_sign_loss, reason = "clamped to positive numbers")]
            let wanted = wanted.clamp(f64::from(FIRST), MOST) as u32;
            times = wanted;
        }
        let rate = if clock == 0 { 0.0 } else { frames as f64 * 1e9 / clock as f64 };
        let sent = TrafficProgress { sent: now.sent - begin.sent, bytes: now.bytes - begin.bytes, ..now };
        Ok((sent, rate))
    }
}

/// Waits until nothing arrives any more.
fn settle(sink: &Sink) -> anyhow::Result<()> {
    let mut last = sink.packets()?;
    for _ in 0..100 {
        sleep(Duration::from_millis(10));
        let now = sink.packets()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(())
}

/// The time (ns) that so many of a thousand times do not exceed; none of none.
pub(super) fn percentile(times: &[u64], thousandths: u64) -> Option<u64> {
    let total: u64 = times.iter().sum();
    let wanted = (total * thousandths).div_ceil(1000).max(1);
    let mut seen = 0;
    let bucket = times.iter().position(|count| {
        seen += count;
        seen >= wanted
    })?;
    Some(bucket_time(bucket as u32))
}

/// The middle one, or the mean of the two.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::traffic::{TIME_BUCKETS, time_bucket};

    use super::*;

    #[test]
    fn percentiles_of_a_thousand_times() {
        let mut times = vec![0; TIME_BUCKETS];
        for time in 1..=1000 {
            times[time_bucket(time * 1000) as usize] += 1;
        }
        for (thousandths, want) in [(500, 500_000), (990, 990_000), (999, 999_000), (1000, 1_000_000)] {
            let found = percentile(&times, thousandths).expect("times");
            assert!(found.abs_diff(want) * 16 <= want, "{thousandths}: {found}");
        }
        assert_eq!(percentile(&vec![0; TIME_BUCKETS], 500), None);
    }

    #[test]
    fn medians() {
        for (values, want) in [(&[][..], 0.0), (&[3.0], 3.0), (&[9.0, 1.0, 2.0], 2.0), (&[1.0, 2.0, 3.0, 9.0], 2.5)] {
            assert!((median(values.iter().copied()) - want).abs() < 1e-9, "{values:?}");
        }
    }
}
