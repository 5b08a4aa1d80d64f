//! The parser's own error: chumsky's `Rich` would lose the place of a message when it merges errors.

use std::borrow::Cow;

use chumsky::DefaultExpected;
use chumsky::error::{Error, LabelError};
use chumsky::prelude::*;
use chumsky::util::MaybeRef;

/// Why the text is not what a parser reads.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) span: SimpleSpan,
    pub(crate) reason: Reason,
}

#[derive(Clone, Debug)]
pub(crate) enum Reason {
    /// None of these stands there.
    Expected(Vec<Cow<'static, str>>),
    /// It is well formed, but without meaning.
    Invalid(String),
}

impl Fault {
    pub(crate) fn expected(span: SimpleSpan, expected: Cow<'static, str>) -> Self {
        Self { span, reason: Reason::Expected(vec![expected]) }
    }

    pub(crate) fn invalid(span: SimpleSpan, message: impl Into<String>) -> Self {
        Self { span, reason: Reason::Invalid(message.into()) }
    }
}

impl<'a> Error<'a, &'a str> for Fault {
    /// What has no meaning says more than what could also have stood there.
    fn merge(mut self, other: Self) -> Self {
        match (&mut self.reason, other.reason) {
            (Reason::Expected(all), Reason::Expected(more)) => all.extend(more),
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
        Self { span, reason: Reason::Expected(Vec::new()) }
    }
}

impl<'a> LabelError<'a, &'a str, &'static str> for Fault {
    fn expected_found<E: IntoIterator<Item = &'static str>>(
        expected: E,
        _: Option<MaybeRef<'a, char>>,
        span: SimpleSpan,
    ) -> Self {
        Self { span, reason: Reason::Expected(expected.into_iter().map(Cow::Borrowed).collect()) }
    }

    fn label_with(&mut self, label: &'static str) {
        if let Reason::Expected(expected) = &mut self.reason {
            *expected = vec![Cow::Borrowed(label)];
        }
    }
}
