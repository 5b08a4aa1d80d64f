//! `cargo xtask test`: all tests that this machine can run.

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::{
    build,
    command::{self, line, run},
    lint, oracle,
    setup::{self, Need},
    tally::{Tally, Transcript},
    vm,
};

/// So many failed tests of a run with namespaces and traffic run once more, alone: on a busy machine, a host that is not
/// served for a second fails a test of ours. Both results are told.
const UNSTEADY: usize = 2;

#[derive(Args)]
pub(crate) struct Options {
    /// Only tests whose name contains one of these; `vm` first: in guests with other kernels
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
        _ => all(names)?,
    };
    Ok(tally.close())
}

/// Runs the host tests, then the kernel tests.
pub(crate) fn all(names: &[String]) -> anyhow::Result<Tally> {
    let toolchain = setup::toolchain(Need::Test)?;
    let binary = build::release(&toolchain)?;
    // Tests that say `ignore` need root; without it they count as skipped, with their reason.
    let privileged: &[&str] = if command::is_root() { &["--include-ignored"] } else { &[] };
    let mut tally = Tally::default();
    let mut host = lint::host();
    host.extend(["--exclude", "dataplane-tests"].map(str::to_owned));
    cargo_test(toolchain.command("cargo"), &host, privileged, names, &mut tally)?;
    let kernel = |harness: &[&str], names: &[String], tally: &mut Tally| {
        let mut cargo = toolchain.command("cargo");
        cargo.env("DATAPLANE_BIN", &binary);
        // One at a time: they count what this process has made, and measure time.
        let harness = [privileged, &["--test-threads=1"], harness].concat();
        cargo_test(cargo, &["--package", "dataplane-tests"].map(str::to_owned), &harness, names, tally)
    };
    let mut tests = Tally::default();
    kernel(&[], names, &mut tests)?;
    let failed = tests.failed_tests();
    if failed.len() <= UNSTEADY {
        for name in failed {
            let mut second = Tally::default();
            kernel(&["--exact"], std::slice::from_ref(&name), &mut second)?;
            tests.again(&name, &second);
        }
    }
    tally.add(tests);
    if !names.is_empty() && tally.is_empty() {
        tally.trouble(format!("no test has a name with {}", names.join(" or ")));
    }
    Ok(tally)
}

/// One `cargo test`: shows what it prints and counts; in CI it shows only what is no pass.
fn cargo_test(
    mut cargo: Command,
    packages: &[String],
    harness: &[&str],
    names: &[String],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let terse = env::var_os("CI").is_some();
    cargo.args(["test", "--no-fail-fast"]).args(packages);
    if terse {
        // What it builds, as quietly as CI wants it.
        let mut build = Command::new(cargo.get_program());
        build.envs(cargo.get_envs().filter_map(|(name, value)| Some((name, value?)))).args(cargo.get_args());
        if let Err(error) = run(build.arg("--no-run")) {
            tally.trouble(error.to_string());
            return Ok(());
        }
    }
    cargo.args(["--", "--show-output", "--color=never"]).args(harness).args(names);
    println!("$ {}", line(&cargo));
    // A quiet cargo makes the harness print dots, and a backtrace hides why a test failed.
    cargo.env("CARGO_TERM_QUIET", "false").env("RUST_BACKTRACE", "0");
    let mut child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cargo did not start")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut transcript = Transcript::default();
    for text in BufReader::new(stdout).lines() {
        let text = text.context("the output of cargo test is not text")?;
        let worth = transcript.read(&text);
        if worth && (!terse || transcript.is_news(&text)) {
            println!("{text}");
        }
    }
    let status = child.wait()?;
    let tests = transcript.finish();
    if !status.success() && tests.failed == 0 {
        tally.trouble(format!("`{}` ended with {status}: it did not build, or a test program died", line(&cargo)));
    }
    tally.add(tests);
    Ok(())
}
