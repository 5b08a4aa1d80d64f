//! One rule of iptables: options before and behind `-m`, and the target.

use std::rc::Rc;

use super::super::chain::{Line, Says, too_much};
use super::super::problem::Position;
use super::super::room::{MATCHES, Room, weight};
use super::asked::{self, Asked};
use super::ipset;
use super::target;
use super::word::Word;
use crate::config::SetConfig;
use crate::rule::{Action, Family, Match, Rule, SetName, Statement, Text};

/// What is wrong, and where.
pub(super) type Fault = (Position, String);

/// What was read of a rule until now.
pub(super) struct Draft {
    pub(super) family: Family,
    /// What must hold; more than one where options mean either of two.
    pub(super) ways: Vec<Vec<Match>>,
    pub(super) statements: Vec<Statement>,
    pub(super) comment: Option<Text>,
    /// What `-m` named last.
    pub(super) module: Option<String>,
    /// What `-p` names, by number.
    pub(super) protocol: Option<u8>,
    /// What is worth knowing.
    pub(super) notes: Vec<Fault>,
    /// Sets that it fills, or asks.
    pub(super) sets: Vec<(SetName, SetConfig)>,
    /// Those of ipset.
    pub(super) ipsets: Rc<ipset::Known>,
}

/// What a rule comes to.
pub(super) struct Read {
    pub(super) lines: Vec<Line>,
    pub(super) notes: Vec<Fault>,
    pub(super) sets: Vec<(SetName, SetConfig)>,
}

/// The words of a rule, read from the front.
pub(super) struct Words<'w> {
    words: &'w [Word],
    at: usize,
}

impl<'w> Words<'w> {
    pub(super) fn next(&mut self) -> Option<&'w Word> {
        let word = self.words.get(self.at);
        self.at += usize::from(word.is_some());
        word
    }

    /// Whether the next word is `!`, which is then taken.
    fn negated(&mut self) -> bool {
        let negated = self.words.get(self.at).is_some_and(|word| word.text == "!");
        self.at += usize::from(negated);
        negated
    }

    /// The value of an option.
    pub(super) fn value(&mut self, option: &Word) -> Result<&'w Word, Fault> {
        self.next().ok_or_else(|| (option.place.clone(), format!("`{}` has no value", option.text)))
    }

    /// Takes the next word if it is such a one.
    pub(super) fn skip_if(&mut self, such: impl Fn(&Word) -> bool) {
        self.at += usize::from(self.words.get(self.at).is_some_and(such));
    }

    /// Whether such a word is still to come.
    pub(super) fn has(&self, text: &str) -> bool {
        self.words[self.at.min(self.words.len())..].iter().any(|word| word.text == text)
    }

    /// The next word, which stays.
    pub(super) fn peek(&self) -> Option<&'w Word> {
        self.words.get(self.at)
    }
}

/// What a rule comes to.
///
/// # Errors
/// All that it cannot be translated for.
pub(super) fn lines(
    words: &[Word],
    whole: &Position,
    (family, room, ipsets): (Family, &mut Room, &Rc<ipset::Known>),
) -> Result<Read, Vec<Fault>> {
    let mut words = Words { words, at: 0 };
    let mut draft = Draft {
        family,
        ways: vec![Vec::new()],
        statements: Vec::new(),
        comment: None,
        module: None,
        protocol: None,
        notes: Vec::new(),
        sets: Vec::new(),
        ipsets: Rc::clone(ipsets),
    };
    let mut faults = Vec::new();
    let mut says = None;
    loop {
        let negated = words.negated();
        let Some(option) = words.next() else { break };
        let read = match option.text.as_str() {
            "-j" | "--jump" => words.value(option).and_then(|target| {
                says = Some(target::says(target, &mut draft, &mut words)?);
                Ok(())
            }),
            "-g" | "--goto" => words.value(option).map(|name| says = Some(Says::Goto(name.text.clone()))),
            _ => asked::option(option, negated, (&mut draft, room), &mut words),
        };
        match read {
            Ok(()) => {}
            Err(fault) => {
                // An option that is not known may have any number of values: the next one is found by its dashes.
                faults.push(fault);
                while words.peek().is_some_and(|word| !word.text.starts_with('-') && word.text != "!") {
                    words.next();
                }
            }
        }
    }
    for way in &draft.ways {
        if let (true, Err(error)) = (faults.is_empty(), Rule::new(way.clone(), Vec::new(), Action::Drop, None)) {
            faults.push((whole.clone(), error.to_string()));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let line = |matches: &Vec<Match>| Line {
        place: whole.clone(),
        matches: matches.clone(),
        statements: draft.statements.clone(),
        says: says.clone().unwrap_or(Says::Action(Action::Continue)),
        comment: draft.comment.clone(),
    };
    let lines = draft.ways.iter().map(line).collect();
    Ok(Read { lines, notes: draft.notes, sets: draft.sets })
}

impl Draft {
    /// One of these must hold.
    pub(super) fn either(&mut self, ways: &[Asked], room: &mut Room) -> Result<(), String> {
        let all = |ways: &[Asked]| ways.iter().map(|asked| weight(asked)).sum::<usize>();
        let more = all(ways).saturating_mul(self.ways.len());
        if self.ways.iter().any(|one| one.len() >= MATCHES) {
            return Err(format!("a rule asks at most {MATCHES} things"));
        }
        if let [more_of] = ways {
            room.take(if more_of.is_empty() { 0 } else { more }).map_err(too_much)?;
            self.ways.iter_mut().for_each(|one| one.extend(more_of.iter().cloned()));
            return Ok(());
        }
        room.take(more.saturating_add(all(&self.ways).saturating_mul(ways.len()))).map_err(too_much)?;
        let before = std::mem::take(&mut self.ways);
        let with = |one: &Vec<Match>, more: &Asked| one.iter().chain(more).cloned().collect();
        self.ways = before.iter().flat_map(|one| ways.iter().map(move |more| with(one, more))).collect();
        Ok(())
    }
}
