//! Chains, their policies, and what holds for all of them.

use std::fmt;
use std::str::FromStr;

use dataplane_common::abi::{ActionCode, CHAINS, ChainId, Features};
use thiserror::Error;

/// How many chains there are.
pub const RULE_CHAINS: usize = CHAINS + 1;

/// Where in a packet's way rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainName {
    /// Before the route lookup.
    Prerouting = ChainId::Prerouting as isize,
    /// To this machine.
    Input = ChainId::Input as isize,
    /// Through this machine.
    Forward = ChainId::Forward as isize,
    /// From this machine.
    Output = ChainId::Output as isize,
    /// Behind the route, where sources are translated: of the kernel alone.
    Postrouting = ChainId::Output as isize + 1,
}

impl ChainName {
    /// Those of the driver, in the order of [`dataplane_common::abi::Filter::tables`].
    pub const DRIVER: [Self; CHAINS] = [Self::Prerouting, Self::Input, Self::Forward, Self::Output];
    /// All of them, those of the driver first.
    pub const ALL: [Self; RULE_CHAINS] =
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    /// Its place in [`Self::ALL`], and in [`dataplane_common::abi::Filter::tables`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// As the command line and the configuration spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    /// The switch of a program that asks this chain.
    pub const fn feature(self) -> Features {
        match self {
            Self::Prerouting => Features::PREROUTING,
            Self::Input => Features::INPUT,
            Self::Forward => Features::FORWARD,
            Self::Output => Features::OUTPUT,
            Self::Postrouting => Features::empty(),
        }
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Not the name of a chain.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("there is no chain `{0}`; use prerouting, input, forward, output or postrouting")]
pub struct UnknownChain(pub String);

impl FromStr for ChainName {
    type Err = UnknownChain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|chain| chain.name() == text).ok_or_else(|| UnknownChain(text.to_owned()))
    }
}

/// What rules that drop by ports, flags or types do with packets in which these can not be read: later fragments, broken
/// headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fragments {
    /// They drop them, if all else fits: no fragment slips past.
    #[default]
    DropUnreadable,
    /// They are not met, as in nft.
    Pass,
}

impl Fragments {
    /// As the configuration spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DropUnreadable => "drop-unreadable",
            Self::Pass => "pass",
        }
    }
}

impl fmt::Display for Fragments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Not what fragments can be done with.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown fragment policy `{0}`; use `drop-unreadable` or `pass`")]
pub struct UnknownFragments(pub String);

impl FromStr for Fragments {
    type Err = UnknownFragments;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::DropUnreadable, Self::Pass].into_iter().find(|known| known.name() == text);
        known.ok_or_else(|| UnknownFragments(text.to_owned()))
    }
}

/// What a chain does with a packet that no rule decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The packet goes on.
    #[default]
    Accept,
    /// The packet ends here.
    Drop,
}

impl Policy {
    /// As the configuration spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
        }
    }

    /// As the kernel half reads it.
    pub const fn action_code(self) -> ActionCode {
        match self {
            Self::Accept => ActionCode::Accept,
            Self::Drop => ActionCode::Drop,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Not a policy.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown policy `{0}`; use `accept` or `drop`")]
pub struct UnknownPolicy(pub String);

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "accept" => Ok(Self::Accept),
            "drop" => Ok(Self::Drop),
            _ => Err(UnknownPolicy(text.to_owned())),
        }
    }
}
