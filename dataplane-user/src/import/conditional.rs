//! Jumps behind a condition that is asked once for each packet: a rate, or what an element of a set has of its own.
//!
//! It cannot stand before each rule of the chain that is jumped to: it would count each time. So the packets that meet it get a
//! bit of the packet's mark, and the rules of the chain match that.

use super::chain::{Flat, Line};
use crate::rule::{Action, Change, Connection, Mark, MarkOf, Marked, Match, NewMark, Range, Statement, Test};

/// The bit, beside the one of delivery.
const BIT: u32 = 1 << 28;

/// Whether the rules of a chain can follow a condition: none lets a packet go on with the bit, or has to do with marks.
pub(super) fn can_follow(rules: &[Flat], ends: bool) -> bool {
    let of_marks = |rule: &Flat| {
        let matches = |asked: &Match| matches!(asked, Match::Connection(Connection::PacketMark(_)));
        let changes = |statement: &Statement| matches!(statement, Statement::Change(Change::Mark(..)));
        rule.matches.iter().any(matches) || rule.statements.iter().any(changes)
    };
    let stops = |rule: &Flat| matches!(rule.action, Action::Drop | Action::Reject(_) | Action::Continue);
    ends && rules.iter().all(|rule| stops(rule) && !of_marks(rule))
}

/// The rule that meets the condition, and what the packets match that did.
pub(super) fn marked(line: &Line) -> Option<(Flat, Match)> {
    let mut statements = line.statements.clone();
    statements.push(Statement::Change(Change::Mark(MarkOf::Packet, NewMark::of(MarkOf::Packet, !BIT, BIT))));
    let Line { place, matches, comment, .. } = line.clone();
    let set = Marked::new(BIT, Test::listed(false, vec![Range::single(Mark(BIT))])?)?;
    let rule = Flat { place, matches, statements, action: Action::Continue, comment };
    Some((rule, Match::Connection(Connection::PacketMark(set))))
}
