//! Ports. Stand-in: replaced at merge.

use std::fmt;
use std::str::FromStr;

/// How a port is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// XDP in the driver, tc behind it.
    Native,
    /// XDP on the skb, tc behind it.
    Generic,
    /// tc alone.
    Tc,
}

impl Mode {
    /// The name in config, command line and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tc => "tc",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the operator asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModeChoice {
    /// The best that is right for the link.
    #[default]
    Auto,
    /// This one.
    Fixed(Mode),
}

impl ModeChoice {
    /// The name in config, command line and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fixed(mode) => mode.name(),
        }
    }
}

impl fmt::Display for ModeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not a mode.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a mode; use auto, native, generic or tc")]
pub struct UnknownMode(pub String);

impl FromStr for ModeChoice {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Fixed(Mode::Native)),
            "generic" => Ok(Self::Fixed(Mode::Generic)),
            "tc" => Ok(Self::Fixed(Mode::Tc)),
            _ => Err(UnknownMode(text.to_owned())),
        }
    }
}
