//! Targets that translate: `MASQUERADE`, `SNAT`, `DNAT` and `REDIRECT`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::asked::{dashed, wrong};
use super::rule::{Fault, Words};
use super::word::Word;
use crate::rule::{Addresses, Choice, Family, Port, Range, Translation, TranslationKind, Value};

/// What the target writes.
pub(super) fn to(target: &Word, family: Family, words: &mut Words<'_>) -> Result<Translation, Fault> {
    let (mut given, mut ports, mut choice) = (None, None, Choice::default());
    while let Some(option) = words.next() {
        match option.text.as_str() {
            "--to-source" | "--to-destination" => {
                let word = words.value(option)?;
                let (addresses, with) = addresses(family, word)?;
                if given.replace(addresses).is_some() {
                    return Err(wrong(word, "one range of addresses can be given"));
                }
                ports = with;
            }
            "--to-ports" => ports = Some(port_range(words.value(option)?)?),
            "--random" => choice.random = true,
            "--random-fully" => choice.fully_random = true,
            "--persistent" => choice.persistent = true,
            other => {
                while words.next().is_some() {}
                let message = format!("`{other}` of `-j {}` cannot be translated: take it out", target.text);
                return Err((option.place.clone(), message));
            }
        }
    }
    let missing = || (target.place.clone(), format!("`-j {}` says no address", target.text));
    let kind = match target.text.as_str() {
        "MASQUERADE" => TranslationKind::Masquerade,
        "REDIRECT" => TranslationKind::Redirect,
        "SNAT" => TranslationKind::Source(given.ok_or_else(missing)?),
        _ => TranslationKind::Destination(given.ok_or_else(missing)?),
    };
    Ok(Translation { kind, ports, choice })
}

/// `192.0.2.1`, `192.0.2.1-192.0.2.4:80-90`, `[2001:db8::1]:80`.
fn addresses(family: Family, word: &Word) -> Result<(Addresses, Option<Range<Port>>), Fault> {
    let part = |text: &str| Word { text: text.to_owned(), place: word.place.clone() };
    let (text, ports) = match family {
        Family::V4 => word.text.split_once(':').map_or((&*word.text, None), |(one, ports)| (one, Some(ports))),
        Family::V6 => match word.text.rsplit_once("]:") {
            Some((one, ports)) => (one, Some(ports)),
            None => (&*word.text, None),
        },
    };
    let ports = ports.map(|ports| port_range(&part(ports))).transpose()?;
    let addresses = match family {
        Family::V4 => Addresses::V4(dashed::<Ipv4Addr>(&part(text))?),
        Family::V6 => Addresses::V6(dashed::<Ipv6Addr>(&part(&text.replace(['[', ']'], "")))?),
    };
    Ok((addresses, ports))
}

/// `80`, or `80-90`.
fn port_range(word: &Word) -> Result<Range<Port>, Fault> {
    let (low, high) = word.text.split_once('-').unwrap_or((&word.text, &word.text));
    let range = Port::from_word(low).zip(Port::from_word(high)).and_then(|(low, high)| Range::new(low, high));
    range.ok_or_else(|| wrong(word, "ports are 0 to 65535, the lower one first"))
}
