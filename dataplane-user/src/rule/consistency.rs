//! Matches that exclude each other.

use dataplane_common::wire::protocol;
use thiserror::Error;

use super::ast::{Family, Match, ProtocolField, Test, Transport, Values};
use super::statement::{Action, Statement};
use super::value::{Protocol, Range};

/// A match that no packet can meet after those before it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("no packet meets this: {reason}; take one of them out, or make it two rules")]
pub struct Contradiction {
    /// The place of the match in its rule, from 0; behind the last one: the action.
    pub index: usize,
    reason: String,
}

/// Protocols with ports.
pub(crate) const WITH_PORTS: [u8; 5] =
    [protocol::TCP as u8, protocol::UDP as u8, protocol::DCCP as u8, protocol::SCTP as u8, protocol::UDP_LITE as u8];

/// Refuses a rule whose matches ask for different families or protocols.
pub(super) fn check(matches: &[Match], statements: &[Statement], action: Action) -> Result<(), Contradiction> {
    let mut family: Option<(Family, &Match)> = None;
    let mut protocols = [true; 256];
    for (index, asked) in matches.iter().enumerate() {
        let refuse = |reason: String| Err(Contradiction { index, reason });
        if let Some(wanted) = asked.family() {
            match family {
                Some((earlier, by)) if earlier != wanted => {
                    return refuse(format!("`{asked}` is {}, but `{by}` is {}", wanted.name(), earlier.name()));
                }
                _ => family = Some((wanted, asked)),
            }
        }
        if let Some(wanted) = asked.protocols() {
            let mut among = [false; 256];
            for number in &wanted {
                among[usize::from(*number)] = true;
            }
            protocols.iter_mut().zip(among).for_each(|(still, among)| *still &= among);
            if !protocols.contains(&true) {
                return refuse(format!("`{asked}` asks for another protocol than the matches before it"));
            }
        }
    }
    for statement in statements {
        let (wanted, among) = match statement {
            Statement::Change(change) => (change.family(), change.protocol().map(|one| vec![one])),
            Statement::Update(update) => (update.family(), update.protocols()),
            _ => continue,
        };
        let refuse = |reason: String| Err(Contradiction { index: matches.len(), reason });
        match (wanted, family) {
            (Some(wanted), Some((earlier, by))) if earlier != wanted => {
                return refuse(format!("`{statement}` is {}, but `{by}` is {}", wanted.name(), earlier.name()));
            }
            _ => {}
        }
        if let Some(among) = among
            && !among.iter().any(|wanted| protocols[usize::from(*wanted)])
        {
            let of = match among[..] {
                [one] if one == protocol::TCP as u8 => "of TCP",
                [_] => "of UDP",
                _ => "of a protocol with ports",
            };
            return refuse(format!("`{statement}` is {of}, and the matches before it ask for another protocol"));
        }
    }
    let translated = match action {
        Action::Translate(to) => to.contradicts(matches),
        Action::Proxy(to) => to.contradicts(matches, statements),
        _ => None,
    };
    translated.map_or(Ok(()), |reason| Err(Contradiction { index: matches.len(), reason }))
}

impl Family {
    /// As prose has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl Transport {
    /// The protocols that it stands for.
    pub(crate) fn numbers(self) -> Vec<u8> {
        match self {
            Self::Tcp => vec![protocol::TCP as u8],
            Self::Udp => vec![protocol::UDP as u8],
            Self::Sctp => vec![protocol::SCTP as u8],
            Self::UdpLite => vec![protocol::UDP_LITE as u8],
            Self::Dccp => vec![protocol::DCCP as u8],
            Self::Any => WITH_PORTS.to_vec(),
        }
    }
}

impl Match {
    /// The family that it holds for, when that is one.
    pub(crate) fn family(&self) -> Option<Family> {
        match self {
            Self::Ipv4(..)
            | Self::IcmpType(_)
            | Self::IcmpCode(_)
            | Self::Fragment(_)
            | Self::Protocol(ProtocolField::Ip, _) => Some(Family::V4),
            Self::Ipv6(..) | Self::Icmpv6Type(_) | Self::Icmpv6Code(_) | Self::Protocol(ProtocolField::Ip6, _) => {
                Some(Family::V6)
            }
            Self::Dscp(family, _) | Self::HopLimit(family, _) | Self::Family(family) => Some(*family),
            Self::Concatenation(asked) => asked.family(),
            Self::Connection(asked) => asked.family(),
            Self::Port(..)
            | Self::Protocol(ProtocolField::Meta, _)
            | Self::TcpFlags(_)
            | Self::Length(_)
            | Self::Link(..)
            | Self::Vlan(_)
            | Self::Ether(..)
            | Self::PacketType(_) => None,
        }
    }

    /// The protocols that it holds for, when those are not all.
    pub(crate) fn protocols(&self) -> Option<Vec<u8>> {
        match self {
            Self::Port(transport, ..) => Some(transport.numbers()),
            Self::TcpFlags(_) => Some(vec![protocol::TCP as u8]),
            Self::IcmpType(_) | Self::IcmpCode(_) => Some(vec![protocol::ICMP as u8]),
            Self::Icmpv6Type(_) | Self::Icmpv6Code(_) => Some(vec![protocol::ICMPV6 as u8]),
            Self::Protocol(_, test) => listed(test),
            Self::Concatenation(asked) => asked.protocols(),
            _ => None,
        }
    }
}

fn listed(test: &Test<Range<Protocol>>) -> Option<Vec<u8>> {
    let Values::Listed(ranges) = test.values() else { return None };
    let inside = |number: &u8| ranges.iter().any(|range| range.contains(Protocol(*number)));
    Some((0..=u8::MAX).filter(|number| inside(number) != test.negated()).collect())
}
