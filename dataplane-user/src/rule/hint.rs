//! What was probably meant by words that a rule cannot have: a cure for the commonest slips.

use super::error::{RuleError, RuleFault};

/// Words of other languages and habits, and what to write.
const WORDS: &[(&[&str], &str)] = &[
    (&["deny", "block", "refuse", "discard", "denied", "blackhole"], "did you mean `drop`?"),
    (&["allow", "permit", "pass", "ok", "return"], "did you mean `accept`? `continue` goes on with the next rule"),
    (
        &["src", "dst", "host", "net", "from", "to"],
        "write `ip saddr ADDRESS` or `ip daddr ADDRESS`; `ip6 saddr` for IPv6",
    ),
    (&["port", "sport", "dport"], "write `tcp dport N` or `udp dport N`; `th dport N` is for any protocol"),
    (&["ping"], "write `icmp type echo-request`, or `icmpv6 type echo-request`"),
    (&["tcp-rst", "rst", "tcp-reset"], "write `reject with tcp reset`"),
    (
        &["add", "insert", "rule", "chain", "delete"],
        "a rule begins with a match; the verbs are `dataplane rule add CHAIN`, `rule insert CHAIN`",
    ),
    (&["not", "!"], "write `!=` between a field and its value"),
    (&["&&", "and"], "matches stand one behind the other, without a word between them"),
    (&["||", "or"], "write several values in braces, or two rules"),
    (&["log-prefix"], "write `log prefix \"web\"`"),
];

/// What to write instead, where that can be said.
fn hint(text: &str, error: &RuleError) -> Option<String> {
    let RuleFault::Unexpected { found, expected } = &error.fault else { return None };
    let quotes = expected.iter().any(|kind| kind.contains("in quotes"));
    let Some(found) = found.as_deref() else {
        return quotes.then(|| "write it in quotes, and the rule in others: 'drop comment \"web\"'".to_owned());
    };
    if quotes {
        return Some(format!(
            "write \"{}\" in quotes, and the rule in others: 'drop comment \"web\"'",
            found.trim_matches('"')
        ));
    }
    if found.starts_with('-') && found.len() > 1 && !found[1..].starts_with(|c: char| c.is_ascii_digit()) {
        return Some(
            "this is the grammar of iptables: `dataplane import iptables` translates what `iptables-save` prints"
                .to_owned(),
        );
    }
    if let Some((_, said)) = WORDS.iter().find(|(words, _)| words.contains(&found)) {
        return Some((*said).to_owned());
    }
    let lower = found.to_ascii_lowercase();
    if lower != found && found.chars().any(char::is_alphabetic) && !found.contains(':') {
        return Some(format!("words are in lower case: `{lower}`"));
    }
    family(found, expected).or_else(|| several(text, error, found)).or_else(|| nearest(found, expected))
}

/// An address of the other family.
fn family(found: &str, expected: &[String]) -> Option<String> {
    let address = found.split('/').next().unwrap_or(found);
    let wants = |what: &str| expected.iter().any(|kind| kind == what);
    if wants("an IPv4 address") && address.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some("`ip6 saddr` and `ip6 daddr` match IPv6".to_owned());
    }
    if wants("an IPv6 address") && address.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some("`ip saddr` and `ip daddr` match IPv4".to_owned());
    }
    None
}

/// Several values without braces, or a lone `=`.
fn several(text: &str, error: &RuleError, found: &str) -> Option<String> {
    if found == "=" {
        return Some("leave `=` out, or write `==`".to_owned());
    }
    let before = text.get(..error.span.start)?.split_whitespace().next_back()?;
    let value = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    if found == "," || value(found) && value(before) {
        return Some(
            "several values stand in braces, and the rule in quotes: 'tcp dport { 80, 443 } accept'".to_owned(),
        );
    }
    None
}

/// The word that differs in one or two letters.
fn nearest(found: &str, expected: &[String]) -> Option<String> {
    let most = if found.len() > 4 { 2 } else { 1 };
    let listed =
        expected.iter().flat_map(|kind| kind.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_'));
    let words =
        listed.filter(|word| word.len() > 1 && *word != found && word.starts_with(|c: char| c.is_ascii_alphabetic()));
    let near = words.map(|word| (distance(found, word), word)).filter(|(distance, _)| *distance <= most);
    let (_, word) = near.min()?;
    Some(format!("did you mean `{word}`?"))
}

/// How many letters must be added, removed, changed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<_>, Vec<_>) = (a.bytes().collect(), b.bytes().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for (i, left) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, right) in b.iter().enumerate() {
            let change = rows[i][j] + usize::from(left != right);
            let swapped = i > 0 && j > 0 && a[i - 1] == *right && b[j - 1] == *left;
            let swap = if swapped { rows[i - 1][j - 1] + 1 } else { usize::MAX };
            row.push(change.min(rows[i][j + 1] + 1).min(row[j] + 1).min(swap));
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// The error with what to write instead behind it.
pub(super) fn with_hint(text: &str, error: RuleError) -> RuleError {
    match hint(text, &error) {
        Some(said) => RuleError { fault: RuleFault::Invalid(format!("{}: {said}", error.fault)), ..error },
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, want) in
            [("drop", "drop", 0), ("drp", "drop", 1), ("dorp", "drop", 1), ("sadr", "saddr", 1), ("x", "drop", 4)]
        {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }
}
