//! Fields asked together. Elements are read by the parser of sets: what an item is depends on its field.

use chumsky::prelude::*;

use super::fault::Fault;
use super::field::named;
use super::parse_element;
use super::token::{Extra, in_quotes, keyword, run_of, symbol, token};
use super::value::{braces, equality, nothing, set};
use crate::rule::ast::{LinkField, Match, ProtocolField, Side, Test, Transport};
use crate::rule::concatenation::{Concatenation, Field};
use crate::rule::set::Element;

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

/// Any concatenation.
pub(super) fn any<'a>() -> Boxed<'a, Match> {
    let fields = field().separated_by(symbol(".")).at_least(2).collect::<Vec<_>>().boxed();
    let listed = choice((braces(element()), element().map(|one| vec![one])));
    fields
        .then(equality())
        .then(choice((set().map(Err).boxed(), listed.map(Ok).boxed())))
        .try_map_with(|((fields, negated), values), extra| {
            let test = match values {
                Err(name) => Test::set(negated, name),
                Ok(texts) => {
                    let elements = texts.into_iter().map(|text| read(&fields, text)).collect::<Result<_, _>>()?;
                    Test::listed(negated, elements).ok_or_else(|| nothing(extra.span()))?
                }
            };
            let whole = Concatenation::new(fields, test).map(Match::Concatenation);
            whole.ok_or_else(|| {
                let fault = "the fields of a concatenation belong to one family, and take six words (an IPv6 address \
                             takes two): make it two matches";
                Fault::invalid(extra.span(), fault)
            })
        })
        .boxed()
}

pub(super) fn field<'a>() -> Boxed<'a, Field> {
    let port = choice((keyword("sport").to(Side::Source), keyword("dport").to(Side::Destination)));
    let links = || named::<LinkField>().map(Field::Link);
    let ip = choice((named::<Side>().map(Field::Ipv4).boxed(), protocol("protocol", ProtocolField::Ip)));
    let meta = choice((protocol("l4proto", ProtocolField::Meta), links().boxed()));
    choice((
        keyword("ip").ignore_then(ip).boxed(),
        keyword("ip6").ignore_then(named::<Side>()).map(Field::Ipv6).boxed(),
        keyword("meta").ignore_then(meta).boxed(),
        keyword("ether").ignore_then(named::<Side>()).map(Field::Ether).boxed(),
        named::<Transport>().then(port).map(|(transport, side)| Field::Port(transport, side)).boxed(),
        links().boxed(),
    ))
    .boxed()
}

fn protocol<'a>(word: &'static str, field: ProtocolField) -> Boxed<'a, Field> {
    keyword(word).to(Field::Protocol(field)).boxed()
}

/// The text of an element, and where it stands.
fn element<'a>() -> impl Parser<'a, &'a str, (&'a str, SimpleSpan), Extra<'a>> + Clone {
    let item = token("an element, with ` . ` between its parts", |rest| {
        let bare = |letter: char| !letter.is_whitespace() && !matches!(letter, ',' | '{' | '}' | '"');
        let length = in_quotes(rest).map_or_else(|| run_of(rest, bare).len(), |text| text.len() + 2);
        (length > 0 && !rest.starts_with('.')).then_some((length, ()))
    });
    item.separated_by(symbol(".")).at_least(2).map_with(|(), extra| (extra.slice(), extra.span())).boxed()
}

fn read(fields: &[Field], (text, span): (&str, SimpleSpan)) -> Result<Element, Fault> {
    let kind = crate::rule::set::SetType::new(fields.iter().map(|field| field.kind()).collect());
    let kind = kind.ok_or_else(|| nothing(span))?;
    parse_element(&kind, text.trim_end()).map_err(|error| {
        let place = span.start + error.span.start..span.start + error.span.end;
        Fault::invalid(place.into(), error.to_string())
    })
}
