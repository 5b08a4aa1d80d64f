//! What the chains of a config do with a packet, judged by the rules as they are written: no daemon and no kernel is needed.

mod matching;
mod subject;

use std::fmt;

pub(super) use matching::Holds;
#[cfg(test)]
pub(super) use subject::TCP;
pub use subject::{Egress, Subject};

use super::Config;
use crate::rule::{Action, ChainName, Change, Match, Policy, Proxy, Rule, Translation};

/// What decides in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// A rule, by its place from 0.
    Rule(ChainName, usize, String),
    /// The policy.
    Policy(ChainName),
}

impl Culprit {
    /// Whether both are the same rule, at whatever place, or the same policy.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rule(chain, _, rule), Self::Rule(other, _, text)) => chain == other && rule == text,
            (Self::Policy(chain), Self::Policy(other)) => chain == other,
            _ => false,
        }
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(chain, index, rule) => write!(f, "chain {chain}, rule {}: `{rule}`", index + 1),
            Self::Policy(chain) => write!(f, "the policy of chain {chain}"),
        }
    }
}

/// What a chain does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainVerdict {
    /// It lets it through.
    Passes(Culprit),
    /// It lets it through with other addresses.
    Translates(Culprit, Translation),
    /// It drops or rejects it.
    Drops(Culprit),
    /// That depends on what is not known of the packet: this rule may match, or not.
    Unsure(Culprit),
}

/// What a rule or a policy does that decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Pass,
    Drop,
    Translate(Translation),
    /// To a proxy, if that has a socket.
    Proxy,
}

impl Deed {
    const fn of(action: Action) -> Option<Self> {
        match action {
            Action::Accept => Some(Self::Pass),
            Action::Drop | Action::Reject(_) => Some(Self::Drop),
            Action::Translate(translation) => Some(Self::Translate(translation)),
            Action::Proxy(_) => Some(Self::Proxy),
            Action::Continue => None,
        }
    }
}

impl Config {
    /// Whether a packet meets a rule behind others that may have changed it, and what this one may change.
    pub(super) fn meets_behind(&self, rule: &Rule, subject: &Subject, changes: &mut Vec<Change>) -> Holds {
        let unsure = |asked: &Match| changes.iter().any(|change| change.concerns(asked));
        let holds = if rule.matches().iter().any(unsure) { Holds::Maybe } else { self.meets(rule, subject) };
        if holds != Holds::No {
            changes.extend(rule.changes());
        }
        holds
    }

    /// The rules that may hand a packet to a proxy, in order, up to the one that decides otherwise.
    pub fn proxies(&self, subject: &Subject) -> Vec<(String, Proxy)> {
        let (mut found, mut changes) = (Vec::new(), Vec::new());
        for rule in &self.chain(ChainName::Prerouting).rules {
            match (self.meets_behind(rule, subject, &mut changes), rule.action()) {
                (Holds::Yes | Holds::Maybe, Action::Proxy(to)) => found.push((rule.to_string(), to)),
                (Holds::Yes, action) if Deed::of(action).is_some() => break,
                _ => {}
            }
        }
        found
    }

    /// What a chain does with a packet.
    pub fn judge(&self, chain: ChainName, subject: &Subject) -> ChainVerdict {
        let mut perhaps: Vec<(Deed, Culprit)> = Vec::new();
        let (mut decided, mut changes) = (None, Vec::new());
        for (index, rule) in self.chain(chain).rules.iter().enumerate() {
            let holds = self.meets_behind(rule, subject, &mut changes);
            let Some(deed) = Deed::of(rule.action()) else { continue };
            let culprit = || Culprit::Rule(chain, index, rule.to_string());
            match holds {
                Holds::No => {}
                // One of each kind says enough.
                Holds::Maybe if perhaps.iter().any(|(other, _)| *other == deed) => {}
                Holds::Maybe => perhaps.push((deed, culprit())),
                // Whether there is a socket is not known beforehand.
                Holds::Yes if deed == Deed::Proxy => perhaps.push((deed, culprit())),
                Holds::Yes => {
                    decided = Some((deed, culprit()));
                    break;
                }
            }
        }
        let (deed, culprit) = decided.unwrap_or_else(|| {
            let policy = self.chain(chain).policy;
            (if policy == Policy::Drop { Deed::Drop } else { Deed::Pass }, Culprit::Policy(chain))
        });
        // Those that would do the same make no difference.
        if let Some((_, unsure)) = perhaps.into_iter().find(|(other, _)| *other != deed) {
            return ChainVerdict::Unsure(unsure);
        }
        match deed {
            Deed::Pass | Deed::Proxy => ChainVerdict::Passes(culprit),
            Deed::Drop => ChainVerdict::Drops(culprit),
            Deed::Translate(translation) => ChainVerdict::Translates(culprit, translation),
        }
    }
}
