//! `tproxy`: packets for others go to a socket of this machine, with their addresses as they are. The kernel does it.

use std::fmt::{Display, Formatter, Result};
use std::net::IpAddr;

use dataplane_common::wire::protocol;

use super::ast::{Family, Match};
use super::statement::Statement;
use super::value::{Port, Value as _};

/// Where packets go that a rule hands to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// Packets of this family alone.
    pub family: Option<Family>,
    /// The address that the socket is bound to; none: that of the interface, or the packet's own.
    pub address: Option<IpAddr>,
    /// Its port; none: the packet's own.
    pub port: Option<Port>,
    /// Without such a socket the packet is dropped; else the rule does not match then.
    pub or_drop: bool,
}

impl Proxy {
    /// The family that it is for, when that is one.
    pub fn family(self) -> Option<Family> {
        let of_address = |address: IpAddr| if address.is_ipv4() { Family::V4 } else { Family::V6 };
        self.family.or(self.address.map(of_address))
    }

    /// Why it cannot stand behind these matches and statements.
    pub(super) fn contradicts(self, matches: &[Match], statements: &[Statement]) -> Option<String> {
        let other =
            |asked: &&Match| self.family().is_some_and(|own| asked.family().is_some_and(|family| family != own));
        if let Some(asked) = matches.iter().find(other) {
            return Some(format!("`{self}` is for the other address family than `{asked}`"));
        }
        let condition = statements.iter().find(|statement| statement.is_condition());
        if let (true, Some(condition)) = (self.or_drop, condition) {
            return Some(format!(
                "`{self}` would drop what `{condition}` does not let by: put that into a rule of its own"
            ));
        }
        let proxied = |number: &u8| [protocol::TCP as u8, protocol::UDP as u8].contains(number);
        let bounded = |asked: &Match| asked.protocols().is_some_and(|all| all.iter().all(proxied));
        (!matches.iter().any(bounded)).then(|| {
            format!("`{self}` needs a match of TCP or UDP in front of it: write `meta l4proto {{ tcp, udp }}`")
        })
    }
}

impl Display for Proxy {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("tproxy")?;
        match self.family() {
            Some(Family::V4) => f.write_str(" ip")?,
            Some(Family::V6) => f.write_str(" ip6")?,
            None => {}
        }
        f.write_str(" to ")?;
        match (self.address, self.port) {
            (Some(IpAddr::V6(address)), Some(_)) => write!(f, "[{address}]")?,
            (Some(address), _) => write!(f, "{address}")?,
            (None, _) => {}
        }
        if let Some(port) = self.port {
            write!(f, ":{}", port.bits())?;
        }
        if self.or_drop { f.write_str(" or drop") } else { Ok(()) }
    }
}
