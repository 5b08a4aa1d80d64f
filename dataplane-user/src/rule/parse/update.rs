//! What a rule writes into a set, and the connections that it counts.

use chumsky::prelude::*;

use super::concatenation;
use super::fault::Fault;
use super::statement::{counter, limit};
use super::token::{Extra, integer, is_value, keyword, run_of, symbol, token};
use super::value::{set, value};
use crate::rule::update::{ConnectionCount, ElementCondition, KeyField, SetUpdate, SetVerb, Timeout};

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

/// `add @NAME { ip saddr limit rate over 10/minute }` and the like.
pub(crate) fn any<'a>() -> Boxed<'a, SetUpdate> {
    // `add rule` and the like are verbs of nft.
    let verb = token("what a rule writes into a set (add @NAME { ... }, ...)", |rest| {
        let verbs = [SetVerb::Add, SetVerb::Update, SetVerb::Delete];
        let verb = verbs.into_iter().find(|verb| rest.starts_with(verb.word()))?;
        let behind = &rest[verb.word().len()..];
        (behind.starts_with(' ') && behind.trim_start().starts_with('@')).then_some((verb.word().len(), verb))
    });
    let inside = key().then(behind()).delimited_by(symbol("{"), symbol("}"));
    verb.then(set())
        .then(inside)
        .try_map_with(|(named, (key, behind)), extra| {
            let update = SetUpdate::new(named, key, behind);
            let fault = "the key of an element has fields of one family: make it two rules";
            update.ok_or_else(|| Fault::invalid(extra.span(), fault))
        })
        .boxed()
}

/// The fields that make an element.
pub(crate) fn key<'a>() -> Boxed<'a, Vec<KeyField>> {
    let address = choice((
        value::<std::net::Ipv4Addr>().map(|mask| u128::from(u32::from(mask))).boxed(),
        value::<std::net::Ipv6Addr>().map(u128::from).boxed(),
    ));
    let mask = symbol("&").ignore_then(address).or_not();
    let part = concatenation::field().then(mask).try_map_with(|(field, mask), extra| {
        let fault = "a mask stands behind an address of its family";
        KeyField::new(field, mask).ok_or_else(|| Fault::invalid(extra.span(), fault))
    });
    part.separated_by(symbol(".")).at_least(1).collect().boxed()
}

/// What stands behind the key of an element: how long it stays, and what it must hold for.
pub(crate) fn behind<'a>() -> Boxed<'a, (Option<Timeout>, Option<ElementCondition>)> {
    let stays = keyword("timeout").ignore_then(timeout()).or_not();
    let condition = choice((limit().map(ElementCondition::Limit), count().map(ElementCondition::Connections)));
    let counts = || counter().or_not();
    stays.then_ignore(counts()).then(condition.or_not()).then_ignore(counts()).boxed()
}

/// `ct count over 20`.
pub(crate) fn count<'a>() -> Boxed<'a, ConnectionCount> {
    let over = keyword("over").or_not().map(|over| over.is_some());
    keyword("ct")
        .ignore_then(keyword("count"))
        .ignore_then(over)
        .then(integer())
        .try_map_with(|(over, count), extra| {
            let fault = format!("a number of connections has 32 bits, not {count}");
            let count = u32::try_from(count).map_err(|_| Fault::invalid(extra.span(), fault))?;
            Ok(ConnectionCount { over, count })
        })
        .boxed()
}

/// `1h30m`.
pub(crate) fn timeout<'a>() -> Boxed<'a, Timeout> {
    token("a time such as 30s, 10m or 1h30m", |rest| {
        let word = run_of(rest, is_value);
        Timeout::from_word(word).map(|timeout| (word.len(), timeout))
    })
    .boxed()
}
