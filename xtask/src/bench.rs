//! `cargo xtask bench`: benchmarks side by side in one run.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::{
    build,
    command::run,
    demo::as_root,
    root,
    setup::{self, Need},
};

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure (forward, flow, bridge, route, filter, rules, proxy or all), and options of the bench
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn main(options: &Options) -> anyhow::Result<ExitCode> {
    let sources = ["tests/src/bin/bench.rs", "tests/src/bin/bench/main.rs", "tests/src/bench/main.rs"];
    if !sources.iter().any(|path| root().join(path).is_file()) {
        bail!("crate dataplane-tests has no binary `bench`: {} does not exist", sources[0]);
    }
    as_root("bench")?;
    let toolchain = setup::toolchain(Need::Run)?;
    let binary = build::release(&toolchain)?;
    run(toolchain
        .command("cargo")
        .args(["run", "--release", "--quiet", "--package", "dataplane-tests", "--bin", "bench", "--"])
        .args(&options.arguments)
        .env("DATAPLANE_BIN", binary))?;
    Ok(ExitCode::SUCCESS)
}
