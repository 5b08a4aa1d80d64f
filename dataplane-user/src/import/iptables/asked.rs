//! What a rule of iptables asks of a packet: everything but its target.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::room::Room;
use super::extension::{FOREIGN, MODULES, PER_ADDRESS};
use super::ipset;
use super::per_address;
use super::rate;
use super::rule::{Draft, Fault, Words};
use super::tracked;
use super::word::Word;
use crate::rule::{
    Dscp, Family, Fragment, FragmentWord, HopLimit, Length, LinkField, LinkPattern, MacAddress, Match, PacketType,
    Port, Protocol, ProtocolField, Range, Side, TcpFlags, Test, Text, Transport, Value,
};

/// Things that must hold together.
pub(super) type Asked = Vec<Match>;

/// Of which one must hold.
pub(super) type Ways = Vec<Asked>;

pub(super) fn holds(asked: Match) -> Ways {
    vec![vec![asked]]
}

pub(super) fn nothing() -> Ways {
    vec![Vec::new()]
}

/// Reads one option, with its values.
pub(super) fn option(
    option: &Word,
    negated: bool,
    (draft, room): (&mut Draft, &mut Room),
    words: &mut Words<'_>,
) -> Result<(), Fault> {
    let limited = !draft.statements.is_empty();
    let ways = read(option, negated, draft, words)?;
    if limited && !ways.iter().all(Vec::is_empty) {
        let message =
            format!("`{}` stands behind what counts packets, which would meet fewer: ask it before", option.text);
        return Err((option.place.clone(), message));
    }
    draft.either(&ways, room).map_err(|message| (option.place.clone(), message))
}

fn read(option: &Word, negated: bool, draft: &mut Draft, words: &mut Words<'_>) -> Result<Ways, Fault> {
    let family = draft.family;
    match option.text.as_str() {
        "-m" | "--match" => module(words.value(option)?, draft, words),
        "-p" | "--protocol" => protocol(words.value(option)?, negated, draft),
        "-s" | "--source" | "--src" => Ok(holds(address(family, Side::Source, words.value(option)?, negated)?)),
        "-d" | "--destination" | "--dst" => {
            Ok(holds(address(family, Side::Destination, words.value(option)?, negated)?))
        }
        "-i" | "--in-interface" => link(LinkField::Iifname, words.value(option)?, negated),
        "-o" | "--out-interface" => link(LinkField::Oifname, words.value(option)?, negated),
        "-f" | "--fragment" => {
            // All but the first: an offset that is not zero (RFC 791).
            let test = Test::listed(!negated, vec![Range::single(FragmentWord(0))]);
            Ok(holds(built(test.and_then(|test| Fragment::new(0x1fff, test)).map(Match::Fragment), option)?))
        }
        "--sport" | "--source-port" | "--sports" | "--source-ports" => {
            ports(Side::Source, option, negated, draft, words)
        }
        "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
            ports(Side::Destination, option, negated, draft, words)
        }
        "--ports" => either_port(option, negated, draft, words),
        "--tcp-flags" => {
            let (mask, set) = (flags(words.value(option)?)?, flags(words.value(option)?)?);
            Ok(holds(built(TcpFlags::new(mask, negated, vec![set]).map(Match::TcpFlags), option)?))
        }
        "--syn" => Ok(holds(built(TcpFlags::new(0x17, negated, vec![2]).map(Match::TcpFlags), option)?)),
        "--icmp-type" => icmp(option, negated, words, (Match::IcmpType, Match::IcmpCode)),
        "--icmpv6-type" => icmp(option, negated, words, (Match::Icmpv6Type, Match::Icmpv6Code)),
        "--pkt-type" => {
            let range = one::<PacketType>(words.value(option)?)?;
            Ok(holds(built(Test::listed(negated, vec![range]).map(Match::PacketType), option)?))
        }
        "--src-range" => Ok(holds(address_range(family, Side::Source, words.value(option)?, negated)?)),
        "--dst-range" => Ok(holds(address_range(family, Side::Destination, words.value(option)?, negated)?)),
        "--comment" => {
            let word = words.value(option)?;
            let text = Text::new(&word.text);
            draft.comment = Some(text.ok_or_else(|| {
                (
                    word.place.clone(),
                    "a comment is one line without quotes, of at most 128 bytes: make it shorter".to_owned(),
                )
            })?);
            Ok(nothing())
        }
        "--limit" => rate::limit(words.value(option)?, negated, draft),
        "--limit-burst" => rate::burst(words.value(option)?, draft),
        "--mac-source" => {
            let range = one::<MacAddress>(words.value(option)?)?;
            Ok(holds(built(Test::listed(negated, vec![range]).map(|test| Match::Ether(Side::Source, test)), option)?))
        }
        "--dscp" | "--dscp-class" => {
            let range = one::<Dscp>(words.value(option)?)?;
            Ok(holds(built(Test::listed(negated, vec![range]).map(|test| Match::Dscp(family, test)), option)?))
        }
        "--ttl-eq" | "--hl-eq" => hops(option, negated, draft, words, |hops| Range::new(hops, hops)),
        "--ttl-lt" | "--hl-lt" => {
            hops(option, negated, draft, words, |hops| Range::new(HopLimit(0), HopLimit(hops.0.checked_sub(1)?)))
        }
        "--ttl-gt" | "--hl-gt" => {
            hops(option, negated, draft, words, |hops| Range::new(HopLimit(hops.0.checked_add(1)?), HopLimit(u8::MAX)))
        }
        "--length" => {
            let range = span::<Length>(words.value(option)?)?;
            Ok(holds(built(Test::listed(negated, vec![range]).map(Match::Length), option)?))
        }
        "--match-set" => ipset::matched(option, negated, draft, words),
        other if tracked::KNOWN.contains(&other) => tracked::read(option, negated, draft, words),
        other => {
            Err((option.place.clone(), format!("`{other}` cannot be translated: take it out, or say it otherwise")))
        }
    }
}

pub(super) fn wrong(word: &Word, what: &str) -> Fault {
    (word.place.clone(), format!("`{}`: {what}", word.text))
}

fn expected<T: Value>(word: &Word) -> Fault {
    wrong(word, &format!("expected {}", T::EXPECTED))
}

/// What the types of the language would not take.
pub(super) fn built<T>(thing: Option<T>, option: &Word) -> Result<T, Fault> {
    thing.ok_or_else(|| wrong(option, "no packet, or every packet, meets this: take it out"))
}

fn module(name: &Word, draft: &mut Draft, words: &mut Words<'_>) -> Result<Ways, Fault> {
    draft.module = Some(name.text.clone());
    if name.text == "socket" && !words.has("--transparent") {
        return Err(wrong(
            name,
            "of sockets, rules match only whether they are transparent: add `--transparent`, or take it out",
        ));
    }
    if PER_ADDRESS.contains(&name.text.as_str()) {
        return per_address::read(name, draft, words);
    }
    if MODULES.contains(&name.text.as_str()) {
        return Ok(nothing());
    }
    // Its options mean nothing either.
    while words
        .peek()
        .is_some_and(|word| !matches!(word.text.as_str(), "-m" | "-j" | "-g" | "--match" | "--jump" | "--goto"))
    {
        words.next();
    }
    let said = FOREIGN
        .iter()
        .find(|(known, _)| *known == name.text)
        .map_or("this extension cannot be translated", |known| known.1);
    Err((name.place.clone(), format!("`-m {}`: {said}", name.text)))
}

fn protocol(word: &Word, negated: bool, draft: &mut Draft) -> Result<Ways, Fault> {
    if matches!(word.text.as_str(), "all" | "0") {
        return Ok(nothing());
    }
    let protocol = Protocol::from_word(&word.text).ok_or_else(|| expected::<Protocol>(word))?;
    draft.protocol = (!negated).then_some(protocol.0);
    // What is behind IPv6's extension headers is what iptables asks for, too.
    let field = if draft.family == Family::V4 { ProtocolField::Ip } else { ProtocolField::Meta };
    Ok(holds(built(
        Test::listed(negated, vec![Range::single(protocol)]).map(|test| Match::Protocol(field, test)),
        word,
    )?))
}

fn address(family: Family, side: Side, word: &Word, negated: bool) -> Result<Match, Fault> {
    let (address, length) =
        word.text.split_once('/').map_or((word.text.as_str(), None), |(one, length)| (one, Some(length)));
    match family {
        Family::V4 => {
            let range = prefix::<Ipv4Addr>(word, address, length)?;
            built(Test::listed(negated, vec![range]).map(|test| Match::Ipv4(side, test)), word)
        }
        Family::V6 => {
            let range = prefix::<Ipv6Addr>(word, address, length)?;
            built(Test::listed(negated, vec![range]).map(|test| Match::Ipv6(side, test)), word)
        }
    }
}

/// An address with a length or a mask; a mask has its ones in front.
pub(super) fn prefix<A: Value>(word: &Word, address: &str, length: Option<&str>) -> Result<Range<A>, Fault> {
    let address = A::from_word(address).ok_or_else(|| expected::<A>(word))?;
    let length = match length {
        None => Some(A::BITS),
        Some(length) => length.parse().ok().or_else(|| {
            let mask = A::from_word(length)?.bits();
            let ones = (mask << (128 - A::BITS)).leading_ones();
            (mask.count_ones() == ones).then_some(ones)
        }),
    };
    let range = length.and_then(|length| Range::prefix(address, length));
    range.ok_or_else(|| wrong(word, "a prefix has a length, or a mask whose ones come first"))
}

fn address_range(family: Family, side: Side, word: &Word, negated: bool) -> Result<Match, Fault> {
    match family {
        Family::V4 => {
            let range = dashed::<Ipv4Addr>(word)?;
            built(Test::listed(negated, vec![range]).map(|test| Match::Ipv4(side, test)), word)
        }
        Family::V6 => {
            let range = dashed::<Ipv6Addr>(word)?;
            built(Test::listed(negated, vec![range]).map(|test| Match::Ipv6(side, test)), word)
        }
    }
}

pub(super) fn dashed<T: Value>(word: &Word) -> Result<Range<T>, Fault> {
    let (low, high) = word.text.split_once('-').unwrap_or((&word.text, &word.text));
    let range = T::from_word(low).zip(T::from_word(high)).and_then(|(low, high)| Range::new(low, high));
    range.ok_or_else(|| wrong(word, "a range is two addresses with `-` between, the lower one first"))
}

/// `+` at the end of a name stands for any rest.
fn link(field: LinkField, word: &Word, negated: bool) -> Result<Ways, Fault> {
    let text = word.text.strip_suffix('+').map_or_else(|| word.text.clone(), |beginning| format!("{beginning}*"));
    if text == "*" && !negated {
        return Ok(nothing());
    }
    let pattern = LinkPattern::new(&text).filter(|_| text != "*" && (word.text.ends_with('+') || !text.ends_with('*')));
    let pattern = pattern.ok_or_else(|| wrong(word, "this does not name an interface"))?;
    Ok(holds(built(Test::listed(negated, vec![pattern]).map(|test| Match::Link(field, test)), word)?))
}

fn transport(option: &Word, draft: &Draft) -> Result<Transport, Fault> {
    match draft.protocol {
        Some(6) => Ok(Transport::Tcp),
        Some(17) => Ok(Transport::Udp),
        Some(33) => Ok(Transport::Dccp),
        Some(132) => Ok(Transport::Sctp),
        Some(136) => Ok(Transport::UdpLite),
        _ => Err((
            option.place.clone(),
            format!("`{}` needs a protocol with ports before it, such as `-p tcp`", option.text),
        )),
    }
}

fn listed_ports(word: &Word) -> Result<Vec<Range<Port>>, Fault> {
    word.text.split(',').map(|text| span::<Port>(&Word { text: text.to_owned(), place: word.place.clone() })).collect()
}

fn ports(side: Side, option: &Word, negated: bool, draft: &mut Draft, words: &mut Words<'_>) -> Result<Ways, Fault> {
    let transport = transport(option, draft)?;
    let ranges = listed_ports(words.value(option)?)?;
    Ok(holds(built(Test::listed(negated, ranges).map(|test| Match::Port(transport, side, test)), option)?))
}

/// Either of the ports, or none of both.
fn either_port(option: &Word, negated: bool, draft: &mut Draft, words: &mut Words<'_>) -> Result<Ways, Fault> {
    let transport = transport(option, draft)?;
    let ranges = listed_ports(words.value(option)?)?;
    let port = |side, negated| {
        built(Test::listed(negated, ranges.clone()).map(|test| Match::Port(transport, side, test)), option)
    };
    if negated {
        return Ok(vec![vec![port(Side::Source, true)?, port(Side::Destination, true)?]]);
    }
    let (source, other) = (port(Side::Source, false)?, port(Side::Source, true)?);
    Ok(vec![vec![source], vec![other, port(Side::Destination, false)?]])
}

fn flags(word: &Word) -> Result<u8, Fault> {
    word.text.split(',').try_fold(0, |bits, name| {
        let bit = match name {
            "FIN" => 1,
            "SYN" => 2,
            "RST" => 4,
            "PSH" => 8,
            "ACK" => 16,
            "URG" => 32,
            "ALL" => 63,
            "NONE" => 0,
            _ => return Err(wrong(word, "TCP's flags are SYN, ACK, FIN, RST, URG and PSH")),
        };
        Ok(bits | bit)
    })
}

/// What a test of values is a match of.
type Asking<T> = fn(Test<Range<T>>) -> Match;

/// A type, or one with a code: `3/4`.
fn icmp<K: Value, C: Value>(
    option: &Word,
    negated: bool,
    words: &mut Words<'_>,
    (kind, code): (Asking<K>, Asking<C>),
) -> Result<Ways, Fault> {
    fn test<T: Value>(negated: bool, text: &str) -> Option<Test<Range<T>>> {
        Test::listed(negated, vec![Range::single(T::from_word(text)?)])
    }
    let word = words.value(option)?;
    let text = word.text.as_str();
    if matches!(text, "any" | "255") {
        return Ok(nothing());
    }
    let (of_type, of_code) = text.split_once('/').map_or((text, None), |(kind, code)| (kind, Some(code)));
    let whole = || {
        let asked = |negated| test::<K>(negated, of_type).map(kind);
        Some(match of_code {
            None => vec![vec![asked(negated)?]],
            Some(text) if !negated => vec![vec![asked(false)?, code(test::<C>(false, text)?)]],
            // All but one code of one type: another type, or that one with another code.
            Some(text) => vec![vec![asked(true)?], vec![asked(false)?, code(test::<C>(true, text)?)]],
        })
    };
    whole().ok_or_else(|| wrong(word, "this is not a type of ICMP messages, nor TYPE/CODE by their numbers"))
}

fn hops(
    option: &Word,
    negated: bool,
    draft: &mut Draft,
    words: &mut Words<'_>,
    range: impl Fn(HopLimit) -> Option<Range<HopLimit>>,
) -> Result<Ways, Fault> {
    let word = words.value(option)?;
    let hops = HopLimit::from_word(&word.text).ok_or_else(|| expected::<HopLimit>(word))?;
    let test = range(hops).and_then(|range| Test::listed(negated, vec![range]));
    Ok(holds(built(test.map(|test| Match::HopLimit(draft.family, test)), word)?))
}

/// A single value; names in any case.
fn one<T: Value>(word: &Word) -> Result<Range<T>, Fault> {
    let value = T::from_word(&word.text).or_else(|| T::from_word(&word.text.to_ascii_lowercase()));
    value.map(Range::single).ok_or_else(|| expected::<T>(word))
}

/// A value, or two with `:` between them, each of which may be left out.
pub(super) fn span<T: Value>(word: &Word) -> Result<Range<T>, Fault> {
    let value = |text: &str| T::from_word(text).ok_or_else(|| expected::<T>(word));
    let Some((low, high)) = word.text.split_once(':') else { return value(&word.text).map(Range::single) };
    let low = if low.is_empty() { T::from_bits(0) } else { value(low)? };
    let high = if high.is_empty() { T::from_bits(T::last()) } else { value(high)? };
    Range::new(low, high).ok_or_else(|| wrong(word, "the lower end of a range comes first"))
}
