//! What `nft -j list ruleset` prints, as the text that `nft list ruleset` would have printed (libnftables-json(5)).

mod statement;

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::problem::Position;

/// A listing; the places of its objects are kept.
#[derive(Deserialize)]
struct Listing<'a> {
    #[serde(borrow)]
    nftables: Vec<&'a RawValue>,
}

/// A table in the making.
#[derive(Default)]
struct Table {
    declarations: Vec<(String, Position)>,
    chains: Vec<Chain>,
    /// Chains by name.
    named: HashMap<String, usize>,
}

/// Tables in their order, and by name.
#[derive(Default)]
struct Tables {
    all: Vec<(String, Table)>,
    named: HashMap<String, usize>,
}

struct Chain {
    name: String,
    head: (String, Position),
    rules: Vec<(String, Position)>,
}

/// The text, and where each place of it comes from.
///
/// # Errors
/// What is wrong with the JSON, and where.
pub(super) fn listing(text: &str) -> Result<(String, impl Fn(Position) -> Position + use<>), (Position, String)> {
    let listing: Listing<'_> = serde_json::from_str(text).map_err(|error| {
        let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let at = (before + error.column().saturating_sub(1)).min(text.len());
        (at..at, format!("this is not what `nft -j list ruleset` prints: {error}"))
    })?;
    let mut tables = Tables::default();
    for raw in listing.nftables {
        let start = raw.get().as_ptr() as usize - text.as_ptr() as usize;
        let place = start..start + raw.get().len();
        let object: Map<String, Value> = serde_json::from_str(raw.get())
            .map_err(|error| (place.clone(), format!("an object was expected: {error}")))?;
        for (kind, value) in &object {
            object_of(kind, value, &place, &mut tables)?;
        }
    }
    let (text, places) = written(&tables.all);
    let there = move |place: Position| {
        let found = places.partition_point(|(begin, _)| *begin <= place.start);
        places.get(found.saturating_sub(1)).map_or(0..0, |(_, there)| there.clone())
    };
    Ok((text, there))
}

fn object_of(kind: &str, value: &Value, place: &Position, tables: &mut Tables) -> Result<(), (Position, String)> {
    if kind == "metainfo" {
        return Ok(());
    }
    let word = |key: &str| {
        let found = value.get(key).and_then(Value::as_str);
        found.ok_or_else(|| (place.clone(), format!("`{kind}` has no `{key}`")))
    };
    let family = word("family")?;
    let head = format!("table {family} {}", word(if kind == "table" { "name" } else { "table" })?);
    let index = tables.named.get(&head).copied().unwrap_or_else(|| {
        tables.named.insert(head.clone(), tables.all.len());
        tables.all.push((head, Table::default()));
        tables.all.len() - 1
    });
    let table = &mut tables.all[index].1;
    match kind {
        "table" => {
            let flags = value.get("flags").map(|flags| format!("flags {}", plain(flags)));
            table.declarations.extend(flags.map(|flags| (flags, place.clone())));
        }
        "chain" => {
            let name = word("name")?.to_owned();
            let head = match value.get("hook") {
                None => String::new(),
                Some(hook) => {
                    let key = |key: &str| value.get(key).map(plain).unwrap_or_default();
                    let policy =
                        value.get("policy").map(|policy| format!("; policy {}", plain(policy))).unwrap_or_default();
                    format!("type {} hook {} priority {}{policy}", key("type"), plain(hook), key("prio"))
                }
            };
            table.named.entry(name.clone()).or_insert(table.chains.len());
            table.chains.push(Chain { name, head: (head, place.clone()), rules: Vec::new() });
        }
        "rule" => {
            let statements = value.get("expr").and_then(Value::as_array);
            let mut text = statements.into_iter().flatten().map(statement).collect::<Vec<_>>().join(" ");
            if let Some(comment) = value.get("comment").and_then(Value::as_str) {
                let _ = write!(text, " comment \"{comment}\"");
            }
            let name = word("chain")?;
            let chain = table.named.get(name).map(|index| &mut table.chains[*index]);
            let chain = chain.ok_or_else(|| (place.clone(), format!("there is no chain {name} before this rule")))?;
            chain.rules.push((text.trim().to_owned(), place.clone()));
        }
        "ct helper" => {
            let [kind, protocol] = [word("type")?, word("protocol")?];
            let text = format!("ct helper {} {{\ntype \"{kind}\" protocol {protocol}\n}}", word("name")?);
            table.declarations.push((text, place.clone()));
        }
        "set" | "map" => table.declarations.push((set(kind, word("name")?, value), place.clone())),
        _ => table.declarations.push((format!("{kind} {} {{ }}", word("name")?), place.clone())),
    }
    Ok(())
}

/// The text of all tables, and where each piece of it begins and comes from.
fn written(tables: &[(String, Table)]) -> (String, Vec<(usize, Position)>) {
    let mut text = String::new();
    let mut places = Vec::new();
    let mut put = |text: &mut String, piece: &str, place: &Position| {
        places.push((text.len(), place.clone()));
        text.push_str(piece);
        text.push('\n');
    };
    for (head, table) in tables {
        let _ = writeln!(text, "{head} {{");
        for (piece, place) in &table.declarations {
            put(&mut text, piece, place);
        }
        for chain in &table.chains {
            put(&mut text, &format!("chain {} {{\n{}", chain.name, chain.head.0), &chain.head.1);
            for (piece, place) in &chain.rules {
                put(&mut text, piece, place);
            }
            text.push_str("}\n");
        }
        text.push_str("}\n");
    }
    (text, places)
}

fn set(kind: &str, name: &str, value: &Value) -> String {
    let types: Vec<_> = match value.get("type") {
        Some(Value::Array(types)) => types.iter().map(plain).collect(),
        Some(one) => vec![plain(one)],
        None => Vec::new(),
    };
    let links: Vec<_> = types.iter().map(|kind| kind == "ifname").collect();
    let mut text = format!("{kind} {name} {{\ntype {}", types.join(" . "));
    if let Some(to) = value.get("map") {
        let _ = write!(text, " : {}", plain(to).replace(',', " . "));
    }
    text.push('\n');
    if let Some(flags) = value.get("flags") {
        let _ = writeln!(text, "flags {}", plain(flags));
    }
    for key in ["timeout", "comment"] {
        if let Some(said) = value.get(key) {
            let _ = if key == "comment" {
                writeln!(text, "comment \"{}\"", plain(said))
            } else {
                writeln!(text, "{key} {}", plain(said))
            };
        }
    }
    if let Some(Value::Array(elements)) = value.get("elem") {
        let _ = writeln!(text, "elements = {{ {} }}", listed(elements, &links));
    }
    text + "}"
}

/// The fields that are compared with names of links, for the quotes of these.
fn links(key: &Value) -> Vec<bool> {
    let one = |key: &Value| {
        let word = key.get("meta").and_then(|meta| meta.get("key")).and_then(Value::as_str);
        matches!(word, Some("iif" | "oif" | "iifname" | "oifname"))
    };
    match key.get("concat") {
        Some(Value::Array(parts)) => parts.iter().map(one).collect(),
        _ => vec![one(key)],
    }
}

fn statement(statement: &Value) -> String {
    let Some((kind, value)) = statement.as_object().and_then(|object| object.iter().next()) else {
        return plain(statement);
    };
    match (kind.as_str(), value) {
        ("match", _) => {
            let (left, right) = (&value["left"], &value["right"]);
            match plain(&value["op"]).as_str() {
                "in" => format!("{} {}", field(left), flags(right, ",", &links(left))),
                op => format!("{} {op} {}", field(left), compared(right, &links(left))),
            }
        }
        ("counter", Value::String(name)) => format!("counter name \"{name}\""),
        ("counter", _) => "counter".to_owned(),
        ("vmap", _) => format!("{} vmap {}", field(&value["key"]), compared(&value["data"], &links(&value["key"]))),
        ("log", _) => statement::log(value),
        ("limit", Value::Object(_)) => statement::limit(value),
        ("reject", Value::Object(with)) => match (with.get("type"), with.get("expr")) {
            (Some(kind), Some(code)) => format!("reject with {} {}", plain(kind), plain(code)),
            (Some(kind), None) => format!("reject with {}", plain(kind)),
            _ => "reject".to_owned(),
        },
        ("mangle", _) => format!("{} set {}", field(&value["key"]), put(&value["value"])),
        ("set", _) => format!("{} {} {{ {} }}", plain(&value["op"]), plain(&value["set"]), statement::filled(value)),
        ("meter", _) => format!("meter {} {{ {} }}", plain(&value["name"]), statement::filled(value)),
        ("ct helper", name) => format!("ct helper set \"{}\"", plain(name)),
        ("ct count", _) => {
            let over = if value.get("inv") == Some(&Value::Bool(true)) { "over " } else { "" };
            format!("ct count {over}{}", plain(&value["val"]))
        }
        ("flow", _) => format!("flow {} {}", plain(&value["op"]), plain(&value["flowtable"])),
        _ => action(statement),
    }
}

/// What a rule or an element of a map says, or a word that nothing else is known of.
fn action(value: &Value) -> String {
    let Some((kind, value)) = value.as_object().and_then(|object| object.iter().next()) else { return plain(value) };
    if matches!(kind.as_str(), "snat" | "dnat" | "masquerade" | "redirect") {
        return translation(kind, value);
    }
    match value.get("target") {
        Some(target) => format!("{kind} {}", plain(target)),
        None => kind.clone(),
    }
}

/// `dnat to 192.0.2.1:80 persistent`.
fn translation(kind: &str, value: &Value) -> String {
    if let Some(map) = value.get("addr").and_then(|to| to.get("map")) {
        let key = &map["key"];
        return format!("{kind} to {} map {}", field(key), compared(&map["data"], &links(key)));
    }
    let (address, port) = (value.get("addr").map(|to| item(to, &[])), value.get("port").map(|to| item(to, &[])));
    let address = address.map(|text| if port.is_some() && text.contains(':') { format!("[{text}]") } else { text });
    let port = port.map(|port| format!(":{port}"));
    let target = [address, port].into_iter().flatten().collect::<String>();
    let mut text = kind.to_owned();
    if !target.is_empty() {
        let _ = write!(text, " to {target}");
    }
    if let Some(flags) = value.get("flags") {
        let _ = write!(text, " {}", plain(flags));
    }
    text
}

/// What is asked of a packet.
fn field(value: &Value) -> String {
    let Some((kind, inside)) = value.as_object().and_then(|object| object.iter().next()) else { return plain(value) };
    let key = |key: &str| inside.get(key).map(plain).unwrap_or_default();
    match (kind.as_str(), inside) {
        ("payload", _) if inside.get("field").is_some() => format!("{} {}", key("protocol"), key("field")),
        ("meta", _) if matches!(key("key").as_str(), "iif" | "oif" | "iifname" | "oifname") => key("key"),
        // `ct original ip saddr`
        ("ct", _) => {
            let words = ["dir", "family", "key"].map(key);
            let words: Vec<_> = words.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
            format!("ct {}", words.join(" "))
        }
        ("meta" | "rt", _) => format!("{kind} {}", key("key")),
        ("exthdr", _) if key("name") == "rt" => format!("rt {}", key("field")),
        ("tcp option", _) => format!("tcp option {} {}", key("name"), key("field")),
        ("fib", _) => format!("fib {} {}", key("flags").replace(',', " . "), key("result")),
        ("concat", Value::Array(parts)) => parts.iter().map(field).collect::<Vec<_>>().join(" . "),
        ("&", Value::Array(parts)) if parts.len() == 2 => {
            format!("{} & {}", field(&parts[0]), compared(&parts[1], &[]))
        }
        _ => kind.clone(),
    }
}

/// What a field becomes: a value, or the bits of another field with others in their place.
fn put(value: &Value) -> String {
    match value.as_object().and_then(|object| object.iter().next()) {
        Some((operator, Value::Array(parts))) if matches!(operator.as_str(), "&" | "|" | "^") => {
            parts.iter().map(put).collect::<Vec<_>>().join(&format!(" {operator} "))
        }
        Some(_) => field(value),
        None => compared(value, &[]),
    }
}

/// What a field is compared with.
fn compared(value: &Value, links: &[bool]) -> String {
    match value {
        Value::Array(_) => format!("({})", flags(value, " | ", links)),
        _ => item(value, links),
    }
}

fn flags(value: &Value, between: &str, links: &[bool]) -> String {
    match value {
        Value::Array(words) => words.iter().map(plain).collect::<Vec<_>>().join(between),
        _ => item(value, links),
    }
}

fn listed(items: &[Value], links: &[bool]) -> String {
    items.iter().map(|one| item(one, links)).collect::<Vec<_>>().join(", ")
}

/// A value, range, prefix, list, element of a set or pair of a map.
fn item(value: &Value, links: &[bool]) -> String {
    let link = links.first().copied().unwrap_or_default();
    match value {
        Value::String(word) if link && !word.starts_with('@') => format!("\"{word}\""),
        Value::Bool(true) => "exists".to_owned(),
        Value::Bool(false) => "missing".to_owned(),
        Value::Array(pair) if pair.len() == 2 => {
            let given = if pair[1].get("concat").is_some() { item(&pair[1], &[]) } else { action(&pair[1]) };
            format!("{} : {given}", item(&pair[0], links))
        }
        Value::Object(object) => match object.iter().next() {
            Some((kind, Value::Array(items))) if kind == "set" => format!("{{ {} }}", listed(items, links)),
            Some((kind, one)) if kind == "set" => format!("{{ {} }}", item(one, links)),
            Some((kind, Value::Array(ends))) if kind == "range" => {
                ends.iter().map(|end| item(end, links)).collect::<Vec<_>>().join("-")
            }
            Some((kind, Value::Array(parts))) if kind == "concat" => {
                let part = |(index, part)| item(part, links.get(index..).unwrap_or_default());
                parts.iter().enumerate().map(part).collect::<Vec<_>>().join(" . ")
            }
            Some((kind, Value::Array(parts))) if kind == "|" => {
                format!("({})", parts.iter().map(|part| item(part, links)).collect::<Vec<_>>().join(" | "))
            }
            Some((kind, inside)) if kind == "prefix" => format!("{}/{}", plain(&inside["addr"]), plain(&inside["len"])),
            Some((kind, inside)) if kind == "elem" => element(inside, links),
            _ => field(value),
        },
        _ => plain(value),
    }
}

fn element(value: &Value, links: &[bool]) -> String {
    let mut text = item(&value["val"], links);
    for key in ["timeout", "expires"] {
        if let Some(said) = value.get(key) {
            let _ = write!(text, " {key} {}", plain(said));
        }
    }
    if let Some(comment) = value.get("comment") {
        let _ = write!(text, " comment \"{}\"", plain(comment));
    }
    text
}

/// A word or number as it is, a list of words with commas.
fn plain(value: &Value) -> String {
    match value {
        Value::String(word) => word.clone(),
        Value::Array(words) => words.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
