//! `cargo xtask deb`: a Debian package of the release build, with manual pages, completions, unit and example config.

mod machine;
mod network;
mod trial;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    process::ExitCode,
};

use anyhow::{Context as _, ensure};

use crate::{
    build,
    command::{self, answer, run},
    package, root,
    setup::{self, Need, Toolchain},
};

pub(crate) use trial::trial;

/// The version of cargo-deb that the package was seen to be built with.
const VERSION: &str = "3.8.0";
/// Shells, and what their completions are called.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "dataplane.bash"), ("zsh", "_dataplane"), ("fish", "dataplane.fish")];

pub(crate) fn main() -> anyhow::Result<ExitCode> {
    let toolchain = setup::toolchain(Need::Build)?;
    make(&toolchain, &[])?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the package and says where it is. `DATAPLANE_BIN` names another build, as everywhere.
fn make(toolchain: &Toolchain, more: &[&str]) -> anyhow::Result<PathBuf> {
    let binary = match std::env::var_os("DATAPLANE_BIN") {
        Some(named) => named.into(),
        None => build::release(toolchain)?,
    };
    let made = root().join("target/deb");
    fs::create_dir_all(&made).with_context(|| format!("can not make {}", made.display()))?;
    fs::copy(&binary, made.join("dataplane")).with_context(|| format!("can not copy {}", binary.display()))?;
    run(Command::new(&binary).arg("man").arg(made.join("man")))?;
    for (shell, name) in COMPLETIONS {
        let script = answer(Command::new(&binary).args(["completions", shell]));
        fs::write(made.join(name), script.with_context(|| format!("no completions for {shell}"))? + "\n")?;
    }
    let folder = build::target().join("debian");
    // What an earlier run left is not what this one made.
    let _ = fs::remove_dir_all(&folder);
    let mut cargo = toolchain.command("cargo");
    cargo.env("PATH", command::path_with(&[install()?]));
    // Its only warnings are that the programs are not built by it, which they shall not be.
    run(cargo.args(["deb", "--quiet", "--package", "dataplane-user", "--no-build"]).args(more))?;
    only_package(&folder)
}

/// The one package of a folder.
fn only_package(folder: &Path) -> anyhow::Result<PathBuf> {
    let listed = fs::read_dir(folder).with_context(|| format!("cargo-deb left no {}", folder.display()))?;
    let mut found = listed.collect::<Result<Vec<_>, _>>()?.into_iter().map(|entry| entry.path());
    let package = found.find(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = package.with_context(|| format!("cargo-deb left no package in {}", folder.display()))?;
    ensure!(found.next().is_none(), "more than the package is in {}", folder.display());
    Ok(package)
}

/// The folder of cargo-deb.
pub(crate) fn install() -> anyhow::Result<PathBuf> {
    package::cargo_tool("cargo-deb", VERSION)
}
