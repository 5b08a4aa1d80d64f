//! What rules write into the addresses of a connection. The kernel does it.

use std::fmt::{Display, Formatter, Result};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::ast::{Family, Match};
use super::value::{Port, Range, Value as _};

/// The addresses that a connection gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// One of these.
    V4(Range<Ipv4Addr>),
    /// One of these.
    V6(Range<Ipv6Addr>),
}

impl Addresses {
    /// Their family.
    pub const fn family(self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }
}

/// What of a connection is translated, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Translation {
    /// What is written.
    pub kind: TranslationKind,
    /// The ports; without them the port stays where that is possible.
    pub ports: Option<Range<Port>>,
    /// Which of the possible addresses and ports is taken.
    pub choice: Choice,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TranslationKind {
    /// `masquerade`: the source becomes the address of the way out.
    Masquerade,
    /// `snat to`: the source.
    Source(Addresses),
    /// `dnat to`: the destination.
    Destination(Addresses),
    /// `redirect`: the destination becomes this machine.
    Redirect,
}

/// `random`, `fully-random`, `persistent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Choice {
    /// A port at random.
    pub random: bool,
    /// A port at random, without regard to the packet.
    pub fully_random: bool,
    /// The same address for the same client.
    pub persistent: bool,
}

impl Choice {
    /// The words, as nft has them.
    pub(super) const NAMES: [&'static str; 3] = ["random", "fully-random", "persistent"];

    /// With one more word.
    #[must_use]
    pub(super) fn with(self, word: &str) -> Self {
        Self {
            random: self.random || word == Self::NAMES[0],
            fully_random: self.fully_random || word == Self::NAMES[1],
            persistent: self.persistent || word == Self::NAMES[2],
        }
    }

    /// Which words it has.
    pub(super) const fn flags(self) -> [bool; 3] {
        [self.random, self.fully_random, self.persistent]
    }
}

impl Translation {
    /// Whether it writes the source.
    pub const fn is_of_source(self) -> bool {
        matches!(self.kind, TranslationKind::Masquerade | TranslationKind::Source(_))
    }

    /// The family that it is for, when that is one.
    pub fn family(self) -> Option<Family> {
        match self.kind {
            TranslationKind::Source(addresses) | TranslationKind::Destination(addresses) => Some(addresses.family()),
            TranslationKind::Masquerade | TranslationKind::Redirect => None,
        }
    }

    /// Its first word.
    pub const fn word(self) -> &'static str {
        match self.kind {
            TranslationKind::Masquerade => "masquerade",
            TranslationKind::Source(_) => "snat",
            TranslationKind::Destination(_) => "dnat",
            TranslationKind::Redirect => "redirect",
        }
    }

    /// Why it cannot stand behind these matches.
    pub(super) fn contradicts(self, matches: &[Match]) -> Option<String> {
        let other =
            |asked: &&Match| self.family().is_some_and(|own| asked.family().is_some_and(|family| family != own));
        if let Some(asked) = matches.iter().find(other) {
            return Some(format!("`{self}` is for the other address family than `{asked}`"));
        }
        self.ports?;
        let with_ports = |asked: &Match| {
            asked.protocols().is_some_and(|all| all.iter().all(|one| super::consistency::WITH_PORTS.contains(one)))
        };
        (!matches.iter().any(with_ports)).then(|| {
            format!("`{self}` names ports, so a match of a protocol with ports is needed: write `meta l4proto {{ tcp, udp }}`")
        })
    }
}

/// Several addresses or ports: `a-b`, also where they are a prefix.
fn ends<T: super::value::Value>(range: Range<T>, write: impl Fn(T) -> String) -> String {
    let (low, high) = range.ends();
    if low == high { write(low) } else { format!("{}-{}", write(low), write(high)) }
}

fn port_range(range: Range<Port>) -> String {
    ends(range, |port| port.bits().to_string())
}

impl Display for Translation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(self.word())?;
        let ports = self.ports.map(port_range);
        match self.kind {
            TranslationKind::Masquerade | TranslationKind::Redirect => {
                if let Some(ports) = ports {
                    write!(f, " to :{ports}")?;
                }
            }
            TranslationKind::Source(addresses) | TranslationKind::Destination(addresses) => {
                let brackets = ports.is_some() && addresses.family() == Family::V6;
                let addresses = match addresses {
                    Addresses::V4(range) => ends(range, |address| address.to_string()),
                    Addresses::V6(range) if brackets => ends(range, |address| format!("[{address}]")),
                    Addresses::V6(range) => ends(range, |address| address.to_string()),
                };
                write!(f, " to {addresses}")?;
                if let Some(ports) = ports {
                    write!(f, ":{ports}")?;
                }
            }
        }
        let words: Vec<_> =
            Choice::NAMES.iter().zip(self.choice.flags()).filter(|(_, set)| *set).map(|(word, _)| *word).collect();
        if words.is_empty() { Ok(()) } else { write!(f, " {}", words.join(",")) }
    }
}
