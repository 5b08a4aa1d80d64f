//! `cargo xtask lint`: formatting, clippy for host and BPF, borders between modules, documents, words and lengths.

use std::{fs, path::Path, process::ExitCode, time::Instant};

use anyhow::{Context as _, bail};

use crate::{
    border, build, circle,
    command::{self, answer, run},
    package, prose, root,
    setup::{self, Need, Toolchain},
    words,
};

/// One thing that is checked.
type Check = (&'static str, fn(&Toolchain) -> anyhow::Result<()>);

const CHECKS: &[Check] = &[
    ("format", format),
    ("borders", borders),
    ("documents", documents),
    ("words", vocabulary),
    ("clippy", clippy),
    ("clippy for BPF", clippy_bpf),
    ("documentation", doc),
    ("dependencies", dependencies),
];

/// The version of cargo-deny that `deny.toml` was written for.
pub(crate) const DENY: &str = "0.20.2";

/// Folders of crates that are built for BPF and have no host build; the second belongs to the tests and may be absent.
const BPF_CRATES: [&str; 2] = ["dataplane-ebpf", "tests/ebpf"];

pub(crate) fn main() -> anyhow::Result<ExitCode> {
    let toolchain = setup::toolchain(Need::Build)?;
    let mut found = Vec::new();
    for (name, check) in CHECKS {
        let start = Instant::now();
        let outcome = check(&toolchain);
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("-- {name}: {verdict} ({:.1} s)", start.elapsed().as_secs_f64());
        if let Err(error) = outcome {
            found.push(format!("{name}: {error:#}"));
        }
    }
    for line in &found {
        eprintln!("error: {line}");
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn format(toolchain: &Toolchain) -> anyhow::Result<()> {
    run(toolchain.command("cargo").args(["fmt", "--all", "--check"])).context("`cargo fmt --all` puts it right")?;
    for manifest in manifests().filter(|manifest| !in_workspace(manifest)) {
        run(toolchain.command("cargo").args(["fmt", "--check", "--manifest-path", &manifest]))?;
    }
    Ok(())
}

fn borders(_: &Toolchain) -> anyhow::Result<()> {
    let (mut crossings, remarks) = border::check(root())?;
    crossings.extend(circle::check(root())?);
    for line in remarks.iter().chain(&crossings) {
        println!("{line}");
    }
    if !crossings.is_empty() {
        bail!("{} crossed, listed above", crossings.len());
    }
    Ok(())
}

fn documents(_: &Toolchain) -> anyhow::Result<()> {
    let found = prose::check(root())?;
    for line in &found {
        println!("{line}");
    }
    if !found.is_empty() {
        bail!("{} promises broken, listed above", found.len());
    }
    Ok(())
}

fn vocabulary(_: &Toolchain) -> anyhow::Result<()> {
    let found = words::check(root())?;
    for line in &found {
        println!("{line}");
    }
    if !found.is_empty() {
        bail!("{} promises broken, listed above", found.len());
    }
    Ok(())
}

fn clippy(toolchain: &Toolchain) -> anyhow::Result<()> {
    run(toolchain.command("cargo").arg("clippy").args(host()).args(["--all-targets", "--", "-D", "warnings"]))
}

/// Clippy of the kernel half's own compiler; where that has none, the compiler's own warnings.
fn clippy_bpf(toolchain: &Toolchain) -> anyhow::Result<()> {
    let dir = build::target().join("bpf-lint");
    for manifest in manifests() {
        let mut cargo;
        if toolchain.compiler.has_clippy() {
            cargo = toolchain.bpf_cargo("clippy");
            // What these crates share with the host is looked at there.
            cargo.arg("--no-deps");
        } else {
            println!("no clippy for BPF here (Debian: rust-web-clippy): only the compiler's own warnings");
            cargo = toolchain.bpf_cargo("check");
            cargo.env("RUSTFLAGS", "-Dwarnings");
        }
        cargo.args(["--release", "--manifest-path", &manifest, "--target-dir"]).arg(&dir);
        if toolchain.compiler.has_clippy() {
            cargo.args(["--", "-D", "warnings"]);
        }
        run(&mut cargo)?;
    }
    Ok(())
}

fn doc(toolchain: &Toolchain) -> anyhow::Result<()> {
    run(toolchain.command("cargo").args(["doc", "--no-deps", "--quiet"]).args(host()).env("RUSTDOCFLAGS", "-Dwarnings"))
}

/// Licences, sources and duplicates by `deny.toml`; advisories too, where their database can be had.
fn dependencies(toolchain: &Toolchain) -> anyhow::Result<()> {
    let path = command::path_with(&[package::cargo_tool("cargo-deny", DENY)?]);
    let deny = |words: &[&str]| {
        let mut cargo = toolchain.command("cargo");
        cargo.arg("deny").args(words).env("PATH", &path);
        cargo
    };
    run(&mut deny(&["check", "bans", "licenses", "sources"]))?;
    if answer(&mut deny(&["fetch", "db"])).is_none() {
        println!(
            "advisories are not checked: their database (https://github.com/rustsec/advisory-db) cannot be fetched"
        );
        return Ok(());
    }
    run(&mut deny(&["check", "advisories"]))
}

/// Selects all crates of the workspace but those for BPF.
pub(crate) fn host() -> Vec<String> {
    let names = manifests().filter_map(|manifest| package_name(&fs::read_to_string(root().join(manifest)).ok()?));
    let mut selection = vec!["--workspace".to_owned()];
    selection.extend(names.flat_map(|name| ["--exclude".to_owned(), name]));
    selection
}

/// The name in a manifest that begins with its `[package]`.
fn package_name(manifest: &str) -> Option<String> {
    let line = manifest.lines().find(|line| line.starts_with("name"))?;
    line.split('"').nth(1).map(str::to_owned)
}

/// The manifests of the crates for BPF.
fn manifests() -> impl Iterator<Item = String> {
    let paths = BPF_CRATES.iter().map(|dir| format!("{dir}/Cargo.toml"));
    paths.filter(|path| root().join(path).is_file())
}

fn in_workspace(manifest: &str) -> bool {
    let dir = Path::new(manifest).parent().unwrap_or(Path::new("")).display().to_string();
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap_or_default();
    workspace.lines().any(|line| line.starts_with("members") && line.contains(&format!("\"{dir}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_half_is_no_host_crate() {
        let host = host();
        assert_eq!(host[0], "--workspace");
        assert!(host.windows(2).any(|pair| pair == ["--exclude", "dataplane-ebpf"]), "{host:?}");
        assert!(in_workspace("dataplane-ebpf/Cargo.toml") && !in_workspace("no/such/Cargo.toml"));
    }

    #[test]
    fn a_package_name_is_read() {
        assert_eq!(package_name("[package]\nname = \"a-b\"\n[[bin]]\nname = \"c\""), Some("a-b".to_owned()));
        assert_eq!(package_name("[workspace]"), None);
    }
}
