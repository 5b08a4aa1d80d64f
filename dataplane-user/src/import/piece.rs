//! The pieces of a rule of nft, and how they are read.

use std::ops::Range;

use chumsky::cache::{Cache, Cached};
use chumsky::prelude::*;

use super::chain::Says;
use super::set::value_of;
use crate::rule::parse::fault::{Fault, Word};
use crate::rule::parse::token::{Extra, in_quotes, integer, is_value, keyword, quoted, run_of, space, symbol, token};
use crate::rule::parse::{end, field, kernel, statement, translation, update, value};
use crate::rule::{Match, SetName, SetUpdate, SetVerb, Statement, Text};

pub(super) type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

/// A part of a rule.
#[derive(Clone, Debug)]
pub(super) enum Piece<'a> {
    Match(Match),
    Statement(Statement),
    Counter,
    Says(Says),
    Comment(Text),
    /// Several fields at once, in a set or not.
    Concat {
        keys: Vec<&'a str>,
        negated: bool,
        elements: Elements<'a, &'a str>,
    },
    /// What each element is translated to.
    Translated {
        /// `dnat to` and the like.
        verb: &'a str,
        keys: Vec<&'a str>,
        elements: Elements<'a, (&'a str, &'a str)>,
    },
    /// `flow add @NAME`.
    Offload,
    /// `ct helper set "NAME"`, of an object.
    Helper(Text),
    /// A verdict for each element.
    Vmap {
        keys: Vec<&'a str>,
        elements: Elements<'a, (&'a str, Says)>,
    },
}

/// In braces, or the name of what holds them.
#[derive(Clone, Debug)]
pub(super) enum Elements<'a, E> {
    Listed(Vec<(E, Range<usize>)>),
    Named(&'a str),
}

/// A field and its value; to build the parser takes far longer than to read with it.
#[derive(Default)]
pub(super) struct FieldParser;

impl Cached for FieldParser {
    type Parser<'a> = Boxed<'a, Match>;

    fn make_parser<'a>(self) -> Self::Parser<'a> {
        space().ignore_then(choice((field::any(), kernel()))).then_ignore(end("the end of the element")).boxed()
    }
}

/// An element of a named map.
#[derive(Default)]
pub(super) struct PairParser;

impl Cached for PairParser {
    type Parser<'a> = Boxed<'a, (&'a str, Says)>;

    fn make_parser<'a>(self) -> Self::Parser<'a> {
        space().ignore_then(pair()).then_ignore(end("the end of the element")).map(|(pair, _)| pair).boxed()
    }
}

thread_local! {
    pub(super) static FIELD: Cache<FieldParser> = Cache::default();
    pub(super) static PAIR: Cache<PairParser> = Cache::default();
}

/// A piece that stands for itself.
pub(super) fn piece<'a>() -> Boxed<'a, Piece<'a>> {
    let comment = keyword("comment").ignore_then(quoted("a comment in quotes"));
    let named = keyword("counter").ignore_then(keyword("name")).ignore_then(quoted("the name of a counter"));
    choice((
        choice((field::any(), kernel())).map(Piece::Match).labelled("a match").boxed(),
        named.to(Piece::Counter).labelled("a statement").boxed(),
        statement::counter().to(Piece::Counter).labelled("a statement").boxed(),
        helper().labelled("a statement").boxed(),
        statement::any().map(Piece::Statement).labelled("a statement").boxed(),
        meter().map(|update| Piece::Statement(Statement::Update(Box::new(update)))).labelled("a statement").boxed(),
        says().map(Piece::Says).labelled("a verdict").boxed(),
        comment.map(Piece::Comment).labelled("a comment").boxed(),
        offload().to(Piece::Offload).labelled("a statement").boxed(),
    ))
    .boxed()
}

fn helper<'a>() -> Boxed<'a, Piece<'a>> {
    let words = keyword("ct").ignore_then(keyword("helper")).ignore_then(keyword("set"));
    words.ignore_then(quoted("the name of a helper in quotes")).map(Piece::Helper).boxed()
}

/// `meter NAME size 65535 { ip saddr limit rate 10/second }`: how versions before 1.1 list `add @NAME`.
fn meter<'a>() -> Boxed<'a, SetUpdate> {
    let name = token("the name of a meter", |rest| {
        let word = run_of(rest, |letter| is_value(letter) || letter == '-');
        SetName::new(word).map(|name| (word.len(), name))
    });
    let size = keyword("size").ignore_then(integer()).or_not();
    let inside = update::key().then(update::behind()).delimited_by(symbol("{"), symbol("}"));
    keyword("meter")
        .ignore_then(name)
        .then_ignore(size)
        .then(inside)
        .try_map_with(|(name, (key, behind)), extra| {
            let update = SetUpdate::new((SetVerb::Add, name), key, behind);
            update.ok_or_else(|| Fault::invalid(extra.span(), "the key of an element has fields of one family"))
        })
        .boxed()
}

/// `flow add @NAME`, which older versions call `flow offload`.
fn offload<'a>() -> Boxed<'a, ()> {
    let verb = choice((keyword("add"), keyword("offload")));
    keyword("flow").ignore_then(verb).ignore_then(named()).ignored().boxed()
}

/// `dnat ip to tcp dport map { 80 : 192.0.2.1 . 8080 }`.
pub(super) fn translated<'a>() -> Boxed<'a, Piece<'a>> {
    let word = choice((keyword("dnat").to("dnat to"), keyword("snat").to("snat to")));
    let family = choice((keyword("ip6"), keyword("ip"))).or_not();
    // How versions before 1.0 say that the values have ports.
    let parts = keyword("addr").ignore_then(symbol(".")).ignore_then(keyword("port")).or_not();
    let verb = word.then_ignore(family).then_ignore(parts).then_ignore(keyword("to"));
    let keys = selector().separated_by(symbol(".")).at_least(1).collect::<Vec<_>>();
    let one = spanned(element().then_ignore(symbol(":")).then(element()).boxed());
    let elements = choice((named().map(Elements::Named).boxed(), braces(one).map(Elements::Listed).boxed()));
    verb.then(keys)
        .then_ignore(keyword("map"))
        .then(elements)
        .map(|((verb, keys), elements)| Piece::Translated { verb, keys, elements })
        .boxed()
}

/// What a rule or an element of a map says.
fn says<'a>() -> Boxed<'a, Says> {
    choice((
        keyword("jump").ignore_then(name()).map(Says::Jump).boxed(),
        keyword("goto").ignore_then(name()).map(Says::Goto).boxed(),
        keyword("return").to(Says::Return).boxed(),
        statement::action().map(Says::Action),
        translation().map(Says::Action),
    ))
    .boxed()
}

fn name<'a>() -> Boxed<'a, String> {
    let inside = |letter: char| is_value(letter) || matches!(letter, '-' | '/' | '\\');
    token("the name of a chain", move |rest| {
        let (word, length) = match in_quotes(rest) {
            Some(text) => (text, text.len() + 2),
            None => (run_of(rest, inside), run_of(rest, inside).len()),
        };
        (!word.is_empty()).then(|| (length, word.to_owned()))
    })
    .boxed()
}

/// Fields with dots between them, and what they are compared with; one field may have a verdict map.
pub(super) fn several<'a>() -> Boxed<'a, Piece<'a>> {
    let keys = selector().separated_by(symbol(".")).at_least(1).collect::<Vec<_>>();
    let vmap =
        keyword("vmap").ignore_then(choice((named().map(Elements::Named), braces(pair()).map(Elements::Listed))));
    let listed = choice((
        named().map(Elements::Named).boxed(),
        braces(spanned(element())).map(Elements::Listed).boxed(),
        spanned(plain()).map(|one| Elements::Listed(vec![one])).boxed(),
    ));
    let vmap = vmap.map(|elements| (None, Err(elements))).boxed();
    let set = value::equality().then(listed).map(|(negated, elements)| (Some(negated), Ok(elements))).boxed();
    keys.then(choice((vmap, set)))
        .try_map_with(|(keys, (negated, elements)), extra| match elements {
            Err(elements) => Ok(Piece::Vmap { keys, elements }),
            Ok(elements) if keys.len() > 1 => {
                Ok(Piece::Concat { keys, negated: negated.unwrap_or_default(), elements })
            }
            // One field and no map: what the language of rules has.
            Ok(_) => {
                Err(Fault::expected(SimpleSpan::from(extra.span().start..extra.span().start), Word::Kind("a match")))
            }
        })
        .boxed()
}

/// A field, without what it is compared with.
fn selector<'a>() -> Boxed<'a, &'a str> {
    const ALONE: [&str; 4] = ["iif", "oif", "iifname", "oifname"];
    const LAYERS: [&str; 14] =
        ["ip", "ip6", "tcp", "udp", "udplite", "sctp", "dccp", "th", "icmp", "icmpv6", "meta", "ether", "vlan", "ct"];
    token("a field", |rest| {
        let first = run_of(rest, is_value);
        if ALONE.contains(&first) {
            return Some((first.len(), first));
        }
        let behind = rest[first.len()..].trim_start();
        let second = run_of(behind, |letter| is_value(letter) || letter == '-');
        let length = rest.len() - behind.len() + second.len();
        (LAYERS.contains(&first) && !second.is_empty()).then(|| (length, &rest[..length]))
    })
    .boxed()
}

fn named<'a>() -> Boxed<'a, &'a str> {
    let inside = |letter: char| is_value(letter) || matches!(letter, '-' | '/' | '\\');
    symbol("@")
        .ignore_then(token("a name", move |rest| {
            let word = run_of(rest, inside);
            (!word.is_empty()).then_some((word.len(), word))
        }))
        .boxed()
}

fn braces<'a, O: 'a>(item: Boxed<'a, O>) -> Boxed<'a, Vec<O>> {
    let list = item.separated_by(symbol(",")).at_least(1).allow_trailing().collect();
    list.delimited_by(symbol("{"), symbol("}")).boxed()
}

fn spanned<'a, O: 'a>(item: Boxed<'a, O>) -> Boxed<'a, (O, Range<usize>)> {
    item.map_with(|item, extra| (item, extra.span().into_range())).boxed()
}

/// An element of a map and its verdict.
fn pair<'a>() -> Boxed<'a, ((&'a str, Says), Range<usize>)> {
    spanned(element().then_ignore(counted()).then_ignore(symbol(":")).then(says()).boxed())
}

/// Figures and the comment of an element, which are not kept.
fn counted<'a>() -> Boxed<'a, ()> {
    let figures = keyword("packets").ignore_then(integer()).then_ignore(keyword("bytes")).then(integer());
    let counter = keyword("counter").ignore_then(figures.or_not()).ignored();
    let comment = keyword("comment").ignore_then(quoted("a comment in quotes")).ignored();
    choice((counter.boxed(), comment.boxed())).repeated().boxed()
}

/// An element, whatever it is: to the comma, brace or lone colon behind it.
fn element<'a>() -> Boxed<'a, &'a str> {
    token("an element", |rest| {
        let length = super::set::extent(rest);
        let value = value_of(rest[..length].trim_end());
        (!value.is_empty()).then_some((value.len(), value))
    })
    .boxed()
}

/// Values with dots between them, without braces.
fn plain<'a>() -> Boxed<'a, &'a str> {
    token("values with dots between them", |rest| {
        let mut length = 0;
        loop {
            let part = &rest[length..];
            let one = in_quotes(part).map_or_else(
                || run_of(part, |letter| is_value(letter) || matches!(letter, '-' | '/' | '*')).len(),
                |text| text.len() + 2,
            );
            if one == 0 {
                return None;
            }
            length += one;
            if !rest[length..].starts_with(" . ") {
                return rest[..length].contains(" . ").then(|| (length, &rest[..length]));
            }
            length += 3;
        }
    })
    .boxed()
}
