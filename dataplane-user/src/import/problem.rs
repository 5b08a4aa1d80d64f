//! What cannot be translated, and where it stands.

use std::fmt;
use std::ops::Range;

use thiserror::Error;

use crate::rule::{position, render};

/// Errors that are shown; how many more there are is said.
const SHOWN: usize = 50;
/// Bytes of a line beyond which it is not shown as a whole.
const LONGEST: usize = 2000;
/// Characters of a JSON object that are shown.
const EXCERPT: usize = 160;

/// Bytes of the file.
pub(super) type Position = Range<usize>;

/// What was found on the way.
#[derive(Debug, Default)]
pub(super) struct Problems {
    errors: Vec<(Position, String)>,
    notes: Vec<(Position, String)>,
    /// Whether one of the errors leaves nothing that could be taken without it.
    fatal: bool,
}

impl Problems {
    /// Something that the config cannot say.
    pub(super) fn error(&mut self, place: Position, message: impl Into<String>) {
        self.errors.push((place, message.into()));
    }

    /// Something without which the rest of the file means nothing.
    pub(super) fn fatal(&mut self, place: Position, message: impl Into<String>) {
        self.error(place, message);
        self.fatal = true;
    }

    /// Whether there is one of these.
    pub(super) fn is_fatal(&self) -> bool {
        self.fatal
    }

    /// Something that the config says otherwise, or leaves out because it has no effect.
    pub(super) fn note(&mut self, place: Position, message: impl Into<String>) {
        self.notes.push((place, message.into()));
    }

    /// Whether there are errors.
    pub(super) fn any(&self) -> bool {
        !self.errors.is_empty()
    }

    /// The same, about another text.
    pub(super) fn moved(self, there: impl Fn(Position) -> Position) -> Self {
        let moved = |all: Vec<(Position, String)>| all.into_iter().map(|(place, what)| (there(place), what)).collect();
        Self { errors: moved(self.errors), notes: moved(self.notes), fatal: self.fatal }
    }

    /// The notes as `path:line:column: note`, in the order of the file.
    pub(super) fn notes(&self, text: &str, path: &str) -> Vec<String> {
        Self::located(&self.notes, text, path)
    }

    /// The errors in the same way.
    pub(super) fn left_out(&self, text: &str, path: &str) -> Vec<String> {
        Self::located(&self.errors, text, path)
    }

    fn located(all: &[(Position, String)], text: &str, path: &str) -> Vec<String> {
        // One walk through the text, however many there are.
        let (mut at, mut line, mut column) = (0, 1, 1);
        let note = |(place, what): &(Position, String)| {
            let passed = text.get(at..place.start).unwrap_or_default();
            at += passed.len();
            match passed.rfind('\n') {
                None => column += passed.chars().count(),
                Some(newline) => {
                    line += passed.matches('\n').count();
                    column = passed[newline + 1..].chars().count() + 1;
                }
            }
            format!("{path}:{line}:{column}: {what}")
        };
        ordered(all).into_iter().map(note).collect()
    }

    /// All errors, in the order of the file. An excerpt is shown of what has no lines of its own.
    pub(super) fn into_error(self, text: &str, path: &str, excerpt: bool) -> ImportError {
        // A tab is shown wider than it is counted: then the caret would stand elsewhere.
        let spaced = text.replace('\t', " ");
        let shown = |(place, what): &(Position, String)| {
            if !excerpt && !is_long(&spaced, place) {
                return render(&spaced, path, place.clone(), what);
            }
            let (line, column) = position(text, place.start);
            let object = text.get(place.clone()).unwrap_or_default();
            let words = object.split_whitespace().take(EXCERPT).collect::<Vec<_>>().join(" ");
            let words: String = words.chars().take(EXCERPT).collect();
            format!("error: {path}:{line}:{column}: {what}\n  |\n  | {words}\n  |")
        };
        let ordered = ordered(&self.errors);
        let errors = ordered.iter().take(SHOWN).copied().map(shown).collect();
        ImportError { errors, more: ordered.len().saturating_sub(SHOWN), left_out: false }
    }
}

/// Whether the lines of a place are too long to be shown.
fn is_long(text: &str, place: &Position) -> bool {
    let before = text[..place.start].bytes().rev().take_while(|byte| *byte != b'\n').take(LONGEST).count();
    let behind = text[place.end..].bytes().take_while(|byte| *byte != b'\n').take(LONGEST).count();
    before + place.len() + behind >= LONGEST
}

fn ordered(all: &[(Position, String)]) -> Vec<&(Position, String)> {
    let mut ordered: Vec<_> = all.iter().collect();
    ordered.sort_by_key(|(place, _)| (place.start, place.end));
    ordered.dedup();
    ordered
}

/// A file that cannot be translated: each error as `error: path:line:column: message`, the line, and a caret below it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct ImportError {
    errors: Vec<String>,
    /// How many more there are, which are not shown.
    more: usize,
    /// The config was printed without them.
    left_out: bool,
}

impl ImportError {
    /// The same, of a config that does without what the errors are about.
    pub(super) fn left_out(self) -> Self {
        Self { left_out: true, ..self }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<_> = self.errors.iter().map(|error| error.trim_end()).collect();
        f.write_str(&shown.join("\n"))?;
        if self.more != 0 {
            write!(f, "\nerror: and {} more", self.more)?;
        }
        if self.left_out {
            f.write_str(
                "\nerror: the config is printed without these, so it does not mean the same as the tables; read what is left \
                 out before you apply it",
            )?;
        }
        Ok(())
    }
}
