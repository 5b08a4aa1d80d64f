//! The rule language. Stand-in: replaced at merge.

use std::{fmt, str::FromStr};

use dataplane_common::abi::CHAINS;

/// Where in a packet's way rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainName {
    /// Before the route lookup.
    Prerouting,
    /// To this machine.
    Input,
    /// Through this machine.
    Forward,
    /// From this machine.
    Output,
}

impl ChainName {
    /// All of them, in the order of [`dataplane_common::abi::Filter::chains`].
    pub const ALL: [Self; CHAINS] = [Self::Prerouting, Self::Input, Self::Forward, Self::Output];

    /// Its place in [`dataplane_common::abi::Filter::chains`].
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
        }
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Not the name of a chain.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no chain `{0}`; take prerouting, input, forward or output")]
pub struct UnknownChain(pub String);

impl FromStr for ChainName {
    type Err = UnknownChain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|chain| chain.name() == text).ok_or_else(|| UnknownChain(text.to_owned()))
    }
}
