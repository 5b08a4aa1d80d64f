//! Which connections an operator means: pairs of a word and a value, all of which must hold.

use std::net::{IpAddr, SocketAddr};

use super::{Ends, View};

/// Words, and what their values are.
pub const WORDS: &str = "proto tcp|udp, saddr ADDR[/LEN], daddr ADDR[/LEN], addr ADDR[/LEN], sport PORT, dport PORT, port PORT, \
                         zone NUMBER, mark NUMBER, state fast|listed|closing|asked|young|kernel|REASON";

/// One pair.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Protocol(String),
    /// Of the source, the destination or either one of the first tuple or the answers.
    Address(Side, IpAddr, u8),
    Port(Side, u16),
    Zone(u16),
    Mark(u32),
    State(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
    Any,
}

/// A filter; an empty one takes all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<Term>);

impl Filter {
    /// From words as on a command line. `ip`, `ip6`, `tcp` and `udp` may stand before a word, as in rules.
    ///
    /// # Errors
    /// What was wrong, and what could be there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace().peekable();
        let mut terms = Vec::new();
        while let Some(word) = words.next() {
            let protocol = match word {
                "ip" | "ip6" => continue,
                "tcp" | "udp" => Some(word),
                _ => None,
            };
            if let Some(protocol) = protocol {
                terms.push(Term::Protocol(protocol.to_owned()));
                continue;
            }
            let value = words.next().ok_or_else(|| format!("`{word}` has no value; there are: {WORDS}"))?;
            terms.push(term(word, value)?);
        }
        Ok(Self(terms))
    }

    /// Whether it takes all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it takes a connection.
    pub fn takes(&self, view: &View) -> bool {
        self.0.iter().all(|term| match term {
            Term::Protocol(protocol) => protocol == view.protocol,
            Term::Address(side, address, length) => {
                ends(view, *side).iter().any(|end| is_within(end.ip(), *address, *length))
            }
            Term::Port(side, port) => ends(view, *side).iter().any(|end| end.port() == *port),
            Term::Zone(zone) => *zone == view.zone,
            Term::Mark(mark) => *mark == view.mark,
            Term::State(word) => word == view.state() || view.not_fast.is_some_and(|not_fast| not_fast.name() == word),
        })
    }
}

/// The ends of a connection that a word means: of the first tuple, as the side that began wrote it; of either one for `addr` and
/// `port`, before translation and behind it.
fn ends(view: &View, side: Side) -> Vec<SocketAddr> {
    let Ends { source, destination } = view.original;
    match side {
        Side::Source => vec![source],
        Side::Destination => vec![destination],
        Side::Any => vec![source, destination, view.reply.source, view.reply.destination],
    }
}

fn is_within(address: IpAddr, prefix: IpAddr, length: u8) -> bool {
    let same = |a: u128, b: u128, bits: u8| {
        let shift = u32::from(bits).saturating_sub(length.into());
        a.checked_shr(shift) == b.checked_shr(shift)
    };
    match (address, prefix) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

fn term(word: &str, value: &str) -> Result<Term, String> {
    let wrong = |what: &str| format!("`{value}` behind `{word}` is not {what}");
    let side = match word {
        "saddr" | "sport" => Side::Source,
        "daddr" | "dport" => Side::Destination,
        _ => Side::Any,
    };
    Ok(match word {
        "proto" if ["tcp", "udp"].contains(&value) => Term::Protocol(value.to_owned()),
        "proto" => return Err(wrong("tcp or udp: others have no rows")),
        "saddr" | "daddr" | "addr" => {
            let (address, length) =
                value.split_once('/').map_or((value, None), |(address, length)| (address, Some(length)));
            let address: IpAddr = address.parse().map_err(|_| wrong("an address, or one with /LENGTH"))?;
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let length = length.map_or(Some(bits), |length| length.parse().ok().filter(|length| *length <= bits));
            Term::Address(side, address, length.ok_or_else(|| wrong("an address with a length that it can have"))?)
        }
        "sport" | "dport" | "port" => Term::Port(side, value.parse().map_err(|_| wrong("a port from 0 to 65535"))?),
        "zone" => Term::Zone(value.parse().map_err(|_| wrong("a number from 0 to 65535"))?),
        "mark" => {
            let number = value.strip_prefix("0x").map_or_else(|| value.parse(), |hex| u32::from_str_radix(hex, 16));
            Term::Mark(number.map_err(|_| wrong("a number of 32 bits, decimal or with 0x"))?)
        }
        "state" => Term::State(value.to_owned()),
        _ => return Err(format!("`{word}` is no word of this filter; there are: {WORDS}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Named, NotFast, Protocol, Status, Tuple};

    #[test]
    fn all_terms_must_hold() {
        let original = Tuple {
            source: 0xc612_0002_u32,
            destination: 0xc612_0102,
            source_port: 40000,
            destination_port: 443,
            protocol: Protocol::Tcp,
        };
        let reply = Tuple { destination: 0xc612_0101, ..original.reversed() };
        let view = View {
            named: Named::V4(0, original),
            id: 1,
            protocol: "tcp",
            original: original.into(),
            reply: reply.into(),
            zone: 0,
            mark: 0x10,
            status: Status::empty(),
            age: None,
            not_fast: Some(NotFast::Helper),
            ways: [None; 2],
        };
        for (text, expected) in [
            ("", true),
            ("saddr 198.18.0.2 dport 443 proto tcp", true),
            ("ip saddr 198.18.0.0/24 tcp dport 443", true),
            ("saddr 198.18.1.2", false),
            ("addr 198.18.1.1", true),
            ("port 40000 mark 0x10 zone 0", true),
            ("sport 443", false),
            ("state helper", true),
            ("state kernel", true),
            ("state fast", false),
            ("proto udp", false),
            ("saddr 2001:db8::/32", false),
            ("saddr 0.0.0.0/0", true),
        ] {
            let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(filter.takes(&view), expected, "{text}");
        }
        for text in ["saddr", "saddr 198.18.0.2/33", "dport 65536", "proto icmp", "colour red", "mark 0xg"] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
