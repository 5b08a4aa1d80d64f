//! The smallest pieces: words, symbols, texts in quotes. Each eats the space behind it and fails where it begins, so that
//! alternatives that fail at the same place add up to one list of what was expected.

use chumsky::extra;
use chumsky::prelude::*;

use super::fault::{Fault, Word};
use crate::rule::text::Text;
use crate::rule::value::number;

/// Errors carry spans and what was expected.
pub(crate) type Extra<'a> = extra::Err<Fault>;

/// What `read` takes from the beginning of the rest: its length in bytes and its meaning.
pub(crate) fn token<'a, O>(
    expected: &'static str,
    read: impl Fn(&'a str) -> Option<(usize, O)> + Clone,
) -> impl Parser<'a, &'a str, O, Extra<'a>> + Clone {
    piece(Word::Kind(expected), read)
}

fn piece<'a, O>(
    expected: Word,
    read: impl Fn(&'a str) -> Option<(usize, O)> + Clone,
) -> impl Parser<'a, &'a str, O, Extra<'a>> + Clone {
    custom(move |input| {
        let start = input.cursor();
        let rest: &'a str = input.slice_from(&start..);
        let Some((length, meaning)) = read(rest) else {
            let here = input.span_since(&start);
            return Err(Fault::expected(here, expected));
        };
        let behind = &rest[length..];
        let eaten = length + behind.len() - behind.trim_start().len();
        for _ in rest[..eaten].chars() {
            input.skip();
        }
        Ok(meaning)
    })
}

/// Space at the beginning.
pub(crate) fn space<'a>() -> impl Parser<'a, &'a str, (), Extra<'a>> + Clone {
    token("", |_| Some((0, ())))
}

/// A whole word.
pub(crate) fn keyword<'a>(word: &'static str) -> impl Parser<'a, &'a str, (), Extra<'a>> + Clone {
    piece(Word::Literal(word), move |rest| {
        let behind = rest.strip_prefix(word)?;
        let ends = !behind.starts_with(|letter| is_value(letter) || letter == '-');
        ends.then_some((word.len(), ()))
    })
}

/// Punctuation.
pub(crate) fn symbol<'a>(text: &'static str) -> impl Parser<'a, &'a str, (), Extra<'a>> + Clone {
    piece(Word::Literal(text), move |rest| rest.starts_with(text).then_some((text.len(), ())))
}

/// A text in quotes.
pub(crate) fn quoted<'a>(expected: &'static str) -> impl Parser<'a, &'a str, Text, Extra<'a>> + Clone {
    token(expected, |rest| in_quotes(rest).map(|text| (text.len() + 2, text))).validate(|text, extra, emitter| {
        Text::new(text).unwrap_or_else(|| {
            emitter.emit(Fault::invalid(extra.span(), "a text is one line of at most 128 bytes; make it shorter"));
            Text::default()
        })
    })
}

/// A whole number, decimal or after `0x`.
pub(crate) fn integer<'a>() -> impl Parser<'a, &'a str, u64, Extra<'a>> + Clone {
    token("a number", |rest| {
        let word = run_of(rest, is_value);
        number(word).map(|number| (word.len(), number))
    })
}

/// The text between quotes, when the rest begins with them.
pub(crate) fn in_quotes(rest: &str) -> Option<&str> {
    rest.strip_prefix('"').and_then(|inside| inside.split_once('"')).map(|(text, _)| text)
}

/// The longest beginning of these letters.
pub(crate) fn run_of(rest: &str, inside: impl Fn(char) -> bool) -> &str {
    rest.find(|letter| !inside(letter)).map_or(rest, |end| &rest[..end])
}

/// What addresses, numbers and most names are made of.
pub(crate) fn is_value(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '.' | ':' | '_')
}

/// What an error shows of the rest: a word, or a letter.
pub(crate) fn shown(rest: &str) -> &str {
    match run_of(rest, |letter| is_value(letter) || letter == '-' || letter == '*') {
        "" => rest.chars().next().map_or("", |letter| &rest[..letter.len_utf8()]),
        word => word,
    }
}
