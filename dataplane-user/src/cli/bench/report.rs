//! What was measured: as JSON, as a table, as bars in the terminal, as SVG.

#![expect(clippy::cast_precision_loss, reason = "packets and nanoseconds of a run stay far below 2^53")]

use std::fmt::Write as _;

use serde::Serialize;

use super::measure::{Passed, median, percentile};
use crate::cli::{
    table::{LEFT, RIGHT, table},
    units::{grouped, scaled},
};

/// Columns of the longest bar.
const BAR: usize = 50;

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// Of the program.
    pub(super) version: &'static str,
    /// Release of the kernel.
    pub(super) kernel: String,
    /// Model of the CPU.
    pub(super) cpu: String,
    /// What makes the frames.
    pub(super) generator: &'static str,
    /// Whether this kernel has its own generator; it is not used.
    pub(super) pktgen: bool,
    /// What was sent.
    pub(super) traffic: String,
    /// CPUs that sent.
    pub(super) cpus: u32,
    /// Packets a second that were asked for; none: as many as get through.
    pub(super) rate: Option<u64>,
    /// Length of a measurement, in seconds.
    pub(super) seconds: f64,
    /// In the order of a round.
    pub(super) paths: Vec<Row>,
    /// What did not take part, and why.
    pub(super) absent: Vec<Absent>,
}

/// A way that packets took.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Row {
    pub(super) path: String,
    /// Those that arrived in a second: median of the rounds.
    pub(super) packets_per_second: u64,
    /// The same in bits of frames.
    pub(super) bits_per_second: u64,
    /// A second, divided by them.
    pub(super) nanoseconds: f64,
    /// Of all rounds.
    pub(super) sent: u64,
    pub(super) received: Option<u64>,
    pub(super) lost: Option<u64>,
    /// From the generator to the sink, in nanoseconds; none without times.
    pub(super) latency: Option<Latency>,
    pub(super) rounds: Vec<Round>,
    #[serde(skip)]
    pub(super) times: Vec<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) samples: u64,
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    pub(super) p99_9: u64,
    pub(super) max: u64,
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Round {
    pub(super) packets_per_second: u64,
    pub(super) sent: u64,
    pub(super) bytes: u64,
    pub(super) received: Option<u64>,
    /// What the kernel counted at the router's first port meanwhile, and at its second; in it are its own few packets.
    pub(super) port_rx: Option<u64>,
    pub(super) port_tx: Option<u64>,
    /// What our programs forwarded; 0 where the kernel forwards.
    pub(super) forwarded: Option<u64>,
}

/// What did not take part.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Absent {
    pub(super) path: String,
    pub(super) why: String,
}

#[expect(clippy::cast_sign_loss, reason = "a rate is positive")]
const fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

impl Row {
    pub(super) fn named(path: String) -> Self {
        Self { path, ..Self::default() }
    }

    /// Takes a measurement in. `latency` holds times of the same way, measured apart if that is `Some`.
    pub(super) fn add(&mut self, passed: &Passed, counters: Option<[u64; 3]>, latency: Option<&Passed>) {
        let [rx, tx, forwarded] = counters.map_or([None; 3], |counters| counters.map(Some));
        self.rounds.push(Round {
            packets_per_second: whole(passed.delivered_rate()),
            sent: passed.sent,
            bytes: passed.bytes,
            received: passed.received,
            port_rx: rx,
            port_tx: tx,
            forwarded,
        });
        self.sent += passed.sent;
        if let Some(received) = passed.received {
            *self.received.get_or_insert(0) += received;
            self.lost = Some(self.sent.saturating_sub(self.received.unwrap_or_default()));
        }
        let rate = median(self.rounds.iter().map(|round| round.packets_per_second as f64));
        let bytes: u64 = self.rounds.iter().map(|round| round.bytes).sum();
        self.packets_per_second = whole(rate);
        self.bits_per_second = whole(rate * 8.0 * bytes as f64 / self.sent.max(1) as f64);
        self.nanoseconds = if rate > 0.0 { (1e10 / rate).round() / 10.0 } else { 0.0 };
        let times = &latency.unwrap_or(passed).times;
        self.times.resize(times.len().max(self.times.len()), 0);
        self.times.iter_mut().zip(times).for_each(|(sum, count)| *sum += count);
        let at = |thousandths| percentile(&self.times, thousandths);
        self.latency =
            at(500).zip(at(900)).zip(at(990)).zip(at(999)).zip(at(1000)).map(|((((p50, p90), p99), p99_9), max)| {
                Latency { samples: self.times.iter().sum(), p50, p90, p99, p99_9, max }
            });
    }

    /// Share of what was sent that did not arrive.
    fn loss(&self) -> String {
        match self.lost {
            None => "-".to_owned(),
            Some(0) => "0".to_owned(),
            Some(lost) => format!("{:.2} %", lost as f64 * 100.0 / self.sent.max(1) as f64),
        }
    }
}

impl Report {
    /// For people.
    pub(super) fn text(&self) -> String {
        let rate =
            self.rate.map_or("as fast as it goes".to_owned(), |rate| format!("{} packets a second", grouped(rate)));
        let cpus = if self.cpus == 1 { "1 CPU sends".to_owned() } else { format!("{} CPUs send", self.cpus) };
        let mut text = format!(
            "{}, {rate}, {cpus}; medians of {} x {} s\n{}, Linux {}; frames from {}{}\n\n",
            self.traffic,
            self.paths.iter().map(|row| row.rounds.len()).max().unwrap_or_default(),
            self.seconds,
            self.cpu,
            self.kernel,
            self.generator,
            if self.pktgen { ", not from pktgen" } else { "; this kernel has no pktgen" },
        );
        text += &self.table();
        text += "\nPackets a second\n\n";
        text += &self.bars();
        for absent in &self.absent {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n{}: not measured: {}", absent.path, absent.why);
        }
        text
    }

    fn table(&self) -> String {
        let time = |time: u64| format!("{:.1}", time as f64 / 1000.0);
        let rows = self.paths.iter().map(|row| {
            let latency =
                |value: fn(&Latency) -> u64| row.latency.as_ref().map_or("-".to_owned(), |all| time(value(all)));
            [
                row.path.clone(),
                grouped(row.packets_per_second),
                scaled(row.bits_per_second) + "bit",
                format!("{:.1}", row.nanoseconds),
                row.loss(),
                latency(|all| all.p50),
                latency(|all| all.p99),
                latency(|all| all.p99_9),
                latency(|all| all.max),
            ]
        });
        let headings = [
            ("PATH", LEFT),
            ("PACKETS/s", RIGHT),
            ("BIT/s", RIGHT),
            ("ns/PACKET", RIGHT),
            ("LOST", RIGHT),
            ("us p50", RIGHT),
            ("p99", RIGHT),
            ("p99.9", RIGHT),
            ("MAX", RIGHT),
        ];
        table(headings, rows)
    }

    fn most(&self) -> u64 {
        self.paths.iter().map(|row| row.packets_per_second).max().unwrap_or_default().max(1)
    }

    fn bars(&self) -> String {
        let width = self.paths.iter().map(|row| row.path.chars().count()).max().unwrap_or_default();
        let mut text = String::new();
        for row in &self.paths {
            let share = row.packets_per_second as f64 / self.most() as f64;
            let length = whole(share * BAR as f64) as usize;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:<width$}  {:<BAR$}  {}",
                row.path,
                "#".repeat(length),
                scaled(row.packets_per_second).trim_end()
            );
        }
        text
    }

    /// A picture: a bar for each path, from zero.
    pub(super) fn svg(&self) -> String {
        const NAMES: f64 = 220.0;
        const BARS: f64 = 420.0;
        const LINE: f64 = 26.0;
        let mut body = String::new();
        for (index, row) in self.paths.iter().enumerate() {
            let y = 64.0 + LINE * index as f64;
            let width = BARS * row.packets_per_second as f64 / self.most() as f64;
            let colour = if row.path.starts_with("dataplane") { "#2a7" } else { "#888" };
            // Writing to a string cannot fail.
            let _ = write!(
                body,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n\
                 <rect x=\"{NAMES}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"18\" fill=\"{colour}\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.0}\">{}</text>\n",
                NAMES - 8.0,
                y + 14.0,
                escape(&row.path),
                NAMES + width + 6.0,
                y + 14.0,
                scaled(row.packets_per_second).trim_end(),
            );
        }
        let (width, height) = (NAMES + BARS + 90.0, 80.0 + LINE * self.paths.len() as f64);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"8\" y=\"22\" font-size=\"15\">Packets a second; longer is better</text>\n\
             <text x=\"8\" y=\"42\" fill=\"#555\">{}; {}</text>\n{body}</svg>\n",
            escape(&self.traffic),
            escape(&self.cpu),
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Kernel release and CPU model.
pub(super) fn machine() -> (String, String) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1.to_owned()));
    let release = read("/proc/sys/kernel/osrelease").trim().to_owned();
    (release, model.unwrap_or_else(|| "unknown CPU".to_owned()))
}

#[cfg(test)]
mod tests;
