//! The speed beside the kernel: streams through the laboratory, and what one packet costs.

use std::{fmt::Write as _, time::Duration};

use anyhow::Context as _;
use dataplane_tests::{
    bench::{
        contestant::{Contestant, Rules},
        daemon::Mode,
        forward::{self, Settings},
        report,
        table::Frames,
    },
    lab::{
        Daemon, Lab,
        traffic::{self, Family},
    },
};

use crate::{
    attach, bits, detach, interrupted,
    show::{Show, bar},
};

/// How many times kernel and dataplane take turns; the medians are shown.
pub(crate) const ROUNDS: u32 = 3;
/// Length of one measurement of packets.
const LENGTH: f64 = 0.2;
/// Characters of the longest bar.
const WIDTH: u32 = 48;
/// Rules whose cost is shown.
const RULES: [Rules; 3] = [Rules::None, Rules::Linear(100), Rules::Linear(1000)];

/// What is measured with streams.
#[derive(Clone, Copy)]
enum Measure {
    Tcp(Family),
    Packets(Family),
}

impl Measure {
    const ALL: [Self; 4] =
        [Self::Packets(Family::V4), Self::Packets(Family::V6), Self::Tcp(Family::V4), Self::Tcp(Family::V6)];

    fn take(self, lab: &Lab, length: Duration) -> anyhow::Result<f64> {
        match self {
            Self::Tcp(family) => traffic::tcp(lab, family, length),
            Self::Packets(family) => traffic::flood(lab, family, length),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Tcp(family) => format!("bulk TCP, {}", family.name()),
            Self::Packets(family) => format!("18-byte UDP, {}", family.name()),
        }
    }

    fn text(self, value: f64) -> String {
        match self {
            Self::Tcp(_) => bits(value),
            Self::Packets(_) => format!("{:.0} kpps", value / 1e3),
        }
    }
}

/// How long [`streams`] takes, about.
pub(crate) fn streams_length(length: Duration) -> Duration {
    (length + Duration::from_millis(300)) * (2 * ROUNDS * Measure::ALL.len() as u32)
}

/// Kernel and dataplane take turns on the same machine in the same minute.
pub(crate) fn streams(show: &Show, lab: &Lab, daemon: &Daemon, length: Duration) -> anyhow::Result<()> {
    show.part();
    let mut kernel = vec![Vec::new(); Measure::ALL.len()];
    let mut ours = kernel.clone();
    let mut attached = true;
    for round in 1..=ROUNDS {
        // The one that ended a round begins the next: what drifts on the machine hits both.
        for path in [attached, !attached] {
            match (attached, path) {
                (true, false) => detach(daemon)?,
                (false, true) => drop(attach(daemon)?),
                _ => {}
            }
            attached = path;
            let (results, place) =
                if path { (&mut ours, "through dataplane") } else { (&mut kernel, "on the kernel's own path") };
            for (measure, results) in Measure::ALL.into_iter().zip(results) {
                show.progress(&format!("round {round} of {ROUNDS}: {} {place}", measure.name()));
                results.push(measure.take(lab, length).context(place)?);
            }
        }
    }
    show.step("streams from a socket of the client to a socket of the server, mode auto (tc on veth):");
    let mut lines = format!("{:<20}{:>14}{:>14}{:>8}   by round\n", "", "kernel", "dataplane", "ratio");
    for ((measure, kernel), ours) in Measure::ALL.into_iter().zip(kernel).zip(ours) {
        let ratios: Vec<_> = kernel.iter().zip(&ours).map(|(kernel, ours)| format!("{:.2}", ours / kernel)).collect();
        let (kernel, ours) = (median(kernel), median(ours));
        writeln!(
            lines,
            "{:<20}{:>14}{:>14}{:>8.2}   {}",
            measure.name(),
            measure.text(kernel),
            measure.text(ours),
            ours / kernel,
            ratios.join(" ")
        )?;
    }
    show.detail(&lines);
    show.detail(
        "Medians of all rounds. Bulk TCP crosses the router in packets of 64 KB, and copying the data at both ends is the\n\
         limit: a program that only redirects makes about 1.0 as well. One processor does the sender's system calls, the\n\
         router's work and the receiver's socket, so these ratios understate the difference between the paths; the next\n\
         part measures the paths alone.",
    );
    Ok(())
}

/// How long [`packets`] takes, about.
pub(crate) fn packets_length() -> Duration {
    Duration::from_secs(9) * ROUNDS
}

/// What a packet costs in native mode, beside the kernel, with more and more rules.
pub(crate) fn packets(show: &Show) -> anyhow::Result<()> {
    show.part();
    let shown: Vec<_> = RULES
        .into_iter()
        .flat_map(|rules| [Contestant::Kernel(rules), Contestant::Dataplane(Mode::Native, rules)])
        .collect();
    let last = std::thread::available_parallelism().context("cannot count the processors")?.get() - 1;
    let settings = Settings {
        routes: 2,
        rounds: ROUNDS as usize,
        seconds: LENGTH,
        frames: Frames::Hot,
        families: vec![forward::Family::Mixed],
        cpu: last,
        suite: forward::Suite::Forward,
        only: shown.iter().map(ToString::to_string).collect(),
    };
    let outcome = forward::run(&settings, &mut |step| {
        show.progress(step);
        interrupted()
    })?;
    let rows = report::rows(&outcome, &settings.families);
    outcome.plausible()?;
    let cost = |contestant: Contestant| {
        let name = contestant.to_string();
        let row = rows.iter().find(|row| row.contestant == name);
        let time = row.and_then(|row| row.nanoseconds).with_context(|| format!("{name} was not measured"))?;
        Ok::<_, anyhow::Error>((name, time.median))
    };
    let floor = cost(Contestant::Null)?;
    let costs = shown.into_iter().map(cost).collect::<anyhow::Result<Vec<_>>>()?;
    let most = costs.iter().map(|(_, time)| *time).fold(floor.1, f64::max);
    show.step("nanoseconds that a packet takes from a generator through the router to a sink, IPv4 and IPv6 in turn:");
    let mut lines = String::new();
    for (name, time) in std::iter::once(&floor).chain(&costs) {
        writeln!(lines, "{name:<28}{time:8.0}  {}", bar(*time, most, WIDTH))?;
    }
    show.detail(&lines);
    show.detail(
        "Smallest packets, one processor, medians of all rounds. No rule matches, so nft reads all of them. The floor\n\
         is a program that redirects without reading a byte. `cargo xtask bench forward` measures more, and longer.",
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_median() {
        assert!((median(vec![9.0, 1.0, 3.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(vec![7.0]) - 7.0).abs() < f64::EPSILON);
    }

    #[test]
    fn rates_are_written_with_their_unit() {
        assert_eq!(Measure::Packets(Family::V6).text(734_499.0), "734 kpps");
        assert_eq!(Measure::Tcp(Family::V4).text(12_345_000_000.0), "12.35 Gbit/s");
    }
}
