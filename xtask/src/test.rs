//! `cargo xtask test`: all tests that this machine can run.

use std::process::ExitCode;

use anyhow::ensure;
use clap::Args;

use crate::{
    build, command, deb,
    lane::{self, Show},
    lint, oracle,
    setup::{self, Need},
    tally::Tally,
    vm,
};

/// So many failed tests of a run with namespaces and traffic run once more, alone: on a busy machine, a host that is not
/// served for a second fails a test of ours. Both results are told.
const UNSTEADY: usize = 4;

#[derive(Args)]
pub(crate) struct Options {
    /// Only tests whose name contains one of these; `vm` first: in guests with other kernels; `deb`: the package,
    /// from install to purge
    names: Vec<String>,
    /// With `oracle`: frames to compare
    #[arg(long)]
    packets: Option<u64>,
    /// With `oracle`: what the frames are made from
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn main(options: &Options) -> anyhow::Result<ExitCode> {
    let Options { names, packets, seed } = options;
    let is_oracle = matches!(names.as_slice(), [name] if name == "oracle");
    if is_oracle && (packets.is_some() || seed.is_some()) {
        return oracle::main(*packets, *seed);
    }
    ensure!(packets.is_none() && seed.is_none(), "--packets and --seed belong to `cargo xtask test oracle`");
    let tally = match names.split_first() {
        Some((first, names)) if first == "vm" => vm::all(names)?,
        Some((first, [])) if first == "deb" => deb::trial()?,
        _ => all(names)?,
    };
    Ok(tally.close())
}

/// Runs the host tests, then the kernel tests, then the trial of the package.
pub(crate) fn all(names: &[String]) -> anyhow::Result<Tally> {
    let toolchain = setup::toolchain(Need::Test)?;
    let binary = build::release(&toolchain)?;
    // Tests that say `ignore` need root; without it they count as skipped, with their reason.
    let privileged: &[&str] = if command::is_root() { &["--include-ignored"] } else { &[] };
    let mut tally = Tally::default();
    let mut host = lint::host();
    host.extend(["--exclude", "dataplane-tests"].map(str::to_owned));
    tally.add(lane::cargo_test(toolchain.command("cargo"), &host, privileged, names, Show::AtOnce)?);
    let kernel = lane::Kernel { toolchain: &toolchain, binary: &binary, privileged };
    let mut tests = kernel.all(names)?;
    let failed = tests.failed_tests();
    if failed.len() <= UNSTEADY {
        for name in failed {
            let second = kernel.alone(&name)?;
            tests.again(&name, &second);
        }
    }
    tally.add(tests);
    if names.is_empty() {
        tally.add(deb::trial()?);
    } else if tally.is_empty() {
        tally.trouble(format!("no test has a name with {}", names.join(" or ")));
    }
    Ok(tally)
}
