//! What a rule can ask of a packet's connection.

use chumsky::prelude::*;

use super::fault::Fault;
use super::field::named;
use super::token::{Extra, integer, keyword, symbol};
use super::value::{braces, equality, test};
use crate::rule::ast::{Match, Side};
use crate::rule::connection::{Connection, ConnectionBits, Direction, Marked, OwnerKind};
use crate::rule::value::{Mark, Owner};

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

/// `ct ...`.
pub(crate) fn any<'a>() -> Boxed<'a, Match> {
    let direction = keyword("direction")
        .ignore_then(equality())
        .then(named::<Direction>())
        .map(|(negated, direction)| Connection::Direction(if negated { direction.other() } else { direction }));
    let fields = choice((
        bits(ConnectionBits::State),
        bits(ConnectionBits::Status),
        direction.boxed(),
        keyword("mark").ignore_then(mark()).map(Connection::Mark).boxed(),
        named::<Direction>().then(tuple()).map(|(direction, build)| build(direction)).boxed(),
    ));
    let of_packet =
        keyword("meta").or_not().ignore_then(keyword("mark")).ignore_then(mark()).map(Connection::PacketMark);
    choice((keyword("ct").ignore_then(fields).boxed(), of_packet.boxed(), owner(), routing_header()))
        .map(Match::Connection)
        .boxed()
}

/// `meta skuid 1000`.
fn owner<'a>() -> Boxed<'a, Connection> {
    let kind = choice((keyword("skuid").to(OwnerKind::User), keyword("skgid").to(OwnerKind::Group)));
    keyword("meta")
        .or_not()
        .ignore_then(kind)
        .then(test::<Owner>())
        .try_map_with(|(kind, test), extra| match test.set_name() {
            Some(_) => Err(Fault::invalid(extra.span(), "no set can stand here: write its values in braces")),
            None => Ok(Connection::Owner(kind, test)),
        })
        .boxed()
}

/// `rt type 0`: of the other types, connections that are carried would not be asked.
fn routing_header<'a>() -> Boxed<'a, Connection> {
    let fault = "of routing headers, rules match only type 0: `rt type 0`";
    keyword("rt")
        .ignore_then(keyword("type"))
        .ignore_then(equality())
        .then(integer())
        .try_map_with(move |(negated, number), extra| match (negated, number) {
            (false, 0) => Ok(Connection::RoutingHeader),
            _ => Err(Fault::invalid(extra.span(), fault)),
        })
        .boxed()
}

/// A list of words, in braces or without: any of them.
fn bits<'a>(kind: ConnectionBits) -> Boxed<'a, Connection> {
    let words: Vec<_> = kind.names().iter().map(|(word, bit)| keyword(word).to(*bit).boxed()).collect();
    let word = choice(words).boxed();
    let list = word.clone().separated_by(choice((symbol(","), symbol("|")))).at_least(1).collect::<Vec<_>>().boxed();
    let values = choice((braces(word).boxed(), list.clone().delimited_by(symbol("("), symbol(")")).boxed(), list));
    keyword(kind.word())
        .ignore_then(equality())
        .then(values)
        .map(move |(negated, bits)| {
            Connection::Bits(kind, negated, bits.into_iter().fold(0, |all: u32, bit| all | bit))
        })
        .boxed()
}

fn mark<'a>() -> Boxed<'a, Marked> {
    let mask = symbol("&").ignore_then(integer()).or_not();
    mask.then(test::<Mark>())
        .try_map_with(|(mask, test), extra| {
            let masked = u32::try_from(mask.unwrap_or(u32::MAX.into())).ok().and_then(|mask| Marked::new(mask, test));
            let fault = "a mask has 32 bits, and takes values without other bits, no ranges and no sets";
            masked.ok_or_else(|| Fault::invalid(extra.span(), fault))
        })
        .boxed()
}

type Build = std::rc::Rc<dyn Fn(Direction) -> Connection>;

/// What follows `ct original` and `ct reply`.
fn tuple<'a>() -> Boxed<'a, Build> {
    let port = |word: &'static str, side: Side| {
        let build = move |test| -> Build {
            std::rc::Rc::new(move |direction| Connection::Port(direction, side, Clone::clone(&test)))
        };
        keyword(word).ignore_then(test()).map(build).boxed()
    };
    let ipv4 = keyword("ip").ignore_then(named::<Side>()).then(test()).map(|(side, test)| -> Build {
        std::rc::Rc::new(move |direction| Connection::Ipv4(direction, side, Clone::clone(&test)))
    });
    let ipv6 = keyword("ip6").ignore_then(named::<Side>()).then(test()).map(|(side, test)| -> Build {
        std::rc::Rc::new(move |direction| Connection::Ipv6(direction, side, Clone::clone(&test)))
    });
    choice((ipv4.boxed(), ipv6.boxed(), port("proto-src", Side::Source), port("proto-dst", Side::Destination)))
        .try_map_with(|build, extra| {
            if matches!(build(Direction::Original), Connection::Ipv4(_, _, ref test) if test.set_name().is_some())
                || matches!(build(Direction::Original), Connection::Ipv6(_, _, ref test) if test.set_name().is_some())
                || matches!(build(Direction::Original), Connection::Port(_, _, ref test) if test.set_name().is_some())
            {
                return Err(Fault::invalid(extra.span(), "no set can stand here: write its values in braces"));
            }
            Ok(build)
        })
        .boxed()
}

impl Direction {
    const fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}
