//! `cargo xtask deb`: a Debian package of the release build, with manual pages, completions, unit and example config.

use std::{fs, path::PathBuf, process::Command, process::ExitCode};

use anyhow::Context as _;

use crate::{
    build,
    command::{self, answer, run},
    linker, root,
    setup::{self, Need},
};

/// The version of cargo-deb that the package was seen to be built with.
const VERSION: &str = "3.8.0";
/// Shells, and what their completions are called.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "dataplane.bash"), ("zsh", "_dataplane"), ("fish", "dataplane.fish")];

pub(crate) fn main() -> anyhow::Result<ExitCode> {
    let toolchain = setup::toolchain(Need::Build)?;
    let binary = build::release(&toolchain)?;
    let made = root().join("target/deb");
    fs::create_dir_all(&made).with_context(|| format!("can not make {}", made.display()))?;
    run(Command::new(&binary).arg("man").arg(made.join("man")))?;
    for (shell, name) in COMPLETIONS {
        let script = answer(Command::new(&binary).args(["completions", shell]));
        fs::write(made.join(name), script.with_context(|| format!("no completions for {shell}"))? + "\n")?;
    }
    let mut cargo = toolchain.command("cargo");
    cargo.env("PATH", command::path_with(&[cargo_deb()?]));
    run(cargo.args(["deb", "--package", "dataplane-user", "--no-build"]))?;
    Ok(ExitCode::SUCCESS)
}

/// The folder of cargo-deb; built once and kept.
fn cargo_deb() -> anyhow::Result<PathBuf> {
    let home = linker::cache()?.join(format!("cargo-deb-{VERSION}"));
    let folder = home.join("bin");
    if !folder.join("cargo-deb").is_file() {
        let mut install = Command::new("cargo");
        install.args(["install", "cargo-deb", "--locked", "--version", VERSION, "--root"]).arg(&home);
        run(&mut install)?;
    }
    Ok(folder)
}
