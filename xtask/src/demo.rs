//! `cargo xtask demo`: everything from a fresh machine to packets through the router.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::{
    build,
    command::{self, run},
    setup::{self, Need},
};

#[derive(Args)]
pub(crate) struct Options {
    /// Passed on to the demo
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn main(options: &Options) -> anyhow::Result<ExitCode> {
    as_root("demo")?;
    let toolchain = setup::toolchain(Need::Run)?;
    let binary = build::release(&toolchain)?;
    run(toolchain
        .command("cargo")
        .args(["run", "--release", "--quiet", "--package", "dataplane-tests", "--bin", "demo", "--"])
        .args(&options.arguments)
        .env("DATAPLANE_BIN", binary))?;
    Ok(ExitCode::SUCCESS)
}

/// Network namespaces and BPF programs are root's.
pub(crate) fn as_root(verb: &str) -> anyhow::Result<()> {
    if !command::is_root() {
        bail!(
            "network namespaces and BPF programs need root; run\n    sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask {verb}"
        );
    }
    Ok(())
}
