//! `bench`: measures what the project promises to make fast.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use dataplane_tests::bench::{
    forward::{self, Family, Settings},
    namespace, report, route,
    table::Frames,
};

/// Measures side by side, in namespaces of its own; needs root.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Forwarding: floors, the kernel, nft, dataplane, others.
    Forward(Forward),
    /// Route lookups: the project's tables, `LPM_TRIE`, `bpf_fib_lookup`.
    Route(Route),
    /// Packet filters; comes later.
    Filter,
    /// Everything there is.
    All(Forward),
}

#[derive(Debug, Args)]
struct Forward {
    /// IPv4 routes in the device under test; IPv6 has as many up to 1,000, else a quarter.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    routes: u32,
    /// Times that each contestant is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of one measurement.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    seconds: f64,
    /// Destinations: 4,096 or 1,048,576.
    #[arg(long, value_enum, default_value_t = Frames::Hot)]
    frames: Frames,
    /// Kinds of packets.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ipv4,ipv6,mixed")]
    family: Vec<Family>,
    /// CPU that the whole chain runs on; the last one if not given.
    #[arg(long)]
    cpu: Option<usize>,
    /// Only contestants whose name contains this (repeatable), beside the floors and the kernel.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Two rounds of 0.2 s: shows that everything works, and no more.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Where forward.json and forward.svg go.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct Route {
    /// IPv4 routes; a quarter as many of IPv6 (as many up to 1,000).
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    routes: u32,
    /// Times that each contestant is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of one measurement.
    #[arg(long, default_value_t = 0.2, value_parser = seconds)]
    seconds: f64,
    /// CPU to run on; the last one if not given.
    #[arg(long)]
    cpu: Option<usize>,
    /// Where route.json goes.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    output: PathBuf,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let fits = (0.01..=60.0).contains(&seconds);
    if fits { Ok(seconds) } else { Err(format!("{seconds} is not between 0.01 and 60 s")) }
}

fn main() -> ExitCode {
    let forward = match Cli::parse().verb {
        Verb::Forward(forward) | Verb::All(forward) => forward,
        Verb::Route(route) => return done(look_up(&route)),
        Verb::Filter => return later("filter"),
    };
    done(run(&forward))
}

fn done(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn look_up(options: &Route) -> Result<()> {
    let last = std::thread::available_parallelism().context("counting CPUs")?.get() - 1;
    let settings = route::Settings {
        routes: options.routes as usize,
        rounds: options.rounds as usize,
        seconds: options.seconds,
        cpu: options.cpu.unwrap_or(last),
    };
    namespace::sweep()?;
    let outcome = route::run(&settings, &mut |step| eprintln!("bench: {step}"))?;
    print!("{}", route::text(&outcome));
    std::fs::create_dir_all(&options.output)?;
    let path = options.output.join("route.json");
    let document = serde_json::json!({ "command": command(), "settings": settings, "outcome": outcome });
    std::fs::write(&path, serde_json::to_string_pretty(&document)?).with_context(|| path.display().to_string())?;
    eprintln!("bench: figures in {}", path.display());
    Ok(())
}

fn later(verb: &str) -> ExitCode {
    eprintln!("bench: `{verb}` comes later; there are `bench forward` and `bench route`");
    ExitCode::from(2)
}

fn run(forward: &Forward) -> Result<()> {
    let last = std::thread::available_parallelism().context("counting CPUs")?.get() - 1;
    let settings = Settings {
        routes: forward.routes as usize,
        rounds: if forward.quick { 2 } else { forward.rounds as usize },
        seconds: if forward.quick { 0.2 } else { forward.seconds },
        frames: forward.frames,
        families: forward.family.clone(),
        cpu: forward.cpu.unwrap_or(last),
        only: forward.only.clone(),
    };
    let command = command();
    let outcome = forward::run(&settings, &mut |step| eprintln!("bench: {step}"))?;
    let rows = report::rows(&outcome, &settings.families);
    print!("{}", report::text(&outcome, &settings, &rows, &command)?);
    report::write(&forward.output, &outcome, &settings, &rows, &command)?;
    eprintln!("bench: figures in {0}/forward.json, chart in {0}/forward.svg", forward.output.display());
    outcome.plausible()
}

/// The command that repeats this run.
fn command() -> String {
    let words = std::env::args().skip(1).map(|word| if word.contains(' ') { format!("'{word}'") } else { word });
    format!("cargo run --release -p dataplane-tests --bin bench -- {}", words.collect::<Vec<_>>().join(" "))
}
