//! Packets per second, from two looks at the counters.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::row::{Counts, LinkRow, Stats};

/// No rate is higher, so that four of them have a sum.
const FASTEST: u64 = u64::MAX / 4;

/// Packets per second between two looks, rounded down. They balance as the counts do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rates {
    /// All ports together.
    pub totals: Counts,
    /// By name of the reason.
    pub reasons: BTreeMap<String, u64>,
    /// By name of the port; those that were there at both looks.
    pub ports: BTreeMap<String, Counts>,
    /// The same of what the kernel counts at them.
    pub links: BTreeMap<String, LinkRates>,
}

/// What goes through a link in a second, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LinkRates {
    /// Bits received.
    pub rx_bits: u64,
    /// Bits transmitted.
    pub tx_bits: u64,
    /// Frames received.
    pub rx_packets: u64,
    /// Frames transmitted.
    pub tx_packets: u64,
}

impl LinkRates {
    /// What came between two looks that lie `time` apart.
    pub fn between(before: &LinkRow, after: &LinkRow, time: Duration) -> Self {
        let each = |part: fn(&LinkRow) -> u64| per_second(part(after), part(before), time);
        Self {
            rx_bits: each(|link| link.rx_bytes).saturating_mul(8),
            tx_bits: each(|link| link.tx_bytes).saturating_mul(8),
            rx_packets: each(|link| link.rx_packets),
            tx_packets: each(|link| link.tx_packets),
        }
    }
}

/// What `stats --watch` prints: the counters, and from the second look on the rates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Watched {
    /// As without `--watch`.
    #[serde(flatten)]
    pub stats: Stats,
    /// None at the first look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
}

impl Rates {
    /// What came between two looks that lie `time` apart.
    pub fn between(before: &Stats, after: &Stats, time: Duration) -> Self {
        let reasons = after.reasons.iter().map(|(name, packets)| {
            let earlier = before.reasons.get(name).copied().unwrap_or_default();
            (name.clone(), per_second(*packets, earlier, time))
        });
        let ports = after.ports.iter().filter_map(|port| {
            // A device of the same name that was made anew counts from zero.
            let earlier = before.ports.iter().find(|row| row.name == port.name && row.ifindex == port.ifindex)?;
            Some((port.name.clone(), counts(&port.counts, &earlier.counts, time)))
        });
        let links = after.links.iter().filter_map(|link| {
            let earlier = before.links.iter().find(|row| row.ifindex == link.ifindex)?;
            Some((link.name.clone(), LinkRates::between(earlier, link, time)))
        });
        Self {
            totals: counts(&after.totals, &before.totals, time),
            reasons: reasons.collect(),
            ports: ports.collect(),
            links: links.collect(),
        }
    }
}

fn counts(new: &Counts, old: &Counts, time: Duration) -> Counts {
    let each = |part: fn(&Counts) -> u64| per_second(part(new), part(old), time);
    // The sum of what was rounded, so that rates balance as counts do.
    Counts::new(each(|c| c.forwarded), each(|c| c.delivered), each(|c| c.dropped), each(|c| c.passed))
}

/// What a counter gained in a second. A counter that went back belongs to a port that was detached: nothing, rather than
/// nonsense.
pub(super) fn per_second(new: u64, old: u64, time: Duration) -> u64 {
    let packets = u128::from(new.saturating_sub(old));
    u64::try_from(packets * 1_000_000_000 / time.as_nanos().max(1)).unwrap_or(u64::MAX).min(FASTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_per_second() {
        let rows = [(1000, 0, 1000, 1000), (1000, 0, 500, 2000), (5, 9, 1000, 0), (u64::MAX, 0, 1000, FASTEST)];
        for (new, old, millis, want) in rows {
            assert_eq!(per_second(new, old, Duration::from_millis(millis)), want, "{new} {old} {millis}");
        }
        assert_eq!(per_second(u64::MAX, 0, Duration::ZERO), FASTEST);
    }
}
