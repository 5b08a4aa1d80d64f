//! Statements of a rule, as text.

use std::fmt::Write as _;

use serde_json::Value;

use super::{field, plain, statement};

pub(super) fn log(value: &Value) -> String {
    let mut text = "log".to_owned();
    for (key, said) in value.as_object().into_iter().flatten() {
        let _ = if key == "prefix" {
            write!(text, " prefix \"{}\"", plain(said))
        } else {
            write!(text, " {key} {}", plain(said))
        };
    }
    text
}

pub(super) fn limit(value: &Value) -> String {
    let key = |key: &str| value.get(key).map(plain).filter(|word| word != "packets");
    let over = if value.get("inv") == Some(&Value::Bool(true)) { "over " } else { "" };
    let unit = key("rate_unit").map(|unit| format!(" {unit}")).unwrap_or_default();
    let mut text = format!("limit rate {over}{}{unit}/{}", plain(&value["rate"]), plain(&value["per"]));
    if let Some(burst) = key("burst").filter(|burst| burst != "0") {
        let _ = write!(text, " burst {burst} {}", key("burst_unit").unwrap_or_else(|| "packets".to_owned()));
    }
    text
}

/// The key of an element that a rule writes, and what stands behind it.
pub(super) fn filled(value: &Value) -> String {
    let key = value.get("elem").or_else(|| value.get("key")).unwrap_or(&Value::Null);
    let inside = key.get("elem");
    let key = inside.map_or(key, |inside| &inside["val"]);
    let timeout = inside.and_then(|inside| inside.get("timeout")).map(|seconds| format!("timeout {}s", plain(seconds)));
    let statements = match value.get("stmt") {
        Some(Value::Array(all)) => all.iter().map(statement).collect(),
        Some(one) => vec![statement(one)],
        None => Vec::new(),
    };
    [field(key)].into_iter().chain(timeout).chain(statements).collect::<Vec<_>>().join(" ")
}
