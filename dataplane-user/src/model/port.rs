//! Ports: the interfaces that the operator wants us on, and how.

use std::fmt;
use std::str::FromStr;

use super::{Link, ObstacleKinds, XdpFeatures};

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

/// The mode that the operator chose.
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

/// An interface that the programs are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// How.
    pub mode: Mode,
    /// Whether the tc programs are there, as they must be in mode tc.
    pub tc: bool,
    /// Whether what is forwarded goes up where it would meet rules of netfilter.
    pub follow: bool,
    /// Whether connections that these rules have let through may be carried past them, and what rules may do all the same.
    pub flows: Option<ObstacleKinds>,
}

/// The mode for a link. Auto takes native XDP for hardware whose driver redirects, and tc for the rest: behind a virtual device
/// may be a local stack that leaves checksums to be filled in, which XDP cannot do. Generic is never chosen.
pub fn choose(link: &Link, features: XdpFeatures, choice: ModeChoice) -> Mode {
    let needed = XdpFeatures::BASIC | XdpFeatures::REDIRECT;
    match choice {
        ModeChoice::Fixed(mode) => mode,
        ModeChoice::Auto if link.kind.is_none() && link.ethernet && features.contains(needed) => Mode::Native,
        ModeChoice::Auto => Mode::Tc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_native_for_hardware_that_redirects_only() {
        let full = XdpFeatures::BASIC | XdpFeatures::REDIRECT;
        let rows: &[(Option<&str>, bool, XdpFeatures, &str, Mode)] = &[
            (None, true, full | XdpFeatures::NDO_XMIT, "auto", Mode::Native),
            (None, true, full, "auto", Mode::Native),
            (None, true, XdpFeatures::BASIC, "auto", Mode::Tc),
            (None, true, XdpFeatures::empty(), "auto", Mode::Tc),
            (None, false, full, "auto", Mode::Tc),
            (Some("veth"), true, full, "auto", Mode::Tc),
            (Some("tun"), false, full, "auto", Mode::Tc),
            (Some("vlan"), true, XdpFeatures::empty(), "auto", Mode::Tc),
            (Some("veth"), true, full, "native", Mode::Native),
            (Some("veth"), true, XdpFeatures::empty(), "native", Mode::Native),
            (None, true, full, "generic", Mode::Generic),
            (None, true, full, "tc", Mode::Tc),
        ];
        for &(kind, ethernet, features, choice, expected) in rows {
            let link = Link { kind: kind.map(str::to_owned), ethernet, ..Link::default() };
            let parsed: ModeChoice = choice.parse().expect("a mode");
            assert_eq!(parsed.to_string(), choice);
            assert_eq!(choose(&link, features, parsed), expected, "{kind:?} {ethernet} {features:?} {choice}");
        }
        assert_eq!("xdp".parse::<ModeChoice>(), Err(UnknownMode("xdp".to_owned())));
    }
}
