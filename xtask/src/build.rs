//! `cargo xtask build`: the release build of the one binary.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;

use crate::{
    command::run,
    root,
    setup::{self, Need, Toolchain},
};

pub(crate) fn main() -> anyhow::Result<ExitCode> {
    let toolchain = setup::toolchain(Need::Build)?;
    let binary = release(&toolchain)?;
    let size = fs::metadata(&binary).with_context(|| format!("cargo left no {}", binary.display()))?.len();
    println!("{} ({}.{} MiB)", binary.display(), size >> 20, (size >> 10) % 1024 * 10 / 1024);
    Ok(ExitCode::SUCCESS)
}

/// Builds `dataplane` and says where it is. The kernel half's object is embedded by dataplane-user's build script.
pub(crate) fn release(toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    release_with(toolchain, &[])
}

/// The same, and what else is named is built by the same cargo, so that nothing is built twice or in turn.
pub(crate) fn release_with(toolchain: &Toolchain, more: &[&str]) -> anyhow::Result<PathBuf> {
    let mut cargo = toolchain.command("cargo");
    cargo.args(["build", "--release", "--package", "dataplane-user", "--bin", "dataplane"]).args(more);
    run(&mut cargo)?;
    Ok(target().join("release/dataplane"))
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}
