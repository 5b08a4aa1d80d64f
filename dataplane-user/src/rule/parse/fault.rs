//! The parser's own error: chumsky's `Rich` would lose the place of a message when it merges errors.

use std::{cell::Cell, fmt};

use chumsky::DefaultExpected;
use chumsky::error::{Error, LabelError};
use chumsky::prelude::*;
use chumsky::util::MaybeRef;

thread_local! {
    /// What could have stood where alternatives failed is not noted.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Reads without noting what could have stood where. Most texts are right, and in each of them most alternatives fail: to note
/// all of these takes longer than to read the text. What fails is read again, for its message.
pub(crate) fn quietly<T>(read: impl FnOnce() -> T) -> T {
    let before = QUIET.replace(true);
    let done = read();
    QUIET.set(before);
    done
}

/// Why the text is not what a parser reads.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) span: SimpleSpan,
    pub(crate) reason: Reason,
}

#[derive(Clone, Debug)]
pub(crate) enum Reason {
    /// None of these stands there.
    Expected(Expected),
    /// It is well formed, but without meaning.
    Invalid(String),
}

/// What could have stood at a place. Most alternatives fail in every rule, so one alone takes no memory of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    first: Option<Word>,
    more: Vec<Word>,
}

/// One thing that could have stood there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    /// These letters.
    Literal(&'static str),
    /// A kind of thing.
    Kind(&'static str),
}

impl Expected {
    fn join(&mut self, other: Self) {
        if QUIET.get() {
            return;
        }
        match self.first {
            None => *self = other,
            Some(_) => self.more.extend(other),
        }
    }
}

impl FromIterator<&'static str> for Expected {
    fn from_iter<T: IntoIterator<Item = &'static str>>(kinds: T) -> Self {
        let mut kinds = kinds.into_iter().map(Word::Kind);
        Self { first: kinds.next(), more: kinds.collect() }
    }
}

impl IntoIterator for Expected {
    type Item = Word;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Word>, std::vec::IntoIter<Word>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.more)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => write!(f, "`{text}`"),
            Self::Kind(text) => f.write_str(text),
        }
    }
}

impl Fault {
    pub(crate) const fn expected(span: SimpleSpan, expected: Word) -> Self {
        Self { span, reason: Reason::Expected(Expected { first: Some(expected), more: Vec::new() }) }
    }

    pub(crate) fn invalid(span: SimpleSpan, message: impl Into<String>) -> Self {
        Self { span, reason: Reason::Invalid(message.into()) }
    }
}

impl<'a> Error<'a, &'a str> for Fault {
    /// What has no meaning says more than what could also have stood there.
    fn merge(mut self, other: Self) -> Self {
        match (&mut self.reason, other.reason) {
            (Reason::Expected(all), Reason::Expected(more)) => all.join(more),
            (Reason::Expected(_), reason @ Reason::Invalid(_)) => return Self { span: other.span, reason },
            (Reason::Invalid(_), _) => {}
        }
        self
    }
}

impl<'a> LabelError<'a, &'a str, DefaultExpected<'a, char>> for Fault {
    fn expected_found<E: IntoIterator<Item = DefaultExpected<'a, char>>>(
        _: E,
        _: Option<MaybeRef<'a, char>>,
        span: SimpleSpan,
    ) -> Self {
        // Only chumsky's own parsers come here; the tokens say themselves what they expected.
        Self { span, reason: Reason::Expected(Expected::default()) }
    }
}

impl<'a> LabelError<'a, &'a str, &'static str> for Fault {
    fn expected_found<E: IntoIterator<Item = &'static str>>(
        expected: E,
        _: Option<MaybeRef<'a, char>>,
        span: SimpleSpan,
    ) -> Self {
        Self { span, reason: Reason::Expected(expected.into_iter().collect()) }
    }

    fn label_with(&mut self, label: &'static str) {
        if let Reason::Expected(expected) = &mut self.reason {
            *expected = Expected { first: Some(Word::Kind(label)), more: Vec::new() };
        }
    }
}
