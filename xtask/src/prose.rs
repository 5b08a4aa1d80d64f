//! What is promised about the documents: lengths, paths and links that exist, and words that do not occur.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// The documents with a limit of lines.
const LIMITS: [(&str, usize); 2] = [("README.md", 150), ("ARCHITECTURE.md", 100)];
/// The document that lists the banned words, and may name them.
const STYLE: &str = "docs/style.md";
/// The heading in it under which they stand.
const BANNED: &str = "## Words that do not occur";
/// Folders that a document may leave out in front of a path.
const ROOTS: [&str; 10] = [
    "",
    "docs",
    "dataplane-common",
    "dataplane-common/src",
    "dataplane-ebpf/src",
    "dataplane-user/src",
    "dataplane-user",
    "tests",
    "tests/src",
    "tests/tests",
];
/// Endings by which a word in backticks is known as the path of a file here.
const ENDINGS: [&str; 4] = [".rs", ".md", ".svg", ".json"];

/// The document with the map of the code.
const MAP: &str = "ARCHITECTURE.md";

/// Everything in the documents that breaks a promise, as `file:line: what`.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut documents = Vec::new();
    gather(root, Path::new(""), &mut documents)?;
    documents.sort();
    let read = |file: &Path| {
        let path = root.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let banned = banned(&read(Path::new(STYLE))?);
    let mut found = Vec::new();
    if banned.is_empty() {
        found.push(format!("{STYLE}: no words in backticks under \"{BANNED}\""));
    }
    for file in &documents {
        let (name, text) = (file.display().to_string(), read(file)?);
        if let Some((_, limit)) = LIMITS.iter().find(|(limited, _)| *limited == name) {
            let lines = text.lines().count();
            if lines > *limit {
                found.push(format!("{name}: {lines} lines, and {limit} are allowed: move text to docs/"));
            }
        }
        if name != STYLE {
            found.extend(words(&text, &banned).into_iter().map(|(line, word)| {
                format!("{name}:{line}: \"{word}\" is banned; {STYLE} says what to write instead")
            }));
        }
        if name == MAP {
            let missing = map(&text).into_iter().filter(|(_, path)| !root.join(path).exists());
            found.extend(missing.map(|(line, path)| format!("{name}:{line}: there is no file {path}")));
        }
        found.extend(paths(root, file, &text).into_iter().map(|(line, what)| format!("{name}:{line}: {what}")));
    }
    Ok(found)
}

fn gather(root: &Path, folder: &Path, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let place = root.join(folder);
    for entry in fs::read_dir(&place).with_context(|| format!("cannot list {}", place.display()))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        let hidden = entry.file_name().to_string_lossy().starts_with('.') || path == Path::new("target");
        if entry.file_type()?.is_dir() && !hidden {
            gather(root, &path, into)?;
        } else if path.extension().is_some_and(|ending| ending == "md") {
            into.push(path);
        }
    }
    Ok(())
}

/// The words in backticks in the first column of the table of banned words.
fn banned(style: &str) -> Vec<String> {
    let section = style.split_once(BANNED).map_or("", |(_, rest)| rest);
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| "));
    rows.filter_map(|row| row.split('|').nth(1)).flat_map(code).map(str::to_owned).collect()
}

/// What stands in backticks in a line.
fn code(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The banned words in a text with their lines; also where a line ends within one.
fn words(text: &str, banned: &[String]) -> Vec<(usize, String)> {
    let lower = text.to_lowercase();
    let mut tokens = Vec::new();
    for (number, line) in lower.lines().enumerate() {
        let parts = line.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty());
        tokens.extend(parts.map(|part| (number + 1, part)));
    }
    let mut found = Vec::new();
    for phrase in banned {
        let wanted: Vec<_> = phrase.split(' ').collect();
        let hits =
            tokens.windows(wanted.len()).filter(|at| at.iter().map(|(_, part)| *part).eq(wanted.iter().copied()));
        found.extend(hits.map(|at| (at[0].0, phrase.clone())));
    }
    found.sort();
    found
}

/// Paths and links of a document that lead nowhere, with their lines.
fn paths(root: &Path, file: &Path, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced || line.starts_with("    ") {
            continue;
        }
        let missing = code(line).filter(|word| is_path(word)).flat_map(expand).filter(|path| !exists(root, path));
        found.extend(missing.map(|path| (index + 1, format!("there is no file `{path}`"))));
        let dead = links(line).filter_map(|target| dead(root, file, text, target));
        found.extend(dead.map(|what| (index + 1, what)));
    }
    found
}

/// The paths in the map of the code, with their lines: `src/...` below the folder of a crate.
fn map(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut folder = "";
    for (index, line) in text.lines().enumerate().filter_map(|(index, line)| Some((index, line.strip_prefix("    ")?)))
    {
        let mut words = line.split([' ', ',', ';']).filter(|word| !word.is_empty());
        if !line.starts_with(' ') {
            folder = words.next().filter(|word| word.ends_with('/')).unwrap_or_default();
        }
        if !folder.is_empty() {
            let inside = words.filter(|word| word.starts_with("src/") || word.starts_with("tests/"));
            found.extend(inside.map(|word| (index + 1, format!("{folder}{word}"))));
        }
    }
    found
}

/// Whether a word in backticks is meant as a path in this repository.
fn is_path(word: &str) -> bool {
    let placeholder =
        word.contains(['*', '<', '~', '$', '=', ' ', '(', ':', '&', '@']) || word.starts_with(['/', '.', '-']);
    let inner = word.split(['/', '.']).any(|part| part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase()));
    let known = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].contains(&word);
    let file = ENDINGS.iter().any(|ending| word.ends_with(ending));
    let folder = word.ends_with('/')
        && word.contains('/')
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_/{},".contains(c));
    (file || folder) && !placeholder && (!inner || known)
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn expand(path: &str) -> Vec<String> {
    let parts = path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    let Some((before, (choices, after))) = parts else { return vec![path.to_owned()] };
    choices.split(',').map(|choice| format!("{before}{choice}{after}")).collect()
}

fn exists(root: &Path, path: &str) -> bool {
    // A name alone is that of some file; data files of the user are not in the repository.
    if !path.contains('/') {
        let ours = Path::new(path).extension().is_some_and(|ending| ending == "rs" || ending == "md");
        return !ours || holds(root, path);
    }
    ROOTS.iter().any(|folder| root.join(folder).join(path).exists())
}

fn holds(folder: &Path, name: &str) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let inner = entry.file_name();
        let skipped = inner == "target" || inner.to_string_lossy().starts_with('.');
        inner == name || !skipped && entry.file_type().is_ok_and(|kind| kind.is_dir()) && holds(&entry.path(), name)
    })
}

/// The targets of the links in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// What is wrong with a link, if anything is.
fn dead(root: &Path, file: &Path, text: &str, target: &str) -> Option<String> {
    if target.contains("://") {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let place = root.join(file.parent().unwrap_or(Path::new(""))).join(path);
    let other;
    let text = if path.is_empty() {
        text
    } else if !place.exists() {
        return Some(format!("the link to {target} leads nowhere"));
    } else {
        other = fs::read_to_string(&place).unwrap_or_default();
        &other
    };
    let anchor = anchor?;
    let there = text.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor);
    (!there).then(|| format!("the link to {target}: there is no such heading"))
}

/// The anchor of a heading, as GitHub makes it.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_keep_their_promises() {
        let found = check(crate::root()).expect("the documents can be read");
        assert!(found.is_empty(), "\n{}", found.join("\n"));
    }

    #[test]
    fn the_page_of_kernels_has_those_of_the_guests() {
        let text = fs::read_to_string(crate::root().join("docs/kernels.md")).expect("the page");
        for kernel in crate::vm::KERNELS {
            assert!(text.contains(&format!("\n| {kernel} | Debian's")), "docs/kernels.md has no row for {kernel}");
        }
    }

    #[test]
    fn the_map_is_read() {
        let text = "text\n\n    a/     what it is\n      src/b/  b; src/c.rs more, src/d\n    frame --> src/e\n";
        let found: Vec<_> = map(text).into_iter().map(|(line, path)| format!("{line} {path}")).collect();
        assert_eq!(found, ["4 a/src/b/", "4 a/src/c.rs", "4 a/src/d"]);
    }

    #[test]
    fn banned_words_come_from_the_style_sheet() {
        let style = "# x\n## Words that do not occur\n\n| banned | write |\n|---|---|\n| `can not`, `nobody` | `cannot` |\n\n## y\n| `z` | |\n";
        assert_eq!(banned(style), ["can not", "nobody"]);
    }

    #[test]
    fn a_banned_word_is_found_where_it_is_a_word() {
        let banned = ["can not".to_owned(), "nobody".to_owned()];
        let rows: &[(&str, &[usize])] = &[
            ("it cannot; scan nothing", &[]),
            ("It can not.", &[1]),
            ("first\nit can\nnot, and `Nobody`", &[2, 3]),
            ("nobodys", &[]),
        ];
        for (text, lines) in rows {
            let found: Vec<_> = words(text, &banned).into_iter().map(|(line, _)| line).collect();
            assert_eq!(found, *lines, "{text}");
        }
    }

    #[test]
    fn paths_and_links_are_looked_up() {
        let root = crate::root();
        let rows = [
            ("`xtask/src/prose.rs`, `hook/{xdp,tc}.rs`, `/etc/x.toml`, `stage/NAME.rs`, `main.rs`", 0),
            ("`xtask/src/no.rs`", 1),
            ("`hook/{xdp,no}.rs` and `stage/`", 1),
            ("`no-such-file.rs`", 1),
            ("`no/such/folder/`", 1),
            ("[a](CONTRIBUTING.md#style), [b](https://example.org/x)", 0),
            ("[a](CONTRIBUTING.md#no-such-heading)", 1),
            ("[a](NO.md)", 1),
            ("    `xtask/src/no.rs` in code", 0),
        ];
        for (text, count) in rows {
            let found = paths(root, Path::new("X.md"), text);
            assert_eq!(found.len(), count, "{text}: {found:?}");
        }
    }
}
