//! Packets per second, from two looks at the counters.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::row::{Counts, Stats};

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
            (name.clone(), rate(*packets, earlier, time))
        });
        let ports = after.ports.iter().filter_map(|port| {
            // A device of the same name that was made anew counts from zero.
            let earlier = before.ports.iter().find(|row| row.name == port.name && row.ifindex == port.ifindex)?;
            Some((port.name.clone(), counts(&port.counts, &earlier.counts, time)))
        });
        Self { totals: counts(&after.totals, &before.totals, time), reasons: reasons.collect(), ports: ports.collect() }
    }
}

fn counts(new: &Counts, old: &Counts, time: Duration) -> Counts {
    let each = |part: fn(&Counts) -> u64| rate(part(new), part(old), time);
    // The sum of what was rounded, so that rates balance as counts do.
    Counts::new(each(|c| c.forwarded), each(|c| c.delivered), each(|c| c.dropped), each(|c| c.passed))
}

/// Packets per second. A counter that went back belongs to a port that was detached: no packets, rather than nonsense.
fn rate(new: u64, old: u64, time: Duration) -> u64 {
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
            assert_eq!(rate(new, old, Duration::from_millis(millis)), want, "{new} {old} {millis}");
        }
        assert_eq!(rate(u64::MAX, 0, Duration::ZERO), FASTEST);
    }
}
