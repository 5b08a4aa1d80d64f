//! Whether the matches of a rule hold for a packet of which not everything is known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::subject::{Egress, OuterTag, Subject};
use crate::config::{Config, Elements};
use crate::rule::{
    Concatenation, Connection, ConnectionBits, Dscp, Element, Family, Field, Fragment, FragmentWord, HopLimit,
    IcmpCode, IcmpType, Icmpv6Code, Icmpv6Type, Item, Length, LinkField, LinkPattern, Match, PacketType, Port,
    Protocol, Range, Rule, SetName, Statement, TcpFlags, Test, Value, Values, VlanId,
};

/// What `ip frag-off` is for a packet that is no fragment: with and without "don't fragment" (RFC 791, section 3.1).
const WHOLE: [u16; 2] = [0x4000, 0];
/// The numbers of both protocols of control messages.
const MESSAGES: [u8; 2] = [1, 58];

/// What is known of a match or a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Holds {
    Yes,
    No,
    /// It depends on what is not known of the packet.
    Maybe,
}

impl Holds {
    /// Of all together.
    fn all(each: impl Iterator<Item = Self>) -> Self {
        each.fold(Self::Yes, |all, one| match (all, one) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Maybe, _) | (_, Self::Maybe) => Self::Maybe,
            _ => Self::Yes,
        })
    }

    /// Of one among several.
    fn any(each: impl Iterator<Item = Self>) -> Self {
        each.fold(Self::No, |any, one| match (any, one) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::Maybe, _) | (_, Self::Maybe) => Self::Maybe,
            _ => Self::No,
        })
    }

    fn negated(self, negated: bool) -> Self {
        match self {
            Self::Yes if negated => Self::No,
            Self::No if negated => Self::Yes,
            other => other,
        }
    }
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

impl Config {
    /// Whether a packet meets a rule, its limit included.
    pub(in crate::config) fn meets(&self, rule: &Rule, subject: &Subject) -> Holds {
        let limits = rule.statements().iter().filter_map(|statement| match statement {
            // A bucket that is full lets the packet by.
            Statement::Limit(limit) if subject.buckets_full => Some(Holds::from(!limit.over)),
            Statement::Limit(_) | Statement::Connections(_) => Some(Holds::Maybe),
            Statement::Log(_) => None,
            // Only packets that have the key.
            Statement::Update(update) if update.family().is_some_and(|family| family != subject.family) => {
                Some(Holds::No)
            }
            Statement::Update(update) => {
                let others = update.protocols().zip(subject.protocol).is_some_and(|(all, one)| !all.contains(&one));
                let unknown = update.condition.is_some() || update.protocols().is_some() && subject.protocol.is_none();
                Some(if others {
                    Holds::No
                } else if unknown {
                    Holds::Maybe
                } else {
                    Holds::Yes
                })
            }
            // Only packets that have the field.
            Statement::Change(change) => {
                let other = change.family().is_some_and(|family| family != subject.family);
                let wanted = change.protocol().filter(|_| !other);
                match (wanted, subject.protocol) {
                    (Some(_), None) => Some(Holds::Maybe),
                    (Some(wanted), Some(protocol)) => Some((wanted == protocol).into()),
                    (None, _) => Some((!other).into()),
                }
            }
        });
        Holds::all(rule.matches().iter().map(|asked| self.holds(asked, subject)).chain(limits))
    }

    fn holds(&self, asked: &Match, subject: &Subject) -> Holds {
        if asked.family().is_some_and(|family| family != subject.family) {
            return Holds::No;
        }
        if let Some(protocols) = asked.protocols() {
            match subject.protocol {
                Some(protocol) if !protocols.contains(&protocol) => return Holds::No,
                Some(_) => {}
                None => return Holds::Maybe,
            }
        }
        let icmp = subject.icmp.filter(|_| subject.protocol.is_some_and(|protocol| MESSAGES.contains(&protocol)));
        match asked {
            Match::Ipv4(side, test) => self.compared(test, subject.address(*side).and_then(v4)),
            Match::Ipv6(side, test) => self.compared(test, subject.address(*side).and_then(v6)),
            Match::Port(_, side, test) => self.compared(test, subject.port(*side).map(Port)),
            Match::IcmpType(test) => self.compared(test, icmp.map(|(kind, _)| IcmpType(kind))),
            Match::Icmpv6Type(test) => self.compared(test, icmp.map(|(kind, _)| Icmpv6Type(kind))),
            Match::IcmpCode(test) => self.compared(test, icmp.map(|(_, code)| IcmpCode(code))),
            Match::Icmpv6Code(test) => self.compared(test, icmp.map(|(_, code)| Icmpv6Code(code))),
            Match::PacketType(test) => self.compared(test, Some(PacketType(subject.packet_type()))),
            Match::Protocol(_, test) => self.compared(test, subject.protocol.map(Protocol)),
            Match::TcpFlags(flags) => subject.flags.map_or(Holds::Maybe, |set| flagged(flags, set).into()),
            Match::Fragment(fragment) => fragmented(fragment, subject.fragment),
            Match::Link(field, test) => {
                let one = |pattern: &LinkPattern| link(subject, *field, pattern);
                match test.values() {
                    Values::Listed(patterns) => Holds::any(patterns.iter().map(one)).negated(test.negated()),
                    Values::Set(name) => self
                        .in_set(name, |item| match item {
                            Item::Link(pattern) => one(pattern),
                            _ => Holds::No,
                        })
                        .negated(test.negated()),
                }
            }
            Match::Family(_) => Holds::Yes,
            Match::Connection(Connection::Bits(ConnectionBits::State, negated, bits)) => {
                (*negated != (bits & subject.state != 0)).into()
            }
            Match::Connection(_) => Holds::Maybe,
            Match::Concatenation(asked) => self.together(asked, subject),
            Match::Dscp(_, test) => self.compared(test, subject.dscp.map(Dscp)),
            Match::HopLimit(_, test) => self.compared(test, subject.hop_limit.map(HopLimit)),
            Match::Length(test) => self.compared(test, subject.length.map(Length)),
            // Negated or not, it holds for tagged frames only.
            Match::Vlan(test) => match subject.vlan {
                OuterTag::Unknown => Holds::Maybe,
                OuterTag::Absent => Holds::No,
                OuterTag::Id(tag) => self.compared(test, Some(VlanId(tag))),
            },
            Match::Ether(side, test) => self.compared(test, subject.mac(*side)),
        }
    }

    fn together(&self, asked: &Concatenation, subject: &Subject) -> Holds {
        let elements = match asked.test().values() {
            Values::Listed(elements) => elements.as_slice(),
            Values::Set(name) => match self.elements(name) {
                Some(elements) => elements,
                None => return Holds::Maybe,
            },
        };
        let fits = |element: &Element| {
            let fields = asked.fields().iter().zip(&element.0);
            Holds::all(fields.map(|(field, item)| part(*field, item, subject)))
        };
        Holds::any(elements.iter().map(fits)).negated(asked.test().negated())
    }

    fn compared<T: Value + Within>(&self, test: &Test<Range<T>>, value: Option<T>) -> Holds {
        let Some(value) = value else {
            // Nothing is in an empty set.
            let empty = test.set_name().and_then(|name| self.elements(name)).is_some_and(<[Element]>::is_empty);
            return if empty { Holds::No.negated(test.negated()) } else { Holds::Maybe };
        };
        let held = match test.values() {
            Values::Listed(ranges) => ranges.iter().any(|range| range.contains(value)).into(),
            Values::Set(name) => self.in_set(name, |item| value.within(item).into()),
        };
        held.negated(test.negated())
    }

    /// Whether a set holds what `inside` knows.
    fn in_set(&self, name: &SetName, inside: impl Fn(&Item) -> Holds) -> Holds {
        let Some(Elements::Listed(elements)) = self.sets.get(name).map(|set| &set.elements) else {
            return Holds::Maybe;
        };
        Holds::any(elements.iter().map(|element| match element.0.as_slice() {
            [item] => inside(item),
            _ => Holds::No,
        }))
    }
}

const fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(address) = address { Some(address) } else { None }
}

const fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(address) = address { Some(address) } else { None }
}

/// A value that sets may have.
trait Within: Sized {
    fn within(self, item: &Item) -> bool;
}

macro_rules! within {
    ($($value:ty => $item:ident)+) => { $(
        impl Within for $value {
            fn within(self, item: &Item) -> bool {
                matches!(item, Item::$item(range) if range.contains(self))
            }
        }
    )+ };
}

within! {
    Ipv4Addr => Ipv4
    Ipv6Addr => Ipv6
    crate::rule::MacAddress => Ether
    Protocol => Protocol
    Port => Service
}

macro_rules! in_no_set {
    ($($value:ty)+) => { $(
        impl Within for $value {
            fn within(self, _: &Item) -> bool {
                false
            }
        }
    )+ };
}

in_no_set! { Dscp HopLimit IcmpCode IcmpType Icmpv6Code Icmpv6Type Length PacketType VlanId }

/// Whether one part of an element holds a packet.
fn part(field: Field, item: &Item, subject: &Subject) -> Holds {
    let known = |value: Option<bool>| value.map_or(Holds::Maybe, Holds::from);
    match field {
        Field::Ipv4(_) if subject.family != Family::V4 => Holds::No,
        Field::Ipv6(_) if subject.family != Family::V6 => Holds::No,
        Field::Ipv4(side) => known(subject.address(side).and_then(v4).map(|address| address.within(item))),
        Field::Ipv6(side) => known(subject.address(side).and_then(v6).map(|address| address.within(item))),
        Field::Port(_, side) => known(subject.port(side).map(|port| Port(port).within(item))),
        Field::Protocol(_) => known(subject.protocol.map(|protocol| Protocol(protocol).within(item))),
        Field::Ether(side) => known(subject.mac(side).map(|mac| mac.within(item))),
        Field::Link(field) => match item {
            Item::Link(pattern) => link(subject, field, pattern),
            _ => Holds::No,
        },
    }
}

fn link(subject: &Subject, field: LinkField, pattern: &LinkPattern) -> Holds {
    match field {
        LinkField::Iif | LinkField::Iifname => {
            subject.iif.as_ref().map_or(Holds::Maybe, |way| way.is(pattern, field).into())
        }
        LinkField::Oif | LinkField::Oifname => match &subject.oif {
            Egress::Unknown => Holds::Maybe,
            Egress::Nowhere => Holds::No,
            Egress::Link(name) => pattern.fits(name).into(),
        },
    }
}

fn flagged(flags: &TcpFlags, set: u8) -> bool {
    flags.values().contains(&(set & flags.mask())) != flags.negated()
}

fn fragmented(fragment: &Fragment, word: Option<u16>) -> Holds {
    let Values::Listed(ranges) = fragment.test().values() else { return Holds::Maybe };
    let holds = |word: u16| {
        let word = FragmentWord(word & fragment.mask());
        ranges.iter().any(|range| range.contains(word)) != fragment.test().negated()
    };
    match word.map_or_else(|| WHOLE.map(holds), |word| [holds(word); 2]) {
        [true, true] => Holds::Yes,
        [false, false] => Holds::No,
        _ => Holds::Maybe,
    }
}
