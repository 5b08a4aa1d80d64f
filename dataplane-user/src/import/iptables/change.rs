//! What a rule of iptables changes: `-j MARK` and its like (iptables-extensions(8)).

use super::asked::wrong;
use super::rule::{Fault, Words};
use super::word::Word;
use crate::rule::{Change, Dscp, Family, HopLimit, Mark, MarkOf, NewMark, Value};

/// The targets.
pub(super) const TARGETS: [&str; 6] = ["MARK", "CONNMARK", "TCPMSS", "DSCP", "TTL", "HL"];

const ALL: u32 = u32::MAX;

/// What one of them says.
pub(super) fn change(target: &Word, family: Family, words: &mut Words<'_>) -> Result<Change, Fault> {
    let option = words.next().ok_or_else(|| wrong(target, "this target needs an option"))?;
    let unknown = || wrong(option, "this cannot be translated: take the rule out");
    match (target.text.as_str(), option.text.as_str()) {
        ("TCPMSS", "--clamp-mss-to-pmtu") => Ok(Change::SegmentSize(None)),
        ("TCPMSS", "--set-mss") => {
            let word = words.value(option)?;
            let size = word.text.parse().ok().filter(|size| *size > 0);
            size.map(|size| Change::SegmentSize(Some(size)))
                .ok_or_else(|| wrong(word, "a segment has 1 to 65535 bytes"))
        }
        ("DSCP", "--set-dscp" | "--set-dscp-class") => {
            let word = words.value(option)?;
            let dscp = Dscp::from_word(&word.text.to_ascii_lowercase());
            dscp.map(|dscp| Change::Dscp(family, dscp)).ok_or_else(|| wrong(word, Dscp::EXPECTED))
        }
        ("TTL", "--ttl-set") | ("HL", "--hl-set") => {
            let word = words.value(option)?;
            let hops = HopLimit::from_word(&word.text);
            hops.map(|hops| Change::HopLimit(family, hops)).ok_or_else(|| wrong(word, HopLimit::EXPECTED))
        }
        ("MARK", _) => marked(option, MarkOf::Packet, words),
        ("CONNMARK", "--save-mark") => moved((MarkOf::Packet, "--nfmask", "--ctmask"), words),
        ("CONNMARK", "--restore-mark") => moved((MarkOf::Connection, "--ctmask", "--nfmask"), words),
        ("CONNMARK", _) => marked(option, MarkOf::Connection, words),
        _ => Err(unknown()),
    }
}

fn bits(word: &Word) -> Result<u32, Fault> {
    Mark::from_word(&word.text).map(|mark| mark.0).ok_or_else(|| wrong(word, Mark::EXPECTED))
}

/// `VALUE/MASK`, or a value alone.
pub(super) fn masked(word: &Word) -> Result<(u32, u32), Fault> {
    let part = |text: &str| bits(&Word { text: text.to_owned(), place: word.place.clone() });
    match word.text.split_once('/') {
        Some((value, mask)) => Ok((part(value)?, part(mask)?)),
        None => Ok((bits(word)?, ALL)),
    }
}

/// Some bits of a mark become others (`xt_mark`, `xt_connmark`).
fn marked(option: &Word, of: MarkOf, words: &mut Words<'_>) -> Result<Change, Fault> {
    let word = words.value(option)?;
    let mark = match option.text.as_str() {
        "--set-xmark" => return masked(word).map(|bits| xmark(of, bits)),
        "--set-mark" => masked(word).map(|(value, mask)| NewMark::of(of, !(mask | value), value)),
        "--and-mark" => bits(word).map(|mask| NewMark::of(of, mask, 0)),
        "--or-mark" => bits(word).map(|value| NewMark::of(of, !value, value)),
        "--xor-mark" => bits(word).map(|value| NewMark::of(of, ALL, value)),
        _ => Err(wrong(option, "this cannot be translated: take the rule out")),
    };
    Ok(Change::Mark(of, mark?))
}

/// Some bits of a mark turn behind others that are cleared.
fn xmark(of: MarkOf, (value, mask): (u32, u32)) -> Change {
    Change::Mark(of, NewMark::of(of, !mask, value))
}

/// What `--tproxy-mark VALUE/MASK` does to a packet.
pub(super) fn marked_bits(bits: (u32, u32)) -> Change {
    xmark(MarkOf::Packet, bits)
}

/// The mark of the packet becomes that of its connection, or the other way round: all of it, from some bits.
fn moved((from, taken, replaced): (MarkOf, &str, &str), words: &mut Words<'_>) -> Result<Change, Fault> {
    let mut keep = ALL;
    while let Some(option) = words.peek().filter(|word| word.text.starts_with("--")) {
        words.next();
        let word = words.value(option)?;
        let mask = bits(word)?;
        if option.text == taken {
            keep = mask;
        } else if option.text != replaced || mask != ALL {
            return Err(wrong(word, "a mark that takes some of its bits from another one cannot be said"));
        }
    }
    let to = if from == MarkOf::Packet { MarkOf::Connection } else { MarkOf::Packet };
    Ok(Change::Mark(to, NewMark::of(from, keep, 0)))
}
