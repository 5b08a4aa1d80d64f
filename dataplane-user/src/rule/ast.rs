//! What a rule says, without how it was spelled.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::consistency::{self, Contradiction};
use super::name::{LinkPattern, SetName};
use super::text::Text;
use super::value::{
    Dscp, FragmentWord, HopLimit, IcmpType, Icmpv6Type, Length, MacAddress, Port, Protocol, Range, VlanId,
};

/// One rule: what it asks, what it does besides, what it says.
///
/// Two rules are the same rule when they are equal; `counter` and the spelling of values make no difference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    matches: Vec<Match>,
    statements: Vec<Statement>,
    verdict: Verdict,
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
        verdict: Verdict,
        comment: Option<Text>,
    ) -> Result<Self, Contradiction> {
        consistency::check(&matches)?;
        Ok(Self { matches, statements, verdict, comment })
    }

    /// What it asks of a packet; all of it must hold.
    pub fn matches(&self) -> &[Match] {
        &self.matches
    }

    /// What it does besides its verdict.
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// What it says.
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The operator's words.
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_ref().map(Text::as_str)
    }

    /// Names of the sets that it asks.
    pub fn sets(&self) -> impl Iterator<Item = &SetName> {
        self.matches.iter().filter_map(Match::set)
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
    /// Any of these: in order, without repetition, at least one.
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
    /// `meta nfproto`.
    Family(Family),
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
            Self::Dscp(_, test) => test.set_name(),
            Self::HopLimit(_, test) => test.set_name(),
            Self::Fragment(fragment) => fragment.test.set_name(),
            Self::Length(test) => test.set_name(),
            Self::Link(_, test) => test.set_name(),
            Self::Vlan(test) => test.set_name(),
            Self::Ether(_, test) => test.set_name(),
            Self::TcpFlags(_) | Self::Family(_) => None,
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

/// What a rule does besides its verdict, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// `limit rate ...`: the rest of the rule holds only within (or over) the rate.
    Limit(Limit),
    /// `log ...`.
    Log(Log),
}

/// A rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Holds for what exceeds the rate rather than for what keeps it.
    pub over: bool,
    /// What is counted.
    pub unit: LimitUnit,
    /// How many of them.
    pub amount: u64,
    /// In which time.
    pub per: LimitTime,
    /// How many more at once, in the same unit.
    pub burst: Option<u64>,
}

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitUnit {
    /// Packets.
    Packets,
    /// Bytes.
    Bytes,
}

/// The time of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitTime {
    /// One second.
    Second,
    /// One minute.
    Minute,
    /// One hour.
    Hour,
    /// One day.
    Day,
    /// One week.
    Week,
}

/// A line of log for each packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    /// What it begins with.
    pub prefix: Option<Text>,
    /// Where it goes: the kernel's log at a level, or a group of nfnetlink.
    pub target: Option<LogTarget>,
}

/// Where a log line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// The kernel's log, at this level.
    Level(LogLevel),
    /// A group of nfnetlink.
    Group(u16),
}

/// Severity (RFC 5424).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogLevel {
    /// 0.
    Emerg,
    /// 1.
    Alert,
    /// 2.
    Crit,
    /// 3.
    Err,
    /// 4.
    Warn,
    /// 5.
    Notice,
    /// 6.
    Info,
    /// 7.
    Debug,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Ends the chain; the packet goes on.
    Accept,
    /// Ends the packet.
    Drop,
    /// Ends the packet and tells the sender.
    Reject(RejectWith),
    /// The next rule is asked.
    Continue,
}

/// What a rejected sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectWith {
    /// `reject`: port unreachable, in either family.
    Default,
    /// `reject with tcp reset`.
    TcpReset,
    /// `reject with icmp ...`.
    Icmp(Unreachable4),
    /// `reject with icmpv6 ...`.
    Icmpv6(Unreachable6),
    /// `reject with icmpx ...`, other than the default.
    Icmpx(UnreachableAny),
}

/// Codes of ICMP's destination unreachable (RFC 1812, section 5.2.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreachable4 {
    /// Code 0.
    Net,
    /// Code 1.
    Host,
    /// Code 2.
    Protocol,
    /// Code 3.
    Port,
    /// Code 9.
    NetProhibited,
    /// Code 10.
    HostProhibited,
    /// Code 13.
    AdminProhibited,
}

/// Codes of `ICMPv6`'s destination unreachable (RFC 4443, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreachable6 {
    /// Code 0.
    NoRoute,
    /// Code 1.
    AdminProhibited,
    /// Code 3.
    Address,
    /// Code 4.
    Port,
}

/// Codes that both families have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnreachableAny {
    /// No route.
    NoRoute,
    /// Host unreachable.
    Host,
    /// Prohibited.
    AdminProhibited,
}
