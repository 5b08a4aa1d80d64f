//! The borders between modules: who may name whom. The borders are data; a new one is a row.

use std::{fs, path::Path};

use anyhow::Context as _;

use crate::source::{self, Token};

/// Paths that only some files may name.
struct Border {
    /// The first words of the paths.
    paths: &'static [&'static str],
    /// Folders and files in which this holds.
    within: &'static [&'static str],
    /// Folders and files in it that may.
    except: &'static [&'static str],
    /// Whether test modules are held to it too.
    tests: bool,
    /// What to tell who crossed it.
    why: &'static str,
}

const BORDERS: &[Border] = &[
    Border {
        paths: &["aya"],
        within: &["dataplane-user/", "dataplane-common/", "xtask/"],
        except: &["dataplane-user/src/kernel/"],
        tests: true,
        why: "aya is used in dataplane-user/src/kernel/ only",
    },
    Border {
        paths: &["netlink_packet_core", "netlink_packet_route", "netlink_sys", "netlink_proto", "rtnetlink"],
        within: &["dataplane-user/", "dataplane-common/", "tests/", "xtask/"],
        except: &["dataplane-user/src/netlink/"],
        tests: true,
        why: "netlink is spoken in dataplane-user/src/netlink/ only",
    },
    Border {
        paths: &["serde_json"],
        within: &["dataplane-user/src/", "dataplane-common/"],
        except: &[
            "dataplane-user/src/control/",
            "dataplane-user/src/import/json.rs",
            "dataplane-user/src/import/json/",
        ],
        tests: true,
        why: "all JSON is in dataplane-user/src/control/, but for that of nft",
    },
    Border {
        paths: &["std"],
        within: &["dataplane-common/src/", "dataplane-ebpf/src/"],
        except: &[],
        tests: false,
        why: "this code is compiled for BPF: take it from `core`",
    },
    Border {
        paths: &["tokio", "crate::kernel", "crate::netlink", "std::fs", "std::process"],
        within: &["dataplane-user/src/model/", "dataplane-user/src/lower/", "dataplane-user/src/diff.rs"],
        except: &[],
        tests: true,
        why: "model, lower and diff are pure: no input, no output, no clock",
    },
];

/// Files in this folder are stages of the pipeline; `mod.rs` may name them all, they may not name each other.
const STAGES: &str = "dataplane-ebpf/src/stage/";
/// The document with the list of files that may allow `unsafe`.
const UNSAFE_DOCUMENT: &str = "docs/design/unsafe.md";
/// The heading above the list.
const UNSAFE_HEADING: &str = "Where unsafe lives";

/// Everything that crosses a border, as `file:line: what`, and remarks about the check itself.
pub(crate) fn check(root: &Path) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let mut files = Vec::new();
    gather(root, root, &mut files)?;
    files.sort();
    let architecture = fs::read_to_string(root.join(UNSAFE_DOCUMENT)).ok();
    let (listed, mut remarks) = unsafe_list(architecture.as_deref());
    let mut crossings = Vec::new();
    for entry in &listed {
        if !root.join(entry).exists() {
            crossings.push(format!("{UNSAFE_DOCUMENT}: `{entry}` in \"{UNSAFE_HEADING}\" does not exist"));
        }
    }
    let stages: Vec<_> = files.iter().filter_map(|file| stage(file)).map(str::to_owned).collect();
    for file in &files {
        let text = fs::read_to_string(root.join(file)).with_context(|| format!("can not read {file}"))?;
        crossings.extend(crossed(file, &text, &stages, &listed));
    }
    remarks.push(format!("{} files held to {} borders", files.len(), BORDERS.len() + 2));
    Ok((crossings, remarks))
}

/// What one file crosses.
fn crossed(file: &str, text: &str, stages: &[String], unsafe_files: &[String]) -> Vec<String> {
    let all = source::tokens(text);
    let mut found = Vec::new();
    for border in BORDERS.iter().filter(|border| lies_in(file, border.within) && !lies_in(file, border.except)) {
        let tokens = if border.tests { all.clone() } else { source::without_tests(&all) };
        for path in source::paths(&tokens) {
            if border.paths.iter().any(|start| begins(&path.words, start)) {
                found.push(format!("{file}:{}: `{}`: {}", path.line, path.words.join("::"), border.why));
            }
        }
    }
    found.extend(stage_crossings(file, &all, stages));
    if !unsafe_files.iter().any(|entry| lies_in(file, &[entry])) {
        found.extend(
            all.iter()
                .filter(|token| token.text == "unsafe_code")
                .map(|token| format!("{file}:{}: allows `unsafe`: not in the list of {UNSAFE_DOCUMENT}", token.line)),
        );
    }
    found
}

fn stage_crossings(file: &str, tokens: &[Token], stages: &[String]) -> Vec<String> {
    let Some(own) = stage(file) else { return Vec::new() };
    let starts = ["super", "crate::stage"];
    let names_other = |words: &[String]| {
        starts.iter().filter(|start| begins(words, start)).any(|start| {
            let next = words.get(start.split("::").count());
            next.is_some_and(|next| next != own && stages.contains(next))
        })
    };
    source::paths(&source::without_tests(tokens))
        .into_iter()
        .filter(|path| names_other(&path.words))
        .map(|path| format!("{file}:{}: `{}`: no stage calls another", path.line, path.words.join("::")))
        .collect()
}

/// The name of the stage that this file is.
fn stage(file: &str) -> Option<&str> {
    let name = file.strip_prefix(STAGES)?.strip_suffix(".rs")?;
    (name != "mod" && !name.contains('/')).then_some(name)
}

fn lies_in<T: AsRef<str>>(file: &str, places: &[T]) -> bool {
    places
        .iter()
        .map(AsRef::as_ref)
        .any(|place| if place.ends_with('/') { file.starts_with(place) } else { file == place })
}

fn begins(words: &[String], start: &str) -> bool {
    let mut words = words.iter();
    start.split("::").all(|wanted| words.next().is_some_and(|word| word == wanted))
}

/// The paths in the document under the heading: in a fenced block a path a line, in bullets the first word in backticks.
fn unsafe_list(architecture: Option<&str>) -> (Vec<String>, Vec<String>) {
    let Some(text) = architecture else {
        return (Vec::new(), vec![format!("there is no {UNSAFE_DOCUMENT}: no file may allow `unsafe`")]);
    };
    let mut lines =
        text.lines().skip_while(|line| !line.starts_with('#') || line.trim_start_matches(['#', ' ']) != UNSAFE_HEADING);
    if lines.next().is_none() {
        return (
            Vec::new(),
            vec![format!("{UNSAFE_DOCUMENT} has no heading \"{UNSAFE_HEADING}\": no file may allow `unsafe`")],
        );
    }
    let mut fenced = false;
    let mut listed = Vec::new();
    for line in lines {
        let line = line.trim();
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            listed.extend(line.split_whitespace().next().map(str::to_owned));
        } else if line.starts_with('#') {
            break;
        } else if line.starts_with(['-', '*', '|']) {
            listed.extend(line.split('`').nth(1).map(str::to_owned));
        }
    }
    (listed, Vec::new())
}

/// The Rust files of the project, relative to its root.
pub(crate) fn gather(root: &Path, dir: &Path, files: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in dir.read_dir().with_context(|| format!("can not list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            // Cargo marks its folder; one of sources may have the same name.
            let built = name == "target" && path.join("CACHEDIR.TAG").exists();
            if !name.starts_with('.') && !built {
                gather(root, &path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path.strip_prefix(root)?.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_bite() {
        let stages = ["parse".to_owned(), "route".to_owned()];
        let listed = ["dataplane-user/src/kernel/bpf.rs".to_owned()];
        let rows = [
            ("dataplane-user/src/model/link.rs", "use aya::Ebpf;", 1),
            ("dataplane-user/src/kernel/load.rs", "use aya::Ebpf;", 0),
            ("dataplane-user/build.rs", "use aya_build::Package;", 0),
            ("dataplane-user/src/cli/route.rs", "fn f() { serde_json::to_string(&x) }", 1),
            ("dataplane-user/src/control/server.rs", "use serde_json::Value;", 0),
            ("dataplane-user/src/daemon.rs", "use netlink_packet_route::link::LinkMessage;", 1),
            ("dataplane-user/src/netlink/dump.rs", "use netlink_packet_route::link::LinkMessage;", 0),
            ("dataplane-common/src/wire/ipv4.rs", "use std::fmt;", 1),
            ("dataplane-common/src/wire/ipv4.rs", "#[cfg(test)] mod tests { extern crate std; use std::vec; }", 0),
            ("dataplane-user/src/diff.rs", "use tokio::fs;", 1),
            ("dataplane-user/src/lower/mod.rs", "use crate::{kernel::Maps, model::Model};", 1),
            ("dataplane-ebpf/src/stage/parse.rs", "use super::route;", 1),
            ("dataplane-ebpf/src/stage/parse.rs", "use super::{route::lookup, Step};", 1),
            ("dataplane-ebpf/src/stage/parse.rs", "crate::stage::route::lookup(x)", 1),
            ("dataplane-ebpf/src/stage/parse.rs", "use super::{Step, parse}; use crate::access::Packet;", 0),
            ("dataplane-ebpf/src/stage/mod.rs", "pub use self::route::lookup; use super::route;", 0),
            ("dataplane-user/src/daemon.rs", "#![expect(unsafe_code, reason = \"x\")]", 1),
            ("dataplane-user/src/kernel/bpf.rs", "#![expect(unsafe_code, reason = \"x\")]", 0),
            ("dataplane-user/src/daemon.rs", "// unsafe_code, aya::Ebpf\nlet s = \"serde_json::Value\";", 0),
        ];
        for (file, text, expected) in rows {
            let found = crossed(file, text, &stages, &listed);
            assert_eq!(found.len(), expected, "{file}: {text}: {found:?}");
        }
    }

    #[test]
    fn every_border_names_places_of_this_project() {
        for border in BORDERS {
            assert!(!border.paths.is_empty() && !border.why.is_empty());
            for place in border.within.iter().chain(border.except) {
                let known = ["dataplane-user/", "dataplane-common/", "dataplane-ebpf/", "tests/", "xtask/"];
                assert!(known.iter().any(|start| place.starts_with(start)), "{place}");
            }
        }
    }

    #[test]
    fn the_list_of_unsafe_files_is_read() {
        let bullets = "# A\n- `no.rs`\n## Where unsafe lives\nWords with `code`.\n\n- `a/b.rs`: mmap\n* `c/`\n\n## Next\n- `no.rs`\n";
        let fenced = "## Where unsafe lives\n```text\na/b.rs   mmap\nc/\n```\n";
        for text in [bullets, fenced] {
            assert_eq!(unsafe_list(Some(text)).0, ["a/b.rs", "c/"], "{text}");
        }
        for text in [None, Some("# Elsewhere\n- `a.rs`")] {
            let (listed, remarks) = unsafe_list(text);
            assert!(listed.is_empty() && remarks.len() == 1, "{text:?}");
        }
    }

    #[test]
    fn an_entry_without_a_file_is_told() {
        let dir = std::env::temp_dir().join(format!("dataplane-border-{}", std::process::id()));
        fs::create_dir_all(dir.join("dataplane-user/src")).expect("a folder");
        fs::create_dir_all(dir.join("docs/design")).expect("a folder");
        fs::write(dir.join(UNSAFE_DOCUMENT), "# Where unsafe lives\n- `gone.rs`\n").expect("a file");
        fs::write(dir.join("dataplane-user/src/main.rs"), "use aya::Ebpf;").expect("a file");
        let outcome = check(&dir);
        fs::remove_dir_all(&dir).expect("cleaned up");
        let (crossings, _) = outcome.expect("checked");
        assert_eq!(crossings.len(), 2, "{crossings:?}");
    }
}
