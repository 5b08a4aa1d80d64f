//! `cargo xtask fuzz`: builds and runs the targets in `fuzz/`.

use std::process::{Command, ExitCode};

use clap::Args;

use crate::{
    build, command,
    setup::{self, Need},
};

#[derive(Args)]
pub(crate) struct Options {
    /// config, conntrack, import, packet, request, rule or socket; all in turn if none is named
    target: Option<String>,
    /// For each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the sequence of inputs begins
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn main(options: &Options) -> anyhow::Result<ExitCode> {
    let toolchain = setup::toolchain(Need::Build)?;
    let mut build = toolchain.command("cargo");
    command::run(build.args(["build", "--locked", "--profile", "fuzz", "--package", "dataplane-fuzz"]))?;
    let mut fuzz = Command::new(build::target().join("fuzz/dataplane-fuzz"));
    fuzz.args(&options.target).arg("--seconds").arg(options.seconds.to_string());
    if let Some(seed) = options.seed {
        fuzz.arg("--seed").arg(seed.to_string());
    }
    command::run(&mut fuzz)?;
    Ok(ExitCode::SUCCESS)
}
