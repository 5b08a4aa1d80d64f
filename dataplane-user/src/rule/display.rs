//! The canonical form of a rule: valid as input, the same for every spelling, and close to what nft prints.

use std::fmt::{Display, Formatter, Result};

use super::ast::{Family, Fragment, LinkField, Match, ProtocolField, Rule, Side, TcpFlags, Test, Transport, Values};
use super::change::Helper;
use super::connection::Direction;
use super::statement::{
    Action, Limit, LimitTime, LimitUnit, Log, LogLevel, LogTarget, RejectWith, Statement, Unreachable4, Unreachable6,
    UnreachableAny,
};

/// Things that are written as one of a few words.
pub(crate) trait Named: Copy + PartialEq + 'static {
    /// Each thing's words; the first for a thing is printed.
    const NAMES: &'static [(&'static str, Self)];

    /// Its word.
    fn word(self) -> &'static str {
        Self::NAMES.iter().find(|(_, thing)| *thing == self).map_or("", |(word, _)| word)
    }
}

macro_rules! named {
    ($($name:ident { $($word:literal => $variant:ident,)+ })+) => {
        $(impl Named for $name {
            const NAMES: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        })+
    };
}

named! {
    Side { "saddr" => Source, "daddr" => Destination, }
    Transport { "tcp" => Tcp, "udp" => Udp, "sctp" => Sctp, "udplite" => UdpLite, "dccp" => Dccp, "th" => Any, }
    LinkField { "iif" => Iif, "oif" => Oif, "iifname" => Iifname, "oifname" => Oifname, }
    LimitTime { "second" => Second, "minute" => Minute, "hour" => Hour, "day" => Day, "week" => Week, }
    LogLevel {
        "emerg" => Emerg, "alert" => Alert, "crit" => Crit, "err" => Err, "warn" => Warn, "notice" => Notice,
        "info" => Info, "debug" => Debug,
    }
    Unreachable4 {
        "net-unreachable" => Net, "host-unreachable" => Host, "prot-unreachable" => Protocol, "port-unreachable" => Port,
        "net-prohibited" => NetProhibited, "host-prohibited" => HostProhibited, "admin-prohibited" => AdminProhibited,
    }
    Unreachable6 {
        "no-route" => NoRoute, "admin-prohibited" => AdminProhibited, "addr-unreachable" => Address,
        "port-unreachable" => Port,
    }
    Helper {
        "ftp" => Ftp, "tftp" => Tftp, "sip" => Sip, "irc" => Irc, "pptp" => Pptp, "Q.931" => Q931, "RAS" => Ras,
        "amanda" => Amanda, "sane" => Sane, "snmp" => Snmp, "netbios-ns" => NetbiosNs,
    }
    Direction { "original" => Original, "reply" => Reply, }
    UnreachableAny { "no-route" => NoRoute, "host-unreachable" => Host, "admin-prohibited" => AdminProhibited, }
}

/// TCP's flags in the order of their bits (RFC 9293, section 3.1).
pub(super) const TCP_FLAGS: [(&str, u8); 8] =
    [("fin", 1), ("syn", 2), ("rst", 4), ("psh", 8), ("ack", 16), ("urg", 32), ("ecn", 64), ("cwr", 128)];

/// Sizes of a rate in bytes, largest first.
pub(super) const BYTE_UNITS: [(&str, u64); 3] = [("mbytes", 1 << 20), ("kbytes", 1 << 10), ("bytes", 1)];

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for asked in self.matches() {
            write!(f, "{asked} ")?;
        }
        for statement in self.statements() {
            write!(f, "{statement} ")?;
        }
        write!(f, "{}", self.action())?;
        self.comment().map_or(Ok(()), |comment| write!(f, " comment \"{comment}\""))
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Ipv4(side, test) => write!(f, "ip {} {test}", side.word()),
            Self::Ipv6(side, test) => write!(f, "ip6 {} {test}", side.word()),
            Self::Port(transport, side, test) => {
                let port = if *side == Side::Source { "sport" } else { "dport" };
                write!(f, "{} {port} {test}", transport.word())
            }
            Self::Protocol(ProtocolField::Ip, test) => write!(f, "ip protocol {test}"),
            Self::Protocol(ProtocolField::Ip6, test) => write!(f, "ip6 nexthdr {test}"),
            Self::Protocol(ProtocolField::Meta, test) => write!(f, "meta l4proto {test}"),
            Self::TcpFlags(flags) => write!(f, "tcp flags {flags}"),
            Self::IcmpType(test) => write!(f, "icmp type {test}"),
            Self::Icmpv6Type(test) => write!(f, "icmpv6 type {test}"),
            Self::IcmpCode(test) => write!(f, "icmp code {test}"),
            Self::Icmpv6Code(test) => write!(f, "icmpv6 code {test}"),
            Self::PacketType(test) => write!(f, "meta pkttype {test}"),
            Self::Dscp(Family::V4, test) => write!(f, "ip dscp {test}"),
            Self::Dscp(Family::V6, test) => write!(f, "ip6 dscp {test}"),
            Self::HopLimit(Family::V4, test) => write!(f, "ip ttl {test}"),
            Self::HopLimit(Family::V6, test) => write!(f, "ip6 hoplimit {test}"),
            Self::Fragment(fragment) => write!(f, "ip frag-off {fragment}"),
            Self::Length(test) => write!(f, "meta length {test}"),
            Self::Link(field, test) => write!(f, "{} {test}", field.word()),
            Self::Vlan(test) => write!(f, "vlan id {test}"),
            Self::Ether(side, test) => write!(f, "ether {} {test}", side.word()),
            Self::Concatenation(asked) => asked.fmt(f),
            Self::Connection(asked) => asked.fmt(f),
            Self::Family(Family::V4) => f.write_str("meta nfproto ipv4"),
            Self::Family(Family::V6) => f.write_str("meta nfproto ipv6"),
        }
    }
}

impl<I: Display + Ord> Display for Test<I> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.negated() {
            f.write_str("!= ")?;
        }
        match self.values() {
            Values::Set(name) => name.fmt(f),
            Values::Listed(items) => listed(items, f),
        }
    }
}

/// One item alone, several in braces.
fn listed<I: Display>(items: &[I], f: &mut Formatter<'_>) -> Result {
    match items {
        [item] => item.fmt(f),
        _ => write!(f, "{{ {} }}", joined(items, ", ")),
    }
}

fn joined<I: Display>(items: &[I], between: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

impl Display for Fragment {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.mask() == u16::MAX {
            return self.test().fmt(f);
        }
        write!(f, "& {} {}{}", self.mask(), if self.test().negated() { "" } else { "== " }, self.test())
    }
}

impl Display for TcpFlags {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let relation = if self.negated() { "!=" } else { "==" };
        let values: Vec<_> = self.values().iter().map(|value| flags(*value, " | ")).collect();
        match (self.mask(), self.negated(), self.values()) {
            (mask, true, [0]) if mask != 0 => f.write_str(&flags(mask, ",")),
            (mask, false, [0]) if mask != 0 && mask != u8::MAX => write!(f, "! {}", flags(mask, ",")),
            (u8::MAX, _, _) => write!(f, "{relation} ").and_then(|()| listed(&values, f)),
            (mask, _, _) => {
                write!(f, "& ({}) {relation} ", flags(mask, " | "))?;
                listed(&values, f)
            }
        }
    }
}

fn flags(bits: u8, between: &str) -> String {
    let names: Vec<_> = TCP_FLAGS.iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| *name).collect();
    if names.is_empty() { "0x0".to_owned() } else { names.join(between) }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Limit(limit) => limit.fmt(f),
            Self::Log(log) => log.fmt(f),
            Self::Change(change) => change.fmt(f),
            Self::Update(update) => update.fmt(f),
            Self::Connections(count) => count.fmt(f),
        }
    }
}

impl Display for Limit {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let over = if self.over { "over " } else { "" };
        let (amount, unit) = sized(self.amount, self.unit);
        write!(f, "limit rate {over}{amount}")?;
        if self.unit == LimitUnit::Bytes {
            write!(f, " {unit}")?;
        }
        write!(f, "/{}", self.per.word())?;
        self.burst.map_or(Ok(()), |burst| {
            let (amount, unit) = sized(burst, self.unit);
            write!(f, " burst {amount} {unit}")
        })
    }
}

/// In the largest unit that leaves no rest.
fn sized(amount: u64, unit: LimitUnit) -> (u64, &'static str) {
    let bytes = BYTE_UNITS.iter().find(|(_, size)| amount > 0 && amount.is_multiple_of(*size));
    match (unit, bytes) {
        (LimitUnit::Packets, _) => (amount, "packets"),
        (LimitUnit::Bytes, Some((name, size))) => (amount / size, name),
        (LimitUnit::Bytes, None) => (amount, "bytes"),
    }
}

impl Display for Log {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("log")?;
        if let Some(prefix) = &self.prefix {
            write!(f, " prefix {prefix}")?;
        }
        match self.target {
            None => Ok(()),
            Some(LogTarget::Level(level)) => write!(f, " level {}", level.word()),
            Some(LogTarget::Group(group)) => write!(f, " group {group}"),
        }
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Continue => f.write_str("continue"),
            Self::Reject(with) => write!(f, "reject{with}"),
            Self::Translate(to) => to.fmt(f),
            Self::Proxy(to) => to.fmt(f),
        }
    }
}

impl Display for RejectWith {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Default => Ok(()),
            Self::TcpReset => f.write_str(" with tcp reset"),
            Self::Icmp(code) => write!(f, " with icmp {}", code.word()),
            Self::Icmpv6(code) => write!(f, " with icmpv6 {}", code.word()),
            Self::Icmpx(code) => write!(f, " with icmpx {}", code.word()),
        }
    }
}
