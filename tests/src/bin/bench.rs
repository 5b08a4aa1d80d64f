//! `bench`: measures what the project promises to make fast.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use dataplane_tests::bench::{
    daemon, filter,
    forward::{self, Family, Settings, Suite},
    namespace, proxy, report, route, rules,
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
    /// Connections that netfilter follows: the kernel, and past it.
    Flow(Forward),
    /// Bridges: frames between members of one, and packets routed between two.
    Bridge(Forward),
    /// Route lookups: the project's tables, `LPM_TRIE`, `bpf_fib_lookup`.
    Route(Route),
    /// Rules: sets of a realistic shape, from a thousand to a hundred thousand.
    Filter(Filter),
    /// Rules under traffic: fresh sets of three shapes, many flows in turn, beside no rules and another build.
    Rules(RuleSets),
    /// Requests through Squid and `HAProxy`, by rules of nft and by ours.
    Proxy(Proxy),
    /// All but `rules` and `proxy`, with these options for the first; `--quick` for all.
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
    /// Only the contestant with this name, or those whose name contains this (repeatable), beside the floors and the kernel.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Two rounds of 0.2 s: shows that everything works, and no more.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Compare with another build of `dataplane`, and this build with itself (`forward` only).
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
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

#[derive(Debug, Args)]
struct Proxy {
    /// Times that each side is measured.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of one measurement.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    seconds: f64,
    /// CPU to run on; the last one if not given.
    #[arg(long)]
    cpu: Option<usize>,
    /// Where proxy.json goes.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    output: PathBuf,
}

fn proxy(options: &Proxy) -> Result<()> {
    let last = std::thread::available_parallelism().context("counting CPUs")?.get() - 1;
    let settings =
        proxy::Settings { rounds: options.rounds as usize, seconds: options.seconds, cpu: options.cpu.unwrap_or(last) };
    let rows = proxy::run(&settings, &mut |step| eprintln!("bench: {step}"))?;
    print!("{}", proxy::text(&settings, &rows));
    write(
        &options.output,
        "proxy.json",
        &serde_json::json!({ "command": command(), "settings": settings, "rows": rows }),
    )
}

/// Writes figures, and says where.
fn write(folder: &Path, name: &str, document: &serde_json::Value) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(name);
    std::fs::write(&path, serde_json::to_string_pretty(document)?).with_context(|| path.display().to_string())?;
    eprintln!("bench: figures in {}", path.display());
    Ok(())
}

#[derive(Debug, Args)]
struct Filter {
    /// Where filter sets are, in the format of `ClassBench`; when it is not there, sets are made.
    #[arg(long, value_name = "DIR", default_value = "../shared/data/classbench")]
    sets: PathBuf,
    /// Only sets whose name contains this (repeatable).
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Times that each set is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets drawn from the rules of a set.
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    packets: u32,
    /// Where filter.json and filter.svg go.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    output: PathBuf,
}

fn filter(arguments: &Filter) -> Result<()> {
    let settings = filter::Settings {
        directory: arguments.sets.clone(),
        only: arguments.only.clone(),
        rounds: arguments.rounds as usize,
        packets: arguments.packets as usize,
    };
    let rows = filter::run(&settings, &mut |step| eprintln!("bench: {step}"))?;
    print!("{}", filter::text(&rows));
    std::fs::create_dir_all(&arguments.output)?;
    let path = arguments.output.join("filter.json");
    std::fs::write(&path, serde_json::to_string_pretty(&(&settings, &rows))?)?;
    std::fs::write(arguments.output.join("filter.svg"), filter::chart(&rows))?;
    eprintln!("bench: figures in {0}/filter.json, chart in {0}/filter.svg", arguments.output.display());
    Ok(())
}

#[derive(Debug, Args)]
struct RuleSets {
    /// Rules of a set.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rules: u32,
    /// Sets, of the three shapes in turn.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    sets: u32,
    /// Times that each set is measured.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of one measurement.
    #[arg(long, default_value_t = 0.1, value_parser = seconds)]
    seconds: f64,
    /// Seed of the first set, the next has the next number; another one each time if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// CPU that the whole chain runs on; the last one if not given.
    #[arg(long)]
    cpu: Option<usize>,
    /// Measure another build of `dataplane`, too.
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// Where rules.json goes.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    output: PathBuf,
}

fn rules(options: &RuleSets) -> Result<()> {
    let last = std::thread::available_parallelism().context("counting CPUs")?.get() - 1;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("reading the clock")?;
    if let Some(other) = &options.against {
        daemon::compare_with(other)?;
    }
    let settings = rules::Settings {
        rules: options.rules as usize,
        sets: options.sets as usize,
        rounds: options.rounds as usize,
        seconds: options.seconds,
        seed: options.seed.unwrap_or(now.as_secs()),
        cpu: options.cpu.unwrap_or(last),
        against: options.against.is_some(),
    };
    let outcome = rules::run(&settings, &mut |step| eprintln!("bench: {step}"))?;
    print!("{}", rules::text(&settings, &outcome));
    write(
        &options.output,
        "rules.json",
        &serde_json::json!({ "command": command(), "settings": settings, "outcome": outcome }),
    )
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let fits = (0.01..=60.0).contains(&seconds);
    if fits { Ok(seconds) } else { Err(format!("{seconds} is not between 0.01 and 60 s")) }
}

fn main() -> ExitCode {
    match measure(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(verb: Verb) -> Result<()> {
    match verb {
        Verb::Forward(forward) => {
            run(&forward, if forward.against.is_some() { Suite::Against } else { Suite::Forward })
        }
        Verb::Flow(forward) => run(&forward, Suite::Flow),
        Verb::Bridge(forward) => run(&forward, Suite::Bridge),
        Verb::Route(route) => look_up(&route),
        Verb::Proxy(options) => proxy(&options),
        Verb::Filter(arguments) => filter(&arguments),
        Verb::Rules(options) => rules(&options),
        Verb::All(forward) => {
            run(&forward, Suite::Forward)?;
            let (route, filter): (&[_], &[_]) = if forward.quick {
                (&["--routes", "10000", "--rounds", "2"], &["--only", "1k", "--rounds", "2"])
            } else {
                (&[], &[])
            };
            let output = forward.output.to_string_lossy();
            for (verb, options) in [("route", route), ("filter", filter)] {
                let words = ["bench", verb, "--output", &output].into_iter().chain(options.iter().copied());
                measure(Cli::try_parse_from(words)?.verb)?;
            }
            Ok(())
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
    write(
        &options.output,
        "route.json",
        &serde_json::json!({ "command": command(), "settings": settings, "outcome": outcome }),
    )
}

fn run(forward: &Forward, suite: Suite) -> Result<()> {
    let last = std::thread::available_parallelism().context("counting CPUs")?.get() - 1;
    let settings = Settings {
        routes: forward.routes as usize,
        rounds: if forward.quick { 2 } else { forward.rounds as usize },
        seconds: if forward.quick { 0.2 } else { forward.seconds },
        frames: forward.frames,
        families: forward.family.clone(),
        cpu: forward.cpu.unwrap_or(last),
        suite,
        only: forward.only.clone(),
    };
    if let Some(other) = &forward.against {
        daemon::compare_with(other)?;
    }
    let command = command();
    let outcome = forward::run(&settings, &mut |step| {
        eprintln!("bench: {step}");
        Ok(())
    })?;
    let rows = report::rows(&outcome, &settings.families);
    print!("{}", report::text(&outcome, &settings, &rows, &command)?);
    report::write(&forward.output, &outcome, &settings, &rows, &command)?;
    let (folder, name) = (forward.output.display(), suite.name());
    eprintln!("bench: figures in {folder}/{name}.json, chart in {folder}/{name}.svg");
    outcome.plausible()
}

/// The command that repeats this run.
fn command() -> String {
    let words = std::env::args().skip(1).map(|word| if word.contains(' ') { format!("'{word}'") } else { word });
    format!("cargo run --release -p dataplane-tests --bin bench -- {}", words.collect::<Vec<_>>().join(" "))
}
