//! Named sets and maps of nft.

use std::collections::{HashMap, HashSet};

use super::chain::Line;
use super::problem::{Position, Problems};
use crate::config::{DynamicSet, Elements, SetConfig};
use crate::rule::display::Named as _;
use crate::rule::{Element, Helper, ItemKind, SetName, SetType, Statement, Timeout, parse_element, parse_set_type};

/// What a name of this table stands for.
pub(super) struct Table<'a> {
    /// As nft names it, with its family.
    pub(super) name: String,
    /// Elements of sets and maps, as they were written.
    named: HashMap<&'a str, Vec<(&'a str, Position)>>,
    /// Sets that are called otherwise in the config, where names are of all tables.
    renamed: HashMap<SetName, SetName>,
    /// Sets that some rule fills.
    filled: HashSet<&'a str>,
    /// What names of helpers stand for.
    helpers: HashMap<&'a str, Helper>,
}

impl<'a> Table<'a> {
    /// `filled`: sets that some rule fills.
    pub(super) fn new(name: &str, filled: HashSet<&'a str>) -> Self {
        Self { name: name.to_owned(), named: HashMap::new(), renamed: HashMap::new(), filled, helpers: HashMap::new() }
    }

    /// The elements of a set or map, for where they have to be written out.
    pub(super) fn elements(&self, name: &str) -> Result<&[(&'a str, Position)], String> {
        let found = self.named.get(name).map(Vec::as_slice);
        found.ok_or_else(|| format!("there is no set or map @{name} in table {}", self.name))
    }

    /// `ct helper NAME { type "ftp" protocol tcp }`.
    pub(super) fn declare_helper(&mut self, name: &'a str, body: &[(&'a str, usize)]) {
        let words = body.iter().flat_map(|(text, _)| text.split([' ', '\t', '"'])).filter(|word| !word.is_empty());
        let [_, kind, _, protocol, ..] = words.collect::<Vec<_>>()[..] else { return };
        let known = Helper::NAMES.iter().find(|(word, _)| *word == kind).map(|(_, helper)| *helper);
        let number = if protocol == "tcp" { 6 } else { 17 };
        if let Some(helper) = known.filter(|helper| helper.protocol() == number) {
            self.helpers.insert(name, helper);
        }
    }

    /// What a rule means by a helper.
    pub(super) fn helper(&self, name: &str) -> Result<Helper, String> {
        let known: Vec<_> = Helper::NAMES.iter().map(|(word, _)| *word).collect();
        let said = || {
            let known = known.join(", ");
            format!("`{name}` is no helper known here, or one for the other protocol; there are {known}")
        };
        self.helpers.get(name).copied().ok_or_else(said)
    }

    /// Whether there is a set or map of that name.
    pub(super) fn knows(&self, name: &SetName) -> bool {
        self.named.contains_key(name.as_str())
    }

    /// Calls a set otherwise.
    pub(super) fn rename(&mut self, name: SetName, other: SetName) {
        self.renamed.insert(name, other);
    }

    /// Gives the sets that a rule matches and fills the names that the config has for them.
    pub(super) fn name_as_in_config(&self, line: &mut Line) {
        for asked in &mut line.matches {
            if let Some(other) = asked.set().and_then(|name| self.renamed.get(name)) {
                *asked = asked.asking(other);
            }
        }
        for statement in &mut line.statements {
            if let Statement::Update(update) = statement
                && let Some(other) = self.renamed.get(&update.set)
            {
                update.set = other.clone();
            }
        }
    }

    /// A set or map: what stands between its braces, a statement each.
    pub(super) fn declare(
        &mut self,
        (name, place): (&'a str, Position),
        is_map: bool,
        body: &[(&'a str, usize)],
        problems: &mut Problems,
    ) -> Option<(SetName, SetConfig)> {
        let mut kind = None;
        let mut elements = Vec::new();
        let (mut dynamic, mut size, mut timeout) = (false, DynamicSet::SIZE, None);
        for (text, start) in body {
            let (key, rest) = text.split_once(|c: char| c.is_whitespace()).unwrap_or((text, ""));
            let here = *start..*start + text.len();
            match key {
                "type" if !is_map => {
                    kind = Some((parse_set_type(rest.trim()).map_err(|error| error.to_string()), here));
                }
                "typeof" if !is_map => kind = Some((type_of(rest.trim()), here)),
                "type" | "typeof" if gives_target(rest) => {}
                "type" | "typeof" => {
                    let message = "a map gives a value to a packet; only maps of verdicts, addresses and ports can be written out";
                    problems.error(here, message);
                }
                "flags" => dynamic = rest.split(',').any(|flag| flag.trim() == "dynamic"),
                "elements" => elements = split(text, *start),
                "comment" => problems.note(here, "the comment of a set is not kept"),
                "size" => size = rest.trim().parse().unwrap_or(size),
                "counter" | "policy" | "auto-merge" | "gc-interval" => {}
                "timeout" => match rest.trim().parse::<Timeout>() {
                    Ok(time) => timeout = Some(time),
                    Err(error) => problems.error(here, error.to_string()),
                },
                _ => problems.error(here, format!("`{key}` of a set is not known here")),
            }
        }
        let dynamic = dynamic || self.filled.contains(name);
        if elements.is_empty() && !dynamic {
            let message = format!(
                "`{name}` has no elements: what asks for it fits no packet, and `!=` all. `nft -t` lists no elements: list \
                 without `-t` if there are some"
            );
            problems.note(place.clone(), message);
        }
        self.named.insert(name, elements.clone());
        if is_map {
            return None;
        }
        let kind = match kind {
            Some((Ok(kind), _)) => kind,
            Some((Err(message), here)) => {
                problems.error(here, message);
                return None;
            }
            None => {
                problems.error(place, format!("set {name} has no type"));
                return None;
            }
        };
        let Some(known) = SetName::new(name) else {
            problems.error(
                place,
                format!("`{name}`: the name of a set is a letter, then letters, digits, `_`, `-` and `.`"),
            );
            return None;
        };
        if dynamic {
            if !elements.is_empty() {
                let message = format!("the elements of `{name}` are left out: rules put them there");
                problems.note(place, message);
            }
            let elements = Elements::Dynamic(DynamicSet { timeout, size });
            return Some((known, SetConfig { kind, elements }));
        }
        let read = listed(&kind, elements, timeout.is_some(), problems);
        Some((known, SetConfig { kind, elements: Elements::Listed(read.into()) }))
    }
}

/// The elements of a set that are listed; `time_out`: the set gives them a time.
fn listed(kind: &SetType, elements: Vec<(&str, Position)>, time_out: bool, problems: &mut Problems) -> Vec<Element> {
    let mut read = Vec::new();
    for (text, here) in elements {
        let value = value_of(text);
        let behind = &text[value.len()..];
        if time_out || behind.contains(" timeout ") || behind.contains(" expires ") {
            let message = "here an element has no time: it stays until `dataplane set del`";
            problems.note(here.clone(), message);
        }
        if behind.contains(" comment ") {
            problems.note(here.clone(), "the comment of an element is not kept");
        }
        match parse_element(kind, value) {
            Ok(element) => read.push(element),
            Err(error) => {
                problems.error(here.start + error.span.start..here.start + error.span.end, error.to_string());
            }
        }
    }
    read
}

/// Whether a map is of verdicts, or of what connections are translated to.
fn gives_target(text: &str) -> bool {
    let given = text.rsplit(" : ").next().unwrap_or_default().trim();
    let part =
        |part: &str| matches!(part.trim(), "ipv4_addr" | "ipv6_addr" | "inet_service" | "ip daddr" | "ip6 daddr");
    given == "verdict" || given.split(" . ").all(part)
}

/// The type of a set that is told by the fields it is for.
fn type_of(fields: &str) -> Result<SetType, String> {
    let kind = |field: &str| match field.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["ip", "saddr" | "daddr"] => Ok(ItemKind::Ipv4),
        ["ip6", "saddr" | "daddr"] => Ok(ItemKind::Ipv6),
        ["ether", "saddr" | "daddr"] => Ok(ItemKind::Ether),
        ["ip", "protocol"] | ["meta", "l4proto"] | ["ip6", "nexthdr"] => Ok(ItemKind::Protocol),
        ["tcp" | "udp" | "sctp" | "dccp" | "udplite" | "th", "sport" | "dport"] => Ok(ItemKind::Service),
        ["iifname" | "oifname"] | ["meta", "iifname" | "oifname"] => Ok(ItemKind::Link),
        ["mark"] | ["meta" | "ct", "mark"] => Ok(ItemKind::Mark),
        _ => Err(format!("there are no sets of `{field}` here: write its values in braces")),
    };
    let kinds = fields.split(" . ").map(|field| kind(field.trim())).collect::<Result<Vec<_>, _>>()?;
    SetType::new(kinds).ok_or_else(|| "a set needs a type".to_owned())
}

/// An element without what nft says about it: its counter, timeout and comment.
pub(super) fn value_of(text: &str) -> &str {
    let ends = [" counter", " timeout ", " expires ", " comment "].into_iter().filter_map(|word| text.find(word));
    &text[..ends.min().unwrap_or(text.len())]
}

/// Bytes until the comma, brace or lone colon behind an element, whatever is in quotes.
pub(super) fn extent(rest: &str) -> usize {
    let mut quoted = false;
    let end = rest.char_indices().find(|(at, letter)| {
        quoted ^= *letter == '"';
        !quoted && (matches!(letter, ',' | '}') || rest[*at..].starts_with(" : "))
    });
    end.map_or(rest.len(), |(at, _)| at)
}

/// The elements of `elements = { a, b }`, with their places; those of maps with their verdicts.
fn split(text: &str, start: usize) -> Vec<(&str, Position)> {
    let Some((open, close)) = text.find('{').zip(text.rfind('}')) else { return Vec::new() };
    let mut elements = Vec::new();
    let mut quoted = false;
    let mut from = open + 1;
    for (at, letter) in text[..=close].char_indices().skip_while(|(at, _)| *at <= open) {
        quoted ^= letter == '"';
        if !quoted && (letter == ',' || at == close) {
            let raw = &text[from..at];
            let inside = raw.trim();
            if !inside.is_empty() {
                let begin = start + from + (raw.len() - raw.trim_start().len());
                elements.push((inside, begin..begin + inside.len()));
            }
            from = at + letter.len_utf8();
        }
    }
    elements
}
