//! What a rule says, without how it was spelled.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane_common::wire::is_extension;

use super::change::Change;
use super::concatenation::Concatenation;
use super::connection::Connection;
use super::consistency::{self, Contradiction};
use super::name::{LinkPattern, SetName};
use super::statement::{Action, Statement};
use super::text::Text;
use super::update::SetUpdate;
use super::value::{
    Dscp, FragmentWord, HopLimit, IcmpCode, IcmpType, Icmpv6Code, Icmpv6Type, Length, MacAddress, PacketType, Port,
    Protocol, Range, VlanId,
};

/// One rule: what it asks, what it does besides, what it says.
///
/// Two rules are the same rule when they are equal; `counter` and the spelling of values make no difference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    matches: Vec<Match>,
    statements: Vec<Statement>,
    action: Action,
    comment: Option<Text>,
}

impl Rule {
    /// A rule that some packet can meet.
    ///
    /// # Errors
    /// Two matches that exclude each other by address family or protocol.
    pub fn new(
        matches: Vec<Match>,
        statements: Vec<Statement>,
        action: Action,
        comment: Option<Text>,
    ) -> Result<Self, Contradiction> {
        consistency::check(&matches, &statements, action)?;
        Ok(Self { matches, statements, action, comment })
    }

    /// What it asks of a packet; all of it must hold.
    pub fn matches(&self) -> &[Match] {
        &self.matches
    }

    /// What it does besides its verdict.
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// What it changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        self.statements.iter().filter_map(|statement| match statement {
            Statement::Change(change) => Some(*change),
            _ => None,
        })
    }

    /// What it writes into sets, in order.
    pub fn updates(&self) -> impl Iterator<Item = &SetUpdate> {
        self.statements.iter().filter_map(Statement::update)
    }

    /// What it says.
    pub const fn action(&self) -> Action {
        self.action
    }

    /// The operator's words.
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_ref().map(Text::as_str)
    }

    /// Names of the sets that it asks, or writes into.
    pub fn sets(&self) -> impl Iterator<Item = &SetName> {
        self.matches.iter().filter_map(Match::set).chain(self.updates().map(|update| &update.set))
    }

    /// Whether links that come and go change what it matches.
    pub fn names_links(&self) -> bool {
        self.matches.iter().any(|one| match one {
            Match::Link(..) => true,
            Match::Concatenation(asked) => asked.names_links(),
            _ => false,
        })
    }
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which end of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Whose ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// `tcp`.
    Tcp,
    /// `udp`.
    Udp,
    /// `sctp`.
    Sctp,
    /// `udplite`.
    UdpLite,
    /// `dccp`.
    Dccp,
    /// `th`: any protocol with ports.
    Any,
}

/// Where the protocol is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtocolField {
    /// `ip protocol`.
    Ip,
    /// `ip6 nexthdr`.
    Ip6,
    /// `meta l4proto`: either family.
    Meta,
}

/// Which link, and whether by its index or its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkField {
    /// `iif`: the way in.
    Iif,
    /// `oif`: the way out.
    Oif,
    /// `iifname`: the way in, patterns allowed.
    Iifname,
    /// `oifname`: the way out, patterns allowed.
    Oifname,
}

/// A list to compare with, or all but that list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Test<I> {
    negated: bool,
    values: Values<I>,
}

/// What to compare with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Values<I> {
    /// Any of these: in order, without repetition; at least one, unless they are the elements of a set.
    Listed(Vec<I>),
    /// A named set.
    Set(SetName),
}

impl<I: Ord> Test<I> {
    /// Any of the items, or none of them when negated. None without items.
    pub fn listed(negated: bool, mut items: Vec<I>) -> Option<Self> {
        items.sort();
        items.dedup();
        (!items.is_empty()).then_some(Self { negated, values: Values::Listed(items) })
    }

    /// In the named set, or not in it when negated.
    pub const fn set(negated: bool, name: SetName) -> Self {
        Self { negated, values: Values::Set(name) }
    }

    /// Whether it holds for all but the values.
    pub const fn negated(&self) -> bool {
        self.negated
    }

    /// What it compares with.
    pub const fn values(&self) -> &Values<I> {
        &self.values
    }

    /// The set, if it asks one.
    pub const fn set_name(&self) -> Option<&SetName> {
        match &self.values {
            Values::Listed(_) => None,
            Values::Set(name) => Some(name),
        }
    }
}

/// One question to a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    /// `ip saddr`, `ip daddr`.
    Ipv4(Side, Test<Range<Ipv4Addr>>),
    /// `ip6 saddr`, `ip6 daddr`.
    Ipv6(Side, Test<Range<Ipv6Addr>>),
    /// `tcp dport` and the like.
    Port(Transport, Side, Test<Range<Port>>),
    /// `ip protocol`, `ip6 nexthdr`, `meta l4proto`.
    Protocol(ProtocolField, Test<Range<Protocol>>),
    /// `tcp flags`.
    TcpFlags(TcpFlags),
    /// `icmp type`.
    IcmpType(Test<Range<IcmpType>>),
    /// `icmpv6 type`.
    Icmpv6Type(Test<Range<Icmpv6Type>>),
    /// `icmp code`.
    IcmpCode(Test<Range<IcmpCode>>),
    /// `icmpv6 code`.
    Icmpv6Code(Test<Range<Icmpv6Code>>),
    /// `ip dscp`, `ip6 dscp`.
    Dscp(Family, Test<Range<Dscp>>),
    /// `ip ttl`, `ip6 hoplimit`.
    HopLimit(Family, Test<Range<HopLimit>>),
    /// `ip frag-off`.
    Fragment(Fragment),
    /// `meta length`.
    Length(Test<Range<Length>>),
    /// `iif`, `oif`, `iifname`, `oifname`.
    Link(LinkField, Test<LinkPattern>),
    /// `vlan id`: holds for tagged frames only, negated or not.
    Vlan(Test<Range<VlanId>>),
    /// `ether saddr`, `ether daddr`: holds on links with Ethernet addresses only, negated or not.
    Ether(Side, Test<Range<MacAddress>>),
    /// `meta pkttype`.
    PacketType(Test<Range<PacketType>>),
    /// `meta nfproto`.
    Family(Family),
    /// Several fields together.
    Concatenation(Concatenation),
    /// `ct ...`.
    Connection(Connection),
}

impl Match {
    /// The set, if it asks one.
    pub const fn set(&self) -> Option<&SetName> {
        match self {
            Self::Ipv4(_, test) => test.set_name(),
            Self::Ipv6(_, test) => test.set_name(),
            Self::Port(_, _, test) => test.set_name(),
            Self::Protocol(_, test) => test.set_name(),
            Self::IcmpType(test) => test.set_name(),
            Self::Icmpv6Type(test) => test.set_name(),
            Self::IcmpCode(test) => test.set_name(),
            Self::Icmpv6Code(test) => test.set_name(),
            Self::PacketType(test) => test.set_name(),
            Self::Dscp(_, test) => test.set_name(),
            Self::HopLimit(_, test) => test.set_name(),
            Self::Fragment(fragment) => fragment.test.set_name(),
            Self::Length(test) => test.set_name(),
            Self::Link(_, test) => test.set_name(),
            Self::Vlan(test) => test.set_name(),
            Self::Ether(_, test) => test.set_name(),
            Self::Concatenation(asked) => asked.test().set_name(),
            Self::TcpFlags(_) | Self::Family(_) | Self::Connection(_) => None,
        }
    }

    /// Whether it asks for the first header of IPv6 where only what is behind extension headers is known.
    pub fn asks_extension(&self) -> bool {
        let Self::Protocol(ProtocolField::Ip6, test) = self else { return false };
        let extends = |range: &Range<Protocol>| {
            (0..=u8::MAX).any(|one| is_extension(one.into()) && range.contains(Protocol(one)))
        };
        test.negated() || matches!(test.values(), Values::Listed(ranges) if ranges.iter().any(extends))
    }
}

impl<I> Test<I> {
    /// The same, asked of the set `name`.
    pub(super) fn asking(&self, name: &SetName) -> Self {
        Self { negated: self.negated, values: Values::Set(name.clone()) }
    }
}

impl Match {
    /// The same, asked of the set `name`, if it asks one.
    pub(crate) fn asking(&self, name: &SetName) -> Self {
        if self.set().is_none() {
            return self.clone();
        }
        match self {
            Self::Ipv4(side, test) => Self::Ipv4(*side, test.asking(name)),
            Self::Ipv6(side, test) => Self::Ipv6(*side, test.asking(name)),
            Self::Port(transport, side, test) => Self::Port(*transport, *side, test.asking(name)),
            Self::Protocol(field, test) => Self::Protocol(*field, test.asking(name)),
            Self::IcmpType(test) => Self::IcmpType(test.asking(name)),
            Self::Icmpv6Type(test) => Self::Icmpv6Type(test.asking(name)),
            Self::IcmpCode(test) => Self::IcmpCode(test.asking(name)),
            Self::Icmpv6Code(test) => Self::Icmpv6Code(test.asking(name)),
            Self::PacketType(test) => Self::PacketType(test.asking(name)),
            Self::Dscp(family, test) => Self::Dscp(*family, test.asking(name)),
            Self::HopLimit(family, test) => Self::HopLimit(*family, test.asking(name)),
            Self::Fragment(fragment) => {
                Self::Fragment(Fragment { mask: fragment.mask, test: fragment.test.asking(name) })
            }
            Self::Length(test) => Self::Length(test.asking(name)),
            Self::Link(field, test) => Self::Link(*field, test.asking(name)),
            Self::Vlan(test) => Self::Vlan(test.asking(name)),
            Self::Ether(side, test) => Self::Ether(*side, test.asking(name)),
            Self::Concatenation(asked) => Self::Concatenation(asked.asking(name)),
            Self::TcpFlags(_) | Self::Family(_) | Self::Connection(_) => self.clone(),
        }
    }
}

/// `ip frag-off`: flags and offset of the IPv4 header, or some bits of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    mask: u16,
    test: Test<Range<FragmentWord>>,
}

impl Fragment {
    /// The bits of `mask` compared with `test`. None when a value has bits outside the mask, or when a range or a set meets a
    /// mask that leaves bits out.
    pub fn new(mask: u16, test: Test<Range<FragmentWord>>) -> Option<Self> {
        let whole = mask == u16::MAX;
        let fits = match test.values() {
            Values::Set(_) => whole,
            Values::Listed(ranges) => ranges.iter().all(|range| {
                let (low, high) = range.ends();
                whole || (low == high && low.0 & !mask == 0)
            }),
        };
        fits.then_some(Self { mask, test })
    }

    /// Which bits count.
    pub const fn mask(&self) -> u16 {
        self.mask
    }

    /// What they are compared with.
    pub const fn test(&self) -> &Test<Range<FragmentWord>> {
        &self.test
    }
}

/// `tcp flags`: the bits of `mask` are one of `values`, or none of them when negated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TcpFlags {
    mask: u8,
    negated: bool,
    values: Vec<u8>,
}

impl TcpFlags {
    /// None without flags or values, or when a value has bits outside the mask.
    pub fn new(mask: u8, negated: bool, mut values: Vec<u8>) -> Option<Self> {
        values.sort_unstable();
        values.dedup();
        let fits = mask != 0 && !values.is_empty() && values.iter().all(|value| value & !mask == 0);
        fits.then_some(Self { mask, negated, values })
    }

    /// Which flags count.
    pub const fn mask(&self) -> u8 {
        self.mask
    }

    /// Whether it holds for all but the values.
    pub const fn negated(&self) -> bool {
        self.negated
    }

    /// What the flags are compared with: in order, without repetition, at least one.
    pub fn values(&self) -> &[u8] {
        &self.values
    }
}
