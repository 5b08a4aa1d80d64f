//! Circles of imports: none between the folders of a crate, and in the kernel half none of more than three files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::Context as _;

use crate::source;

/// Crates, and how many files a circle may have.
const CRATES: [(&str, usize); 3] =
    [("dataplane-ebpf/src", 3), ("dataplane-common/src", usize::MAX), ("dataplane-user/src", usize::MAX)];

/// What imports what.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Every circle that is too large.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for (name, limit) in CRATES {
        let mut modules = BTreeMap::new();
        gather(&root.join(name), &[], &mut modules)?;
        let files = graph(&modules);
        found.extend(circles(&folders(&files), 1).map(|circle| format!("{name}: folders import each other: {circle}")));
        found.extend(
            circles(&files, limit).map(|circle| format!("{name}: more than {limit} files in a circle: {circle}")),
        );
    }
    Ok(found)
}

/// The source of each module, by its path in the crate. The root of a crate names all, and is left out.
fn gather(folder: &Path, at: &[String], modules: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        let within = [at, std::slice::from_ref(&stem)].concat();
        if path.is_dir() {
            gather(&path, &within, modules)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") && stem != "tests" {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            match (stem.as_str(), at) {
                ("main" | "lib", []) => {}
                ("mod", _) => drop(modules.insert(at.join("::"), text)),
                _ => drop(modules.insert(within.join("::"), text)),
            }
        }
    }
    Ok(())
}

fn graph(modules: &BTreeMap<String, String>) -> Graph {
    let imports = |(module, text): (&String, &String)| {
        let paths = source::paths(&source::without_tests(&source::tokens(text)));
        let named = paths.iter().filter_map(|path| resolve(module, &path.words, modules));
        (module.clone(), named.filter(|other| other != module).collect())
    };
    modules.iter().map(imports).collect()
}

/// The module that a path leads into.
fn resolve(module: &str, words: &[String], modules: &BTreeMap<String, String>) -> Option<String> {
    let mut base: Vec<&str> = module.split("::").collect();
    let mut rest = words;
    match rest.first()?.as_str() {
        "crate" => {
            base.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|word| word == "super") {
                base.pop()?;
                rest = &rest[1..];
            }
        }
        first if !modules.contains_key(&format!("{module}::{first}")) => return None,
        _ => {}
    }
    let whole: Vec<&str> = base.into_iter().chain(rest.iter().map(String::as_str)).collect();
    (1..=whole.len()).rev().map(|length| whole[..length].join("::")).find(|path| modules.contains_key(path))
}

/// The same between the folders, and single files, of the crate's root.
fn folders(files: &Graph) -> Graph {
    let folder = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let mut graph = Graph::new();
    for (module, named) in files {
        let own = folder(module);
        let others = named.iter().map(|other| folder(other)).filter(|other| *other != own);
        graph.entry(own.clone()).or_default().extend(others.collect::<Vec<_>>());
    }
    graph
}

/// Circles of more than `limit`.
fn circles(graph: &Graph, limit: usize) -> impl Iterator<Item = String> {
    let reached: BTreeMap<_, _> = graph.keys().map(|from| (from, reach(graph, from))).collect();
    let circle = |from: &String| -> Vec<String> {
        reached[from].iter().filter(|to| reached.get(to).is_some_and(|back| back.contains(from))).cloned().collect()
    };
    let all: BTreeSet<_> = graph.keys().map(circle).filter(|circle| circle.len() > limit).collect();
    all.into_iter().map(|circle| circle.join(", "))
}

fn reach(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut left = vec![from];
    while let Some(at) = left.pop() {
        for next in graph.get(at).into_iter().flatten() {
            if reached.insert(next.clone()) {
                left.push(next);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(sources: &[(&str, &str)]) -> BTreeMap<String, String> {
        sources.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn circles_are_found() {
        let round = modules(&[
            ("maps", "mod fib; pub use fib::Table; use crate::features;"),
            ("maps::fib", "use super::find; fn f() { crate::tables::look() }"),
            ("tables", "use crate::{features, maps::{self, Table}};"),
            ("features", "use core::ops::Deref; #[cfg(test)] use crate::tables;"),
        ]);
        let files = graph(&round);
        assert_eq!(circles(&folders(&files), 1).collect::<Vec<_>>(), ["maps, tables"]);
        assert_eq!(circles(&files, 2).collect::<Vec<_>>(), ["maps, maps::fib, tables"]);
        assert_eq!(circles(&files, 3).count(), 0);
    }

    #[test]
    fn the_project_has_none() {
        assert_eq!(check(crate::root()).expect("sources"), Vec::<String>::new());
    }
}
