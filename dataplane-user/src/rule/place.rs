//! Which rules can stand in which chain, and which of them only the kernel can decide.

use super::ast::{Match, Rule};
use super::chain::{ChainName, Policy};
use super::change::Change;
use super::connection::Connection;
use super::statement::{Action, Statement};

impl Rule {
    /// Whether only the kernel can decide it: it depends on a connection, translates one, or changes something.
    pub fn needs_kernel(&self) -> bool {
        matches!(self.action(), Action::Translate(_) | Action::Proxy(_))
            || self.statements().iter().any(Statement::needs_kernel)
            || self.matches().iter().any(|asked| matches!(asked, Match::Connection(_)))
    }

    /// Whether packets that it takes are for sockets of this machine, whatever their destination is.
    pub fn delivers(&self) -> bool {
        let transparent = |asked: &Match| matches!(asked, Match::Connection(Connection::Transparent(true)));
        match self.action() {
            Action::Proxy(_) => true,
            Action::Accept => self.matches().iter().any(transparent),
            _ => false,
        }
    }

    /// Why it cannot stand in a chain.
    pub fn misplaced(&self, chain: ChainName) -> Option<String> {
        if let Some(change) = self.changes().find(|change| *change == Change::SegmentSize(None))
            && matches!(chain, ChainName::Prerouting | ChainName::Input)
        {
            return Some(format!(
                "`{change}`: in chain {chain} there is no route yet: put the rule into chain forward"
            ));
        }
        let socket = self.matches().iter().find(|asked| matches!(asked, Match::Connection(Connection::Transparent(_))));
        if let Some(asked) = socket
            && !matches!(chain, ChainName::Prerouting | ChainName::Input)
        {
            return Some(format!("`{asked}` is for packets that come in: put the rule into chain prerouting or input"));
        }
        let owner = self.matches().iter().find(|asked| matches!(asked, Match::Connection(Connection::Owner(..))));
        if let Some(asked) = owner
            && !matches!(chain, ChainName::Output | ChainName::Postrouting)
        {
            return Some(format!(
                "`{asked}` is for packets of this machine that go out: put the rule into chain output or postrouting"
            ));
        }
        match (self.action(), chain) {
            (Action::Translate(to), ChainName::Prerouting) if to.is_of_source() => {
                Some(format!("`{}` writes the source, on the way out: put the rule into chain postrouting", to.word()))
            }
            (Action::Translate(to), ChainName::Postrouting) if !to.is_of_source() => Some(format!(
                "`{}` writes the destination, before the route: put the rule into chain prerouting",
                to.word()
            )),
            (Action::Translate(to), ChainName::Output) if !to.is_of_source() => self.misplaced_match(chain),
            (Action::Translate(to), ChainName::Input | ChainName::Forward | ChainName::Output) => {
                let place = if to.is_of_source() { "postrouting" } else { "prerouting" };
                Some(format!("`{}` cannot stand in chain {chain}: put the rule into chain {place}", to.word()))
            }
            (Action::Proxy(_), ChainName::Prerouting) => None,
            (Action::Proxy(to), _) => {
                Some(format!("`{to}` takes packets before the route: put the rule into chain prerouting"))
            }
            (Action::Drop | Action::Reject(_), ChainName::Postrouting) => {
                Some("chain postrouting drops nothing: drop in chain forward or output".to_owned())
            }
            _ => self.misplaced_match(chain),
        }
    }

    fn misplaced_match(&self, chain: ChainName) -> Option<String> {
        if !matches!(self.action(), Action::Translate(_)) {
            return None;
        }
        let condition = self.statements().iter().find(|statement| statement.is_condition());
        condition.map(|statement| {
            let word =
                if matches!(statement, Statement::Limit(_)) { "limit".to_owned() } else { statement.to_string() };
            format!(
                "a rule of chain {chain} that translates sees only the first packet of a connection: remove `{word}`"
            )
        })
    }
}

impl ChainName {
    /// Whether rules can translate there.
    pub fn can_translate(self) -> bool {
        matches!(self, Self::Prerouting | Self::Output | Self::Postrouting)
    }

    /// Why the chain cannot have a policy.
    pub fn misplaced_policy(self, policy: Policy) -> Option<&'static str> {
        let drops = self == Self::Postrouting && policy == Policy::Drop;
        drops.then_some("chain postrouting drops nothing, so its policy is `accept`: drop in chain forward or output")
    }
}
