//! What `nft list ruleset` prints.
//!
//! Blocks in braces hold statements; a statement ends with its line or at `;`. What stands in the blocks of a table is read
//! by [`super::set`] and [`super::line`].

use std::collections::{BTreeMap, HashSet};

use chumsky::prelude::*;

use super::base::Base;
use super::chain::{Chain, Ruleset};
use super::line::Reader;
use super::problem::{Position, Problems};
use super::set::Table;
use crate::config::SetConfig;
use crate::rule::parse::token::{Extra, is_value, run_of, space, symbol, token};
use crate::rule::parse::{end, run};
use crate::rule::{Family, Match, Policy, SetName};

type Boxed<'a, O> = chumsky::Boxed<'a, 'a, &'a str, O, Extra<'a>>;

/// Braces in braces; nft has three.
const DEEPEST: usize = 16;

/// A text and where it begins.
type Text<'a> = (&'a str, usize);

/// A block, or a statement.
#[derive(Clone, Debug)]
enum Item<'a> {
    Block(Text<'a>, Vec<Item<'a>>),
    Statement(Text<'a>),
}

/// Reads a listing. Comments must have been blanked: see [`without_comments`].
pub(super) fn ruleset(text: &str, problems: &mut Problems) -> Ruleset {
    let mut ruleset = Ruleset::default();
    if let Some((place, message)) = unbalanced(text) {
        problems.fatal(place, message);
        return ruleset;
    }
    let items = match run(text, space().ignore_then(items()).then_ignore(end("`table`"))) {
        Ok(items) => items,
        Err(error) => {
            problems.fatal(error.span.clone(), format!("{error}; this reads what `nft list ruleset` prints"));
            return ruleset;
        }
    };
    let reader = Reader::new();
    for item in &items {
        match item {
            Item::Block(head, items) if words(head.0).first() == Some(&"table") => {
                table(*head, items, &reader, &mut ruleset, problems);
            }
            Item::Statement(("flush ruleset", _)) => {}
            Item::Block(head, _) | Item::Statement(head) => {
                let message = "this reads what `nft list ruleset` prints, tables only: load the file with nft, and import \
                               its listing";
                problems.error(place(head), message);
            }
        }
    }
    ruleset
}

/// Tables, chains, and sets in a rule: how deep the comments of elements stand.
const ELEMENTS: u32 = 3;

/// The text with space in the place of `# comments` and of the comments of elements, so that all places stay.
///
/// A listing of tables of iptables-nft may have matches and verdicts behind `#`: an nft that was built without xtables
/// prints `# xt_NAME` for what only the extensions of iptables know.
pub(super) fn without_comments(text: &str, problems: &mut Problems) -> String {
    let mut blank = String::with_capacity(text.len());
    let (mut quoted, mut depth, mut until) = (false, 0_u32, 0);
    for (at, letter) in text.char_indices() {
        if letter == '\n' {
            quoted = false;
        } else if at < until {
            blank.extend(std::iter::repeat_n(' ', letter.len_utf8()));
            continue;
        }
        quoted ^= letter == '"';
        depth = match letter {
            '{' if !quoted => depth + 1,
            '}' if !quoted => depth.saturating_sub(1),
            _ => depth,
        };
        let rest = &text[at..];
        if letter == '#' && !quoted {
            if let Some(name) = extension(rest) {
                let message = format!(
                    "`{name}`: here stands what an extension of iptables asks or says, which nft does not list: import \
                     what `iptables-save` and `ip6tables-save` print"
                );
                problems.error(at..at + name.len(), message);
            }
            until = at + rest.find('\n').unwrap_or(rest.len());
        } else if letter == 'c' && !quoted && depth >= ELEMENTS && blank.ends_with([' ', '\t']) {
            let comment = rest.strip_prefix("comment \"").and_then(in_line);
            if let Some(length) = comment {
                until = at + "comment \"".len() + length + 1;
                problems.note(at..until, "the comment of an element is not kept");
            }
        }
        if at < until {
            blank.extend(std::iter::repeat_n(' ', letter.len_utf8()));
        } else {
            blank.push(letter);
        }
    }
    blank
}

/// Bytes up to the next quotes in the line.
fn in_line(rest: &str) -> Option<usize> {
    rest.find(['"', '\n']).filter(|end| rest[*end..].starts_with('"'))
}

/// `# xt_NAME`, when a comment is that.
fn extension(comment: &str) -> Option<&str> {
    let name = comment[1..].trim_start_matches([' ', '\t']);
    let before = comment.len() - name.len();
    name.starts_with("xt_").then(|| &comment[..before + run_of(name, is_value).len()])
}

/// A brace without its other half.
fn unbalanced(text: &str) -> Option<(Position, &'static str)> {
    let mut open = Vec::new();
    let mut quoted = false;
    for (at, letter) in text.char_indices() {
        quoted = letter != '\n' && quoted != (letter == '"');
        match letter {
            '{' if !quoted && open.len() >= DEEPEST => {
                return Some((at..at + 1, "braces are not so deep in a listing of nft"));
            }
            '{' if !quoted => open.push(at),
            '}' if !quoted && open.pop().is_none() => return Some((at..at + 1, "no brace is open here")),
            _ => {}
        }
    }
    open.pop().map(|at| (at..at + 1, "this brace is not closed: is the file whole?"))
}

/// The text of a statement as it came, and its place.
fn place((text, start): &Text<'_>) -> Position {
    *start..start + text.len()
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// The statements and blocks of a file or a block.
fn items<'a>() -> Boxed<'a, Vec<Item<'a>>> {
    recursive(|items| {
        let block = head()
            .then_ignore(symbol("{"))
            .then(items)
            .then_ignore(symbol("}"))
            .map(|(head, items): (Text<'a>, Vec<Item<'a>>)| Item::Block(head, items));
        let statement = statement().map(Item::Statement);
        let one = choice((block, statement)).then_ignore(symbol(";").repeated());
        symbol(";").repeated().ignore_then(one.repeated().collect::<Vec<_>>()).boxed()
    })
    .boxed()
}

/// What stands before the brace of a block: a table, or something with a name in a table.
fn head<'a>() -> Boxed<'a, Text<'a>> {
    token("a block", |rest| {
        let length = rest.find(['{', '}', ';', '\n'])?;
        let text = rest[..length].trim_end();
        // Only what has just a name: `counter ip saddr { ... }` is a rule.
        let known = matches!(
            words(text).as_slice(),
            ["table", ..]
                | ["chain" | "set" | "map" | "counter" | "quota" | "limit" | "flowtable" | "secmark" | "synproxy", _]
                | ["ct", "helper" | "timeout" | "expectation", _]
        );
        (known && rest[length..].starts_with('{')).then_some((length, text))
    })
    .map_with(|text, extra| (text, extra.span().start))
    .boxed()
}

/// To the end of the line, `;`, or the brace that ends the block; braces inside belong to it.
fn statement<'a>() -> Boxed<'a, Text<'a>> {
    token("a statement", |rest| {
        let mut depth = 0_u32;
        let mut quoted = false;
        let end = rest.find(|letter: char| {
            quoted ^= letter == '"';
            depth += u32::from(letter == '{' && !quoted);
            let over = !quoted && depth == 0 && matches!(letter, '\n' | ';' | '}');
            depth = depth.saturating_sub(u32::from(letter == '}' && !quoted));
            over
        });
        let text = rest[..end.unwrap_or(rest.len())].trim_end();
        (!text.is_empty()).then_some((text.len(), text))
    })
    .map_with(|text, extra| (text, extra.span().start))
    .boxed()
}

fn table<'a>(head: Text<'a>, items: &[Item<'a>], reader: &Reader<'a>, ruleset: &mut Ruleset, problems: &mut Problems) {
    let (family, name) = match words(head.0).as_slice() {
        ["table", name] => ("ip", *name),
        ["table", family, name] => (*family, *name),
        _ => return problems.error(place(&head), "a table has a family and a name"),
    };
    let family = match family {
        "ip" => Some(Family::V4),
        "ip6" => Some(Family::V6),
        "inet" => None,
        _ => {
            let message = format!("tables of family {family} cannot be translated: take ip, ip6 or inet");
            return problems.error(place(&head), message);
        }
    };
    let mut table = Table::new(head.0.trim_start_matches("table").trim(), filled(items));
    let first = ruleset.chains.len();
    for item in items {
        declaration(item, &mut table, ruleset, problems);
    }
    for item in items {
        if let Item::Block(head, body) = item
            && let ["chain", name] = words(head.0).as_slice()
        {
            chain((*name, place(head)), family, body, (reader, &table), ruleset, problems);
        }
    }
    if name.is_empty() {
        problems.error(place(&head), "a table has a name");
    }
    if items.iter().any(is_dormant) {
        // Read for its errors; but no packet meets it.
        ruleset.chains[first..].iter_mut().for_each(|chain| chain.hook = None);
    }
}

/// The names of the sets that rules of these chains fill: `add @NAME`, `update @NAME`, `meter NAME`.
fn filled<'a>(items: &[Item<'a>]) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for item in items {
        let Item::Block(_, body) = item else { continue };
        for (text, _) in body.iter().filter_map(|item| if let Item::Statement(text) = item { Some(text) } else { None })
        {
            let words = words(text);
            for pair in words.windows(2) {
                names.extend(match pair {
                    ["add" | "update" | "delete", name] => name.strip_prefix('@'),
                    ["meter", name] => Some(*name),
                    _ => None,
                });
            }
        }
    }
    names
}

/// `flags dormant`.
fn is_dormant(item: &Item<'_>) -> bool {
    matches!(item, Item::Statement((text, _)) if words(text).first() == Some(&"flags") && text.contains("dormant"))
}

/// What is not a chain.
fn declaration<'a>(item: &Item<'a>, table: &mut Table<'a>, ruleset: &mut Ruleset, problems: &mut Problems) {
    let (head, body) = match item {
        Item::Statement(text) => {
            return match words(text.0).first() {
                Some(&"comment") => problems.note(place(text), "the comment of a table is not kept"),
                Some(&"flags") if is_dormant(item) => {
                    problems.error(place(text), "a dormant table does nothing: take the table out");
                }
                _ => problems.error(place(text), format!("`{}` of a table has no meaning here: take it out", text.0)),
            };
        }
        Item::Block(head, body) => (head, body),
    };
    match words(head.0).as_slice() {
        ["chain" | "counter", _] => {}
        [kind @ ("set" | "map"), name] => {
            let statements: Vec<_> = body
                .iter()
                .map(|item| match item {
                    Item::Statement(text) | Item::Block(text, _) => *text,
                })
                .collect();
            let Some((name, set)) = table.declare((name, place(head)), *kind == "map", &statements, problems) else {
                return;
            };
            let name = match ruleset.sets.get(&name) {
                Some(other) if *other != set => {
                    let free = another_name(&name, &table.name, &ruleset.sets);
                    let message =
                        format!("another table has a set {name} with other elements: this one becomes {free}");
                    problems.note(place(head), message);
                    table.rename(name, free.clone());
                    free
                }
                _ => name,
            };
            ruleset.sets.insert(name, set);
        }
        ["ct", "helper", name] => {
            let body = body.iter().filter_map(|item| if let Item::Statement(text) = item { Some(*text) } else { None });
            table.declare_helper(name, &body.collect::<Vec<_>>());
        }
        ["flowtable", _] => {
            problems.note(place(head), "left out: connections are carried at the driver without a flow table");
        }
        // What names one is refused where it stands.
        _ => {
            problems
                .note(place(head), format!("`{}` is left out: it does nothing but in a rule that names it", head.0));
        }
    }
}

/// A name for a set that has that of another table's: with the family and, if need be, the name of its table or a number behind.
fn another_name(name: &SetName, table: &str, sets: &BTreeMap<SetName, SetConfig>) -> SetName {
    let table: Vec<_> = table.split_whitespace().collect();
    let family = if table.len() > 1 { table[0] } else { "ip" };
    let behind = |text: &str| SetName::new(&format!("{}-{text}", name.as_str()));
    let worded = [behind(family), behind(&format!("{family}-{}", table.last().unwrap_or(&"")))];
    let numbered = (2_u32..).filter_map(|number| behind(&number.to_string()));
    let mut names = worded.into_iter().flatten().chain(numbered);
    names.find(|name| !sets.contains_key(name)).unwrap_or_else(|| name.clone())
}

fn chain<'a>(
    (name, at): (&'a str, Position),
    family: Option<Family>,
    body: &[Item<'a>],
    (reader, table): (&Reader<'a>, &Table<'a>),
    ruleset: &mut Ruleset,
    problems: &mut Problems,
) {
    let mut base: Option<(Text<'a>, Base<'a>)> = None;
    let mut policy = Policy::Accept;
    let mut lines = Vec::new();
    for item in body {
        let text = match item {
            Item::Statement(text) | Item::Block(text, _) => *text,
        };
        match words(text.0).as_slice() {
            ["type", kind, "hook", hook, rest @ ..] => base = Some((text, Base { kind, hook, rest: rest.to_vec() })),
            ["policy", word] => match word.parse() {
                Ok(word) => policy = word,
                Err(_) => problems.error(place(&text), format!("unknown policy `{word}`; use `accept` or `drop`")),
            },
            ["comment", ..] => problems.note(place(&text), "the comment of a chain is not kept"),
            _ => lines.extend(reader.line(text, (table, &mut ruleset.room), problems)),
        }
    }
    lines.retain(|line| {
        let filled = line.statements.iter().filter_map(|statement| Some(&statement.update()?.set));
        let unknown = line.matches.iter().filter_map(Match::set).chain(filled).find(|name| !table.knows(name));
        if let Some(name) = unknown {
            problems.error(line.place.clone(), format!("there is no set {name} in table {}", table.name));
        }
        unknown.is_none()
    });
    for line in &mut lines {
        table.name_as_in_config(line);
    }
    let hook = match base {
        None => None,
        // What has no rules and lets all through is as if it were not there.
        Some((_, base)) if body.len() <= 2 && lines.is_empty() && policy == Policy::Accept && !base.is_known() => {
            return;
        }
        Some((text, base)) => match base.hook(policy) {
            Ok(hook) => Some(hook),
            Err(message) => return problems.error(place(&text), message),
        },
    };
    ruleset.chains.push(Chain { table: table.name.clone(), name: name.to_owned(), family, hook, lines, place: at });
}
