//! Values and how they are compared.

use std::fmt;

use chumsky::prelude::*;

use super::end;
use super::fault::Fault;
use super::token::{Extra, in_quotes, integer, is_value, run_of, symbol, token};
use crate::rule::ast::Test;
use crate::rule::name::{LinkPattern, SetName};
use crate::rule::set::{Element, Item, ItemKind, SetType};
use crate::rule::value::{Range, Value};

/// One value.
pub(crate) fn value<'a, T: Value>() -> impl Parser<'a, &'a str, T, Extra<'a>> + Clone {
    token(T::EXPECTED, |rest| {
        // A dash may be part of a name or stand between the ends of a range: the name goes first.
        let long = run_of(rest, |letter| is_value(letter) || letter == '-');
        let short = run_of(rest, is_value);
        [long, short].into_iter().find_map(|word| T::from_word(word).map(|value| (word.len(), value)))
    })
}

/// What follows the first value of a range.
#[derive(Clone, Copy)]
enum Tail<T> {
    To(T),
    Length(u64),
}

/// A value, a range of values, or a prefix.
pub(crate) fn range<'a, T: Value>() -> impl Parser<'a, &'a str, Range<T>, Extra<'a>> + Clone {
    let to = symbol("-").ignore_then(value::<T>()).map(Tail::To);
    let tail =
        if T::PREFIX { choice((to, symbol("/").ignore_then(integer()).map(Tail::Length))).boxed() } else { to.boxed() };
    value::<T>()
        .then(tail.or_not())
        .validate(|(low, tail), extra, emitter| {
            let range = match tail {
                None => Ok(Range::single(low)),
                Some(Tail::To(high)) => {
                    Range::new(low, high).ok_or_else(|| format!("this range has no values: write it as {high}-{low}"))
                }
                Some(Tail::Length(length)) => u32::try_from(length)
                    .ok()
                    .and_then(|length| Range::prefix(low, length))
                    .ok_or_else(|| format!("a prefix has at most {} bits, not {length}", T::BITS)),
            };
            range.unwrap_or_else(|fault| {
                emitter.emit(Fault::invalid(extra.span(), fault));
                Range::single(low)
            })
        })
        .boxed()
}

/// A comparison that has an order.
#[derive(Clone, Copy)]
enum Order {
    Below,
    AtMost,
    Above,
    AtLeast,
}

impl Order {
    /// The values for which it holds.
    fn range<T: Value>(self, value: T) -> Option<Range<T>> {
        let (bits, last) = (value.bits(), T::last());
        let (low, high) = match self {
            Self::Below => (0, bits.checked_sub(1)?),
            Self::AtMost => (0, bits),
            Self::Above => (bits.checked_add(1).filter(|low| *low <= last)?, last),
            Self::AtLeast => (bits, last),
        };
        Range::new(T::from_bits(low), T::from_bits(high))
    }
}

/// `==` and `!=`, or nothing; whether it negates.
pub(crate) fn equality<'a>() -> impl Parser<'a, &'a str, bool, Extra<'a>> + Clone {
    let relation = choice((symbol("==").to(false), symbol("!=").to(true))).labelled("a comparison");
    relation.or_not().map(Option::unwrap_or_default).boxed()
}

/// A comparison with values, ranges, a list of them in braces, or a set.
pub(crate) fn test<'a, T: Value>() -> impl Parser<'a, &'a str, Test<Range<T>>, Extra<'a>> + Clone {
    let order = choice((
        symbol("<=").to(Order::AtMost),
        symbol(">=").to(Order::AtLeast),
        symbol("<").to(Order::Below),
        symbol(">").to(Order::Above),
    ));
    let ordered = order.labelled("a comparison").then(value::<T>()).validate(|(order, value), extra, emitter| {
        let range = order.range(value).unwrap_or_else(|| {
            emitter.emit(Fault::invalid(extra.span(), "no value meets this; take the match out, or the rule"));
            Range::single(value)
        });
        Test::listed(false, vec![range])
    });
    choice((ordered.try_map_with(|test, extra| test.ok_or_else(|| nothing(extra.span()))), items(range()))).boxed()
}

/// Items alone or in braces, or a set; maybe negated.
pub(crate) fn items<'a, I: Ord + fmt::Debug + 'a>(
    item: impl Parser<'a, &'a str, I, Extra<'a>> + Clone + 'a,
) -> impl Parser<'a, &'a str, Test<I>, Extra<'a>> + Clone {
    let listed = choice((braces(item.clone()), item.map(|item| vec![item]))).map(Some);
    equality()
        .then(choice((set().map(Err), listed.map(Ok))))
        .try_map_with(|(negated, values), extra| match values {
            Ok(items) => items.and_then(|items| Test::listed(negated, items)).ok_or_else(|| nothing(extra.span())),
            Err(name) => Ok(Test::set(negated, name)),
        })
        .boxed()
}

pub(super) fn nothing(span: SimpleSpan) -> Fault {
    Fault::invalid(span, "a comparison needs a value")
}

/// `{ a, b, c }`.
pub(crate) fn braces<'a, I: 'a>(
    item: impl Parser<'a, &'a str, I, Extra<'a>> + Clone + 'a,
) -> impl Parser<'a, &'a str, Vec<I>, Extra<'a>> + Clone {
    let list = item.separated_by(symbol(",")).at_least(1).allow_trailing().collect();
    list.delimited_by(symbol("{"), symbol("}")).boxed()
}

/// `@name`.
pub(super) fn set<'a>() -> impl Parser<'a, &'a str, SetName, Extra<'a>> + Clone {
    let name = token("the name of a set", |rest| {
        let word = run_of(rest, |letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.'));
        SetName::new(word).map(|name| (word.len(), name))
    });
    symbol("@").ignore_then(name)
}

/// The name of a link, in quotes or without, maybe with `*` behind.
pub(crate) fn link<'a>() -> impl Parser<'a, &'a str, LinkPattern, Extra<'a>> + Clone {
    token("the name of a link", |rest| {
        let bare = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-' | '@' | '+' | '*');
        let (word, length) = match in_quotes(rest) {
            Some(text) => (text, text.len() + 2),
            None => (run_of(rest, bare), run_of(rest, bare).len()),
        };
        LinkPattern::new(word).map(|pattern| (length, pattern))
    })
}

/// An element of a set.
pub(crate) fn element<'a>(kind: &SetType) -> impl Parser<'a, &'a str, Element, Extra<'a>> + use<'a> {
    let mut parts = super::token::space().to(Vec::new()).boxed();
    for (place, kind) in kind.kinds().iter().enumerate() {
        let item = match kind {
            ItemKind::Ipv4 => range().map(Item::Ipv4).boxed(),
            ItemKind::Ipv6 => range().map(Item::Ipv6).boxed(),
            ItemKind::Ether => range().map(Item::Ether).boxed(),
            ItemKind::Protocol => range().map(Item::Protocol).boxed(),
            ItemKind::Service => range().map(Item::Service).boxed(),
            ItemKind::Mark => range().map(Item::Mark).boxed(),
            ItemKind::Link => link().map(Item::Link).boxed(),
        };
        let item = if place == 0 { item } else { symbol(".").ignore_then(item).boxed() };
        let grow = |(mut parts, item): (Vec<Item>, Item)| {
            parts.push(item);
            parts
        };
        parts = parts.then(item).map(grow).boxed();
    }
    parts.then_ignore(end("the end of the element")).map(Element)
}
