//! Neighbours that we send to: the kernel does not see those packets, and would let the entries grow old.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    ops::Bound::{Excluded, Unbounded},
    time::Duration,
};

use dataplane_common::abi::Ifindex;

use super::Daemon;
use crate::netlink::Prober;

/// Between two looks at which adjacencies were used. An entry that became stale is used again within this time, and is
/// collected only after `gc_stale_time` (60 s by default).
pub(super) const ROUND: Duration = Duration::from_secs(5);
/// The most neighbours that are asked for in one round, so that no burst of ARP and ND goes out.
const LIMIT: usize = 256;

/// A neighbour's key.
pub(super) type Whose = (Ifindex, IpAddr);

/// Neighbours in use that the kernel does not know to be there.
#[derive(Debug, Default)]
pub(super) struct Probes {
    waiting: BTreeSet<Whose>,
    /// Whose turn it was last.
    last: Option<Whose>,
    /// How many were asked for.
    sent: u64,
    /// Whether the operator has been told that the kernel does not take them.
    refused: bool,
}

impl Probes {
    /// Whom to ask for in this round: those `used` since the last one, or waiting from earlier ones, that are still stale.
    /// They take turns, so everybody's comes.
    fn round(&mut self, used: impl Iterator<Item = Whose>, is_stale: impl Fn(&Whose) -> bool) -> Vec<Whose> {
        self.waiting.extend(used);
        self.waiting.retain(is_stale);
        let behind = self.last.map_or(Unbounded, Excluded);
        let turn = self.waiting.range((behind, Unbounded)).chain(&self.waiting).take(LIMIT.min(self.waiting.len()));
        let turn: Vec<_> = turn.copied().collect();
        for whose in &turn {
            self.waiting.remove(whose);
        }
        self.last = turn.last().copied().or(self.last);
        turn
    }

    /// A round: the kernel is to ask for those whose turn it is.
    pub(super) fn probe(
        &mut self,
        used: impl Iterator<Item = Whose>,
        is_stale: impl Fn(&Whose) -> bool,
        prober: &mut Prober,
    ) {
        for (ifindex, address) in self.round(used, is_stale) {
            match prober.probe(ifindex, address) {
                Ok(there) => self.sent += u64::from(there),
                Err(error) if !std::mem::replace(&mut self.refused, true) => {
                    tracing::warn!("neighbours in use cannot be kept alive: {error}; this is logged once");
                }
                Err(_) => {}
            }
        }
    }

    /// How many were asked for.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }
}

impl Daemon {
    /// Lets the kernel ask for the stale ones among the neighbours that were sent to since the last round.
    pub(super) fn probe(&mut self, prober: &mut Prober) {
        self.observed.probe(self.plane.take_used(), prober);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn whose(number: u32) -> Whose {
        (2, Ipv4Addr::from_bits(0xc612_0000 + number).into())
    }

    #[test]
    fn stale_neighbours_in_use_are_probed() {
        // What it is about; who was used in each round, who is stale then, who is asked for.
        type Round = (&'static [u32], &'static [u32], &'static [u32]);
        let rows: &[(&str, &[Round])] = &[
            ("nobody used", &[(&[], &[1, 2], &[])]),
            ("used, but known to be there, or being asked for", &[(&[1, 2], &[3], &[])]),
            ("used and stale", &[(&[1, 2, 3], &[1, 3], &[1, 3])]),
            ("asked for once for each use", &[(&[1], &[1], &[1]), (&[], &[1], &[]), (&[1], &[1], &[1])]),
            ("both families, each link", &[(&[7, 5], &[5, 7], &[5, 7])]),
        ];
        for (what, rounds) in rows {
            let mut probes = Probes::default();
            for (used, stale, asked) in *rounds {
                let found =
                    probes.round(used.iter().copied().map(whose), |one| stale.iter().any(|n| whose(*n) == *one));
                assert_eq!(found, asked.iter().copied().map(whose).collect::<Vec<_>>(), "{what}");
            }
        }
    }

    #[test]
    fn every_neighbour_is_probed_in_turn() {
        let mut probes = Probes::default();
        let all = 3 * LIMIT as u32 + 10;
        let mut asked = BTreeSet::new();
        for round in 0..4 {
            // All are used all the time.
            let turn = probes.round((0..all).map(whose), |_| true);
            assert_eq!(turn.len(), LIMIT, "round {round}");
            let unique: BTreeSet<_> = turn.iter().copied().collect();
            assert_eq!(unique.len(), LIMIT, "nobody twice in round {round}");
            asked.extend(unique);
        }
        assert_eq!(asked.len(), all as usize, "in four rounds each had its turn");
    }

    #[test]
    fn a_neighbour_that_is_not_stale_any_more_is_not_probed() {
        let mut probes = Probes::default();
        let all = LIMIT as u32 + 5;
        assert_eq!(probes.round((0..all).map(whose), |_| true).len(), LIMIT);
        assert_eq!(probes.round(std::iter::empty(), |one| *one == whose(LIMIT as u32)), [whose(LIMIT as u32)]);
        assert!(probes.waiting.is_empty());
    }
}
