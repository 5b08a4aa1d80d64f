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
    println!("1 of 3: compiler, linker and programs");
    let toolchain = setup::toolchain(Need::Demo)?;
    println!("2 of 3: build; minutes the first time, seconds afterwards");
    let binary = build::release_with(&toolchain, &["--package", "dataplane-tests", "--bin", "demo"])?;
    println!("3 of 3: the demo");
    let mut demo = toolchain.command(&binary.with_file_name("demo").to_string_lossy());
    run(demo.args(&options.arguments).env("DATAPLANE_BIN", binary))?;
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
