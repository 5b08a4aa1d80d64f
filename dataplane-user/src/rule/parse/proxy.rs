//! `tproxy` and `socket transparent`, as nft has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chumsky::prelude::*;

use super::change;
use super::fault::Fault;
use super::token::{Extra, integer, keyword, symbol, token};
use super::value::value;
use crate::rule::ast::{Family, Match};
use crate::rule::change::Change;
use crate::rule::connection::Connection;
use crate::rule::proxy::Proxy;
use crate::rule::value::Port;

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

/// `socket transparent 1`.
pub(crate) fn socket<'a>() -> Boxed<'a, Match> {
    let number = integer().try_map_with(|number, extra| match number {
        0 | 1 => Ok(number == 1),
        _ => Err(Fault::invalid(extra.span(), "a socket is transparent (1), or it is not (0)")),
    });
    keyword("socket")
        .ignore_then(keyword("transparent"))
        .ignore_then(number)
        .map(|transparent| Match::Connection(Connection::Transparent(transparent)))
        .boxed()
}

/// What nft's rules have behind `tproxy`: the marks that packets with a socket get, and `accept`.
pub(crate) fn behind<'a>() -> Boxed<'a, Vec<Change>> {
    change::any().repeated().collect::<Vec<_>>().then_ignore(keyword("accept").or_not()).boxed()
}

/// `tproxy ip to 127.0.0.1:3129`.
pub(crate) fn tproxy<'a>() -> Boxed<'a, Proxy> {
    let family = choice((keyword("ip6").to(Family::V6), keyword("ip").to(Family::V4))).or_not();
    let port = || symbol(":").ignore_then(value::<Port>());
    // A colon behind an address is not a part of it.
    let ipv4 = token("an IPv4 address", |rest| {
        let end = rest.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(rest.len());
        rest[..end].parse::<Ipv4Addr>().ok().map(|address| (end, IpAddr::V4(address)))
    });
    let bracketed = value::<Ipv6Addr>().map(IpAddr::V6).delimited_by(symbol("["), symbol("]"));
    let target = choice((
        port().map(|port| (None, Some(port))).boxed(),
        ipv4.then(port().or_not()).map(|(address, port)| (Some(address), port)).boxed(),
        bracketed.then(port().or_not()).map(|(address, port)| (Some(address), port)).boxed(),
        value::<Ipv6Addr>().map(|address| (Some(IpAddr::V6(address)), None)).boxed(),
    ));
    let or_drop = keyword("or").ignore_then(keyword("drop")).or_not().map(|drop| drop.is_some());
    keyword("tproxy")
        .ignore_then(family)
        .then_ignore(keyword("to"))
        .then(target)
        .then(or_drop)
        .try_map_with(|((family, (address, port)), or_drop), extra| {
            let of_other = address.is_some_and(|address: IpAddr| {
                family.is_some_and(|family| address.is_ipv4() != (family == Family::V4))
            });
            if of_other {
                return Err(Fault::invalid(extra.span(), "this address is of the other family"));
            }
            let to = Proxy { family, address, port, or_drop };
            Ok(Proxy { family: to.family(), ..to })
        })
        .boxed()
}
