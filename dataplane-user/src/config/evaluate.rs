//! What the rules would do to a packet of which not everything is known, judged as they are written.

use std::net::IpAddr;

use super::session::WayIn;
use super::{Config, Elements};
use crate::rule::{
    Action, ChainName, Concatenation, Connection, ConnectionBits, Element, Family, Field, Fragment, FragmentWord, Item,
    LinkField, LinkPattern, Match, PacketType, Policy, Port, Protocol, Range, Rule, SetName, Side, Statement, TcpFlags,
    Test, Transport, Value, Values,
};

/// Protocols with ports.
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;
/// What `ip frag-off` is for a packet that is no fragment: with and without "don't fragment" (RFC 791, section 3.1).
const WHOLE: [u16; 2] = [0x4000, 0];

/// What is known of a packet for this machine before it comes.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedPacket<'a> {
    /// Its family.
    pub family: Family,
    /// What it carries.
    pub protocol: u8,
    /// Source and destination address, where they are known.
    pub addresses: [Option<IpAddr>; 2],
    /// Source and destination port, where they are known.
    pub ports: [Option<u16>; 2],
    /// Flags of TCP.
    pub flags: u8,
    /// The bit of `ct state`.
    pub state: u32,
    /// The link that it comes in on, where that is known.
    pub iif: Option<&'a WayIn>,
}

/// What is known of a match or a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MatchedRule {
    Yes,
    No,
    /// It depends on what is not known beforehand: the sender, the length, the hop limit.
    Maybe,
}

impl MatchedRule {
    /// Of all together.
    fn all(each: impl Iterator<Item = Self>) -> Self {
        each.fold(Self::Yes, |all, one| match (all, one) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Maybe, _) | (_, Self::Maybe) => Self::Maybe,
            _ => Self::Yes,
        })
    }

    /// What compares with nothing known.
    fn unknown(matched: Option<bool>) -> Self {
        matched.map_or(Self::Maybe, Self::from)
    }
}

impl From<bool> for MatchedRule {
    fn from(matched: bool) -> Self {
        if matched { Self::Yes } else { Self::No }
    }
}

/// Whether the filter lets packets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// All of them.
    Yes,
    /// None.
    No,
    /// It depends on what is not known: who sends them, how many there are.
    Some,
}

impl Admission {
    /// Its name in text and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Some => "some",
        }
    }

    /// Of packets of which some are of one kind, some of another.
    #[must_use]
    pub fn either(self, other: Self) -> Self {
        if self == other { self } else { Self::Some }
    }

    /// Of packets that meet two chains.
    fn both(self, next: Self) -> Self {
        match (self, next) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Some,
        }
    }

    fn of(accepted: bool, dropped: bool) -> Self {
        match (accepted, dropped) {
            (true, true) => Self::Some,
            (_, dropped) => {
                if dropped {
                    Self::No
                } else {
                    Self::Yes
                }
            }
        }
    }
}

impl Config {
    /// Whether chains prerouting and input let such packets in.
    pub fn admits(&self, packet: &ExpectedPacket<'_>) -> Admission {
        let chains = [ChainName::Prerouting, ChainName::Input];
        chains.into_iter().fold(Admission::Yes, |so_far, chain| match so_far {
            Admission::No => so_far,
            _ => so_far.both(self.passes(chain, packet)),
        })
    }

    fn passes(&self, chain: ChainName, packet: &ExpectedPacket<'_>) -> Admission {
        let (mut accepted, mut dropped) = (false, false);
        for rule in &self.chain(chain).rules {
            let matched = self.meets(rule, packet);
            if matched == MatchedRule::No {
                continue;
            }
            match rule.action() {
                Action::Accept => accepted = true,
                Action::Drop | Action::Reject(_) => dropped = true,
                Action::Continue => continue,
                // It may be for another machine, or another socket, then.
                Action::Translate(_) => (accepted, dropped) = (true, true),
            }
            if matched == MatchedRule::Yes || (accepted && dropped) {
                return Admission::of(accepted, dropped);
            }
        }
        match self.chain(chain).policy {
            Policy::Accept => accepted = true,
            Policy::Drop => dropped = true,
        }
        Admission::of(accepted, dropped)
    }

    pub(super) fn meets(&self, rule: &Rule, packet: &ExpectedPacket<'_>) -> MatchedRule {
        // A limit lets some packets by.
        let limits = rule.statements().iter().any(|statement| matches!(statement, Statement::Limit(_)));
        let limited = if limits { MatchedRule::Maybe } else { MatchedRule::Yes };
        MatchedRule::all(rule.matches().iter().map(|asked| self.holds(asked, packet)).chain([limited]))
    }

    fn holds(&self, asked: &Match, packet: &ExpectedPacket<'_>) -> MatchedRule {
        if asked.family().is_some_and(|other| other != packet.family) {
            return MatchedRule::No;
        }
        match asked {
            Match::Ipv4(side, test) => self.ranges(test, packet.v4(*side), |item, address| match item {
                Item::Ipv4(range) => Some(range.contains(address)),
                _ => None,
            }),
            Match::Ipv6(side, test) => self.ranges(test, packet.v6(*side), |item, address| match item {
                Item::Ipv6(range) => Some(range.contains(address)),
                _ => None,
            }),
            Match::Port(transport, side, test) if packet.is_of(*transport) => {
                self.ranges(test, packet.port(*side), |item, port| match item {
                    Item::Service(range) => Some(range.contains(port)),
                    _ => None,
                })
            }
            Match::Port(..) => MatchedRule::No,
            Match::IcmpType(_) | Match::Icmpv6Type(_) | Match::IcmpCode(_) | Match::Icmpv6Code(_) => {
                // Not a matter of TCP and UDP.
                if matches!(packet.protocol, 1 | 58) { MatchedRule::Maybe } else { MatchedRule::No }
            }
            // It is for this machine alone.
            Match::PacketType(test) => self.ranges(test, Some(PacketType(0)), |_, _| None),
            Match::Protocol(_, test) => {
                self.ranges(test, Some(Protocol(packet.protocol)), |item, protocol| match item {
                    Item::Protocol(range) => Some(range.contains(protocol)),
                    _ => None,
                })
            }
            Match::TcpFlags(flags) => (packet.protocol == TCP && flagged(flags, packet.flags)).into(),
            Match::Fragment(fragment) => whole(fragment),
            Match::Link(field, test) => self.link(*field, test, packet.iif),
            Match::Family(_) => MatchedRule::Yes,
            Match::Connection(Connection::Bits(ConnectionBits::State, negated, bits)) => {
                (*negated != (bits & packet.state != 0)).into()
            }
            Match::Connection(_) => MatchedRule::Maybe,
            Match::Concatenation(asked) => self.together(asked, packet),
            Match::Dscp(..) | Match::HopLimit(..) | Match::Length(_) | Match::Vlan(_) | Match::Ether(..) => {
                MatchedRule::Maybe
            }
        }
    }

    fn together(&self, asked: &Concatenation, packet: &ExpectedPacket<'_>) -> MatchedRule {
        let elements = match asked.test().values() {
            Values::Listed(elements) => elements.as_slice(),
            Values::Set(name) => match self.elements(name) {
                Some(elements) => elements,
                None => return MatchedRule::Maybe,
            },
        };
        let fits = |element: &Element| {
            let fields = asked.fields().iter().zip(&element.0);
            MatchedRule::all(fields.map(|(field, item)| packet.part(*field, item)))
        };
        let (mut matched, mut possible) = (false, false);
        for element in elements {
            match fits(element) {
                MatchedRule::Yes => matched = true,
                MatchedRule::Maybe => possible = true,
                MatchedRule::No => {}
            }
            if matched {
                break;
            }
        }
        match (asked.protocols().is_some_and(|protocols| !protocols.contains(&packet.protocol)), asked.test().negated())
        {
            (true, _) => MatchedRule::No,
            (false, _) if !matched && possible => MatchedRule::Maybe,
            (false, negated) => (matched != negated).into(),
        }
    }

    fn ranges<T: Value>(
        &self,
        test: &Test<Range<T>>,
        value: Option<T>,
        inside: impl Fn(&Item, T) -> Option<bool>,
    ) -> MatchedRule {
        let held = match (test.values(), value) {
            (Values::Listed(ranges), Some(value)) => Some(ranges.iter().any(|range| range.contains(value))),
            (Values::Listed(_), None) => None,
            (Values::Set(name), Some(value)) => self.set(name, |item| inside(item, value)),
            // Nothing is in an empty set.
            (Values::Set(name), None) => self.elements(name).filter(|elements| elements.is_empty()).map(|_| false),
        };
        MatchedRule::unknown(held.map(|held| held != test.negated()))
    }

    /// Whether a set holds the value that `inside` knows; none when that cannot be said.
    fn set(&self, name: &SetName, inside: impl Fn(&Item) -> Option<bool>) -> Option<bool> {
        let Elements::Listed(elements) = &self.sets.get(name)?.elements else { return None };
        elements.iter().try_fold(false, |held, element| match element.0.as_slice() {
            [item] => inside(item).map(|here| held || here),
            _ => None,
        })
    }

    fn link(&self, field: LinkField, test: &Test<LinkPattern>, iif: Option<&WayIn>) -> MatchedRule {
        let way = match field {
            LinkField::Iif | LinkField::Iifname => iif,
            // What is delivered has no way out.
            LinkField::Oif | LinkField::Oifname => return test.negated().into(),
        };
        let Some(way) = way else { return MatchedRule::Maybe };
        let held = match test.values() {
            Values::Listed(patterns) => Some(patterns.iter().any(|pattern| way.is(pattern, field))),
            Values::Set(set) => self.set(set, |item| match item {
                Item::Link(pattern) => Some(way.is(pattern, field)),
                _ => None,
            }),
        };
        MatchedRule::unknown(held.map(|held| held != test.negated()))
    }
}

impl ExpectedPacket<'_> {
    fn address(&self, side: Side) -> Option<IpAddr> {
        self.addresses[usize::from(side != Side::Source)]
    }

    fn v4(&self, side: Side) -> Option<std::net::Ipv4Addr> {
        self.address(side).and_then(|address| if let IpAddr::V4(address) = address { Some(address) } else { None })
    }

    fn v6(&self, side: Side) -> Option<std::net::Ipv6Addr> {
        self.address(side).and_then(|address| if let IpAddr::V6(address) = address { Some(address) } else { None })
    }

    fn port(&self, side: Side) -> Option<Port> {
        self.ports[usize::from(side != Side::Source)].map(Port)
    }

    /// Whether it is of a protocol whose ports a rule matches.
    fn is_of(&self, transport: Transport) -> bool {
        let number = match transport {
            Transport::Tcp => TCP,
            Transport::Udp => UDP,
            Transport::Sctp => SCTP,
            Transport::UdpLite => UDP_LITE,
            Transport::Dccp => DCCP,
            Transport::Any => return [TCP, UDP, SCTP, UDP_LITE, DCCP].contains(&self.protocol),
        };
        self.protocol == number
    }

    /// Whether one part of an element holds it.
    fn part(&self, field: Field, item: &Item) -> MatchedRule {
        let held = match (field, item) {
            (Field::Ipv4(side), Item::Ipv4(range)) if self.family == Family::V4 => {
                self.v4(side).map(|address| range.contains(address))
            }
            (Field::Ipv6(side), Item::Ipv6(range)) if self.family == Family::V6 => {
                self.v6(side).map(|address| range.contains(address))
            }
            (Field::Port(_, side), Item::Service(range)) => self.port(side).map(|port| range.contains(port)),
            (Field::Protocol(_), Item::Protocol(range)) => Some(range.contains(Protocol(self.protocol))),
            (Field::Link(field @ (LinkField::Iif | LinkField::Iifname)), Item::Link(pattern)) => {
                self.iif.map(|way| way.is(pattern, field))
            }
            // Of the other family, or a way out, which a delivered packet has not.
            (Field::Ipv4(_), Item::Ipv4(_)) | (Field::Ipv6(_), Item::Ipv6(_)) | (Field::Link(_), _) => Some(false),
            _ => None,
        };
        MatchedRule::unknown(held)
    }
}

fn flagged(flags: &TcpFlags, set: u8) -> bool {
    flags.values().contains(&(set & flags.mask())) != flags.negated()
}

fn whole(fragment: &Fragment) -> MatchedRule {
    let Values::Listed(ranges) = fragment.test().values() else { return MatchedRule::Maybe };
    let holds = |word: u16| {
        let word = FragmentWord(word & fragment.mask());
        ranges.iter().any(|range| range.contains(word)) != fragment.test().negated()
    };
    match WHOLE.map(holds) {
        [true, true] => MatchedRule::Yes,
        [false, false] => MatchedRule::No,
        _ => MatchedRule::Maybe,
    }
}

#[cfg(test)]
mod tests;
