//! Reads Rust source far enough to know which paths it names: words without comments and strings, `use` trees unfolded.

use std::mem;

/// A path as it stands in the source, such as `["std", "fs", "read"]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Path {
    /// The line it starts on, from 1.
    pub(crate) line: usize,
    /// Its words.
    pub(crate) words: Vec<String>,
}

/// A word or a sign, with its line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    /// From 1.
    pub(crate) line: usize,
    /// `::` is one token, every other sign one by itself.
    pub(crate) text: String,
}

/// The words and signs of the source, without comments, strings and characters.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = blank(rest).or_else(|| literal(rest)).unwrap_or(0);
        let taken = if length > 0 {
            length
        } else if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if length == 0 && !first.is_whitespace() {
            found.push(Token { line, text: rest[..taken].to_owned() });
        }
        line += rest[..taken].matches('\n').count();
        rest = &rest[taken..];
    }
    found
}

/// The length of a comment at the start of the text.
fn blank(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let mut depth = 0_usize;
    let mut at = 0;
    while text.starts_with("/*") {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 || at >= text.len() {
            return Some(at.min(text.len()));
        }
    }
    None
}

/// The length of a string, byte string, raw string or character at the start of the text.
fn literal(text: &str) -> Option<usize> {
    let body = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - body.len();
    if prefix > 1 {
        return None;
    }
    let raw = body.strip_prefix('r').map(|rest| (rest, rest.len() - rest.trim_start_matches('#').len()));
    if let Some((rest, hashes)) = raw.filter(|(rest, hashes)| rest[*hashes..].starts_with('"')) {
        let end = format!("\"{}", "#".repeat(hashes));
        let inside = &rest[hashes + 1..];
        let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
        return Some(prefix + 1 + hashes + 1 + length);
    }
    let quote = body.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut inside = body[1..].char_indices();
    let mut count = 0;
    while let Some((at, c)) = inside.next() {
        match c {
            '\\' => drop(inside.next()),
            _ if c == quote => return Some(prefix + 1 + at + 1),
            // A lifetime: no closing quote after one character.
            _ if quote == '\'' && count > 0 => return None,
            _ => {}
        }
        count += 1;
    }
    (quote == '"').then_some(text.len())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The tokens outside of items marked `#[cfg(test)]`.
pub(crate) fn without_tests(tokens: &[Token]) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let marked = tokens[at..].iter().map(|token| token.text.as_str()).take(MARK.len()).eq(MARK);
        if marked {
            at = end_of_item(tokens, at + MARK.len());
        } else {
            kept.push(token.clone());
            at += 1;
        }
    }
    kept
}

/// The index behind the item that starts here: behind its `;` or its closing brace.
fn end_of_item(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(token.text.as_str(), ";" | "}") {
            return at + 1;
        }
    }
    tokens.len()
}

/// Every path of two words or more, and everything that `use` and `extern crate` name.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if token.text == "use" {
            at = tree(tokens, at + 1, &[], &mut found);
        } else if token.text == "crate" && at > 0 && tokens[at - 1].text == "extern" {
            let words = tokens.get(at + 1).map(|name| name.text.clone()).into_iter().collect();
            found.push(Path { line: token.line, words });
            at += 2;
        } else if token.text.starts_with(is_word) {
            let (words, end) = chain(tokens, at);
            if words.len() > 1 {
                found.push(Path { line: token.line, words });
            }
            at = end;
        } else {
            at += 1;
        }
    }
    found
}

/// Unfolds a `use` tree; returns the index of the sign that ends it.
fn tree(tokens: &[Token], start: usize, before: &[String], found: &mut Vec<Path>) -> usize {
    let at = if tokens.get(start).is_some_and(|token| token.text == "::") { start + 1 } else { start };
    let (words, mut at) = chain(tokens, at);
    let line = tokens.get(start).map_or(0, |token| token.line);
    let mut path = before.to_vec();
    path.extend(words);
    if tokens.get(at).is_some_and(|token| token.text == "{") {
        loop {
            at = tree(tokens, at + 1, &path, found);
            if tokens.get(at).is_none_or(|token| token.text != ",") {
                return at + 1;
            }
        }
    }
    found.push(Path { line, words: mem::take(&mut path) });
    // `as name`, `::*`
    while tokens.get(at).is_some_and(|token| !matches!(token.text.as_str(), "," | "}" | ";")) {
        at += 1;
    }
    at
}

/// `a::b::c`, and the index behind it (behind a trailing `::` too).
fn chain(tokens: &[Token], start: usize) -> (Vec<String>, usize) {
    let mut words = Vec::new();
    let mut at = start;
    while let Some(word) = tokens.get(at).filter(|token| token.text.starts_with(is_word)) {
        words.push(word.text.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token.text != "::") {
            break;
        }
        at += 1;
    }
    (words, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(source: &str) -> Vec<String> {
        paths(&tokens(source)).into_iter().map(|path| path.words.join("::")).collect()
    }

    #[test]
    fn paths_are_found() {
        let rows: [(&str, &[&str]); 12] = [
            ("use std::fs;", &["std::fs"]),
            ("use std::{fs, io::{self, Read as _}};", &["std::fs", "std::io::self", "std::io::Read"]),
            ("pub(crate) use aya::*;", &["aya"]),
            ("use ::aya::Ebpf as E; b::c();", &["aya::Ebpf", "b::c"]),
            ("extern crate std;", &["std"]),
            ("let x = serde_json::to_string(&y);", &["serde_json::to_string"]),
            ("// use aya::Ebpf;\n/* a::b /* c::d */ e::f */ g::h", &["g::h"]),
            (r##"let s = "aya::Ebpf"; let r = r#"a::"b" "#; x::y"##, &["x::y"]),
            ("fn f<'a>(c: char) -> &'a str { if c == '\"' || c == '\\'' { m::n } }", &["m::n"]),
            ("Vec::<aya::Ebpf>::new()", &["Vec", "aya::Ebpf"]),
            ("let text = b\"a::b\"; c::d", &["c::d"]),
            ("a.b", &[]),
        ];
        for (source, expected) in rows {
            let mut found = named(source);
            found.retain(|path| path != "Vec");
            let expected: Vec<_> = expected.iter().filter(|path| **path != "Vec").collect();
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{source}");
        }
    }

    #[test]
    fn lines_are_counted() {
        let source = "/* one\ntwo */\nuse a::b;\nlet s = \"x\ny\";\nc::d";
        let lines: Vec<_> = paths(&tokens(source)).into_iter().map(|path| path.line).collect();
        assert_eq!(lines, [3, 6]);
    }

    #[test]
    fn test_modules_can_be_left_out() {
        let source = "use a::b; #[cfg(test)] mod tests { extern crate std; fn f() { c::d } } use e::f; #[cfg(test)] use g::h; i::j";
        let left: Vec<_> =
            paths(&without_tests(&tokens(source))).into_iter().map(|path| path.words.join("::")).collect();
        assert_eq!(left, ["a::b", "e::f", "i::j"]);
    }
}
