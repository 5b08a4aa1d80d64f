//! What is promised about the sources: words that do not occur, lengths, a fingerprint of all layouts, dependencies in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, bail};

use crate::{border::gather, source};

/// The list of words and exceptions.
const LIST: &str = "xtask/words.txt";
/// Lines of a file.
const FILE: usize = 400;
/// Lines of a function.
const FUNCTION: usize = 70;
/// Columns of a comment.
const COMMENT: usize = 130;
/// The folder of map layouts; its `mod.rs` has the fingerprint.
const LAYOUTS: &str = "dataplane-common/src/abi";

/// What the list says, by section.
#[derive(Default)]
struct List {
    sections: BTreeMap<String, BTreeMap<String, String>>,
}

impl List {
    fn read(text: &str) -> anyhow::Result<Self> {
        let mut list = Self::default();
        let mut section = String::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                name.clone_into(&mut section);
                list.sections.entry(section.clone()).or_default();
                continue;
            }
            let (key, value) = line.split_once(": ").unwrap_or((line, ""));
            let Some(rows) = list.sections.get_mut(&section) else { bail!("{LIST}: `{line}` is in no section") };
            if rows.insert(key.to_owned(), value.to_owned()).is_some() {
                bail!("{LIST}: `{key}` is there twice");
            }
        }
        Ok(list)
    }

    fn section(&self, name: &str) -> anyhow::Result<&BTreeMap<String, String>> {
        self.sections.get(name).with_context(|| format!("{LIST} has no section [{name}]"))
    }

    /// The numbers of a section of exceptions.
    fn limits(&self, name: &str) -> anyhow::Result<BTreeMap<String, usize>> {
        let number = |(key, value): (&String, &String)| {
            Ok((key.clone(), value.parse().with_context(|| format!("{LIST}: {key}: `{value}` is no number"))?))
        };
        self.section(name)?.iter().map(number).collect()
    }
}

/// Everything in the sources that breaks a promise, as `file:line: what`.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let read = |file: &str| fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"));
    let list = List::read(&read(LIST)?)?;
    let (names, phrases, clean) =
        (list.section("identifiers")?, list.section("phrases")?, list.section("clean folders")?);
    let (mut files, mut found) = (Vec::new(), Vec::new());
    gather(root, root, &mut files)?;
    files.sort();
    let (mut long_files, mut long_functions) = (BTreeMap::new(), BTreeMap::new());
    for file in &files {
        let text = read(file)?;
        let tokens = source::tokens(&text);
        for token in &tokens {
            if let Some(new) = names.get(&token.text) {
                found.push(format!("{file}:{}: `{}` is of the old dialect: {new}", token.line, token.text));
            }
        }
        found.extend(comments(file, &text));
        if clean.keys().any(|folder| file.starts_with(&format!("{folder}/"))) {
            found.extend(spoken(file, &text, phrases));
        }
        long_files.insert(file.clone(), text.lines().count());
        for (name, length) in functions(&tokens) {
            let longest = long_functions.entry(format!("{file} {name}")).or_default();
            *longest = length.max(*longest);
        }
    }
    found.extend(too_long("lines in a file", FILE, &long_files, &list.limits("long files")?));
    found.extend(too_long("lines in a function", FUNCTION, &long_functions, &list.limits("long functions")?));
    found.extend(fingerprint(root, &read(&format!("{LAYOUTS}/mod.rs"))?)?);
    found.extend(dependencies(root, list.section("unused dependencies")?)?);
    Ok(found)
}

/// Comments that are too wide.
fn comments(file: &str, text: &str) -> Vec<String> {
    let wide = |line: &str| line.trim_start().starts_with("//") && line.chars().count() > COMMENT;
    let lines = text.lines().enumerate().filter(|(_, line)| wide(line));
    lines.map(|(at, _)| format!("{file}:{}: a comment of more than {COMMENT} columns", at + 1)).collect()
}

/// Phrases of the old dialect in comments, also where a line ends within one. What stands in backticks does not count.
fn spoken(file: &str, text: &str, phrases: &BTreeMap<String, String>) -> Vec<String> {
    let mut words = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let Some(comment) = line.trim_start().strip_prefix("//") else {
            words.push((at + 1, String::new()));
            continue;
        };
        let plain: String = comment.split('`').step_by(2).collect();
        let parts = plain.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty());
        words.extend(parts.map(|part| (at + 1, part.to_lowercase())));
    }
    let mut found = Vec::new();
    for (phrase, instead) in phrases {
        let wanted: Vec<_> = phrase.split(' ').collect();
        for at in words.windows(wanted.len()) {
            if at.iter().map(|(_, word)| word.as_str()).eq(wanted.iter().copied()) {
                found.push(format!("{file}:{}: \"{phrase}\" in a comment; write: {instead}", at[0].0));
            }
        }
    }
    found
}

/// The functions with a body, and how many lines each has.
fn functions(tokens: &[source::Token]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        if pair[0].text != "fn" || !pair[1].text.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            continue;
        }
        let (mut depth, mut body) = (0_usize, false);
        for token in &tokens[at + 2..] {
            match token.text.as_str() {
                ";" if depth == 0 => break,
                "{" | "(" | "[" => {
                    body |= depth == 0 && token.text == "{";
                    depth += 1;
                }
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if body && depth == 0 {
                found.push((pair[1].text.clone(), token.line - pair[0].line + 1));
                break;
            }
        }
    }
    found
}

/// What is longer than `limit`, and than its exception; and exceptions that are not needed any more.
fn too_long(
    what: &str,
    limit: usize,
    lengths: &BTreeMap<String, usize>,
    exceptions: &BTreeMap<String, usize>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (name, length) in lengths {
        let allowed = exceptions.get(name).copied().unwrap_or(limit);
        if *length > allowed {
            found.push(format!("{name}: {length} {what}, and {allowed} are allowed"));
        }
    }
    for name in exceptions.keys() {
        if lengths.get(name).is_none_or(|length| *length <= limit) {
            found.push(format!("{LIST}: {name} needs no exception any more: take it out"));
        }
    }
    found
}

/// Files of layouts that are not in the fingerprint.
fn fingerprint(root: &Path, text: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(LAYOUTS)).with_context(|| format!("cannot list {LAYOUTS}"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !text.contains(&format!("include_bytes!(\"{name}\")")) {
            found.push(format!("{LAYOUTS}/mod.rs: FINGERPRINT lacks {name}"));
        }
    }
    Ok(found)
}

/// Dependencies that no file of the crate names.
fn dependencies(root: &Path, exempt: &BTreeMap<String, String>) -> anyhow::Result<Vec<String>> {
    let (mut found, mut used) = (Vec::new(), BTreeSet::new());
    for folder in ["xtask", "dataplane-common", "dataplane-ebpf", "dataplane-user", "tests", "tests/ebpf", "fuzz"] {
        let manifest = format!("{folder}/Cargo.toml");
        let text = fs::read_to_string(root.join(&manifest)).with_context(|| format!("cannot read {manifest}"))?;
        let (mut files, mut words) = (Vec::new(), BTreeSet::new());
        gather(root, &root.join(folder), &mut files)?;
        for file in files {
            let text = fs::read_to_string(root.join(&file)).with_context(|| format!("cannot read {file}"))?;
            words.extend(source::tokens(&text).into_iter().map(|token| token.text));
        }
        for name in named(&text, |section| section.ends_with("dependencies")) {
            if !words.contains(&name.replace('-', "_")) {
                found.push(format!("{manifest}: no file names {name}"));
            }
            used.insert(name);
        }
    }
    let text = fs::read_to_string(root.join("Cargo.toml")).context("cannot read Cargo.toml")?;
    for name in named(&text, |section| section == "workspace.dependencies") {
        if !used.contains(&name) && !exempt.contains_key(&name) {
            found.push(format!("Cargo.toml: no crate depends on {name}"));
        }
    }
    Ok(found)
}

/// The keys of some sections of a manifest.
fn named(manifest: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = wanted(section);
        } else if inside && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            found.extend(line.split([' ', '=', '.']).next().map(str::to_owned));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_keep_their_promises() {
        let found = check(crate::root()).expect("the sources can be read");
        assert!(found.is_empty(), "\n{}", found.join("\n"));
    }

    #[test]
    fn words_of_the_dialect_are_found() {
        let phrases = BTreeMap::from([("is told".to_owned(), "is sent".to_owned())]);
        let rows = [("/// It is\n/// told.", 1), ("/// `is told`, this", 0), ("let x = is_told; // it is told", 0)];
        for (text, count) in rows {
            assert_eq!(spoken("x.rs", text, &phrases).len(), count, "{text}");
        }
    }

    #[test]
    fn functions_are_measured() {
        let text =
            "trait T { fn none(&self); fn f(x: [u8; 2]) -> bool {\n    loop {}\n} }\nfn g() {}\nlet x: fn(u8) = y;";
        let lengths = functions(&source::tokens(text));
        assert_eq!(lengths, [("f".to_owned(), 3), ("g".to_owned(), 1)]);
    }

    #[test]
    fn exceptions_only_shrink() {
        let lengths = BTreeMap::from([("a", 9), ("b", 12), ("c", 15)].map(|(name, length)| (name.to_owned(), length)));
        let exceptions =
            BTreeMap::from([("a", 12), ("b", 12), ("c", 14)].map(|(name, limit)| (name.to_owned(), limit)));
        let found = too_long("lines", 10, &lengths, &exceptions);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("c: 15") && found[1].contains("a needs no exception"), "{found:?}");
    }
}
