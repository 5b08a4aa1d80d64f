//! How much a file may come to. A few lines can say as much as one likes: what is written out is counted before it is made.

use crate::rule::{Match, Test, Values};

/// Things that one rule may ask; nft takes 128 expressions (`NFT_RULE_MAXEXPRS`), and a match is one at least.
pub(super) const MATCHES: usize = 128;

/// What there is still room for.
#[derive(Debug)]
pub(super) struct Room {
    left: usize,
}

/// There is no room left: what was written comes to too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Room {
    /// For so many matches and values.
    pub(super) const fn new(left: usize) -> Self {
        Self { left }
    }

    /// Takes some of it. Once it is full it stays so.
    ///
    /// # Errors
    /// There is not as much.
    pub(super) fn take(&mut self, weight: usize) -> Result<(), Full> {
        let left = self.left.checked_sub(weight);
        self.left = left.unwrap_or_default();
        left.map(drop).ok_or(Full)
    }
}

/// What matches take: each of them, and each value that is listed.
pub(super) fn weight(matches: &[Match]) -> usize {
    2 + matches.iter().map(|asked| 1 + values(asked)).sum::<usize>()
}

fn values(asked: &Match) -> usize {
    fn listed<I: Ord>(test: &Test<I>) -> usize {
        match test.values() {
            Values::Listed(items) => items.len(),
            Values::Set(_) => 1,
        }
    }
    match asked {
        Match::Ipv4(_, test) => listed(test),
        Match::Ipv6(_, test) => listed(test),
        Match::Port(_, _, test) => listed(test),
        Match::Protocol(_, test) => listed(test),
        Match::IcmpType(test) => listed(test),
        Match::Icmpv6Type(test) => listed(test),
        Match::IcmpCode(test) => listed(test),
        Match::Icmpv6Code(test) => listed(test),
        Match::PacketType(test) => listed(test),
        Match::Dscp(_, test) => listed(test),
        Match::HopLimit(_, test) => listed(test),
        Match::Fragment(fragment) => listed(fragment.test()),
        Match::Length(test) => listed(test),
        Match::Link(_, test) => listed(test),
        Match::Vlan(test) => listed(test),
        Match::Ether(_, test) => listed(test),
        Match::Concatenation(asked) => listed(asked.test()) * asked.fields().len(),
        Match::TcpFlags(flags) => flags.values().len(),
        Match::Family(_) | Match::Connection(_) => 1,
    }
}
