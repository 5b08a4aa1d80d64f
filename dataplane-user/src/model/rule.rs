//! Routing policy: the rules that choose the table for a packet.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::{Family as _, IpVersion, Link};

/// `FR_ACT_TO_TBL`: look up a table.
pub const ACTION_TABLE: u8 = 1;
/// `FR_ACT_GOTO`: on to the rules of a priority further down.
pub const ACTION_GOTO: u8 = 2;
/// `FR_ACT_NOP`.
pub const ACTION_NOTHING: u8 = 3;
/// `FR_ACT_BLACKHOLE`.
pub const ACTION_BLACKHOLE: u8 = 6;
/// `FR_ACT_UNREACHABLE`.
pub const ACTION_UNREACHABLE: u8 = 7;
/// `FR_ACT_PROHIBIT`.
pub const ACTION_PROHIBIT: u8 = 8;

/// A routing rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingRule {
    /// Of which family.
    pub version: IpVersion,
    /// Lower ones come first.
    pub priority: u32,
    /// The table to look up.
    pub table: u32,
    /// `FR_ACT_*`.
    pub action: u8,
    /// Where [`ACTION_GOTO`] leads to.
    pub target: Option<u32>,
    /// It is for packets that do not match.
    pub inverted: bool,
    /// For packets of VRF devices only: the kernel adds such a rule with the first VRF.
    pub l3mdev: bool,
    /// For packets that come in through this interface only.
    pub iif: Option<String>,
    /// For packets of this machine only: it matches the egress link that a socket is bound to.
    pub own: bool,
    /// For packets with this mark: the value, and which of its bits count.
    pub mark: Option<(u32, u32)>,
    /// For sources in this network.
    pub from: Option<(IpAddr, u8)>,
    /// For destinations in this network.
    pub to: Option<(IpAddr, u8)>,
    /// It takes no route with a prefix of at most this length (`suppress_prefixlength`).
    pub suppresses: Option<u8>,
    /// It takes no route through a link of this group (`suppress_ifgroup`).
    pub suppresses_group: Option<u32>,
    /// All its other matches, as the kernel encodes them; empty: it has none.
    pub selector: Vec<u8>,
}

/// Which packets meet a rule, and are looked up as it says, among those that have no mark and come in through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meets<'a> {
    /// None.
    Never,
    /// All.
    Always,
    /// Those for a destination in this network.
    To(IpAddr, u8),
    /// Those that come in through this interface, or some of them.
    From(&'a str),
    /// Some, by what only the kernel compares.
    Some,
}

/// Where the routes of a port's packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteSource {
    /// The mirrored tables.
    Mirror,
    /// The kernel, by a lookup in the programs.
    Kernel,
    /// The kernel, which gets the packets.
    Stack,
}

impl RouteSource {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Kernel => "kernel",
            Self::Stack => "stack",
        }
    }
}

impl RoutingRule {
    /// One for all packets.
    pub const fn new(version: IpVersion, priority: u32, table: u32) -> Self {
        Self {
            version,
            priority,
            table,
            action: ACTION_TABLE,
            target: None,
            inverted: false,
            l3mdev: false,
            iif: None,
            own: false,
            mark: None,
            from: None,
            to: None,
            suppresses: None,
            suppresses_group: None,
            selector: Vec::new(),
        }
    }

    /// What a new namespace has: local, main, and for IPv4 default.
    pub fn defaults(version: IpVersion) -> impl Iterator<Item = Self> {
        let tables = match version {
            IpVersion::V4 => u32::TABLES,
            IpVersion::V6 => u128::TABLES,
        };
        [0, 32766, 32767].into_iter().zip(tables).map(move |(priority, table)| Self::new(version, priority, *table))
    }

    /// Which packets meet it (`fib_rule_match`). The matches of a rule are joined by "and", so one that none of these packets
    /// has decides whatever the others are.
    pub fn meets(&self) -> Meets<'_> {
        // A VRF's packets are looked up elsewhere.
        if self.l3mdev {
            return if self.inverted { Meets::Some } else { Meets::Never };
        }
        let other_mark = self.mark.is_some_and(|(value, mask)| value & mask != 0);
        if other_mark || self.own {
            let always = if self.suppresses_group.is_none() { Meets::Always } else { Meets::Some };
            return if self.inverted { always } else { Meets::Never };
        }
        // Whatever else it compares, others do not meet it.
        if let (Some(iif), false) = (&self.iif, self.inverted) {
            return Meets::From(iif);
        }
        let plain = self.selector.is_empty() && self.from.is_none() && self.suppresses_group.is_none();
        match (plain, self.inverted, self.iif.is_some(), self.to) {
            (true, false, false, None) => Meets::Always,
            (true, true, false, None) => Meets::Never,
            (true, false, false, Some((address, length))) => Meets::To(address, length),
            _ => Meets::Some,
        }
    }

    /// Whether packets with a mark may fare otherwise than those without.
    pub fn looks_at_marks(&self) -> bool {
        self.mark.is_some_and(|(_, mask)| mask != 0)
    }

    /// Whether it does not take all that it finds.
    pub fn suppresses(&self) -> bool {
        self.suppresses.is_some() || self.suppresses_group.is_some()
    }

    /// Whether it is for packets that come in through a link.
    pub fn names(&self, link: &Link) -> bool {
        self.iif.as_deref().is_some_and(|iif| link.names().any(|name| name == iif))
    }
}

impl fmt::Display for RoutingRule {
    /// As `ip rule` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.priority, if self.inverted { " not" } else { "" })?;
        match self.from {
            Some((address, length)) => write!(f, " from {address}/{length}")?,
            None => write!(f, " from all")?,
        }
        if let Some((address, length)) = self.to {
            write!(f, " to {address}/{length}")?;
        }
        if let Some((value, mask)) = self.mark {
            write!(f, " fwmark {value:#x}/{mask:#x}")?;
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        if self.l3mdev {
            write!(f, " l3mdev")?;
        }
        if !self.selector.is_empty() {
            write!(f, " ...")?;
        }
        match self.action {
            ACTION_TABLE if self.l3mdev => {}
            ACTION_TABLE => write!(f, " lookup {}", self.table)?,
            ACTION_GOTO => write!(f, " goto {}", self.target.unwrap_or_default())?,
            ACTION_NOTHING => write!(f, " nop")?,
            ACTION_UNREACHABLE => write!(f, " unreachable")?,
            ACTION_PROHIBIT => write!(f, " prohibit")?,
            _ => write!(f, " blackhole")?,
        }
        if let Some(length) = self.suppresses {
            write!(f, " suppress_prefixlength {length}")?;
        }
        self.suppresses_group.map_or(Ok(()), |group| write!(f, " suppress_ifgroup {group}"))
    }
}

/// The rules of both families, each in the order in which the kernel tries them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingRules(Vec<RoutingRule>);

impl RoutingRules {
    /// One more, behind all of its priority. Entering it again changes nothing.
    pub fn insert(&mut self, rule: RoutingRule) {
        if !self.0.contains(&rule) {
            let place = |other: &RoutingRule| (other.version, other.priority) <= (rule.version, rule.priority);
            self.0.insert(self.0.partition_point(place), rule);
        }
    }

    /// One less.
    pub fn remove(&mut self, rule: &RoutingRule) {
        self.0.retain(|other| other != rule);
    }

    /// All, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, RoutingRule> {
        self.0.iter()
    }

    /// Those of a family.
    pub fn of(&self, version: IpVersion) -> impl Iterator<Item = &RoutingRule> + Clone {
        self.0.iter().filter(move |rule| rule.version == version)
    }

    /// Those that only one of the two has; where both have the same in another order, those that are elsewhere.
    pub fn difference(&self, other: &Self) -> Vec<RoutingRule> {
        let sets = [self, other].map(|rules| rules.iter().collect::<BTreeSet<_>>());
        let mut found: Vec<_> = sets[0].symmetric_difference(&sets[1]).copied().cloned().collect();
        if found.is_empty() {
            found.extend(self.0.iter().zip(&other.0).filter(|(a, b)| a != b).map(|(a, _)| a.clone()));
        }
        found
    }
}

impl FromIterator<RoutingRule> for RoutingRules {
    fn from_iter<I: IntoIterator<Item = RoutingRule>>(rules: I) -> Self {
        let mut all = Self::default();
        rules.into_iter().for_each(|rule| all.insert(rule));
        all
    }
}

impl<'a> IntoIterator for &'a RoutingRules {
    type Item = &'a RoutingRule;
    type IntoIter = std::slice::Iter<'a, RoutingRule>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
