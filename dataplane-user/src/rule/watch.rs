//! What a watcher of live packets asks for: matches as in a rule, and what became of the packet.

use dataplane_common::Reason;

use super::{Rule, RuleError, RuleFault, parse};

/// Packets that somebody watches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Its matches; its verdict says nothing.
    pub rule: Rule,
    /// The reasons, a bit each by their numbers.
    pub reasons: u64,
}

/// Names of decisions.
const DECISIONS: [&str; 5] = ["forward", "deliver", "drop", "kernel", "withhold"];

/// Reads `[MATCH ...] [verdict NAME,...] [reason NAME,...]`.
///
/// # Errors
/// As [`super::parse`], or a name that there is not.
pub fn parse_watched(text: &str) -> Result<Watched, RuleError> {
    let words = words(text);
    let first = words.iter().position(|(_, word)| ["verdict", "reason"].contains(word)).unwrap_or(words.len());
    let matches = words.get(first).map_or(text, |(at, _)| &text[..*at]);
    let rule = parse(&format!("{matches} accept")).map_err(|error| {
        // What was put behind the text is not the reader's.
        let end = text.len();
        RuleError { span: error.span.start.min(end)..error.span.end.min(end), ..error }
    })?;
    if !rule.statements().is_empty() || rule.comment().is_some() {
        return Err(refuse(
            0..matches.len(),
            "only matches say what to watch for; take `log`, `limit` and the like out",
        ));
    }
    let mut reasons = u64::MAX;
    for clause in words[first..].chunks(2) {
        let [(at, keyword), (value_at, value)] = clause else {
            let (at, keyword) = clause[0];
            return Err(refuse(at..at + keyword.len(), &format!("`{keyword}` needs a name behind it")));
        };
        let span = *value_at..value_at + value.len();
        reasons &= match *keyword {
            "verdict" => named(value, &DECISIONS, |reason| reason.verdict().name()),
            "reason" => {
                let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
                named(value, &names, Reason::name)
            }
            _ => {
                let said = format!("`{keyword}` is not expected behind a verdict or a reason");
                return Err(refuse(*at..at + keyword.len(), &said));
            }
        }
        .map_err(|said| refuse(span, &said))?;
    }
    Ok(Watched { rule, reasons })
}

/// The reasons that have one of the names in a list, by what `name` says of them.
fn named(list: &str, known: &[&str], name: impl Fn(Reason) -> &'static str) -> Result<u64, String> {
    let mut bits = 0;
    for wanted in list.split(',') {
        if !known.contains(&wanted) {
            return Err(format!("`{wanted}` is none of: {}", known.join(", ")));
        }
        let fitting = Reason::ALL.iter().filter(|reason| name(**reason) == wanted);
        bits |= fitting.fold(0, |bits, reason| bits | 1_u64 << (*reason as u64));
    }
    Ok(bits)
}

fn refuse(span: std::ops::Range<usize>, said: &str) -> RuleError {
    RuleError { span, fault: RuleFault::Invalid(said.to_owned()) }
}

/// Words with their places.
fn words(text: &str) -> Vec<(usize, &str)> {
    text.split_whitespace().map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_verdicts_and_reasons() {
        let all = u64::MAX;
        let drops = Reason::ALL.iter().filter(|reason| reason.verdict().name() == "drop");
        let drops = drops.fold(0, |bits, reason| bits | 1_u64 << (*reason as u64));
        let bit = |reason: Reason| 1_u64 << (reason as u64);
        for (text, matches, reasons) in [
            ("", 0, all),
            ("tcp dport 22", 1, all),
            ("iif eth0 ip saddr 192.0.2.0/24 verdict drop", 2, drops),
            ("verdict drop", 0, drops),
            ("reason no_route,local", 0, bit(Reason::NoRoute) | bit(Reason::Local)),
            ("verdict drop reason blackhole", 0, bit(Reason::Blackhole)),
            ("verdict drop reason local", 0, 0),
        ] {
            let watched = parse_watched(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((watched.rule.matches().len(), watched.reasons), (matches, reasons), "{text}");
        }
    }

    #[test]
    fn an_invalid_trace_filter_is_reported_with_its_position() {
        for (text, place) in [
            ("verdict", 0..7),
            ("verdict maybe", 8..13),
            ("tcp dport 22 reason nothing", 20..27),
            ("verdict drop tcp dport", 13..16),
            ("tcp dport 22 limit rate 1/second", 0..32),
        ] {
            assert_eq!(parse_watched(text).expect_err(text).span, place, "{text}");
        }
        assert!(parse_watched("tcp dport x").is_err());
        assert!(parse_watched("tcp dport 22 drop").is_err());
    }
}
