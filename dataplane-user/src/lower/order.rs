//! The order in which tables are looked up, as the routes of a family are lowered by it.

use dataplane_common::abi::RouteKind;

use super::route::{BestRoute, FibEntry};
use crate::model::{Action, Candidates, Family, IpVersion, Prefix, RouteType, TableOrder};

/// The longest match of a table: its length and what it says.
pub(super) type Best = Option<(u8, BestRoute)>;

/// The order, with the tables in it numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order<A: Family> {
    whole: TableOrder<A>,
    tables: Vec<u32>,
    edges: Vec<Prefix<A>>,
}

impl<A: Family> Default for Order<A> {
    fn default() -> Self {
        Self::new(TableOrder::default())
    }
}

impl<A: Family> Order<A> {
    pub(super) fn new(order: TableOrder<A>) -> Self {
        let (tables, edges) = (order.tables(), order.edges());
        Self { whole: order, tables, edges }
    }

    /// The tables, each once.
    pub(super) fn tables(&self) -> &[u32] {
        &self.tables
    }

    /// Prefixes that decide, whatever the tables have, ascending.
    pub(super) fn edges(&self) -> &[Prefix<A>] {
        &self.edges
    }

    /// What the tables come to for the addresses of a prefix, by the longest match of each. Where it depends on how the kernel
    /// keeps table local, which cannot be seen from outside, the kernel must decide.
    pub(super) fn resolve(&self, prefix: Prefix<A>, best: &[Best]) -> FibEntry {
        let separate = self.first_word(prefix, best);
        let (true, [Some(local), Some(main), ..]) = (self.whole.merged, best) else { return separate };
        let longer = if main.0 > local.0 { main } else { local };
        let merged = [&[Some(*longer), None], &best[2..]].concat();
        if self.first_word(prefix, &merged) == separate { separate } else { FibEntry::Kind(RouteKind::Kernel) }
    }

    /// The first step that has something to say (`fib_rules_lookup` in `net/core/fib_rules.c`).
    fn first_word(&self, prefix: Prefix<A>, best: &[Best]) -> FibEntry {
        let mut suppressed = false;
        for step in self.whole.steps.iter().filter(|step| step.within.covers(prefix)) {
            let (table, suppress) = match step.action {
                Action::Table { table, suppress } => (table, suppress),
                Action::End(kind) => return FibEntry::Kind(end(kind)),
            };
            let found = self.tables.iter().position(|other| *other == table).and_then(|place| best[place]);
            suppressed = false;
            let Some((length, BestRoute::FibEntry(entry))) = found else { continue };
            // What ends packets, or may, is not suppressed.
            if suppress.is_none_or(|least| length > least) || ends(entry) {
                return entry;
            }
            suppressed = true;
        }
        // What the last rule has suppressed, IPv6 took in some versions: the result was not cleared (`fib6_rule_lookup`).
        let unsure = suppressed && A::VERSION == IpVersion::V6;
        FibEntry::Kind(if unsure { RouteKind::Kernel } else { RouteKind::None })
    }

    /// Whether the routes of a prefix of table `by` decide for all its addresses, whatever `later` has.
    pub(super) fn settles(&self, prefix: Prefix<A>, by: u32, later: u32, routes: Candidates<'_, A>) -> bool {
        let certain = routes.iter().all(|route| route.kind != RouteType::Throw && route.is_alive());
        let mut steps = self.whole.steps.iter().filter(|step| step.within.covers(prefix));
        let first = steps.find_map(|step| match step.action {
            Action::Table { table, .. } if table == later => Some(false),
            Action::Table { table, suppress } if table == by => {
                Some(suppress.is_none_or(|least| prefix.length() > least))
            }
            _ => None,
        });
        certain && first == Some(true)
    }
}

fn end(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        _ => RouteKind::Blackhole,
    }
}

/// Whether an entry ends packets, or it is not known whether it does.
fn ends(entry: FibEntry) -> bool {
    use RouteKind::{Blackhole, Kernel, Prohibit, Unreachable};
    matches!(entry, FibEntry::Kind(Blackhole | Unreachable | Prohibit | Kernel))
}
