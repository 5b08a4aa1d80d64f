//! Sets of ipset: what `ipset save` prints in front of the rules, and what rules ask of them and put there (ipset(8)).

use std::collections::HashMap;

use super::asked::{Ways, built, holds, nothing, wrong};
use super::rule::{Draft, Fault, Words};
use super::word::Word;
use crate::config::{DynamicSet, Elements, SetConfig};
use crate::rule::{
    Concatenation, Family, Field, ItemKind, KeyField, Match, ProtocolField, SetName, SetType, SetUpdate, SetVerb, Side,
    Statement, Test, Timeout, Transport, parse_element,
};

/// Sets by the names that rules have for them.
pub(super) type Known = HashMap<String, Set>;

/// A set in the making.
#[derive(Clone, Debug)]
pub(super) struct Set {
    pub(super) name: SetName,
    family: Option<Family>,
    kind: SetType,
}

/// A name that a set of the config can have.
pub(super) fn named(name: &str) -> Option<SetName> {
    let letter = if name.starts_with(|letter: char| letter.is_ascii_alphabetic()) { "" } else { "s" };
    let plain =
        |letter: char| if letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.') { letter } else { '-' };
    SetName::new(&format!("{letter}{}", name.chars().map(plain).collect::<String>()))
}

/// `create NAME TYPE family inet ...`; `fills`: some rule puts elements there.
pub(super) fn create(words: &[Word], fills: bool) -> Result<(Set, SetConfig), Fault> {
    let [verb, name, kind, options @ ..] = words else {
        return Err(wrong(&words[0], "a set has a name and a type"));
    };
    let option = |wanted: &str| options.windows(2).find(|pair| pair[0].text == wanted).map(|pair| &pair[1]);
    let six = option("family").is_some_and(|word| word.text == "inet6");
    let family = if six { Family::V6 } else { Family::V4 };
    let address = if six { ItemKind::Ipv6 } else { ItemKind::Ipv4 };
    let (kinds, family) = match kind.text.as_str() {
        "hash:ip" | "hash:net" | "bitmap:ip" => (vec![address], Some(family)),
        "hash:ip,port" | "hash:net,port" => (vec![address, ItemKind::Protocol, ItemKind::Service], Some(family)),
        "hash:mac" => (vec![ItemKind::Ether], None),
        "bitmap:port" => (vec![ItemKind::Service], None),
        _ => {
            let said =
                "sets are of hash:ip, hash:net, hash:ip,port, hash:net,port, hash:mac, bitmap:ip and bitmap:port here";
            return Err(wrong(kind, said));
        }
    };
    let timeout = option("timeout").and_then(|word| Timeout::from_word(&word.text));
    let (name, kind) = named(&name.text).zip(SetType::new(kinds)).ok_or_else(|| wrong(verb, "a set has a name"))?;
    let elements = if fills {
        Elements::Dynamic(DynamicSet { timeout, size: DynamicSet::SIZE })
    } else {
        Elements::Listed(Vec::new().into())
    };
    Ok((Set { name, family, kind: kind.clone() }, SetConfig { kind, elements }))
}

/// `add NAME ELEMENT ...`; whether the element has a time is told by the second.
pub(super) fn add(words: &[Word], set: &Set) -> Result<(crate::rule::Element, bool), Fault> {
    let [_, _, element, options @ ..] = words else {
        return Err(wrong(&words[0], "an element was expected"));
    };
    let has = |wanted: &str| options.iter().any(|word| word.text == wanted);
    if has("nomatch") {
        return Err(wrong(
            element,
            "an element that takes part of another one out cannot be said: list the rest of it",
        ));
    }
    let parts: Vec<_> = element.text.split(',').collect();
    let text = match (parts.as_slice(), set.kind.kinds()) {
        ([one], [_]) => (*one).to_owned(),
        ([address, port], [_, _, _]) => {
            let (protocol, port) = port.split_once(':').unwrap_or(("tcp", port));
            format!("{address} . {protocol} . {port}")
        }
        _ => return Err(wrong(element, &format!("a set of {} has no such element", set.kind))),
    };
    let read = parse_element(&set.kind, &text).map_err(|error| wrong(element, &error.to_string()))?;
    Ok((read, has("timeout")))
}

fn known<'d>(word: &Word, draft: &'d Draft) -> Result<&'d Set, Fault> {
    let said = "this set is not in the file: put what `ipset save` prints in front of the rules";
    let set = draft.ipsets.get(&word.text).ok_or_else(|| wrong(word, said))?;
    if set.family.is_some_and(|family| family != draft.family) {
        return Err(wrong(word, "the set has addresses of the other family, which no packet of this table has"));
    }
    Ok(set)
}

/// `src,dst`: where each part of an element stands.
fn sides(word: &Word, parts: usize) -> Result<Vec<Side>, Fault> {
    let side = |text: &str| match text {
        "src" => Some(Side::Source),
        "dst" => Some(Side::Destination),
        _ => None,
    };
    let sides: Option<Vec<_>> = word.text.split(',').map(side).collect();
    let said = format!("`src` or `dst` was expected {parts} times, with a comma between");
    sides.filter(|sides| sides.len() >= parts).ok_or_else(|| wrong(word, &said))
}

/// The fields that make an element.
fn fields(set: &Set, (flags, draft): (&Word, &Draft)) -> Result<Vec<Field>, Fault> {
    let address = |side: Side| if draft.family == Family::V4 { Field::Ipv4(side) } else { Field::Ipv6(side) };
    let transport = match draft.protocol {
        Some(6) => Transport::Tcp,
        Some(17) => Transport::Udp,
        _ => Transport::Any,
    };
    Ok(match set.kind.kinds() {
        [ItemKind::Ether] => vec![Field::Ether(sides(flags, 1)?[0])],
        [ItemKind::Service] => vec![Field::Port(transport, sides(flags, 1)?[0])],
        [_] => vec![address(sides(flags, 1)?[0])],
        _ => {
            let sides = sides(flags, 2)?;
            let port = Field::Port(Transport::Any, sides[1]);
            vec![address(sides[0]), Field::Protocol(ProtocolField::Meta), port]
        }
    })
}

/// `--match-set NAME src`.
pub(super) fn matched(option: &Word, negated: bool, draft: &Draft, words: &mut Words<'_>) -> Result<Ways, Fault> {
    let (name, flags) = (words.value(option)?, words.value(option)?);
    let set = known(name, draft)?;
    let test = |set: &Set| set.name.clone();
    let fields = fields(set, (flags, draft))?;
    Ok(holds(match fields[..] {
        [Field::Ipv4(side)] => Match::Ipv4(side, Test::set(negated, test(set))),
        [Field::Ipv6(side)] => Match::Ipv6(side, Test::set(negated, test(set))),
        [Field::Ether(side)] => Match::Ether(side, Test::set(negated, test(set))),
        [Field::Port(transport, side)] => Match::Port(transport, side, Test::set(negated, test(set))),
        _ if negated => {
            let said =
                "`!` on several fields also holds for packets without ports, which no rule can say: accept before";
            return Err(wrong(name, said));
        }
        _ => {
            let together = Concatenation::new(fields, Test::set(false, test(set)));
            Match::Concatenation(built(together, name)?)
        }
    }))
}

/// `-j SET --add-set NAME src`, `--del-set`.
pub(super) fn put(target: &Word, draft: &mut Draft, words: &mut Words<'_>) -> Result<Ways, Fault> {
    let option = words.next().ok_or_else(|| wrong(target, "this target needs an option"))?;
    let mut verb = match option.text.as_str() {
        "--add-set" => SetVerb::Add,
        "--del-set" => SetVerb::Delete,
        _ => return Err(wrong(option, "this cannot be translated: take `--add-set` or `--del-set`")),
    };
    let (name, flags) = (words.value(option)?, words.value(option)?);
    let set = known(name, draft)?;
    let key = fields(set, (flags, draft))?.into_iter().map(|field| KeyField { field, mask: None }).collect();
    let mut timeout = None;
    while let Some(more) = words.peek().filter(|word| matches!(word.text.as_str(), "--exist" | "--timeout")) {
        words.next();
        if more.text == "--exist" {
            verb = if verb == SetVerb::Add { SetVerb::Update } else { verb };
        } else {
            timeout = Timeout::from_word(&words.value(more)?.text);
        }
    }
    let update = SetUpdate::new((verb, set.name.clone()), key, (timeout, None));
    let update = update.ok_or_else(|| wrong(name, "no element can be made of this"))?;
    draft.statements.push(Statement::Update(Box::new(update)));
    Ok(nothing())
}
