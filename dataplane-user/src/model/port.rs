//! How a port is served.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// How the operator wants a port served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ModeChoice {
    /// What suits the device.
    #[default]
    Auto,
    /// XDP in the driver.
    Native,
    /// XDP behind the driver.
    Generic,
    /// tc only.
    Tc,
}

impl ModeChoice {
    const NAMES: [(&'static str, Self); 4] =
        [("auto", Self::Auto), ("native", Self::Native), ("generic", Self::Generic), ("tc", Self::Tc)];
}

impl fmt::Display for ModeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::NAMES.iter().find(|(_, mode)| mode == self).map_or("", |(name, _)| name))
    }
}

/// Not a mode.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not a mode; take auto, native, generic or tc")]
pub struct UnknownMode(pub String);

impl FromStr for ModeChoice {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::NAMES.iter().find(|(name, _)| *name == text);
        named.map(|(_, mode)| *mode).ok_or_else(|| UnknownMode(text.to_owned()))
    }
}
