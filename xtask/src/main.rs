//! Set-up, build, demo, test, bench and lint of dataplane: one file per verb.

mod bench;
mod border;
mod build;
mod ci;
mod circle;
mod command;
mod compiler;
mod deb;
mod demo;
mod fuzz;
mod lane;
mod linker;
mod lint;
mod oracle;
mod package;
mod prose;
mod setup;
mod source;
mod tally;
mod test;
mod vm;
mod words;

use std::{path::Path, process::ExitCode};

use clap::Parser;

/// Builds, shows, tests and measures dataplane. Every verb finds or installs what it needs first.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
enum Verb {
    /// Find or install the BPF toolchain and the tools of tests and demo
    Setup(setup::Options),
    /// Release build; the binary is target/release/dataplane, with the BPF object embedded
    Build,
    /// Three namespaces, traffic through the router, the filter, the counters, the speed (needs root)
    Demo(demo::Options),
    /// All tests that this machine can run, or `vm`: those for other kernels; what had to be skipped is printed with its reason
    Test(test::Options),
    /// Benchmarks, side by side in one run (needs root)
    Bench(bench::Options),
    /// Mutated inputs for everything that reads what others wrote
    Fuzz(fuzz::Options),
    /// A Debian package of the release build
    Deb,
    /// Formatting, clippy for host and BPF, borders between modules, documentation
    Lint,
    /// All that CI runs: lint, then test
    Ci,
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::Setup(options) => setup::main(&options),
        Verb::Build => build::main(),
        Verb::Demo(options) => demo::main(&options),
        Verb::Test(options) => test::main(&options),
        Verb::Bench(options) => bench::main(&options),
        Verb::Fuzz(options) => fuzz::main(&options),
        Verb::Deb => deb::main(),
        Verb::Lint => lint::main(),
        Verb::Ci => ci::main(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The project's root: the folder of the workspace's Cargo.toml.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}
