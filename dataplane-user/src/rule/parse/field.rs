//! What a rule can ask of a packet.

use chumsky::prelude::*;

use super::fault::Fault;
use super::token::{Extra, integer, keyword, run_of, symbol, token};
use super::value::{braces, equality, items, link, test};
use crate::rule::ast::{Family, Fragment, LinkField, Match, ProtocolField, Side, TcpFlags, Transport};
use crate::rule::display::{Named, TCP_FLAGS};
use crate::rule::value::FragmentWord;

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

/// Any match.
pub(crate) fn any<'a>() -> Boxed<'a, Match> {
    choice((ip(), ip6(), ports(), icmp(), meta(), links(), layer2())).boxed()
}

/// One of the words of `N`.
pub(crate) fn named<'a, N: Named>() -> Boxed<'a, N> {
    let words: Vec<_> = N::NAMES.iter().map(|(word, thing)| keyword(word).to(*thing).boxed()).collect();
    choice(words).boxed()
}

fn ip<'a>() -> Boxed<'a, Match> {
    let fields = choice((
        named::<Side>().then(test()).map(|(side, test)| Match::Ipv4(side, test)).boxed(),
        keyword("protocol").ignore_then(test()).map(|test| Match::Protocol(ProtocolField::Ip, test)).boxed(),
        keyword("dscp").ignore_then(test()).map(|test| Match::Dscp(Family::V4, test)).boxed(),
        keyword("ttl").ignore_then(test()).map(|test| Match::HopLimit(Family::V4, test)).boxed(),
        keyword("frag-off").ignore_then(fragment()).map(Match::Fragment).boxed(),
        version(4).to(Match::Family(Family::V4)).boxed(),
    ));
    keyword("ip").ignore_then(fields).boxed()
}

fn ip6<'a>() -> Boxed<'a, Match> {
    let fields = choice((
        named::<Side>().then(test()).map(|(side, test)| Match::Ipv6(side, test)).boxed(),
        keyword("nexthdr").ignore_then(test()).map(|test| Match::Protocol(ProtocolField::Ip6, test)).boxed(),
        keyword("dscp").ignore_then(test()).map(|test| Match::Dscp(Family::V6, test)).boxed(),
        keyword("hoplimit").ignore_then(test()).map(|test| Match::HopLimit(Family::V6, test)).boxed(),
        version(6).to(Match::Family(Family::V6)).boxed(),
    ));
    keyword("ip6").ignore_then(fields).boxed()
}

/// `version 4`: holds for all packets of the family, and no other value for any.
fn version<'a>(own: u64) -> Boxed<'a, ()> {
    keyword("version")
        .ignore_then(equality())
        .then(integer())
        .try_map_with(move |(negated, number), extra| {
            let fault = || format!("no packet has another version here than {own}: take the rule out");
            if negated == (number == own) { Err(Fault::invalid(extra.span(), fault())) } else { Ok(()) }
        })
        .boxed()
}

fn ports<'a>() -> Boxed<'a, Match> {
    let side = choice((keyword("sport").to(Side::Source), keyword("dport").to(Side::Destination))).boxed();
    let flags = keyword("tcp").ignore_then(keyword("flags")).ignore_then(tcp_flags()).map(Match::TcpFlags).boxed();
    let port = named::<Transport>().then(side).then(test());
    choice((flags, port.map(|((transport, side), test)| Match::Port(transport, side, test)).boxed())).boxed()
}

fn icmp<'a>() -> Boxed<'a, Match> {
    let of_v4 = choice((
        keyword("type").ignore_then(test()).map(Match::IcmpType).boxed(),
        keyword("code").ignore_then(test()).map(Match::IcmpCode).boxed(),
    ));
    let of_v6 = choice((
        keyword("type").ignore_then(test()).map(Match::Icmpv6Type).boxed(),
        keyword("code").ignore_then(test()).map(Match::Icmpv6Code).boxed(),
    ));
    choice((keyword("icmp").ignore_then(of_v4).boxed(), keyword("icmpv6").ignore_then(of_v6).boxed())).boxed()
}

fn meta<'a>() -> Boxed<'a, Match> {
    let families = |v4: &'static str, v6: &'static str| {
        let family = choice((keyword(v4).to(Family::V4), keyword(v6).to(Family::V6)));
        equality().then(family).map(|(negated, family)| Match::Family(if negated { family.other() } else { family }))
    };
    let fields = choice((
        keyword("l4proto").ignore_then(test()).map(|test| Match::Protocol(ProtocolField::Meta, test)).boxed(),
        keyword("length").ignore_then(test()).map(Match::Length).boxed(),
        keyword("pkttype").ignore_then(test()).map(Match::PacketType).boxed(),
        keyword("nfproto").ignore_then(families("ipv4", "ipv6")).boxed(),
        keyword("protocol").ignore_then(families("ip", "ip6")).boxed(),
        links(),
    ));
    keyword("meta").ignore_then(fields).boxed()
}

impl Family {
    const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

fn links<'a>() -> Boxed<'a, Match> {
    let exact = choice((keyword("iif").to(LinkField::Iif), keyword("oif").to(LinkField::Oif)));
    let name = link().validate(|pattern, extra, emitter| {
        if pattern.is_wildcard() {
            emitter.emit(Fault::invalid(extra.span(), "a pattern needs iifname or oifname; iif and oif name one link"));
        }
        pattern
    });
    let patterns = choice((keyword("iifname").to(LinkField::Iifname), keyword("oifname").to(LinkField::Oifname)));
    choice((exact.then(items(name)).boxed(), patterns.then(items(link())).boxed()))
        .map(|(field, test)| Match::Link(field, test))
        .boxed()
}

fn layer2<'a>() -> Boxed<'a, Match> {
    let ether = keyword("ether").ignore_then(named::<Side>()).then(test());
    choice((
        keyword("vlan").ignore_then(keyword("id")).ignore_then(test()).map(Match::Vlan).boxed(),
        ether.map(|(side, test)| Match::Ether(side, test)).boxed(),
    ))
    .boxed()
}

fn fragment<'a>() -> Boxed<'a, Fragment> {
    let mask = symbol("&").ignore_then(integer()).or_not();
    mask.then(test::<FragmentWord>())
        .try_map_with(|(mask, test), extra| {
            let masked = u16::try_from(mask.unwrap_or(0xffff)).ok().and_then(|mask| Fragment::new(mask, test));
            let fault = "a mask has 16 bits, and takes values without other bits, no ranges and no sets";
            masked.ok_or_else(|| Fault::invalid(extra.span(), fault))
        })
        .boxed()
}

/// `tcp flags`, in all the forms that nft reads.
fn tcp_flags<'a>() -> Boxed<'a, TcpFlags> {
    let flag = token("a TCP flag (fin, syn, rst, psh, ack, urg, ecn, cwr)", |rest| {
        let word = run_of(rest, |letter| letter.is_ascii_alphanumeric());
        let named = TCP_FLAGS.iter().find(|(name, _)| *name == word).map(|(_, bit)| *bit);
        let bits = named.or_else(|| crate::rule::value::number(word).and_then(|bits| u8::try_from(bits).ok()));
        bits.map(|bits| (word.len(), bits))
    });
    let more = |between: &'static str| symbol(between).ignore_then(flag.clone()).repeated().at_least(1);
    let or = |first: u8, more: Vec<u8>| more.into_iter().fold(first, |bits, bit| bits | bit);
    let alternatives = flag.clone().then(more("|").collect::<Vec<_>>().or_not());
    let alternatives = alternatives.map(move |(first, more)| or(first, more.unwrap_or_default())).boxed();
    let either = choice((more("|").collect::<Vec<_>>().boxed(), more(",").collect::<Vec<_>>().boxed()));
    let list = flag.clone().then(either.or_not()).map(move |(first, more)| or(first, more.unwrap_or_default())).boxed();
    let parens = |list: Boxed<'a, u8>| choice((list.clone().delimited_by(symbol("("), symbol(")")), list)).boxed();
    let (group, element) = (parens(list), parens(alternatives));

    let negated = choice((symbol("==").to(false), symbol("!=").to(true))).boxed();
    let braced = braces(element);
    let values = choice((braced.clone(), group.clone().map(|bits| vec![bits]))).boxed();
    let mask = symbol("/").ignore_then(group.clone());
    let masked = symbol("&").ignore_then(group.clone()).then(negated.clone()).then(values.clone());
    let none = token("`!`", |rest| (rest.starts_with('!') && !rest.starts_with("!=")).then_some((1, ())));
    choice((
        masked.map(|((mask, negated), values)| (mask, negated, values)).boxed(),
        negated
            .then(values.clone())
            .then(mask.clone().or_not())
            .map(|((negated, values), mask)| (mask.unwrap_or(u8::MAX), negated, values))
            .boxed(),
        none.ignore_then(group.clone()).map(|mask| (mask, false, vec![0])).boxed(),
        braced.map(|values| (u8::MAX, false, values)).boxed(),
        group.clone().then(mask).map(|(value, mask)| (mask, false, vec![value])).boxed(),
        group.map(|mask| (mask, true, vec![0])).boxed(),
    ))
    .try_map_with(|(mask, negated, values), extra| {
        TcpFlags::new(mask, negated, values).ok_or_else(|| {
            Fault::invalid(
                extra.span(),
                "name at least one flag, and compare with no other flags than those that count",
            )
        })
    })
    .boxed()
}
