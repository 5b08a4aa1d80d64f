//! What a rule does, and what it says.

use super::change::Change;
use super::proxy::Proxy;
use super::text::Text;
use super::translation::Translation;
use super::update::{ConnectionCount, SetUpdate};

/// What a rule does besides its verdict, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// `limit rate ...`: the rest of the rule holds only within (or over) the rate.
    Limit(Limit),
    /// `log ...`.
    Log(Log),
    /// `meta mark set ...` and the like.
    Change(Change),
    /// `add @NAME { ... }` and the like.
    Update(Box<SetUpdate>),
    /// `ct count ...`: the rest of the rule holds only for so many connections.
    Connections(ConnectionCount),
}

impl Statement {
    /// Whether the rest of the rule may not hold.
    pub const fn is_condition(&self) -> bool {
        match self {
            Self::Limit(_) | Self::Connections(_) => true,
            Self::Update(update) => update.condition.is_some(),
            Self::Log(_) | Self::Change(_) => false,
        }
    }

    /// What it writes into a set.
    pub fn update(&self) -> Option<&SetUpdate> {
        if let Self::Update(update) = self { Some(update) } else { None }
    }

    /// Whether only the kernel can do it.
    pub const fn needs_kernel(&self) -> bool {
        matches!(self, Self::Change(_) | Self::Update(_) | Self::Connections(_))
    }
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

impl LimitTime {
    /// Its length.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
            Self::Week => 7 * 86_400,
        }
    }
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
pub enum Action {
    /// Ends the chain; the packet goes on.
    Accept,
    /// Ends the packet.
    Drop,
    /// Ends the packet and tells the sender.
    Reject(RejectWith),
    /// The next rule is asked.
    Continue,
    /// Ends the chain; the packet's connection has other addresses from here on.
    Translate(Translation),
    /// Ends the chain; a socket of this machine gets the packet.
    Proxy(Proxy),
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
