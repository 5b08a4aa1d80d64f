//! `cargo xtask fuzz`: mutates good inputs and feeds them to what reads them.
//!
//! Plain binaries for the stable compiler: mutation of a corpus, without guidance by coverage. What a target asks of its
//! subject is said in its file. An input that breaks it is written to `fuzz/found/` and printed.

mod mutate;
mod target;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;

use target::TARGETS;

/// Feeds mutated inputs to a target, or to each in turn.
#[derive(Parser)]
struct Options {
    /// config, conntrack, import, packet, request, rule or socket
    target: Option<String>,
    /// For each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the sequence of inputs begins
    #[arg(long)]
    seed: Option<u64>,
    /// Try this file alone
    #[arg(long, value_name = "FILE")]
    input: Option<std::path::PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let chosen: Vec<_> =
        TARGETS.iter().filter(|target| options.target.as_ref().is_none_or(|name| name == target.name)).collect();
    anyhow::ensure!(
        !chosen.is_empty(),
        "there is no such target; take config, conntrack, import, packet, request, rule or socket"
    );
    if let Some(path) = &options.input {
        let input = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        for target in &chosen {
            (target.feed)(&input);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for target in chosen {
        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
        let mut random = fastrand::Rng::with_seed(seed);
        let corpus = (target.corpus)(&root.join(".."))?;
        let (start, mut inputs, mut broken, mut slowest) = (Instant::now(), 0_u64, 0_u64, Duration::ZERO);
        while start.elapsed() < Duration::from_secs(options.seconds) && broken < 10 {
            let input = mutate::mutate(&corpus, target.words, &mut random);
            let before = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| (target.feed)(&input)));
            let took = before.elapsed();
            inputs += 1;
            if took > slowest {
                slowest = took;
            }
            // A reader that hangs on a few kilobytes is a find as well.
            if outcome.is_err() || took > Duration::from_secs(2) {
                broken += 1;
                let path = root.join("found").join(format!("{}-{seed:x}-{inputs}", target.name));
                fs::create_dir_all(root.join("found"))?;
                fs::write(&path, &input)?;
                println!("{}: {} after {took:?}", target.name, path.display());
            }
        }
        let seconds = start.elapsed().as_secs();
        println!(
            "{:<8} {inputs} inputs in {seconds} s from seed {seed}, slowest {slowest:?}, {broken} found",
            target.name
        );
        found += broken;
    }
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
