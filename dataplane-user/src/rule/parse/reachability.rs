//! `fib ...`.

use chumsky::prelude::*;

use super::fault::Fault;
use super::field::named;
use super::token::{Extra, keyword, symbol};
use super::value::{braces, equality};
use crate::rule::ast::{Match, Side};
use crate::rule::connection::Connection;
use crate::rule::reachability::{Found, Reachability, TYPES};

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

pub(crate) fn any<'a>() -> Boxed<'a, Match> {
    let more = symbol(".").ignore_then(choice((keyword("mark").to(true), keyword("iif").to(false))));
    let keys = named::<Side>().then(more.repeated().collect::<Vec<_>>());
    keyword("fib")
        .ignore_then(keys)
        .then(choice((kind(), route())))
        .map(|((side, more), found)| {
            let (mark, iif) = (more.contains(&true), more.contains(&false));
            Match::Connection(Connection::Route(Reachability { side, mark, iif, found }))
        })
        .boxed()
}

fn kind<'a>() -> Boxed<'a, Found> {
    let words: Vec<_> = TYPES.iter().map(|(word, number)| keyword(word).to(*number).boxed()).collect();
    let one = choice(words).boxed();
    let values = choice((braces(one.clone()).boxed(), one.map(|one| vec![one]).boxed()));
    keyword("type")
        .ignore_then(equality())
        .then(values)
        .map(|(negated, mut types)| {
            types.sort_unstable();
            types.dedup();
            Found::Type(negated, types)
        })
        .boxed()
}

fn route<'a>() -> Boxed<'a, Found> {
    let zero = equality().then(super::token::integer()).try_map_with(|(negated, number), extra| match number {
        0 => Ok(negated),
        _ => Err(Fault::invalid(extra.span(), "a route exists or is missing: its interface cannot be compared here")),
    });
    let there = choice((keyword("exists").to(true).boxed(), keyword("missing").to(false).boxed(), zero.boxed()));
    choice((keyword("oif"), keyword("oifname"))).ignore_then(there).map(Found::Route).boxed()
}
