//! Chains that are jumped to, written out in the place of the jump.
//!
//! The condition of a jump goes before each rule of the chain: rules change no packet, so it holds there as it held at the
//! jump. `return` leaves the rest of its chain for the packets that it does not fit, which must be sayable: see
//! [`super::complement`].

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::chain::{Chain, Flat, Line, Says, too_much};
use super::complement::{asks_transport, complement};
use super::conditional;
use super::problem::{Position, Problems};
use super::room::{Full, Room, weight};
use super::tail::tails;
use crate::rule::{Action, Change, Limit, Match, Policy, Statement};

/// Chains on the way to a rule; nft has 16 (`NFT_JUMP_STACK_SIZE`).
pub(super) const DEEPEST: usize = 64;
/// What rules may ask that are made on the way, all told.
const ROOM: usize = 4_000_000;

/// A chain written out.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) rules: Vec<Flat>,
    /// Whether no packet comes out at its end.
    ends: bool,
}

/// Writes chains out, each once.
pub(super) struct Inline<'a> {
    chains: &'a [Chain],
    /// Chains by table and name.
    named: HashMap<(&'a str, &'a str), usize>,
    known: HashMap<usize, Rc<Block>>,
    /// What becomes of a packet behind the last rule of a chain, where that is one policy whatever led there.
    tails: Vec<Option<Policy>>,
    path: Vec<usize>,
    room: Room,
    /// Whether there was no room for some of it, which has been told.
    full: bool,
    /// A `return` whose opposite only rules can say that drop what they can not read.
    pub(super) strict: Option<Position>,
    problems: &'a mut Problems,
}

/// The rest of a chain, from the line that was looked at last.
struct Rest {
    rules: VecDeque<Flat>,
    ends: bool,
}

impl Rest {
    fn put(&mut self, block: Vec<Flat>) {
        for rule in block.into_iter().rev() {
            self.rules.push_front(rule);
        }
    }
}

impl<'a> Inline<'a> {
    pub(super) fn new(chains: &'a [Chain], problems: &'a mut Problems) -> Self {
        let mut named = HashMap::new();
        for (index, chain) in chains.iter().enumerate() {
            named.entry((chain.table.as_str(), chain.name.as_str())).or_insert(index);
        }
        let (known, tails) = (HashMap::new(), tails(chains, &named));
        Self {
            chains,
            named,
            known,
            tails,
            path: Vec::new(),
            room: Room::new(ROOM),
            full: false,
            strict: None,
            problems,
        }
    }

    /// Reads a chain that nothing may lead to, for its errors.
    pub(super) fn read(&mut self, index: usize) {
        if !self.known.contains_key(&index) {
            self.written_out(index);
        }
    }

    /// The rules of a chain; of one with a hook, `return` is its policy.
    pub(super) fn written_out(&mut self, index: usize) -> Block {
        let chain = &self.chains[index];
        let policy = chain.hook.map(|hook| hook.policy);
        self.path.push(index);
        let mut rest = Rest { rules: VecDeque::new(), ends: false };
        // From the end: a `return` is about what comes behind it.
        for line in chain.lines.iter().rev() {
            if self.full {
                break;
            }
            if let Err(full) = self.line(chain, line, policy, &mut rest) {
                self.problems.fatal(line.place.clone(), too_much(full));
                self.full = true;
            }
        }
        self.path.pop();
        Block { rules: rest.rules.into(), ends: rest.ends }
    }

    fn line(&mut self, chain: &Chain, line: &Line, policy: Option<Policy>, rest: &mut Rest) -> Result<(), Full> {
        let always = line.matches.is_empty() && !line.statements.iter().any(Statement::is_condition);
        match &line.says {
            Says::Action(action) => {
                self.stays_true(chain, line, &line_changes(line));
                self.room.take(weight(&line.matches))?;
                let rule = flat(line, *action);
                rest.ends |= rule.decides_all();
                rest.rules.push_front(rule);
            }
            Says::Return => self.leave(chain, line, policy, rest)?,
            Says::Jump(name) => {
                let Some(block) = self.called(chain, line, name) else { return Ok(()) };
                self.holds_throughout(line, block.rules.iter());
                self.stays_true(chain, line, &block_changes(line, &block));
                rest.ends |= always && block.ends;
                rest.put(self.under(line, &block)?);
            }
            Says::Goto(name) => {
                let Some(block) = self.called(chain, line, name) else { return Ok(()) };
                self.holds_throughout(line, block.rules.iter().chain(&rest.rules));
                if block.ends {
                    rest.ends |= always;
                } else {
                    let back = Line { statements: Vec::new(), comment: None, ..line.clone() };
                    self.leave(chain, &back, policy, rest)?;
                }
                rest.put(self.under(line, &block)?);
            }
        }
        Ok(())
    }

    /// `return`.
    fn leave(&mut self, chain: &Chain, line: &Line, policy: Option<Policy>, rest: &mut Rest) -> Result<(), Full> {
        if let Some(policy) = policy {
            let rule = flat(line, said(policy));
            rest.ends |= rule.decides_all();
            rest.rules.push_front(rule);
            return Ok(());
        }
        if let (true, [Statement::Limit(limit)]) = (line.matches.is_empty(), line.statements.as_slice()) {
            self.leave_within(line, *limit, rest);
            return Ok(());
        }
        if !line.statements.is_empty() && rest.rules.iter().all(Flat::only_logs) {
            let message = "left out: behind it there are only lines of log, of which there may be more now";
            self.problems.note(line.place.clone(), message);
            return Ok(());
        }
        let tail = self.path.last().and_then(|index| self.tails[*index]);
        if let (Some(policy), false) = (tail, line.statements.is_empty()) {
            rest.rules.push_front(flat(line, said(policy)));
            return Ok(());
        }
        if let Some(statement) = line.statements.first() {
            let message =
                format!("`{statement}` before `return` cannot be said: give the rules behind it a chain of their own");
            self.problems.error(line.place.clone(), message);
            return Ok(());
        }
        rest.ends = false;
        if line.matches.is_empty() {
            rest.rules.clear();
        }
        if rest.rules.is_empty() {
            return Ok(());
        }
        self.holds_throughout(line, rest.rules.iter());
        // What translates leaves out only packets that conntrack cannot read either.
        let drops = rest.rules.iter().all(|rule| matches!(rule.action, Action::Drop | Action::Translate(_)));
        let Some(others) = complement(&line.matches, chain.family, drops) else {
            if let Some(policy) = tail {
                rest.rules.push_front(flat(line, said(policy)));
                return Ok(());
            }
            self.problems.error(line.place.clone(), no_complement(line));
            return Ok(());
        };
        if !rest.rules.is_empty() && line.matches.iter().any(asks_transport) {
            self.strict.get_or_insert_with(|| line.place.clone());
        }
        let rules = std::mem::take(&mut rest.rules);
        for rule in &rules {
            for other in &others {
                rest.rules.extend(self.joined(rule, other)?);
            }
        }
        Ok(())
    }

    /// A rule where a condition holds too; none when no packet can meet both.
    fn joined(&mut self, rule: &Flat, condition: &[Match]) -> Result<Option<Flat>, Full> {
        // To put matches together takes time by their square.
        let both = rule.matches.len() + condition.len();
        self.room.take(weight(condition) + weight(&rule.matches) + both * both / 16)?;
        Ok(rule.under(condition))
    }

    /// A chain under the condition of the line that leads there. What that line logs is logged before.
    fn under(&mut self, line: &Line, block: &Block) -> Result<Vec<Flat>, Full> {
        let mut rules = Vec::new();
        if let [Statement::Limit(limit)] = line.statements[..]
            && block.rules.iter().all(Flat::only_logs)
        {
            for rule in &block.rules {
                let mut rule = rule.clone();
                if !rule.statements.iter().any(|one| matches!(one, Statement::Limit(_))) {
                    rule.statements.insert(0, Statement::Limit(limit));
                }
                rules.extend(self.joined(&rule, &line.matches)?);
            }
            return Ok(rules);
        }
        if line.statements.iter().any(Statement::is_condition)
            && let Some((first, met)) = conditional::marked(line)
        {
            let condition = [&line.matches[..], &[met]].concat();
            rules.push(first);
            for rule in &block.rules {
                rules.extend(self.joined(rule, &condition)?);
            }
            return Ok(rules);
        }
        if !line.statements.is_empty() {
            rules.push(flat(line, Action::Continue));
        }
        for rule in &block.rules {
            rules.extend(self.joined(rule, &line.matches)?);
        }
        Ok(rules)
    }

    /// The condition of a line goes before each of these rules: none may change what the next one matches.
    fn holds_throughout<'f>(&mut self, line: &Line, rules: impl Iterator<Item = &'f Flat> + Clone) {
        let behind = rules.clone().skip(1);
        let own = rules.clone().next().and_then(|_| line_change(line, line_changes(line).into_iter()));
        let changed =
            own.or_else(|| rules.zip(behind).find_map(|(rule, _)| line_change(line, changes_of(&rule.statements))));
        if let Some((asked, change)) = changed {
            let message = format!(
                "`{asked}` would have to hold behind `{change}` as it held before: let the rule that changes it be the last \
                 one that this leads to"
            );
            self.problems.error(line.place.clone(), message);
        }
    }

    /// The rules that one rule of the file came to meet different packets: none may make one fit the next.
    fn stays_true(&mut self, chain: &Chain, line: &Line, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let at = chain.lines.partition_point(|other| std::ptr::from_ref(other) <= line);
        // All of them match the same fields.
        let next = chain.lines.get(at).filter(|other| other.place == line.place);
        let again = next.and_then(|other| line_change(other, changes.iter().copied()));
        if let Some((asked, change)) = again {
            let message = format!("`{asked}` would be asked again behind `{change}`: make it several rules");
            self.problems.error(line.place.clone(), message);
        }
    }

    /// `limit rate ... return`: what comes behind it holds beyond the rate. Only one rule can: each has a bucket of its own.
    fn leave_within(&mut self, line: &Line, limit: Limit, rest: &mut Rest) {
        match rest.rules.make_contiguous() {
            [only]
                if only.matches.is_empty() && !only.statements.iter().any(|one| matches!(one, Statement::Limit(_))) =>
            {
                only.statements.insert(0, Statement::Limit(Limit { over: !limit.over, ..limit }));
                rest.ends = false;
            }
            _ => self.problems.error(
                line.place.clone(),
                "`limit` before `return` can be said when one rule without matches follows: that one then holds beyond \
                 the rate",
            ),
        }
    }

    /// The chain of that name, written out.
    fn called(&mut self, from: &Chain, line: &Line, name: &str) -> Option<Rc<Block>> {
        let block = self.known(from, line, name)?;
        if let Some(condition) = line.statements.iter().find(|one| one.is_condition()) {
            let only_limit = matches!(line.statements[..], [Statement::Limit(_)]);
            let only_logs = only_limit && block.rules.iter().all(Flat::only_logs);
            if !only_logs && conditional::can_follow(&block.rules, block.ends) {
                return Some(block);
            }
            if !only_logs {
                let message =
                    format!("`{condition}` before a jump cannot be said: put it into the rules of chain {name}");
                self.problems.error(line.place.clone(), message);
                return None;
            }
            let message = format!(
                "`{condition}` holds for lines of log that have no limit of their own: there may be more of the others"
            );
            self.problems.note(line.place.clone(), message);
        }
        Some(block)
    }

    fn known(&mut self, from: &Chain, line: &Line, name: &str) -> Option<Rc<Block>> {
        let Some(&index) = self.named.get(&(from.table.as_str(), name)) else {
            self.problems.error(line.place.clone(), format!("there is no chain {name} in table {}", from.table));
            return None;
        };
        if let Some(known) = self.known.get(&index) {
            return Some(Rc::clone(known));
        }
        let fault = if self.path.contains(&index) {
            Some(format!("chain {name} leads back to itself"))
        } else if self.path.len() >= DEEPEST {
            Some(format!("jumps lead through more than {DEEPEST} chains"))
        } else if self.chains[index].hook.is_some() {
            Some(format!("{name} is a base chain: nothing can jump there"))
        } else {
            None
        };
        if let Some(fault) = fault {
            self.problems.error(line.place.clone(), fault);
            return None;
        }
        let block = Rc::new(self.written_out(index));
        self.known.insert(index, Rc::clone(&block));
        Some(block)
    }
}

/// A policy as a rule says it.
const fn said(policy: Policy) -> Action {
    match policy {
        Policy::Accept => Action::Accept,
        Policy::Drop => Action::Drop,
    }
}

fn changes_of(statements: &[Statement]) -> impl Iterator<Item = Change> {
    statements
        .iter()
        .filter_map(|statement| if let Statement::Change(change) = statement { Some(*change) } else { None })
}

fn line_changes(line: &Line) -> Vec<Change> {
    changes_of(&line.statements).collect()
}

fn block_changes(line: &Line, block: &Block) -> Vec<Change> {
    changes_of(&line.statements).chain(block.rules.iter().flat_map(|rule| changes_of(&rule.statements))).collect()
}

/// What a line asks that one of the changes is about.
fn line_change(line: &Line, mut changes: impl Iterator<Item = Change>) -> Option<(&Match, Change)> {
    changes.find_map(|change| line.matches.iter().find(|asked| change.concerns(asked)).map(|asked| (asked, change)))
}

fn flat(line: &Line, action: Action) -> Flat {
    let Line { place, matches, statements, comment, .. } = line.clone();
    Flat { place, matches, statements, action, comment }
}

fn no_complement(line: &Line) -> String {
    let matches: Vec<_> = line.matches.iter().map(Match::to_string).collect();
    format!(
        "the rules behind this would have to hold for all but `{}`, which no rule can say exactly: write the chain without \
         it",
        matches.join(" ")
    )
}
