//! What was read, of either language: chains of lines that may lead to other chains.

use std::collections::BTreeMap;

use super::problem::Position;
use super::room::{Full, Room};
use super::simplify::simplified;
use crate::config::{ChainConfig, Config, SetConfig};
use crate::rule::{Action, ChainName, Family, Match, Policy, Rule, SetName, Statement, Text};

/// What the lines of a file may ask, all told: some hundred thousand rules.
const ROOM: usize = 2_000_000;

/// A whole file.
#[derive(Debug)]
pub(super) struct Ruleset {
    /// In the order of the file.
    pub(super) chains: Vec<Chain>,
    /// Of all tables.
    pub(super) sets: BTreeMap<SetName, SetConfig>,
    /// For more lines.
    pub(super) room: Room,
}

impl Default for Ruleset {
    fn default() -> Self {
        Self { chains: Vec::new(), sets: BTreeMap::new(), room: Room::new(ROOM) }
    }
}

impl Ruleset {
    /// The chains that stand on a hook, and of which nothing is left in the config.
    pub(super) fn lost(&self, config: &Config) -> Vec<ChainName> {
        let says =
            |chain: &Chain| !chain.lines.is_empty() || chain.hook.is_some_and(|hook| hook.policy == Policy::Drop);
        let stands = |name: &ChainName| {
            let mut here = self.chains.iter().filter(|chain| chain.hook.is_some_and(|hook| hook.chain == *name));
            here.any(says)
        };
        let lost = |name: &ChainName| *config.chain(*name) == ChainConfig::default();
        ChainName::ALL.into_iter().filter(|name| lost(name) && stands(name)).collect()
    }
}

/// What is said where a file comes to too much.
pub(super) fn too_much(_: Full) -> String {
    "written out, the rules up to here come to more than a config can be: let them ask named sets (`ip saddr @NAME`), and \
     jump less"
        .to_owned()
}

/// A chain, with a hook or one that is jumped to.
#[derive(Debug)]
pub(super) struct Chain {
    /// Names are of one table.
    pub(super) table: String,
    pub(super) name: String,
    /// The packets that the table sees, when those are of one family.
    pub(super) family: Option<Family>,
    /// Where packets come from, if not from other chains.
    pub(super) hook: Option<Hook>,
    pub(super) lines: Vec<Line>,
    pub(super) place: Position,
}

/// Where a base chain stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hook {
    pub(super) chain: ChainName,
    /// Chains with lower numbers come first.
    pub(super) priority: i64,
    pub(super) policy: Policy,
    /// Whether it translates: the first packet of each connection meets it.
    pub(super) translates: bool,
}

/// One rule as it was written.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) place: Position,
    pub(super) matches: Vec<Match>,
    pub(super) statements: Vec<Statement>,
    pub(super) says: Says,
    pub(super) comment: Option<Text>,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Action(Action),
    /// Ask that chain, and then the next line.
    Jump(String),
    /// Ask that chain, and then what comes behind this one.
    Goto(String),
    /// What comes behind this chain.
    Return,
}

/// A rule that leads nowhere.
#[derive(Clone, Debug)]
pub(super) struct Flat {
    pub(super) place: Position,
    pub(super) matches: Vec<Match>,
    pub(super) statements: Vec<Statement>,
    pub(super) action: Action,
    pub(super) comment: Option<Text>,
}

impl Flat {
    /// The same where `condition` holds too; none when no packet can meet both.
    pub(super) fn under(&self, condition: &[Match]) -> Option<Self> {
        if condition.is_empty() {
            return Some(self.clone());
        }
        let more = self.matches.iter().filter(|asked| !condition.contains(asked));
        let matches: Vec<_> = condition.iter().chain(more).cloned().collect();
        Rule::new(matches.clone(), Vec::new(), self.action, None).ok()?;
        Some(Self { matches: simplified(matches)?, ..self.clone() })
    }

    /// Whether it only logs packets.
    pub(super) fn only_logs(&self) -> bool {
        let tells = |statement: &Statement| matches!(statement, Statement::Limit(_) | Statement::Log(_));
        self.action == Action::Continue && self.statements.iter().all(tells)
    }

    /// Whether every packet meets it and ends there.
    pub(super) fn decides_all(&self) -> bool {
        let limited = self.statements.iter().any(|statement| statement.is_condition() || needs_key(statement));
        self.matches.is_empty() && !limited && self.action != Action::Continue
    }
}

/// Whether it is done only for packets of one family or protocol.
fn needs_key(statement: &Statement) -> bool {
    statement.update().is_some_and(|update| update.family().is_some() || update.protocols().is_some())
}
