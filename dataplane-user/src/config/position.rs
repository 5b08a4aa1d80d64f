//! From places in the value of a TOML string to places in the file.

use std::ops::Range;

/// Where the bytes `inside` of the string `value` stand in `text`; `literal` is the string's place, quotes included.
///
/// Follows TOML's escapes (TOML 1.1, section String): a literal string has none, and only in strings of several lines a
/// newline right after the quotes and a backslash at the end of a line stand for nothing.
pub(super) fn in_file(text: &str, literal: Range<usize>, value: &str, inside: Range<usize>) -> Range<usize> {
    let Some(raw) = text.get(literal.clone()) else { return literal };
    let basic = raw.starts_with('"');
    let quotes = if raw.starts_with("\"\"\"") && raw.len() >= 6 || raw.starts_with("'''") { 3 } else { 1 };
    let mut at = quotes;
    if quotes == 3 {
        at += newline(&raw[at..]);
    }
    let (mut start, mut end) = (None, None);
    for (offset, letter) in value.char_indices() {
        at += if basic { trimmed_newlines(&raw[at..]) } else { 0 };
        if offset >= inside.start && start.is_none() {
            start = Some(at);
        }
        if offset >= inside.end {
            end = Some(at);
            break;
        }
        at += written(&raw[at..], letter, basic);
    }
    let start = literal.start + start.unwrap_or(at);
    let end = literal.start + end.unwrap_or(at);
    start..end.max(start)
}

/// How many bytes stand for this letter.
fn written(rest: &str, letter: char, basic: bool) -> usize {
    let escape = if basic { rest.strip_prefix('\\') } else { None };
    match escape.and_then(|escape| escape.chars().next()) {
        Some('u') => 6,
        Some('U') => 10,
        Some('x') => 4,
        Some(_) => 2,
        None if letter == '\n' => newline(rest).max(1),
        None => letter.len_utf8(),
    }
}

/// The length of a newline, if there is one.
fn newline(rest: &str) -> usize {
    match rest.as_bytes() {
        [b'\n', ..] => 1,
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    }
}

/// The length of a backslash at the end of a line and all space after it.
fn trimmed_newlines(rest: &str) -> usize {
    let mut length = 0;
    while let Some(behind) = rest[length..].strip_prefix('\\') {
        let space = behind.len() - behind.trim_start_matches([' ', '\t', '\r', '\n']).len();
        if !behind[..space].contains('\n') {
            break;
        }
        length += 1 + space;
    }
    length
}
