//! The session that makes a change, and how its packets come in.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::rule::{LinkField, LinkPattern};

/// The two ends of a TCP session, as ssh names them in `SSH_CONNECTION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The operator's end.
    pub peer: SocketAddr,
    /// This machine's end.
    pub here: SocketAddr,
}

/// How the packets of a session come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayIn {
    /// The name of the link that rules see.
    pub link: String,
    /// Its other names.
    pub altnames: Vec<String>,
    /// Names that it had before.
    pub former: Vec<String>,
    /// All names of the links at which ports may judge the packets: the link itself, and what is under a VLAN or macvlan device.
    pub ports: Vec<String>,
}

impl WayIn {
    /// Whether a rule's pattern means the link; one of `iif` follows a link that gets another name.
    pub(super) fn is(&self, pattern: &LinkPattern, field: LinkField) -> bool {
        let any = |names: &[String]| names.iter().any(|name| pattern.fits(name));
        pattern.fits(&self.link)
            || !pattern.is_wildcard() && any(&self.altnames)
            || field == LinkField::Iif && any(&self.former)
    }
}

/// Not the two ends of a session.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` does not name a session; SSH_CONNECTION holds address and port of both ends")]
pub struct NoSession(String);

impl FromStr for Session {
    type Err = NoSession;

    /// `ADDRESS PORT ADDRESS PORT`, the peer's first (ssh(1), section Environment).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NoSession(text.to_owned());
        let words: Vec<_> = text.split_whitespace().collect();
        let [peer, peer_port, here, here_port] = words.as_slice() else { return Err(wrong()) };
        let end = |address: &str, port: &str| {
            // A link-local address brings its link: `fe80::1%eth0`.
            let address = address.split_once('%').map_or(address, |(address, _)| address);
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            Ok(SocketAddr::new(address.to_canonical(), port.parse().map_err(|_| wrong())?))
        };
        let session = Self { peer: end(peer, peer_port)?, here: end(here, here_port)? };
        if session.peer.is_ipv4() == session.here.is_ipv4() { Ok(session) } else { Err(wrong()) }
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.peer, self.here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_sessions() {
        for good in ["192.0.2.7 1 192.0.2.1 22", "2001:db8::1 1 2001:db8::2 22", "fe80::1%eth0 1 fe80::2%eth0 22"] {
            assert!(good.parse::<Session>().is_ok(), "{good}");
        }
        for bad in ["", "192.0.2.7 1 192.0.2.1", "192.0.2.7 1 2001:db8::2 22", "a 1 b 2", "192.0.2.7 1 192.0.2.1 70000"]
        {
            assert!(bad.parse::<Session>().is_err(), "{bad}");
        }
    }
}
