//! Actions that translate.

use std::net::{Ipv4Addr, Ipv6Addr};

use chumsky::prelude::*;

use super::token::{Extra, keyword, symbol, token};
use super::value::{range, value};
use crate::rule::translation::{Addresses, Choice, Translation, TranslationKind};
use crate::rule::value::{Port, Range};

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;
type Target = (Addresses, Option<Range<Port>>);

/// `masquerade`, `snat to`, `dnat to`, `redirect`.
pub(crate) fn any<'a>() -> Boxed<'a, Translation> {
    let own = |word: &'static str, kind: TranslationKind| {
        let ports = keyword("to").ignore_then(ports()).or_not();
        keyword(word).ignore_then(ports).map(move |ports| (kind, ports)).boxed()
    };
    let given = |word: &'static str, kind: fn(Addresses) -> TranslationKind| {
        let family = choice((keyword("ip"), keyword("ip6"))).or_not();
        let target = family.ignore_then(keyword("to")).ignore_then(target());
        keyword(word).ignore_then(target).map(move |(addresses, ports)| (kind(addresses), ports)).boxed()
    };
    choice((
        own("masquerade", TranslationKind::Masquerade),
        own("redirect", TranslationKind::Redirect),
        given("snat", TranslationKind::Source),
        given("dnat", TranslationKind::Destination),
    ))
    .then(flags())
    .map(|((kind, ports), choice)| Translation { kind, ports, choice })
    .boxed()
}

fn ports<'a>() -> Boxed<'a, Range<Port>> {
    symbol(":").ignore_then(range()).boxed()
}

/// `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]:80`; of each several, `a-b`.
fn target<'a>() -> Boxed<'a, Target> {
    // A colon behind an address is not a part of it.
    let ipv4 = token("an IPv4 address", |rest| {
        let end = rest.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(rest.len());
        rest[..end].parse::<Ipv4Addr>().ok().map(|address| (end, address))
    })
    .boxed();
    let bracketed = symbol("[").ignore_then(value::<Ipv6Addr>()).then_ignore(symbol("]")).boxed();
    choice((
        several(ipv4).then(ports().or_not()).map(|(range, ports)| (Addresses::V4(range), ports)).boxed(),
        several(bracketed).then(ports().or_not()).map(|(range, ports)| (Addresses::V6(range), ports)).boxed(),
        range::<Ipv6Addr>().map(|range| (Addresses::V6(range), None)).boxed(),
    ))
    .boxed()
}

fn several<T: crate::rule::value::Value>(one: Boxed<'_, T>) -> Boxed<'_, Range<T>> {
    use super::fault::Fault;
    let prefix = symbol("/").ignore_then(super::token::integer()).map(Err);
    let last = symbol("-").ignore_then(one.clone()).map(Ok);
    one.then(choice((last.boxed(), prefix.boxed())).or_not())
        .try_map_with(|(low, behind), extra| {
            let range = match behind {
                None => Some(Range::single(low)),
                Some(Ok(high)) => Range::new(low, high),
                Some(Err(length)) => u32::try_from(length).ok().and_then(|length| Range::prefix(low, length)),
            };
            range.ok_or_else(|| Fault::invalid(extra.span(), "this range has no values"))
        })
        .boxed()
}

fn flags<'a>() -> Boxed<'a, Choice> {
    let words: Vec<_> = Choice::NAMES.into_iter().map(|word| keyword(word).to(word).boxed()).collect();
    let list = choice(words).separated_by(symbol(",")).at_least(1).collect::<Vec<_>>();
    list.or_not().map(|words| words.unwrap_or_default().into_iter().fold(Choice::default(), Choice::with)).boxed()
}
