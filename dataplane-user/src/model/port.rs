//! Ports. Stand-in: replaced at merge.

/// How a port is to be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeChoice {
    /// What suits the device.
    #[default]
    Auto,
    /// XDP in the driver.
    Native,
    /// XDP on the skb.
    Generic,
    /// tc alone.
    Tc,
}

impl std::fmt::Display for ModeChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tc => "tc",
        })
    }
}

impl std::str::FromStr for ModeChoice {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            "tc" => Ok(Self::Tc),
            _ => Err(UnknownMode(text.to_owned())),
        }
    }
}

/// Not the name of a mode.
#[derive(Debug, thiserror::Error)]
#[error("no mode is named '{0}'")]
pub struct UnknownMode(String);
