//! Chains that are jumped to, written out in the place of the jump.
//!
//! The condition of a jump goes before each rule of the chain: rules change no packet, so it holds there as it held at the
//! jump. `return` leaves the rest of its chain for the packets that it does not fit, which must be sayable: see
//! [`super::complement`].

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::chain::{Chain, Flat, Line, Says};
use super::complement::complement;
use super::problem::Problems;
use crate::rule::{Limit, Match, Policy, Statement, Verdict};

/// Chains on the way to a rule; nft has 16 (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 64;
/// Rules that a file may come to.
const MOST: usize = 200_000;

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
    known: HashMap<usize, Option<Rc<Block>>>,
    path: Vec<usize>,
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
        Self { chains, known: HashMap::new(), path: Vec::new(), problems }
    }

    /// The rules of a chain; of one with a hook, `return` is its policy.
    pub(super) fn written_out(&mut self, index: usize) -> Block {
        let chain = &self.chains[index];
        let policy = chain.hook.map(|hook| hook.policy);
        self.path.push(index);
        let mut rest = Rest { rules: VecDeque::new(), ends: false };
        // From the end: a `return` is about what comes behind it.
        for line in chain.lines.iter().rev() {
            self.line(chain, line, policy, &mut rest);
            if rest.rules.len() > MOST {
                self.problems.error(line.place.clone(), format!("written out, the chains have more than {MOST} rules"));
                break;
            }
        }
        self.path.pop();
        Block { rules: rest.rules.into(), ends: rest.ends }
    }

    fn line(&mut self, chain: &Chain, line: &Line, policy: Option<Policy>, rest: &mut Rest) {
        let always = line.matches.is_empty();
        match &line.says {
            Says::Verdict(verdict) => {
                let rule = flat(line, *verdict);
                rest.ends |= rule.decides_all();
                rest.rules.push_front(rule);
            }
            Says::Return => self.leave(chain, line, policy, rest),
            Says::Jump(name) => {
                let Some(block) = self.called(chain, line, name) else { return };
                rest.ends |= always && block.ends;
                rest.put(under(line, &block));
            }
            Says::Goto(name) => {
                let Some(block) = self.called(chain, line, name) else { return };
                if block.ends {
                    rest.ends |= always;
                } else {
                    let back = Line { statements: Vec::new(), comment: None, ..line.clone() };
                    self.leave(chain, &back, policy, rest);
                }
                rest.put(under(line, &block));
            }
        }
    }

    /// `return`.
    fn leave(&mut self, chain: &Chain, line: &Line, policy: Option<Policy>, rest: &mut Rest) {
        if let Some(policy) = policy {
            let verdict = if policy == Policy::Accept { Verdict::Accept } else { Verdict::Drop };
            let rule = flat(line, verdict);
            rest.ends |= rule.decides_all();
            rest.rules.push_front(rule);
            return;
        }
        if let (true, [Statement::Limit(limit)]) = (line.matches.is_empty(), line.statements.as_slice()) {
            return self.leave_within(line, *limit, rest);
        }
        if let Some(statement) = line.statements.first() {
            let message =
                format!("`{statement}` before `return` cannot be said: give the rules behind it a chain of their own");
            return self.problems.error(line.place.clone(), message);
        }
        rest.ends = false;
        if line.matches.is_empty() {
            return rest.rules.clear();
        }
        let drops = rest.rules.iter().all(|rule| rule.verdict == Verdict::Drop);
        let Some(others) = complement(&line.matches, chain.family, drops) else {
            return self.problems.error(line.place.clone(), no_complement(line));
        };
        let rules = std::mem::take(&mut rest.rules);
        rest.rules = rules.iter().flat_map(|rule| others.iter().filter_map(|other| rule.under(other))).collect();
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
        if let Some(Statement::Limit(limit)) = line.statements.iter().find(|one| matches!(one, Statement::Limit(_))) {
            let message = format!("`{limit}` before a jump cannot be said: put it into the rules of chain {name}");
            self.problems.error(line.place.clone(), message);
            return None;
        }
        let found = self.chains.iter().position(|chain| chain.table == from.table && chain.name == name);
        let Some(index) = found else {
            self.problems.error(line.place.clone(), format!("there is no chain {name} in table {}", from.table));
            return None;
        };
        if let Some(known) = self.known.get(&index) {
            return known.clone();
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
        let block = Some(Rc::new(self.written_out(index)));
        self.known.insert(index, block.clone());
        block
    }
}

/// A chain under the condition of the line that leads there. What that line logs is logged before.
fn under(line: &Line, block: &Block) -> Vec<Flat> {
    let logs = (!line.statements.is_empty()).then(|| flat(line, Verdict::Continue));
    logs.into_iter().chain(block.rules.iter().filter_map(|rule| rule.under(&line.matches))).collect()
}

fn flat(line: &Line, verdict: Verdict) -> Flat {
    let Line { place, matches, statements, comment, .. } = line.clone();
    Flat { place, matches, statements, verdict, comment }
}

fn no_complement(line: &Line) -> String {
    let matches: Vec<_> = line.matches.iter().map(Match::to_string).collect();
    format!(
        "the rules behind this would have to hold for all but `{}`, which no rule can say exactly: write the chain without \
         it",
        matches.join(" ")
    )
}
