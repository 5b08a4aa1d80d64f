//! `dataplane rule`.
//!
//! The text of a rule goes to the daemon as it is: the language is parsed in one place. Here it is only put together from
//! the words that a shell made of it, and the `# handle ...` that `rule list` prints behind a rule is taken off again.

use clap::{
    Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{
    session::{Session, unexpected},
    usage,
};
use crate::{
    control::{
        protocol::{Data, Request},
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
    },
    /// Put a rule first in a chain
    #[command(after_help = "Example:\n  dataplane rule insert forward icmp type echo-request accept")]
    Insert {
        /// The chain
        #[arg(value_name = "CHAIN", value_parser = chain())]
        chain: ChainName,
        /// The rule, as one quoted string or as several words
        #[arg(required = true, value_name = "RULE")]
        rule: Vec<String>,
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
        /// The word `handle`
        #[arg(value_name = "handle", value_parser = ["handle"], hide_possible_values = true)]
        keyword: String,
        /// The number after `handle` in `rule list`
        #[arg(value_name = "N")]
        handle: u64,
    },
    /// Delete all rules of a chain; the policy stays
    #[command(after_help = "Example:\n  dataplane rule flush forward")]
    Flush {
        /// The chain
        #[arg(value_name = "CHAIN", value_parser = chain())]
        chain: ChainName,
    },
}

fn chain() -> impl TypedValueParser<Value = ChainName> {
    PossibleValuesParser::new(ChainName::ALL.map(ChainName::name)).try_map(|name| name.parse::<ChainName>())
}

impl Rule {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        let (request, listed) = match self {
            Self::List { chain } => (Request::RuleList { chain }, chain),
            Self::Add { chain, rule } => (Request::RuleAdd { chain, rule: join(&rule).map_err(usage)? }, Some(chain)),
            Self::Insert { chain, rule } => {
                (Request::RuleInsert { chain, rule: join(&rule).map_err(usage)? }, Some(chain))
            }
            Self::Del { chain, handle, .. } => return session.change(&Request::RuleDel { chain, handle }),
            Self::Flush { chain } => return session.change(&Request::RuleFlush { chain }),
        };
        match session.call(&request)? {
            Data::Rules(rows) => session.print(&rows, || {
                rows.iter().map(|row| if session.brief { brief(row, listed) } else { text(row, listed) }).collect()
            }),
            data => Err(unexpected(&data)),
        }
    }
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

    #[test]
    fn what_is_listed_can_be_added() {
        let rule = "ip saddr 192.0.2.0/24 drop comment \"bug #7\"";
        let row = RuleRow { chain: ChainName::Forward, handle: 7, rule: rule.to_owned(), packets: 1, bytes: 60 };
        assert_eq!(join(&[text(&row, Some(ChainName::Forward)).trim_end().to_owned()]).as_deref(), Ok(rule));
    }
}
