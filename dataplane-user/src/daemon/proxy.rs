//! Whether the sockets are there that rules hand packets to.

use std::net::IpAddr;

use super::Daemon;
use crate::{
    control::row::{Finding, Status},
    model::OpenSocket,
    netlink::sock_diag::open_sockets,
    rule::{Action, ChainName, Family, Match, Rule, Value as _},
};

/// The protocols that proxies take, with their names.
const PROTOCOLS: [(u8, &str); 2] = [(6, "TCP"), (17, "UDP")];

/// The sockets that a rule hands packets to.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    rule: String,
    address: Option<IpAddr>,
    port: u16,
    /// Of [`PROTOCOLS`].
    protocols: Vec<(u8, &'static str)>,
    families: Vec<Family>,
}

impl Wanted {
    /// None for a rule that hands no packet on, or to the packet's own port.
    fn of(rule: &Rule) -> Option<Self> {
        let Action::Proxy(to) = rule.action() else { return None };
        let bounds: Vec<_> = rule.matches().iter().filter_map(Match::protocols).collect();
        let may_be = |protocol: &(u8, &str)| bounds.iter().all(|all| all.contains(&protocol.0));
        let family = to.family().or_else(|| rule.matches().iter().find_map(Match::family));
        Some(Self {
            rule: rule.to_string(),
            address: to.address,
            port: u16::try_from(to.port?.bits()).ok()?,
            protocols: PROTOCOLS.into_iter().filter(may_be).collect(),
            families: family.map_or_else(|| vec![Family::V4, Family::V6], |family| vec![family]),
        })
    }

    /// What is amiss among these sockets: packets pass by, or are dropped.
    fn fault(&self, sockets: &[OpenSocket], has_ipv6: bool) -> Option<String> {
        let families = self.families.iter().filter(|family| **family == Family::V4 || has_ipv6);
        let each = families.flat_map(|family| self.protocols.iter().map(move |protocol| (*family, *protocol)));
        let mut missing = Vec::new();
        for (family, (number, word)) in each {
            let takes = |socket: &&OpenSocket| {
                let bound = socket.local.ip().to_canonical();
                !socket.raw
                    && (socket.protocol, socket.local.port()) == (number, self.port)
                    && socket.takes_family(family == Family::V4)
                    && self.address.is_none_or(|address| bound.is_unspecified() || bound == address)
            };
            let found: Vec<_> = sockets.iter().filter(takes).collect();
            match found.first() {
                None => missing.push(format!("{word} over {}", if family == Family::V4 { "IPv4" } else { "IPv6" })),
                Some(first) if found.iter().all(|socket| !socket.transparent) => {
                    return Some(format!("{word} {} has no IP_TRANSPARENT and gets nothing of it", first.local));
                }
                Some(_) => {}
            }
        }
        let said = || format!("no socket is bound to port {} for {}", self.port, missing.join(", "));
        (!missing.is_empty()).then(said)
    }
}

impl Daemon {
    /// What the doctor says of the sockets of proxies.
    pub(super) fn proxy_finding(&self) -> Option<Finding> {
        let rules = self.desired.chains().rules(ChainName::Prerouting);
        let wanted: Vec<_> = rules.iter().filter_map(|installed| Wanted::of(&installed.rule)).collect();
        if wanted.is_empty() || self.desired.ports().config().is_empty() {
            return None;
        }
        let routed = |address: &IpAddr| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        };
        let has_ipv6 = self.observed.model().addresses.iter().any(|address| routed(&address.address));
        let fault = match open_sockets() {
            Ok(sockets) => wanted.iter().find_map(|one| {
                let fault = one.fault(&sockets, has_ipv6)?;
                Some(format!("rule `{}`: {fault}", one.rule))
            }),
            Err(error) => Some(format!("sockets cannot be listed: {error}")),
        };
        let (status, found, fix) = match fault {
            None => (Status::Ok, "the sockets are there that rules with tproxy name".to_owned(), ""),
            Some(found) => {
                let fix = "dataplane socket list  # have the proxy listen there with IP_TRANSPARENT, for which it needs \
                           CAP_NET_ADMIN; its network namespace must be the daemon's";
                (Status::Warn, found, fix)
            }
        };
        Some(Finding { check: "tproxy sockets".to_owned(), status, found, fix: fix.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::STATE_LISTEN, rule::parse};

    fn socket(protocol: u8, local: &str, transparent: bool) -> OpenSocket {
        OpenSocket {
            cookie: 0,
            protocol,
            raw: false,
            local: local.parse().expect("an address"),
            peer: None,
            device: 0,
            state: STATE_LISTEN,
            only_ipv6: false,
            transparent,
            uid: 0,
            inode: 1,
        }
    }

    #[test]
    fn what_a_proxy_lacks() {
        let both = "meta l4proto { tcp, udp } tproxy to :3129";
        let web = "tcp dport 80 tproxy to :3129";
        let old = "tcp dport 80 tproxy ip to 127.0.0.1:3129";
        let six = "udp dport 53 tproxy ip6 to [2001:db8::1]:53";
        for (rule, sockets, said) in [
            (web, vec![], Some("port 3129 for TCP over IPv4, TCP over IPv6")),
            (web, vec![socket(6, "[::]:3129", true)], None),
            (web, vec![socket(6, "0.0.0.0:3129", true)], Some("for TCP over IPv6")),
            (web, vec![socket(6, "[::]:3129", false)], Some("TCP [::]:3129 has no IP_TRANSPARENT")),
            (web, vec![socket(6, "[::]:3129", false), socket(6, "[::]:3129", true)], None),
            (web, vec![socket(6, "[::]:3128", true), socket(17, "[::]:3129", true)], Some("no socket")),
            (both, vec![socket(6, "[::]:3129", true)], Some("for UDP over IPv4, UDP over IPv6")),
            (old, vec![socket(6, "0.0.0.0:3129", true)], None),
            (old, vec![socket(6, "[::ffff:127.0.0.1]:3129", true)], None),
            (old, vec![socket(6, "192.0.2.1:3129", true)], Some("no socket")),
            (six, vec![socket(17, "[2001:db8::1]:53", true)], None),
            (six, vec![socket(17, "0.0.0.0:53", true)], Some("no socket")),
        ] {
            let wanted = Wanted::of(&parse(rule).expect("a rule")).expect("a proxy");
            let fault = wanted.fault(&sockets, true);
            assert_eq!(fault.is_some(), said.is_some(), "{rule}: {sockets:?}: {fault:?}");
            assert!(fault.unwrap_or_default().contains(said.unwrap_or_default()), "{rule}: {sockets:?}: {said:?}");
        }
        let web = Wanted::of(&parse(web).expect("a rule")).expect("a proxy");
        assert_eq!(web.fault(&[socket(6, "0.0.0.0:3129", true)], false), None, "no IPv6 here");
        for rule in ["tcp dport 80 accept", "tcp dport 80 tproxy ip to 127.0.0.1"] {
            assert_eq!(Wanted::of(&parse(rule).expect("a rule")), None, "{rule}");
        }
    }
}
