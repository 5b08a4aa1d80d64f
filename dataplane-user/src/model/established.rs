//! What a packet of an established TCP or UDP connection can meet in a chain of netfilter.
//!
//! Such a packet is neither fragment nor FIN, SYN or RST, and conntrack calls it `established`, also where the connection was
//! `related` at its beginning: packets of both directions have been seen (`nf_conntrack_in`). What is not known of it is taken
//! for possible.

use std::collections::{BTreeMap, BTreeSet};

use super::abstraction::{Outcome, Registers, Value};
use super::extension::Judged;
use super::{Expression, NetfilterRule, NetfilterTable, NetfilterVerdict, Obstacle, ObstacleKind};

/// `NFT_JUMP_STACK_SIZE` is less.
const DEPTH: usize = 64;

/// All obstacles that such a packet can meet from a base chain on, one of each kind. `place` names the table, `tracked` says
/// whether connection tracking has seen the packet there.
pub fn obstacles(table: &mut dyn NetfilterTable, place: &str, chain: &str, tracked: bool) -> Vec<Obstacle> {
    let mut walk = Walk { table, place, tracked, found: BTreeMap::new(), walked: BTreeMap::new() };
    walk.chain(chain, 0);
    walk.found.into_values().collect()
}

struct Walk<'a> {
    table: &'a mut dyn NetfilterTable,
    place: &'a str,
    tracked: bool,
    found: BTreeMap<ObstacleKind, Obstacle>,
    /// Chains that were walked, and whether a packet may come out at their end.
    walked: BTreeMap<String, bool>,
}

/// A rule while its expressions are gone through.
struct Step {
    place: String,
    registers: Registers,
    /// Whether what stands behind is met by all such packets.
    always: bool,
    /// A comparison so far has differed between packets of one connection.
    content: bool,
}

/// How a rule leaves a packet.
#[derive(Clone, Copy)]
struct Left {
    /// It may go on with the next rule.
    next: bool,
    /// It may go on behind the chain.
    behind: bool,
}

impl Walk<'_> {
    /// Whether a packet may come out at the end of a chain.
    fn chain(&mut self, name: &str, depth: usize) -> bool {
        if let Some(known) = self.walked.get(name) {
            return *known;
        }
        // A chain that comes to itself cannot be; it would not be walked twice.
        self.walked.insert(name.to_owned(), true);
        let place = format!("{} {}", self.place, self.table.title(name));
        let rules = match self.table.rules(name) {
            _ if depth >= DEPTH => Err("too many jumps".to_owned()),
            rules => rules,
        };
        let rules = rules.unwrap_or_else(|error| {
            self.note(ObstacleKind::Unreadable, &format!("chain {place}"), Some(&error));
            Vec::new()
        });
        let mut behind = false;
        let mut next = true;
        for rule in &rules {
            let left = self.rule(rule, &place, depth);
            behind |= left.behind;
            next = left.next;
            if !next {
                break;
            }
        }
        let out = behind || next;
        self.walked.insert(name.to_owned(), out);
        out
    }

    fn rule(&mut self, rule: &NetfilterRule, place: &str, depth: usize) -> Left {
        let place = format!("rule {place} {}", rule.name);
        let registers = Registers::new(self.tracked);
        let mut step = Step { place, registers, always: true, content: false };
        let mut left = Left { next: false, behind: false };
        for expression in &rule.expressions {
            let (verdicts, misses) = match expression {
                Expression::Verdict(verdict) => (vec![verdict.clone()], false),
                Expression::Target(extension) if extension.name == "REJECT" => (vec![NetfilterVerdict::Drop], false),
                Expression::Lookup { key, set, verdicts: true, .. } => self.map(&mut step, *key, set),
                other => match self.expression(&mut step, other) {
                    Outcome::Never => return Left { next: true, ..left },
                    outcome => {
                        step.always &= outcome == Outcome::Always;
                        continue;
                    }
                },
            };
            let by = self.verdicts(&step, &verdicts, misses, depth);
            left = Left { next: left.next || by.next, behind: left.behind || by.behind };
            // With this verdict the rest of the rule is gone through.
            if !verdicts.contains(&NetfilterVerdict::Continue) {
                return left;
            }
            step.always &= !misses && verdicts.iter().all(|verdict| *verdict == NetfilterVerdict::Continue);
        }
        Left { next: true, ..left }
    }

    /// All expressions but verdicts.
    fn expression(&mut self, step: &mut Step, expression: &Expression) -> Outcome {
        match expression {
            Expression::Load(to, source) => {
                if let Some(kind) = source.obstacle() {
                    self.note(kind, &step.place, None);
                }
                if step.registers.load(*to, *source) { Outcome::Always } else { Outcome::Never }
            }
            Expression::Bitwise { from, to, mask } => {
                step.registers.bitwise(*from, *to, mask.as_ref());
                Outcome::Always
            }
            Expression::Compare(register, comparison, value) => {
                step.judge(step.registers.get(*register).compare(*comparison, value), *register)
            }
            Expression::Uncertain(register) => step.judge(Outcome::Maybe, *register),
            Expression::Lookup { key, set, inverted, to, .. } => {
                let outcome = self.lookup(step, *key, set, *inverted);
                if let Some(to) = to {
                    step.registers.put(*to, step.registers.combined());
                }
                outcome
            }
            Expression::Object(number) => self.object(step, Some(*number)),
            Expression::ObjectOf(_, set) => {
                let number = self.table.set(set).ok().and_then(|set| set.object);
                self.object(step, number);
                step.depends()
            }
            Expression::Effect(kind, what) => {
                self.note(*kind, &step.place, what.as_deref());
                met(*kind)
            }
            Expression::Match(extension) => match extension.matches(self.tracked) {
                Judged::Always => Outcome::Always,
                Judged::Never => Outcome::Never,
                Judged::Fixed => Outcome::Maybe,
                Judged::Obstacle(ObstacleKind::Content) => {
                    step.content = true;
                    Outcome::Maybe
                }
                Judged::Obstacle(kind) => {
                    self.note(kind, &step.place, Some(&format!("match {}", extension.name)));
                    met(kind)
                }
            },
            Expression::Target(extension) => {
                if let Some(kind) = extension.acts() {
                    self.note(kind, &step.place, Some(&format!("target {}", extension.name)));
                }
                Outcome::Always
            }
            Expression::Unknown(name) => {
                let place = step.place.clone();
                self.note(ObstacleKind::Unreadable, &place, Some(&format!("expression {name}")));
                Outcome::Maybe
            }
            Expression::Nothing | Expression::Verdict(_) => Outcome::Always,
        }
    }

    /// Verdicts of which one applies; `misses`: or none. What stands behind the rule follows.
    fn verdicts(&mut self, step: &Step, verdicts: &[NetfilterVerdict], misses: bool, depth: usize) -> Left {
        let mut left = Left { next: misses || !step.always, behind: false };
        if step.content && verdicts.iter().any(|verdict| *verdict != NetfilterVerdict::Continue) {
            self.note(ObstacleKind::Content, &step.place, None);
        }
        for verdict in verdicts.iter().collect::<BTreeSet<_>>() {
            match verdict {
                NetfilterVerdict::Accept | NetfilterVerdict::Drop | NetfilterVerdict::Continue => {}
                NetfilterVerdict::Return => left.behind = true,
                NetfilterVerdict::Jump(chain) => left.next |= self.chain(chain, depth + 1),
                NetfilterVerdict::Goto(chain) => left.behind |= self.chain(chain, depth + 1),
                NetfilterVerdict::Queue => self.note(ObstacleKind::Queue, &step.place, None),
            }
        }
        left
    }

    /// The verdicts that a map may give, and whether it may give none.
    fn map(&mut self, step: &mut Step, key: u8, name: &str) -> (Vec<NetfilterVerdict>, bool) {
        let (set, elements) = match self.table.set(name).and_then(|set| Ok((set, self.table.elements(name)?))) {
            Ok(read) => read,
            Err(error) => {
                self.note(ObstacleKind::Unreadable, &step.place, Some(&error));
                return (Vec::new(), true);
            }
        };
        self.evaluated(step, &set.expressions);
        let value = step.registers.get(key);
        let verdict = |key: Option<&[u8]>| {
            let found = elements.iter().find(|element| element.key.as_deref() == key);
            found.and_then(|element| element.verdict.clone())
        };
        if let Some(values) = value.known().filter(|_| !set.interval)
            && elements.iter().flat_map(|element| &element.key).all(|key| values.iter().all(|it| it.len() == key.len()))
        {
            let given: Vec<_> = values.iter().map(|value| verdict(Some(value)).or_else(|| verdict(None))).collect();
            step.content |= value.differs() && given.iter().any(|one| *one != given[0]);
            let misses = given.iter().any(Option::is_none);
            return (given.into_iter().flatten().collect(), misses);
        }
        step.depends();
        (elements.into_iter().filter_map(|element| element.verdict).collect(), true)
    }

    /// Whether something is in a set.
    fn lookup(&mut self, step: &mut Step, key: u8, name: &str, inverted: bool) -> Outcome {
        let set = match self.table.set(name) {
            Ok(set) => set,
            Err(error) => {
                self.note(ObstacleKind::Unreadable, &step.place, Some(&error));
                return Outcome::Maybe;
            }
        };
        self.evaluated(step, &set.expressions);
        let value = step.registers.get(key);
        let known = value.known().filter(|_| !set.interval);
        let Some((values, elements)) = known.and_then(|values| Some((values, self.table.elements(name).ok()?))) else {
            return step.depends();
        };
        // A concatenation: only its first part is known here.
        if elements.iter().flat_map(|element| &element.key).any(|key| values.iter().any(|it| it.len() != key.len())) {
            return step.depends();
        }
        let is_in = |value: &Vec<u8>| {
            elements.iter().any(|element| element.key.as_ref().is_none_or(|key| key == value)) != inverted
        };
        let outcome = Outcome::of(values.iter().map(is_in));
        step.judge(outcome, key)
    }

    /// What a set evaluates for each element.
    fn evaluated(&mut self, step: &mut Step, expressions: &[Expression]) {
        for expression in expressions {
            self.expression(step, expression);
        }
    }

    /// A named object.
    fn object(&mut self, step: &Step, number: Option<u32>) -> Outcome {
        let kind = match number {
            Some(1) => ObstacleKind::Counter,
            Some(2) => ObstacleKind::Quota,
            Some(4) => ObstacleKind::Limit,
            Some(5) => ObstacleKind::Connlimit,
            Some(10) => ObstacleKind::Synproxy,
            // Timeouts and expectations are for connections that are not there yet; labels change no packet.
            Some(7..=9) => return Outcome::Always,
            Some(3) => ObstacleKind::Helper,
            _ => ObstacleKind::Unreadable,
        };
        self.note(kind, &step.place, Some("a named object"));
        met(kind)
    }

    fn note(&mut self, kind: ObstacleKind, place: &str, what: Option<&str>) {
        self.found.entry(kind).or_insert_with(|| Obstacle {
            kind,
            place: place.to_owned(),
            what: what.map(str::to_owned),
        });
    }
}

/// Whether a rule always goes on behind such an expression.
const fn met(kind: ObstacleKind) -> Outcome {
    match kind {
        ObstacleKind::Counter
        | ObstacleKind::Helper
        | ObstacleKind::Log
        | ObstacleKind::Mark
        | ObstacleKind::Ct
        | ObstacleKind::Priority
        | ObstacleKind::Payload
        | ObstacleKind::Trace
        | ObstacleKind::Dup => Outcome::Always,
        _ => Outcome::Maybe,
    }
}

impl Step {
    /// Takes in that it is not known how a set is looked up.
    fn depends(&mut self) -> Outcome {
        self.content |= self.registers.combined().differs();
        Outcome::Maybe
    }

    /// Takes in how a comparison with a register came out.
    fn judge(&mut self, outcome: Outcome, register: u8) -> Outcome {
        let value: Value = self.registers.get(register);
        self.content |= outcome == Outcome::Maybe && value.differs();
        outcome
    }
}

#[cfg(test)]
mod tests;
