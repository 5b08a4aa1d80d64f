//! The rows of the screen: what they are called, their rates, and their order.

use std::{cmp::Ordering, collections::HashMap};

use dataplane_common::{Reason, Verdict};

use super::screen::{Order, Sample};
use crate::control::row::{Counts, LinkRow};

/// A row with two numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Counted {
    /// Of its series.
    pub key: String,
    pub name: String,
    pub text: String,
    pub verdict: Option<Verdict>,
    pub rate: f64,
    pub total: u64,
}

/// A port with its rates.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PortLine {
    pub name: String,
    pub mode: String,
    pub state: String,
    /// In both directions, of the link: bits, and packets.
    pub rx: [f64; 2],
    pub tx: [f64; 2],
    /// Received, forwarded, delivered, dropped, left to the kernel.
    pub packets: [f64; 5],
    pub total: u64,
}

/// Two moments, and what grew between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<'a> {
    pub now: &'a Sample,
    pub before: Option<&'a Sample>,
}

impl Span<'_> {
    /// How much a number grew in a second.
    pub(super) fn rate(self, now: u64, before: impl Fn(&Sample) -> Option<u64>) -> f64 {
        let Some(sample) = self.before else { return 0.0 };
        let seconds = self.now.at.saturating_duration_since(sample.at).as_secs_f64();
        let more = now.saturating_sub(before(sample).unwrap_or(now));
        if seconds > 0.0 { float(more) / seconds } else { 0.0 }
    }

    pub(super) fn ports(self) -> Vec<PortLine> {
        let before: HashMap<u32, Counts> =
            self.before.iter().flat_map(|sample| &sample.stats.ports).map(|port| (port.ifindex, port.counts)).collect();
        let links = |sample: Option<&'_ Sample>| -> HashMap<u32, LinkRow> {
            sample.iter().flat_map(|sample| &sample.stats.links).map(|link| (link.ifindex, link.clone())).collect()
        };
        let (now, then) = (links(Some(self.now)), links(self.before));
        let grown = |ifindex: u32, of: fn(&LinkRow) -> u64| {
            now.get(&ifindex).map_or(0.0, |link| self.rate(of(link), |_| then.get(&ifindex).map(of)))
        };
        let line = |port: &crate::control::row::PortRow| {
            let one = |of: fn(&Counts) -> u64| self.rate(of(&port.counts), |_| before.get(&port.ifindex).map(of));
            let at = port.ifindex;
            PortLine {
                name: port.name.clone(),
                mode: port.mode.clone(),
                state: port.state.clone(),
                rx: [8.0 * grown(at, |link| link.rx_bytes), grown(at, |link| link.rx_packets)],
                tx: [8.0 * grown(at, |link| link.tx_bytes), grown(at, |link| link.tx_packets)],
                packets: [
                    one(|counts| counts.rx),
                    one(|counts| counts.forwarded),
                    one(|counts| counts.delivered),
                    one(|counts| counts.dropped),
                    one(|counts| counts.passed),
                ],
                total: port.counts.rx,
            }
        };
        self.now.stats.ports.iter().map(line).collect()
    }

    pub(super) fn reasons(self) -> Vec<Counted> {
        let rows = Reason::ALL.iter().filter_map(|reason| {
            let total = *self.now.stats.reasons.get(reason.name())?;
            let rate = self.rate(total, |sample| sample.stats.reasons.get(reason.name()).copied());
            Some(Counted {
                key: format!("reason {}", reason.name()),
                name: reason.name().to_owned(),
                text: reason.verdict().name().to_owned(),
                verdict: Some(reason.verdict()),
                rate,
                total,
            })
        });
        rows.collect()
    }

    pub(super) fn rules(self) -> Vec<Counted> {
        let before: HashMap<u64, u64> =
            self.before.iter().flat_map(|sample| sample.rules.iter().map(|rule| (rule.handle, rule.packets))).collect();
        let rows = self.now.rules.iter().map(|rule| Counted {
            key: format!("rule {}", rule.handle),
            name: format!("{} {}", rule.chain.name(), rule.handle),
            text: rule.rule.clone(),
            verdict: None,
            rate: self.rate(rule.packets, |_| before.get(&rule.handle).copied()),
            total: rule.packets,
        });
        rows.collect()
    }
}

/// Sorts ports.
pub(super) fn sort_ports(rows: &mut [PortLine], order: Order) {
    rows.sort_by(|a, b| {
        let by = match order {
            Order::Rate => b.packets[0].total_cmp(&a.packets[0]),
            Order::Total => b.total.cmp(&a.total),
            Order::Name => Ordering::Equal,
        };
        by.then_with(|| natural(&a.name, &b.name))
    });
}

/// Sorts reasons or rules.
pub(super) fn sort(rows: &mut [Counted], order: Order) {
    rows.sort_by(|a, b| {
        let by = match order {
            Order::Rate => b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)),
            Order::Total => b.total.cmp(&a.total),
            Order::Name => Ordering::Equal,
        };
        by.then_with(|| natural(&a.name, &b.name))
    });
}

/// By letters, and numbers in them by their value: `cust-9` is before `cust-10`.
fn natural(a: &str, b: &str) -> Ordering {
    fn parts(mut text: &str) -> Vec<(&str, u128)> {
        let mut parts = Vec::new();
        while !text.is_empty() {
            let digits = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
            let (word, rest) = text.split_at(digits);
            let (number, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
            parts.push((word, number.parse().unwrap_or_default()));
            text = rest;
        }
        parts
    }
    parts(a).cmp(&parts(b)).then_with(|| a.cmp(b))
}

/// A count, as near as it is shown.
#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// A number in at most seven letters.
pub(super) fn short(number: f64) -> String {
    let (scaled, unit) = match number {
        n if n >= 1e12 => (n / 1e12, "T"),
        n if n >= 1e9 => (n / 1e9, "G"),
        n if n >= 1e6 => (n / 1e6, "M"),
        n if n >= 1e4 => (n / 1e3, "k"),
        n => return format!("{n:.0}"),
    };
    if scaled >= 100.0 { format!("{scaled:.0}{unit}") } else { format!("{scaled:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, text) in
            [(0.0, "0"), (9999.0, "9999"), (12_345.0, "12.3k"), (1.5e6, "1.5M"), (2.5e8, "250M"), (3e9, "3.0G")]
        {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn names_sort_by_their_numbers() {
        let mut names = ["cust-100", "b", "cust-10", "cust-9", "cust", "cust-9.5", "cust-9.12"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["b", "cust", "cust-9", "cust-9.5", "cust-9.12", "cust-10", "cust-100"]);
    }
}
