//! `cargo xtask test oracle`: dataplane against the kernel, as many packets as one likes.

use std::process::ExitCode;

use crate::{
    build,
    command::run,
    demo::as_root,
    setup::{self, Need},
};

/// Runs the comparison; what is not said has the values of CI.
pub(crate) fn main(packets: Option<u64>, seed: Option<u64>) -> anyhow::Result<ExitCode> {
    as_root("test oracle")?;
    let toolchain = setup::toolchain(Need::Test)?;
    let binary = build::release(&toolchain)?;
    let mut cargo = toolchain.command("cargo");
    cargo
        .args(["run", "--quiet", "--package", "dataplane-tests", "--bin", "oracle", "--"])
        .env("DATAPLANE_BIN", binary);
    for (name, value) in [("--packets", packets), ("--seed", seed)] {
        if let Some(value) = value {
            cargo.args([name.to_owned(), value.to_string()]);
        }
    }
    run(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}
