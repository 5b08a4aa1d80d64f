//! One measurement, and what several of them say together.

#![expect(clippy::cast_precision_loss, reason = "packets and nanoseconds of a run stay far below 2^53")]

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    chain::Chain,
    machine,
    program::{Generator, Surroundings},
};

/// One round of one contestant with one mix of packets.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Nanoseconds per packet that reached the end, for the whole chain; absent when none did.
    pub nanoseconds: Option<f64>,
    /// Packets at the generator.
    pub sent: u64,
    /// Packets at `a1` of the device under test.
    pub received: u64,
    /// Packets at the end.
    pub delivered: u64,
    /// Time the hypervisor took from the CPU meanwhile.
    pub steal_ms: u64,
    /// Time that other processes had the CPU meanwhile, where the kernel keeps it.
    pub waited_ms: Option<u64>,
}

impl Sample {
    /// Share of packets that did not arrive.
    pub fn loss(&self) -> f64 {
        if self.sent == 0 { 1.0 } else { self.sent.saturating_sub(self.delivered) as f64 / self.sent as f64 }
    }
}

/// Measures what is in place for about `seconds`, after a short run that warms up and finds the pace.
pub fn sample(chain: &Chain, surroundings: &Surroundings, generator: &mut Generator, seconds: f64) -> Result<Sample> {
    let pace = generator.run(chain, Generator::SHORTEST)?.nanoseconds.context("the generator saw no two marks")?;
    settle(surroundings)?;
    let wanted = (seconds * 1e9 / pace).clamp(f64::from(Generator::SHORTEST), f64::from(u32::MAX / 2));
    let before = (chain.received("a1")?, surroundings.received()?, machine::steal(generator.cpu())?);
    #[expect(clippy::cast_sign_loss, reason = "clamped to positive numbers")]
    let run = generator.run(chain, wanted as u32)?;
    settle(surroundings)?;
    let delivered = surroundings.received()? - before.1;
    let pace = run.nanoseconds.context("the generator saw no two marks")?;
    Ok(Sample {
        nanoseconds: (delivered > 0).then(|| pace * run.sent.max(delivered) as f64 / delivered as f64),
        sent: run.sent,
        received: chain.received("a1")? - before.0,
        delivered,
        steal_ms: machine::steal(generator.cpu())? - before.2,
        waited_ms: run.waited.map(|waited| waited.as_millis() as u64),
    })
}

/// Waits until nothing arrives any more.
fn settle(surroundings: &Surroundings) -> Result<()> {
    let mut last = surroundings.received()?;
    for _ in 0..100 {
        sleep(Duration::from_millis(5));
        let now = surroundings.received()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(())
}

/// Middle and spread of several values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Median of the distances from the median.
    pub mad: f64,
}

impl Spread {
    /// Of nothing, nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        let median = median(values)?;
        let distances: Vec<_> = values.iter().map(|value| (value - median).abs()).collect();
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self { median, min, max, mad: self::median(&distances)? })
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_rows() {
        for (values, median, min, max, mad) in [
            (&[3.0][..], 3.0, 3.0, 3.0, 0.0),
            (&[4.0, 1.0], 2.5, 1.0, 4.0, 1.5),
            (&[10.0, 12.0, 11.0, 50.0, 9.0], 11.0, 9.0, 50.0, 1.0),
        ] {
            assert_eq!(Spread::of(values), Some(Spread { median, min, max, mad }), "{values:?}");
        }
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn loss_counts_what_did_not_arrive() {
        let sample = |sent, delivered| Sample {
            nanoseconds: None,
            sent,
            received: sent,
            delivered,
            steal_ms: 0,
            waited_ms: None,
        };
        for (sent, delivered, loss) in [(100, 100, 0.0), (100, 75, 0.25), (100, 101, 0.0), (0, 0, 1.0)] {
            assert!((sample(sent, delivered).loss() - loss).abs() < 1e-9, "{sent} {delivered}");
        }
    }
}
