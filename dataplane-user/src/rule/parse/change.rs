//! What a rule writes.

use chumsky::prelude::*;

use super::fault::Fault;
use super::token::{Extra, in_quotes, integer, is_value, keyword, run_of, symbol, token};
use super::value::value;
use crate::rule::ast::Family;
use crate::rule::change::{Change, Helper, MarkOf, NewMark};
use crate::rule::display::Named as _;

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

/// `meta mark set` and the like.
pub(crate) fn any<'a>() -> Boxed<'a, Change> {
    let mark = |words: &'static [&'static str], of| {
        begins(words).ignore_then(new_mark()).map(move |mark| Change::Mark(of, mark)).boxed()
    };
    let size = choice((
        keyword("rt").ignore_then(keyword("mtu")).to(None).boxed(),
        integer()
            .try_map_with(|size, extra| {
                let fault = format!("a segment has 1 to 65535 bytes, not {size}");
                u16::try_from(size).ok().filter(|size| *size > 0).ok_or_else(|| Fault::invalid(extra.span(), fault))
            })
            .map(Some)
            .boxed(),
    ));
    let segments = begins(&["tcp", "option", "maxseg", "size", "set"]).ignore_then(size).map(Change::SegmentSize);
    let dscp = |words, family| begins(words).ignore_then(value()).map(move |dscp| Change::Dscp(family, dscp)).boxed();
    let hops =
        |words, family| begins(words).ignore_then(value()).map(move |hops| Change::HopLimit(family, hops)).boxed();
    choice((
        mark(&["meta", "mark", "set"], MarkOf::Packet),
        mark(&["mark", "set"], MarkOf::Packet),
        mark(&["ct", "mark", "set"], MarkOf::Connection),
        segments.boxed(),
        dscp(&["ip", "dscp", "set"], Family::V4),
        dscp(&["ip6", "dscp", "set"], Family::V6),
        hops(&["ip", "ttl", "set"], Family::V4),
        hops(&["ip6", "hoplimit", "set"], Family::V6),
        helper().map(Change::Helper).boxed(),
    ))
    .boxed()
}

/// Some words behind each other, as one piece: what only begins alike is something else.
fn begins<'a>(words: &'static [&'static str]) -> Boxed<'a, ()> {
    token("a change (meta mark set, ct mark set, ip dscp set, ...)", move |rest| {
        let mut behind = rest;
        for word in words {
            behind = behind.trim_start().strip_prefix(word)?;
            if !behind.starts_with(char::is_whitespace) {
                return None;
            }
        }
        Some((rest.len() - behind.len(), ()))
    })
    .boxed()
}

/// `ct helper set "ftp"`.
fn helper<'a>() -> Boxed<'a, Helper> {
    let name = token("the name of a helper, such as \"ftp\"", |rest| {
        let (word, length) = match in_quotes(rest) {
            Some(text) => (text, text.len() + 2),
            None => (run_of(rest, is_value), run_of(rest, is_value).len()),
        };
        Helper::NAMES.iter().find(|(name, _)| *name == word).map(|(_, helper)| (length, *helper))
    });
    begins(&["ct", "helper", "set"]).ignore_then(name).boxed()
}

fn mark_of<'a>() -> Boxed<'a, MarkOf> {
    choice((
        keyword("meta").ignore_then(keyword("mark")).to(MarkOf::Packet).boxed(),
        keyword("ct").ignore_then(keyword("mark")).to(MarkOf::Connection).boxed(),
        keyword("mark").to(MarkOf::Packet).boxed(),
    ))
    .boxed()
}

fn bits<'a>() -> Boxed<'a, u32> {
    integer()
        .try_map_with(|bits, extra| {
            u32::try_from(bits).map_err(|_| Fault::invalid(extra.span(), format!("a mark has 32 bits, not {bits:#x}")))
        })
        .boxed()
}

/// A number, or bits of a mark with others in their place: nft's operators and their words, from left to right.
fn new_mark<'a>() -> Boxed<'a, NewMark> {
    #[derive(Clone, Copy)]
    enum Operator {
        And,
        Or,
        Xor,
    }
    let operator = choice((
        choice((symbol("&"), keyword("and"))).to(Operator::And).boxed(),
        choice((symbol("|"), keyword("or"))).to(Operator::Or).boxed(),
        choice((symbol("^"), keyword("xor"))).to(Operator::Xor).boxed(),
    ));
    let made = mark_of().then(operator.then(bits()).repeated().collect::<Vec<_>>()).map(|(from, steps)| {
        let (mut keep, mut flip) = (u32::MAX, 0);
        for (operator, bits) in steps {
            match operator {
                Operator::And => (keep, flip) = (keep & bits, flip & bits),
                Operator::Or => (keep, flip) = (keep & !bits, flip | bits),
                Operator::Xor => flip ^= bits,
            }
        }
        NewMark::of(from, keep, flip)
    });
    choice((made.boxed(), bits().map(NewMark::value).boxed())).boxed()
}
