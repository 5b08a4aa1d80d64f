//! `dataplane rule`.
//!
//! The text of a rule goes to the daemon as it is: the language is parsed in one place. Here it is only put together from
//! the words that a shell made of it, and the `# handle ...` that `rule list` prints behind a rule is taken off again.

use clap::{
    Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{
    care::CareArgs,
    session::{Session, unexpected},
    usage,
};
use crate::{
    control::{
        protocol::{Data, Place, Request},
        row::RuleRow,
    },
    rule::ChainName,
};

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  dataplane rule add forward ip saddr 192.0.2.0/24 tcp dport 23 drop\n  dataplane rule list forward"
)]
pub(super) enum Rule {
    /// List the rules in the order of evaluation, each with its handle and counters as a comment
    #[command(
        visible_alias = "show",
        aliases = ["ls", "lst"],
        long_about = "List the rules in the order of evaluation, each with its handle and counters as a comment.\n\n\
                      A line is valid after `dataplane rule add CHAIN`; when all chains are listed, each line begins with its \
                      chain and is valid after `dataplane rule add`.",
        after_help = "Examples:\n  dataplane rule list\n  dataplane rule list forward\n  dataplane rule list -j | jq '.[] | select(.packets > 0)'"
    )]
    List {
        /// Only this chain
        #[arg(value_name = "CHAIN", value_parser = chain())]
        chain: Option<ChainName>,
    },
    /// Append a rule to a chain
    #[command(after_help = "Examples:\n  dataplane rule add forward tcp dport 23 drop\n  \
                            dataplane rule add input 'udp dport { 53, 123 } accept comment \"dns, time\"'")]
    Add {
        /// The chain
        #[arg(value_name = "CHAIN", value_parser = chain())]
        chain: ChainName,
        /// The rule, as one quoted string or as several words
        #[arg(required = true, value_name = "RULE")]
        rule: Vec<String>,
        #[command(flatten)]
        care: CareArgs,
    },
    /// Put a rule first in a chain, or before or after another rule
    #[command(
        override_usage = "dataplane rule insert [OPTIONS] <CHAIN> [before|after handle N] <RULE>...",
        after_help = "Examples:\n  dataplane rule insert forward icmp type echo-request accept\n  \
                      dataplane rule insert forward before handle 3 tcp dport 22 accept"
    )]
    Insert {
        /// The chain
        #[arg(value_name = "CHAIN", value_parser = chain())]
        chain: ChainName,
        /// `before handle N` or `after handle N`, then the rule, as one quoted string or as several words
        #[arg(required = true, value_name = "RULE")]
        rule: Vec<String>,
        #[command(flatten)]
        care: CareArgs,
    },
    /// Put a rule in the place of another
    ///
    /// It gets a handle and counters of its own.
    #[command(
        override_usage = "dataplane rule replace [OPTIONS] <CHAIN> handle <N> <RULE>...",
        after_help = "Example:\n  dataplane rule replace forward handle 3 tcp dport { 22, 443 } accept"
    )]
    Replace {
        /// The chain
        #[arg(value_name = "CHAIN", value_parser = chain())]
        chain: ChainName,
        /// `handle N`, then the rule, as one quoted string or as several words
        #[arg(required = true, value_name = "RULE")]
        rule: Vec<String>,
        #[command(flatten)]
        care: CareArgs,
    },
    /// Delete a rule
    #[command(
        visible_alias = "delete",
        after_help = "Example:\n  dataplane rule list forward\n  dataplane rule del forward handle 3\n  dataplane rule delete forward handle 3"
    )]
    Del {
        /// The chain
        #[arg(value_name = "CHAIN", value_parser = chain())]
        chain: ChainName,
        /// `handle N`, as `rule list` shows it
        #[arg(required = true, num_args = 1..=2, value_name = "handle N")]
        handle: Vec<String>,
        #[command(flatten)]
        care: CareArgs,
    },
    /// Delete all rules of a chain; the policy stays
    #[command(after_help = "Example:\n  dataplane rule flush forward")]
    Flush {
        /// The chain
        #[arg(value_name = "CHAIN", value_parser = chain())]
        chain: ChainName,
        #[command(flatten)]
        care: CareArgs,
    },
}

pub(super) fn chain() -> impl TypedValueParser<Value = ChainName> {
    PossibleValuesParser::new(ChainName::ALL.map(ChainName::name)).try_map(|name| name.parse::<ChainName>())
}

impl Rule {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let (request, chain, care) = match self {
            Self::List { chain } => return print(session, &Request::RuleList { chain }, chain),
            Self::Add { chain, rule, care } => {
                (Request::RuleAdd { chain, rule: join(&rule).map_err(usage)? }, chain, care)
            }
            Self::Insert { chain, rule, care } => {
                let (place, rule) = place(&rule).map_err(usage)?;
                (Request::RuleInsert { chain, rule: join(&rule).map_err(usage)?, place }, chain, care)
            }
            Self::Replace { chain, rule, care } => {
                let (number, rule) = number(&rule).map_err(usage)?;
                let rule = join(&rule).map_err(usage)?;
                (Request::RuleReplace { chain, handle: number, rule }, chain, care)
            }
            Self::Del { chain, handle, care } => {
                let (handle, rest) = number(&handle).map_err(usage)?;
                if !rest.is_empty() {
                    return Err(usage(format!("`{}` is one word too many; write `handle {handle}`", rest.join(" "))));
                }
                return change(session, &care, Request::RuleDel { chain, handle });
            }
            Self::Flush { chain, care } => return change(session, &care, Request::RuleFlush { chain }),
        };
        print(session, &care.around(request), Some(chain))?;
        care.remind();
        Ok(())
    }
}

/// Prints the rules that a request is answered with; `chain`: that they are all of.
fn print(session: &Session, request: &Request, chain: Option<ChainName>) -> anyhow::Result<()> {
    match session.call(request)? {
        Data::Rules(rows) => {
            let line = |row| if session.brief { brief(row, chain) } else { text(row, chain) };
            session.print(&rows, || rows.iter().map(line).collect())
        }
        data => Err(unexpected(&data)),
    }
}

/// Makes a change that has nothing to show.
fn change(session: &Session, care: &CareArgs, change: Request) -> anyhow::Result<()> {
    session.change(&care.around(change))?;
    care.remind();
    Ok(())
}

/// The words of a command line, also of one that came quoted.
fn words(words: &[String]) -> Vec<&str> {
    words.iter().flat_map(|word| word.split_whitespace()).collect()
}

/// Where a rule goes, and the rest of the words.
fn place(given: &[String]) -> Result<(Option<Place>, Vec<String>), String> {
    let first = words(given).first().copied().unwrap_or_default();
    if !["before", "after"].contains(&first) {
        return Ok((None, given.to_vec()));
    }
    let before = first == "before";
    let (handle, rule) = number(&behind(given, 1))?;
    Ok((Some(Place { before, handle }), rule))
}

/// The number after `handle`, and the rest of the words.
fn number(given: &[String]) -> Result<(u64, Vec<String>), String> {
    let all = words(given);
    let (text, taken) = match all.as_slice() {
        ["handle", number, ..] => (*number, 2),
        [number, ..] if number.starts_with(|c: char| c.is_ascii_digit()) => (*number, 1),
        _ => return Err("which rule? Write `handle N` with the number that `dataplane rule list` shows".to_owned()),
    };
    let number = text
        .parse()
        .map_err(|_| format!("`{text}` after `handle` is no number; `dataplane rule list` shows the handles"))?;
    Ok((number, behind(given, taken)))
}

/// What is left behind so many words; a quoted string stays one.
fn behind(given: &[String], mut taken: usize) -> Vec<String> {
    let mut rest = Vec::new();
    for word in given {
        let mut text = word.trim();
        while taken > 0 && !text.is_empty() {
            text = text.split_once(char::is_whitespace).map_or("", |(_, more)| more).trim_start();
            taken -= 1;
        }
        if !text.is_empty() {
            rest.push(text.to_owned());
        }
    }
    rest
}

/// One line; it names the chain unless only one chain is listed.
fn text(row: &RuleRow, listed: Option<ChainName>) -> String {
    let chain = if listed.is_some() { String::new() } else { format!("{} ", row.chain) };
    format!("{chain}{} # handle {} packets {} bytes {}\n", row.rule, row.handle, row.packets, row.bytes)
}

/// The rule alone.
fn brief(row: &RuleRow, listed: Option<ChainName>) -> String {
    let chain = if listed.is_some() { String::new() } else { format!("{} ", row.chain) };
    format!("{chain}{}\n", row.rule)
}

/// The rule that the words of a command line mean.
///
/// A shell takes the quotes off `comment "web"`. Where the rule came in several words, the string after `comment` or
/// `prefix` gets them back.
fn join(words: &[String]) -> Result<String, String> {
    let mut rule = String::new();
    for word in words {
        let last = rule.split_whitespace().next_back();
        let string = matches!(last, Some("comment" | "prefix")) && !word.starts_with('"');
        if !rule.is_empty() {
            rule.push(' ');
        }
        if string {
            rule.push('"');
        }
        rule.push_str(word);
        if string {
            rule.push('"');
        }
    }
    let rule = without_comment(&rule).trim();
    match rule {
        "" => Err("the rule is empty; an example: tcp dport 23 drop".to_owned()),
        rule if rule.contains(['\n', '\r']) => Err("one rule is one line; add the rules one by one".to_owned()),
        rule => Ok(rule.to_owned()),
    }
}

/// What stands before the first `#` that is not inside quotes.
fn without_comment(rule: &str) -> &str {
    let mut quoted = false;
    let end = rule.find(|c| {
        quoted ^= c == '"';
        c == '#' && !quoted
    });
    &rule[..end.unwrap_or(rule.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_make_a_rule() {
        let rows: &[(&[&str], Option<&str>)] = &[
            (&["tcp dport { 80, 443 } accept"], Some("tcp dport { 80, 443 } accept")),
            (&["tcp", "dport", "{", "80,", "443", "}", "accept"], Some("tcp dport { 80, 443 } accept")),
            (&["drop", "comment", "two words"], Some("drop comment \"two words\"")),
            (&["drop", "comment", "\"web\""], Some("drop comment \"web\"")),
            (&["log", "prefix", "no # telnet", "drop"], Some("log prefix \"no # telnet\" drop")),
            (&["drop comment \"web\""], Some("drop comment \"web\"")),
            (&["drop # handle 3 packets 0 bytes 0"], Some("drop")),
            (&["drop", "#", "handle", "3"], Some("drop")),
            (&["drop comment \"#1\" # handle 3"], Some("drop comment \"#1\"")),
            (&["# handle 3"], None),
            (&[" "], None),
            (&["drop\naccept"], None),
        ];
        for (words, want) in rows {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(join(&words).ok().as_deref(), *want, "{words:?}");
        }
    }

    /// Words, the place that they name, and the words behind it.
    type PlaceRow = (&'static [&'static str], Option<(bool, u64)>, &'static [&'static str]);

    #[test]
    fn places_of_rules() {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let rows: &[PlaceRow] = &[
            (&["tcp", "dport", "22", "accept"], None, &["tcp", "dport", "22", "accept"]),
            (&["before", "handle", "3", "drop"], Some((true, 3)), &["drop"]),
            (&["after", "3", "drop"], Some((false, 3)), &["drop"]),
            (&["before handle 3 tcp dport 22 drop"], Some((true, 3)), &["tcp dport 22 drop"]),
            (&["after", "handle", "7", "drop comment \"a b\""], Some((false, 7)), &["drop comment \"a b\""]),
        ];
        for (given, want, rest) in rows {
            let want = want.map(|(before, handle)| Place { before, handle });
            assert_eq!(place(&owned(given)), Ok((want, owned(rest))), "{given:?}");
        }
        for (given, said) in
            [(&["before", "drop"][..], "which rule?"), (&["after", "handle", "x"], "`x` after `handle`")]
        {
            let error = place(&owned(given)).expect_err("no place");
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_is_listed_can_be_added() {
        let rule = "ip saddr 192.0.2.0/24 drop comment \"bug #7\"";
        let row = RuleRow { chain: ChainName::Forward, handle: 7, rule: rule.to_owned(), packets: 1, bytes: 60 };
        assert_eq!(join(&[text(&row, Some(ChainName::Forward)).trim_end().to_owned()]).as_deref(), Ok(rule));
    }
}
