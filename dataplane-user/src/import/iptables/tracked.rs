//! What a rule of iptables asks of a packet's connection, and of the routes of its addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::asked::{Ways, built, prefix, span, wrong};
use super::rule::{Draft, Fault, Words};
use super::word::Word;
use crate::rule::{
    Connection, ConnectionBits, Direction, Family, Found, Mark, Marked, Match, Owner, OwnerKind, Port, Range,
    Reachability, Side, Test, Value,
};

/// Options of `state`, `conntrack`, `connmark`, `mark`, `socket`, `addrtype`, `owner` and `rt`.
pub(super) const KNOWN: [&str; 22] = [
    "--state",
    "--ctstate",
    "--ctstatus",
    "--ctdir",
    "--ctorigsrc",
    "--ctorigdst",
    "--ctreplsrc",
    "--ctrepldst",
    "--ctorigsrcport",
    "--ctorigdstport",
    "--ctreplsrcport",
    "--ctrepldstport",
    "--mark",
    "--transparent",
    "--nowildcard",
    "--src-type",
    "--dst-type",
    "--limit-iface-in",
    "--limit-iface-out",
    "--uid-owner",
    "--gid-owner",
    "--rt-type",
];

/// Reads one of them.
pub(super) fn read(option: &Word, negated: bool, draft: &mut Draft, words: &mut Words<'_>) -> Result<Ways, Fault> {
    use Direction::{Original, Reply};
    use Side::{Destination, Source};
    let family = draft.family;
    let one = |asked: Connection| vec![vec![Match::Connection(asked)]];
    Ok(match option.text.as_str() {
        "--state" | "--ctstate" => states(words.value(option)?, negated)?,
        "--ctstatus" => one(statuses(words.value(option)?, negated)?),
        "--ctdir" => {
            let word = words.value(option)?;
            one(Connection::Direction(match (word.text.as_str(), negated) {
                ("ORIGINAL", false) | ("REPLY", true) => Original,
                ("REPLY", false) | ("ORIGINAL", true) => Reply,
                _ => return Err(wrong(word, "a direction is ORIGINAL or REPLY")),
            }))
        }
        "--ctorigsrc" => one(address(family, Original, Source, words.value(option)?, negated)?),
        "--ctorigdst" => one(address(family, Original, Destination, words.value(option)?, negated)?),
        "--ctreplsrc" => one(address(family, Reply, Source, words.value(option)?, negated)?),
        "--ctrepldst" => one(address(family, Reply, Destination, words.value(option)?, negated)?),
        "--ctorigsrcport" => one(port(Original, Source, words.value(option)?, negated)?),
        "--ctorigdstport" => one(port(Original, Destination, words.value(option)?, negated)?),
        "--ctreplsrcport" => one(port(Reply, Source, words.value(option)?, negated)?),
        "--ctrepldstport" => one(port(Reply, Destination, words.value(option)?, negated)?),
        "--mark" => {
            let of = if draft.module.as_deref() == Some("mark") { Connection::PacketMark } else { Connection::Mark };
            one(mark(words.value(option)?, negated, of)?)
        }
        "--transparent" => {
            if !words.has("--nowildcard") {
                let message = "listeners that are bound to no address match, too, as with `--nowildcard`";
                draft.notes.push((option.place.clone(), message.to_owned()));
            }
            one(Connection::Transparent(true))
        }
        "--nowildcard" => vec![Vec::new()],
        "--src-type" => one(kind(Source, words.value(option)?, negated)?),
        "--dst-type" => one(kind(Destination, words.value(option)?, negated)?),
        "--uid-owner" => one(owner(OwnerKind::User, words.value(option)?, negated)?),
        "--gid-owner" => one(owner(OwnerKind::Group, words.value(option)?, negated)?),
        "--rt-type" => {
            let word = words.value(option)?;
            match (word.text.as_str(), negated) {
                ("0", false) => one(Connection::RoutingHeader),
                _ => return Err(wrong(word, "of routing headers, rules match only type 0: take the rule out")),
            }
        }
        other => {
            let message = format!("`{other}` cannot be translated: take it out, or say it otherwise");
            return Err((option.place.clone(), message));
        }
    })
}

/// States; `SNAT` and `DNAT` among them are a status.
fn states(word: &Word, negated: bool) -> Result<Ways, Fault> {
    let (mut state, mut status) = (0, 0);
    for name in word.text.split(',') {
        match bit(ConnectionBits::State, name) {
            Some(bit) => state |= bit,
            None => match name {
                "SNAT" | "DNAT" => status |= bit(ConnectionBits::Status, name).unwrap_or_default(),
                _ => return Err(wrong(word, "a state is NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED, SNAT or DNAT")),
            },
        }
    }
    let bits = |kind, bits| Match::Connection(Connection::Bits(kind, negated, bits));
    let (state_match, status_match) = (bits(ConnectionBits::State, state), bits(ConnectionBits::Status, status));
    Ok(match (state, status, negated) {
        (_, 0, _) => vec![vec![state_match]],
        (0, _, _) => vec![vec![status_match]],
        // None of either.
        (_, _, true) => vec![vec![state_match, status_match]],
        // One of the first, or else one of the second.
        (_, _, false) => {
            let others = Match::Connection(Connection::Bits(ConnectionBits::State, true, state));
            vec![vec![state_match], vec![others, status_match]]
        }
    })
}

fn statuses(word: &Word, negated: bool) -> Result<Connection, Fault> {
    let one = |name| match name {
        // As `!` before all others: nothing happened yet.
        "SEEN_REPLY" => bit(ConnectionBits::Status, "SEEN-REPLY"),
        _ => bit(ConnectionBits::Status, name),
    };
    let bits = word.text.split(',').try_fold(0, |bits, name| Some(bits | one(name)?));
    let bits = bits.ok_or_else(|| wrong(word, "a status is EXPECTED, SEEN_REPLY, ASSURED or CONFIRMED"))?;
    Ok(Connection::Bits(ConnectionBits::Status, negated, bits))
}

fn bit(kind: ConnectionBits, name: &str) -> Option<u32> {
    let name = name.to_ascii_lowercase();
    kind.names().iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit)
}

fn address(family: Family, direction: Direction, side: Side, word: &Word, negated: bool) -> Result<Connection, Fault> {
    let (text, length) = word.text.split_once('/').map_or((&*word.text, None), |(one, length)| (one, Some(length)));
    match family {
        Family::V4 => {
            let range = prefix::<Ipv4Addr>(word, text, length)?;
            built(Test::listed(negated, vec![range]).map(|test| Connection::Ipv4(direction, side, test)), word)
        }
        Family::V6 => {
            let range = prefix::<Ipv6Addr>(word, text, length)?;
            built(Test::listed(negated, vec![range]).map(|test| Connection::Ipv6(direction, side, test)), word)
        }
    }
}

fn port(direction: Direction, side: Side, word: &Word, negated: bool) -> Result<Connection, Fault> {
    let range = span::<Port>(word)?;
    built(Test::listed(negated, vec![range]).map(|test| Connection::Port(direction, side, test)), word)
}

/// `0x1/0xff`.
fn mark(word: &Word, negated: bool, of: fn(Marked) -> Connection) -> Result<Connection, Fault> {
    let (value, mask) = word.text.split_once('/').unwrap_or((&word.text, "0xffffffff"));
    let marked = Mark::from_word(value)
        .zip(Mark::from_word(mask))
        .and_then(|(value, mask)| Marked::new(mask.0, Test::listed(negated, vec![Range::single(value)])?).map(of));
    marked.ok_or_else(|| wrong(word, "a mark is a number of 32 bits, perhaps with a mask that has its bits"))
}

/// The owner of a socket. What has no socket meets `! --uid-owner` of iptables, and no rule here.
fn owner(kind: OwnerKind, word: &Word, negated: bool) -> Result<Connection, Fault> {
    if negated {
        let message = "`!` before an owner also holds for packets of no program, which no rule can say: accept the owner \
                       before, and take `!` out";
        return Err(wrong(word, message));
    }
    let range = span::<Owner>(&Word { text: word.text.replace('-', ":"), place: word.place.clone() })?;
    Ok(Connection::Owner(kind, built(Test::listed(false, vec![range]), word)?))
}

/// Types of an address. Others than these are no types of routes.
fn kind(side: Side, word: &Word, negated: bool) -> Result<Connection, Fault> {
    let names = ["UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT"];
    let number = |name: &str| names.iter().zip(1_u8..).find(|(known, _)| **known == name).map(|(_, number)| number);
    let mut types: Vec<_> = word
        .text
        .split(',')
        .map(number)
        .collect::<Option<_>>()
        .ok_or_else(|| wrong(word, "this is not a type of addresses that can be asked here"))?;
    types.sort_unstable();
    types.dedup();
    Ok(Connection::Route(Reachability { side, mark: false, iif: false, found: Found::Type(negated, types) }))
}
