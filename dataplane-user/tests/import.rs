//! Rule sets of other filters, and the configs that they come to. `UPDATE_GOLDEN=1` writes the configs anew.
//!
//! `import/NAME.LANGUAGE` comes to `import/NAME.LANGUAGE.toml`; `NAME.json`, which nft printed for the same tables, to that of
//! `NAME.nft`. What `import/refused/` holds cannot be translated, and `.txt` says why.

mod fake;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use fake::{dataplane, directory, text};

/// The files of a folder that are not goldens, by name.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import").join(folder);
    let entries = fs::read_dir(&folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let source = |path: &PathBuf| path.is_file() && !matches!(extension(path), "toml" | "txt");
    let mut files: Vec<_> = entries.filter(source).collect();
    files.sort();
    files
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(OsStr::to_str).unwrap_or_default()
}

/// Runs the verb where the file is, so that messages name it without its folder.
fn import(path: &Path) -> std::process::Output {
    let verb = if extension(path).ends_with("tables") { "iptables" } else { "nft" };
    let mut command = dataplane();
    command.current_dir(path.parent().expect("a folder")).args(["import", verb]).arg(path.file_name().expect("a name"));
    command.output().expect("it runs")
}

fn golden(path: &Path, found: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() && extension(path) != "json" {
        fs::write(path, found).expect("the golden is written");
    }
    let want = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, want, "{}", path.display());
}

#[test]
fn rule_sets_come_to_valid_configs() {
    let directory = directory();
    let mut layouts = 0;
    for path in files("") {
        let output = import(&path);
        assert!(output.status.success(), "{}: {}", path.display(), text(&output.stderr));
        let of_text = if extension(&path) == "json" { path.with_extension("nft") } else { path.clone() };
        golden(&PathBuf::from(format!("{}.toml", of_text.display())), text(&output.stdout));
        layouts += usize::from(extension(&path) != "json");

        let config = directory.path().join("config.toml");
        fs::write(&config, &output.stdout).expect("a file");
        let check = dataplane().args(["config", "check"]).arg(&config).output().expect("it runs");
        assert!(check.status.success(), "{}: {}", path.display(), text(&check.stderr));
    }
    assert!(layouts >= 12, "only {layouts} layouts");
}

#[test]
fn what_cannot_be_translated_is_told_at_its_place() {
    for path in files("refused") {
        let output = import(&path);
        assert_eq!(output.status.code(), Some(5), "{}: {}", path.display(), text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "{}", path.display());
        golden(&PathBuf::from(format!("{}.txt", path.display())), text(&output.stderr));
    }
}

#[test]
fn a_file_is_read_from_stdin_too_and_errors_have_their_codes() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import/home-router.nft");
    let run = |words: &[&str], stdin: &Path| {
        let input = fs::File::open(stdin).expect("a file");
        dataplane().args(words).stdin(input).output().expect("it runs")
    };
    let output = run(&["import", "nft", "-", "-j"], &source);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let config: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(config["chains"]["forward"]["policy"], "drop");
    for (words, code, said) in [
        (["import", "nft", "/nonexistent"], 3, "cannot read /nonexistent"),
        (["import", "pf", "-"], 2, "pf"),
        (["import", "iptables", "-"], 5, "stdin:1:1: "),
    ] {
        let output = run(&words, &source);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{words:?}: {}", text(&output.stderr));
    }
}

#[test]
fn of_many_errors_the_first_fifty_are_shown() {
    let directory = directory();
    let path = directory.path().join("many.nft");
    let rules = "ct state new accept\n".repeat(70);
    fs::write(
        &path,
        format!("table inet t {{ chain c {{\ntype filter hook input priority 0; policy accept;\n{rules}}} }}\n"),
    )
    .expect("a file");
    let output = import(&path);
    assert_eq!(text(&output.stderr).matches("many.nft:").count(), 50);
    assert!(text(&output.stderr).ends_with("error: and 20 more\n"), "{}", text(&output.stderr));
}
