//! What the routing rules come to for packets without a mark: an ordered list of tables (`fib_rules_lookup` in
//! `net/core/fib_rules.c`).

use super::rule::{ACTION_GOTO, ACTION_NOTHING, ACTION_PROHIBIT, ACTION_TABLE, ACTION_UNREACHABLE, Meets, RoutingRule};
use super::{Family, IpVersion, Link, Model, Prefix, RouteSource, RouteType, TABLE_LOCAL};

/// The order in which tables are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableOrder<A: Family> {
    /// One after the other, until one has a route.
    pub steps: Vec<TableStep<A>>,
    /// Whether the kernel may keep tables local and main as one ([`Family::MERGED_LOCAL`]).
    pub merged: bool,
}

/// One step of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableStep<A: Family> {
    /// For destinations in this network.
    pub within: Prefix<A>,
    /// What is done there.
    pub action: Action,
}

/// What one step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Looks up a table.
    Table {
        /// Which one.
        table: u32,
        /// Routes with a prefix of at most this length do not count, unless they end packets.
        suppress: Option<u8>,
    },
    /// Ends all packets in this way.
    End(RouteType),
}

impl<A: Family> Default for TableOrder<A> {
    /// That of a new namespace.
    fn default() -> Self {
        let step =
            |table: &u32| TableStep { within: Prefix::all(), action: Action::Table { table: *table, suppress: None } };
        Self { steps: A::TABLES.iter().map(step).collect(), merged: A::MERGED_LOCAL }
    }
}

impl<A: Family> TableOrder<A> {
    /// The tables, each once.
    pub fn tables(&self) -> Vec<u32> {
        let mut tables = Vec::new();
        for step in &self.steps {
            if let Action::Table { table, .. } = step.action
                && !tables.contains(&table)
            {
                tables.push(table);
            }
        }
        tables
    }

    /// Prefixes at which another step may begin to count, besides those of the tables.
    pub fn edges(&self) -> Vec<Prefix<A>> {
        let mut edges: Vec<_> = self.steps.iter().filter(|step| step.has_edge()).map(|step| step.within).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    }
}

impl<A: Family> TableStep<A> {
    fn has_edge(&self) -> bool {
        self.within != Prefix::all() || matches!(self.action, Action::End(_))
    }

    /// What a rule does, for the packets that it says.
    fn of(rule: &RoutingRule, within: Prefix<A>) -> Self {
        let action = match rule.action {
            ACTION_TABLE => Action::Table { table: rule.table, suppress: rule.suppresses },
            ACTION_UNREACHABLE => Action::End(RouteType::Unreachable),
            ACTION_PROHIBIT => Action::End(RouteType::Prohibit),
            _ => Action::End(RouteType::Blackhole),
        };
        Self { within, action }
    }
}

impl Model {
    /// The order of tables for packets without a mark, as far as no rule has a say that depends on anything else but the
    /// destination: [`Model::ruled_by`] says for which ports that is all.
    pub fn table_order<A: Family>(&self) -> TableOrder<A> {
        let mut rules = self.routing_rules.of(A::VERSION).peekable();
        if rules.peek().is_none() {
            // Nothing is known yet.
            return TableOrder::default();
        }
        let (mut steps, mut from) = (Vec::new(), 0);
        for rule in rules {
            let within = match rule.meets() {
                Meets::Always => Prefix::all(),
                Meets::To(address, length) => match A::from_ip(address) {
                    Some(address) => Prefix::new(address, length),
                    None => continue,
                },
                Meets::Never | Meets::From(_) | Meets::Some => continue,
            };
            match rule.action {
                _ if rule.priority < from => {}
                ACTION_NOTHING => {}
                ACTION_GOTO => from = self.jump::<A>(rule).unwrap_or(from),
                _ => steps.push(TableStep::of(rule, within)),
            }
        }
        // The first rule beside the kernel's own parts the two for good (`fib_unmerge`).
        TableOrder { steps, merged: A::MERGED_LOCAL && !self.looks_at_sources() }
    }

    /// Where a rule leads to that is for all packets. Without rules of that priority it does nothing.
    fn jump<A: Family>(&self, rule: &RoutingRule) -> Option<u32> {
        let target = rule.target.filter(|_| rule.meets() == Meets::Always)?;
        self.routing_rules.of(A::VERSION).any(|other| other.priority == target).then_some(target)
    }

    /// The rule that has a say in the routes of a port's packets and is not part of [`Model::table_order`].
    pub fn ruled_by<A: Family>(&self, link: &Link) -> Option<&RoutingRule> {
        let apart = |rule: &&RoutingRule| match rule.meets() {
            Meets::Never | Meets::Always => false,
            // A jump for some packets only.
            Meets::To(..) => rule.action == ACTION_GOTO,
            Meets::From(_) => rule.names(link) || (A::VERSION == IpVersion::V4 && self.looks_back_by::<A>(rule, link)),
            Meets::Some => true,
        };
        self.routing_rules.of(A::VERSION).find(apart)
    }

    /// The same by a value of the family.
    pub fn rule_of(&self, version: IpVersion, link: &Link) -> Option<&RoutingRule> {
        match version {
            IpVersion::V4 => self.ruled_by::<u32>(link),
            IpVersion::V6 => self.ruled_by::<u128>(link),
        }
    }

    /// Whether a rule for packets of another interface may matter for the way back to a source, which the kernel looks up as if
    /// the packet came in where it goes out (`__fib_validate_source`): where there is a check of the reverse path, or addresses
    /// may be this machine's by what the rule leads to.
    fn looks_back_by<A: Family>(&self, rule: &RoutingRule, link: &Link) -> bool {
        let local = |other: &&RoutingRule| {
            let plain = other.meets() == Meets::Always && other.action == ACTION_TABLE && !other.suppresses();
            plain && other.table == TABLE_LOCAL
        };
        let behind = self.routing_rules.of(A::VERSION).take_while(|other| *other != rule).any(|other| local(&other));
        self.rp_filter(self.domain(link).ifindex) != 0
            || !behind
            || A::routes(self).infos().any(|(_, info)| info.makes_local())
    }

    /// Whether there are rules for packets with a mark.
    pub fn looks_at_marks(&self) -> bool {
        self.routing_rules.iter().any(RoutingRule::looks_at_marks)
    }

    /// Whether some rule looks at interfaces, or at what only the kernel compares: the kernel's lookup for a packet that it did
    /// not receive may come to another route.
    pub fn looks_at_interfaces(&self) -> bool {
        self.routing_rules.iter().any(|rule| rule.iif.is_some() || rule.own || !rule.selector.is_empty())
    }

    /// Where the routes of packets come from that come in through a link.
    pub(super) fn source_of<A: Family>(&self, link: &Link) -> RouteSource {
        let in_vrf = self.domain(link) != link;
        let rules = || self.routing_rules.of(A::VERSION);
        let vrfs = rules().any(|rule| rule.l3mdev);
        let unknown = rules().next().is_none();
        let apart = unknown || self.ruled_by::<A>(link).is_some();
        if !in_vrf && !apart {
            return RouteSource::Mirror;
        }
        let plain = !apart
            && self.table_order::<A>().steps == TableOrder::default().steps
            && !rules().any(|rule| matches!(rule.meets(), Meets::From(_)));
        match in_vrf {
            // Between the rules of local and main.
            true if vrfs && plain => RouteSource::Kernel,
            true => RouteSource::Stack,
            false if vrfs || !self.can_be_asked::<A>() => RouteSource::Stack,
            false => RouteSource::Kernel,
        }
    }

    /// Whether the lookup for programs knows what all rules say. It knows nothing of what IPv6 rules suppress
    /// (`fib6_rule_suppress`); and where there are VRFs, what it takes for a packet's is left to chance (`flowi_l3mdev`).
    fn can_be_asked<A: Family>(&self) -> bool {
        let met = |rule: &RoutingRule| rule.meets() != Meets::Never && rule.suppresses();
        A::VERSION == IpVersion::V4 || !self.routing_rules.of(A::VERSION).any(met)
    }
}
