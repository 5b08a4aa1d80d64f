//! Whether the rules let packets in of which not everything is known, judged as they are written.

use std::net::IpAddr;

use super::Config;
use super::judge::{Holds, Subject};
use super::session::WayIn;
use crate::rule::{Action, ChainName, Family, Policy};

/// What is known of a packet for this machine before it comes.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedPacket<'a> {
    /// Its family.
    pub family: Family,
    /// What it carries.
    pub protocol: u8,
    /// Source and destination address, where they are known.
    pub addresses: [Option<IpAddr>; 2],
    /// Source and destination port, where they are known.
    pub ports: [Option<u16>; 2],
    /// Flags of TCP.
    pub flags: u8,
    /// The bit of `ct state`.
    pub state: u32,
    /// The link that it comes in on, where that is known.
    pub iif: Option<&'a WayIn>,
}

/// Whether the filter lets packets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// All of them.
    Yes,
    /// None.
    No,
    /// It depends on what is not known: who sends them, how many there are.
    Some,
}

impl Admission {
    /// Its name in text and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Some => "some",
        }
    }

    /// Of packets of which some are of one kind, some of another.
    #[must_use]
    pub fn either(self, other: Self) -> Self {
        if self == other { self } else { Self::Some }
    }

    /// Of packets that meet two chains.
    fn both(self, next: Self) -> Self {
        match (self, next) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Some,
        }
    }

    fn of(accepted: bool, dropped: bool) -> Self {
        match (accepted, dropped) {
            (true, true) => Self::Some,
            (_, dropped) => {
                if dropped {
                    Self::No
                } else {
                    Self::Yes
                }
            }
        }
    }
}

impl Config {
    /// Whether chains prerouting and input let such packets in.
    pub fn admits(&self, packet: &ExpectedPacket<'_>) -> Admission {
        let packet = &Subject::expected(packet);
        let chains = [ChainName::Prerouting, ChainName::Input];
        chains.into_iter().fold(Admission::Yes, |so_far, chain| match so_far {
            Admission::No => so_far,
            _ => so_far.both(self.passes(chain, packet)),
        })
    }

    fn passes(&self, chain: ChainName, packet: &Subject) -> Admission {
        let (mut accepted, mut dropped) = (false, false);
        let mut changes = Vec::new();
        for rule in &self.chain(chain).rules {
            let matched = self.meets_behind(rule, packet, &mut changes);
            if matched == Holds::No {
                continue;
            }
            match rule.action() {
                Action::Accept => accepted = true,
                Action::Drop | Action::Reject(_) => dropped = true,
                Action::Continue => continue,
                // It may be for another machine, or another socket, then.
                Action::Translate(_) | Action::Proxy(_) => (accepted, dropped) = (true, true),
            }
            if matched == Holds::Yes || (accepted && dropped) {
                return Admission::of(accepted, dropped);
            }
        }
        match self.chain(chain).policy {
            Policy::Accept => accepted = true,
            Policy::Drop => dropped = true,
        }
        Admission::of(accepted, dropped)
    }
}

#[cfg(test)]
mod tests;
