//! The running config for daemons of before: they refuse a file with a key that they do not know, and then have no rules at all.
//!
//! What they know is written as they wrote it. If that is not all, all of it follows in comments, which this version reads
//! instead.

use std::borrow::Cow;

/// In front of each line of a config that daemons until version 0.1.0 do not know all of.
const MARK: &str = "#+ ";
/// What they know: the table, and its keys; none of a table of tables.
const KNOWN: &[(&str, &[&str])] = &[
    ("fib", &["ipv4_routes", "ipv6_routes"]),
    ("heartbeat", &["after"]),
    ("metrics", &["listen"]),
    ("sets", &["type", "elements", "file"]),
    ("chains", &["policy", "rules"]),
];
/// Chains that they know.
const CHAINS: &[&str] = &["prerouting", "input", "forward", "output"];

/// What is written for a config in its canonical form.
pub(super) fn readable(toml: String) -> String {
    if known(&toml).zip(toml.split_inclusive('\n')).all(|(known, line)| known.as_deref() == Some(line)) {
        return toml;
    }
    let mut text: String = known(&toml).flatten().collect();
    for line in toml.lines() {
        text.push_str(MARK);
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Each line as they know it; none where they do not.
fn known(toml: &str) -> impl Iterator<Item = Option<Cow<'_, str>>> {
    // The table that a line is in, with its keys; `None`: they do not know it.
    let (mut table, mut skipping) = (Some(Table::Top), false);
    toml.split_inclusive('\n').map(move |line| {
        // In canonical form what goes on over lines is indented, or a bracket alone.
        if line.starts_with('[') {
            table = Table::of(line.trim_end());
            skipping = table.is_none();
        } else if let (Some((key, value)), Some(table)) = (pair(line), &table) {
            skipping = !table.knows(key);
            if matches!(table, Table::Ports) {
                return Some(format!("{key} ={}", only_mode(value)).into());
            }
        }
        (!skipping).then_some(line.into())
    })
}

/// The config that was written.
pub(super) fn whole(text: &str) -> String {
    let marked = text.lines().filter_map(|line| line.strip_prefix(MARK));
    let whole: String = marked.flat_map(|line| [line, "\n"]).collect();
    if whole.is_empty() { text.to_owned() } else { whole }
}

enum Table {
    Top,
    Ports,
    Other(&'static [&'static str]),
}

impl Table {
    fn of(heading: &str) -> Option<Self> {
        let name = heading.strip_prefix('[')?.strip_suffix(']')?;
        if name == "ports" {
            return Some(Self::Ports);
        }
        let (outer, inner) = name.split_once('.').unwrap_or((name, ""));
        if outer == "chains" && !CHAINS.contains(&inner) {
            return None;
        }
        KNOWN.iter().find(|(known, _)| *known == outer).map(|(_, keys)| Self::Other(keys))
    }

    fn knows(&self, key: &str) -> bool {
        match self {
            Self::Top => key == "fragments",
            Self::Ports => true,
            Self::Other(keys) => keys.contains(&key),
        }
    }
}

/// A line that begins with a key.
fn pair(line: &str) -> Option<(&str, &str)> {
    if line.starts_with([' ', ']', '#', '\n']) {
        return None;
    }
    // A name in quotes may have anything in it.
    let quote = line.chars().next().filter(|first| ['"', '\''].contains(first));
    let end = quote.map_or(Some(0), |quote| Some(line[1..].find(quote)? + 2))?;
    let at = end + line[end..].find('=')?;
    Some((line[..at].trim_end(), &line[at + 1..]))
}

/// Settings of a port, ` { mode = "tc", ... }`, without all others than the mode.
fn only_mode(settings: &str) -> String {
    let inner = settings.trim().trim_start_matches('{').trim_end_matches('}');
    let mode = inner.split(',').find(|setting| setting.trim_start().starts_with("mode"));
    mode.map_or_else(|| settings.to_owned(), |mode| format!(" {{ {} }}\n", mode.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const FORMER: &str = "fragments = \"pass\"\n\n[ports]\neth0 = { mode = \"tc\" }\n\"veth[0-9]=*\" = { mode = \"auto\" }\n\n\
                          [fib]\nipv4_routes = 7\n\n[heartbeat]\nafter = 5\n\n[metrics]\nlisten = \"127.0.0.1:9464\"\n\n\
                          [sets.\"a.b\"]\ntype = \"ipv4_addr\"\nelements = [\n    \"192.0.2.1\",\n]\n\n\
                          [chains.forward]\npolicy = \"drop\"\nrules = [\n    'iif eth0 ip saddr @a.b log prefix \"[x] = \" drop',\n]\n";

    #[test]
    fn what_is_known_is_written_as_ever() {
        let config = config::parse(FORMER, "former").expect("a config");
        let toml = config.to_toml();
        assert_eq!(readable(toml.clone()), toml);
        assert_eq!(whole(&toml), toml);
        assert_eq!(readable(String::new()), "");
    }

    #[test]
    fn what_is_not_known_stays_in_comments() {
        let newer = FORMER
            .replace("fragments = \"pass\"\n", "prophecy = 3\nfragments = \"pass\"\n")
            .replace("{ mode = \"tc\" }", "{ mode = \"tc\", until_ready = \"drop\" }")
            .replace("[fib]\n", "[flows]\nnetfilter = \"bypass\"\nignore = [\n    \"log\",\n]\n\n[fib]\n")
            .replace("after = 5\n", "after = 5\nbefore = [\n    1,\n]\n")
            + "\n[chains.postrouting]\npolicy = \"accept\"\nrules = [\n    \"masquerade\",\n]\n";
        let written = readable(newer.clone());
        assert_eq!(whole(&written), newer);
        // As a daemon of before reads it.
        let read = config::parse(&written, "written").expect("a config");
        assert_eq!(read, config::parse(FORMER, "former").expect("a config"), "{written}");
    }
}
