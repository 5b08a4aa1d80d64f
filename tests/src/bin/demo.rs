//! The demo: two hosts and a router in namespaces, `dataplane` on the router's ports, traffic, a filter rule, counters, and
//! the speed beside the kernel's own path. Leaves nothing behind, also when it fails or is interrupted.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use dataplane_tests::lab::{
    self, Daemon, Lab, Leftovers, Need, ROUTER_CLIENT, ROUTER_SERVER, balanced,
    traffic::{self, Family},
};
use serde::Deserialize;

/// The ports of the router.
const PORTS: [&str; 2] = [ROUTER_CLIENT.port, ROUTER_SERVER.port];
/// What the rule of the demo drops, and what it must not.
const DROPPED: u16 = 5301;
const UNTOUCHED: u16 = 5302;
/// How many datagrams are sent to see a rule act.
const DATAGRAMS: u32 = 10;
/// How many times kernel and dataplane take turns; the medians are shown.
const ROUNDS: usize = 3;

/// Shows dataplane at work, in three network namespaces of its own.
#[derive(Parser)]
struct Options {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10))]
    seconds: u64,
}

/// A rule in `rule list -j`.
#[derive(Deserialize)]
struct Rule {
    handle: u64,
    #[serde(rename = "rule")]
    text: String,
    packets: u64,
}

/// Prints what is being done, with the time since the start.
struct Show {
    start: Instant,
}

impl Show {
    fn step(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.start.elapsed().as_secs_f64());
    }

    fn detail(text: &str) {
        for line in text.trim_end().lines() {
            println!("          {line}");
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let show = Show { start: Instant::now() };
    match run(&options, &show) {
        Ok(()) => {
            show.step("done, nothing left behind");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: the demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, show: &Show) -> anyhow::Result<()> {
    let tools = ["ip", "nsenter", "ping", "iperf3", "ss", "bpftool"].map(Need::Tool);
    for need in [Need::Root].into_iter().chain(tools) {
        if let Some(reason) = need.unmet() {
            bail!("the demo {reason}; start it with `cargo xtask demo`, as root");
        }
    }
    ctrlc::set_handler(|| {
        eprintln!("interrupted: cleaning up");
        lab::clear_own();
        std::process::exit(130);
    })?;
    let before = Leftovers::now()?;
    let lab = Lab::router().context("the laboratory could not be made")?;
    show.step("client (198.18.0.2, 2001:db8:0::2) -- router -- server (198.18.1.2, 2001:db8:1::2): three namespaces");
    let daemon = lab.daemon("router").context("the daemon could not be started")?;
    show.step("`dataplane run` answers on its socket");
    let outcome = tour(options, show, &lab, &daemon);
    if outcome.is_err() {
        eprintln!("the daemon's log:\n{}", daemon.log());
    }
    let stopped = daemon.stop().context("the daemon could not be stopped cleanly");
    drop(lab);
    outcome?;
    stopped?;
    show.step("detached, daemon ended, namespaces removed");
    before.check()
}

fn tour(options: &Options, show: &Show, lab: &Lab, daemon: &Daemon) -> anyhow::Result<()> {
    attach(daemon)?;
    show.step("`dataplane attach client0 server0`, then `dataplane port list`:");
    Show::detail(&daemon.cli(&["port", "list"])?);
    let server = traffic::iperf_server(lab)?;
    crossing(show, lab)?;
    filter(show, lab, daemon)?;
    show.step("`dataplane stats`; every packet received was forwarded, delivered, dropped or passed to the kernel:");
    Show::detail(&daemon.cli(&["stats"])?);
    let stats = daemon.stats()?;
    balanced(&stats)?;
    ensure!(stats.totals.forwarded > 0, "traffic got through, but dataplane forwarded none of it: {:?}", stats.reasons);
    compare(show, lab, daemon, Duration::from_secs(options.seconds))?;
    drop(server);
    Ok(())
}

fn attach(daemon: &Daemon) -> anyhow::Result<()> {
    let said = daemon.attempt(&["attach", PORTS[0], PORTS[1]])?;
    // Warnings, of netfilter rules that are bypassed, say, are prose on stderr.
    Show::detail(&said.stderr);
    said.checked().context("the router's ports could not be attached").map(drop)
}

fn detach(daemon: &Daemon) -> anyhow::Result<()> {
    daemon.cli(&["detach", PORTS[0], PORTS[1]]).context("the router's ports could not be detached").map(drop)
}

/// ICMP, UDP and TCP, over both families.
fn crossing(show: &Show, lab: &Lab) -> anyhow::Result<()> {
    for family in Family::BOTH {
        let name = family.name();
        let answered = traffic::ping(lab, family, 3)?;
        ensure!(answered == 3, "only {answered} of 3 pings over {name} were answered");
        let arrived = traffic::datagrams(lab, family, UNTOUCHED, DATAGRAMS)?;
        ensure!(arrived == DATAGRAMS, "only {arrived} of {DATAGRAMS} datagrams over {name} arrived");
        let rate = traffic::tcp(lab, family, Duration::from_secs(1))?;
        ensure!(rate > 1e6, "TCP over {name} carries only {}", bits(rate));
        show.step(&format!(
            "{name}: 3 of 3 pings, {arrived} of {DATAGRAMS} datagrams, TCP {} (iperf3, 1 s)",
            bits(rate)
        ));
    }
    Ok(())
}

/// A rule is added, seen to act and to count, and removed.
fn filter(show: &Show, lab: &Lab, daemon: &Daemon) -> anyhow::Result<()> {
    let text = format!("udp dport {DROPPED} drop");
    daemon.cli(&["rule", "add", "forward", &text]).with_context(|| format!("rule `{text}` was refused"))?;
    show.step(&format!("`dataplane rule add forward '{text}'`"));
    for family in Family::BOTH {
        let name = family.name();
        let dropped = traffic::datagrams(lab, family, DROPPED, DATAGRAMS)?;
        let untouched = traffic::datagrams(lab, family, UNTOUCHED, DATAGRAMS)?;
        ensure!(
            dropped == 0,
            "the rule is there, and {dropped} of {DATAGRAMS} datagrams over {name} arrived all the same"
        );
        ensure!(
            untouched == DATAGRAMS,
            "only {untouched} of {DATAGRAMS} datagrams to another port over {name} arrived"
        );
        show.step(&format!(
            "{name}: 0 of {DATAGRAMS} datagrams to port {DROPPED} arrive, {untouched} to port {UNTOUCHED}"
        ));
    }
    Show::detail(&daemon.cli(&["rule", "list", "forward"])?);
    let rules: Vec<Rule> = daemon.read(&["rule", "list", "forward"])?;
    let [rule] = rules.as_slice() else { bail!("chain forward has {} rules, one was added", rules.len()) };
    let expected = u64::from(DATAGRAMS) * 2;
    ensure!(rule.packets == expected, "rule `{}` counted {} packets, {expected} were sent", rule.text, rule.packets);
    let handle = rule.handle.to_string();
    daemon.cli(&["rule", "del", "forward", "handle", &handle]).context("the rule could not be removed")?;
    let arrived = traffic::datagrams(lab, Family::V4, DROPPED, DATAGRAMS)?;
    ensure!(arrived == DATAGRAMS, "the rule is gone, and only {arrived} of {DATAGRAMS} datagrams arrive");
    show.step(&format!("the rule counted {} packets; removed, all datagrams arrive again", rule.packets));
    Ok(())
}

/// What is measured.
#[derive(Clone, Copy)]
enum Measure {
    Tcp(Family),
    Packets(Family),
}

impl Measure {
    const ALL: [Self; 4] =
        [Self::Tcp(Family::V4), Self::Tcp(Family::V6), Self::Packets(Family::V4), Self::Packets(Family::V6)];

    fn take(self, lab: &Lab, length: Duration) -> anyhow::Result<f64> {
        match self {
            Self::Tcp(family) => traffic::tcp(lab, family, length),
            Self::Packets(family) => traffic::flood(lab, family, length),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Tcp(family) => format!("TCP, {}", family.name()),
            Self::Packets(family) => format!("18-byte UDP, {}", family.name()),
        }
    }

    fn text(self, value: f64) -> String {
        match self {
            Self::Tcp(_) => bits(value),
            Self::Packets(_) => format!("{:.0} kpps", value / 1e3),
        }
    }
}

/// Kernel and dataplane take turns on the same machine in the same minute.
fn compare(show: &Show, lab: &Lab, daemon: &Daemon, length: Duration) -> anyhow::Result<()> {
    let mut kernel = vec![Vec::new(); Measure::ALL.len()];
    let mut ours = kernel.clone();
    let mut attached = true;
    for round in 1..=ROUNDS {
        // The one that ended a round begins the next: what drifts on the machine hits both.
        for path in [attached, !attached] {
            match (attached, path) {
                (true, false) => detach(daemon)?,
                (false, true) => attach(daemon)?,
                _ => {}
            }
            attached = path;
            let (results, place) =
                if path { (&mut ours, "through dataplane") } else { (&mut kernel, "on the kernel's own path") };
            measure(lab, length, results).context(place)?;
        }
        show.step(&format!("speed: round {round} of {ROUNDS}, attached and detached in turn"));
    }
    table(kernel, ours);
    Show::detail(
        "Medians of all rounds; where the rounds' ratios differ much, something else kept the machine busy. One processor\n\
         does the sender's system calls, the router's work and the receiver's socket, so the ratios of packets understate\n\
         the difference between the paths: `cargo xtask bench forward` measures the paths alone.",
    );
    Ok(())
}

fn table(kernel: Vec<Vec<f64>>, ours: Vec<Vec<f64>>) {
    println!("\n          {:<20}{:>14}{:>14}{:>8}   by round", "", "kernel", "dataplane", "ratio");
    for ((measure, kernel), ours) in Measure::ALL.into_iter().zip(kernel).zip(ours) {
        let ratios: Vec<_> = kernel.iter().zip(&ours).map(|(kernel, ours)| format!("{:.2}", ours / kernel)).collect();
        let (kernel, ours) = (median(kernel), median(ours));
        println!(
            "          {:<20}{:>14}{:>14}{:>8.2}   {}",
            measure.name(),
            measure.text(kernel),
            measure.text(ours),
            ours / kernel,
            ratios.join(" ")
        );
    }
    println!();
}

fn measure(lab: &Lab, length: Duration, results: &mut [Vec<f64>]) -> anyhow::Result<()> {
    for (measure, results) in Measure::ALL.into_iter().zip(results) {
        results.push(measure.take(lab, length)?);
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn bits(rate: f64) -> String {
    format!("{:.2} Gbit/s", rate / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_median() {
        assert!((median(vec![9.0, 1.0, 3.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(vec![7.0]) - 7.0).abs() < f64::EPSILON);
    }

    #[test]
    fn rates_are_written_with_their_unit() {
        assert_eq!(bits(12_345_000_000.0), "12.35 Gbit/s");
        assert_eq!(Measure::Packets(Family::V6).text(734_499.0), "734 kpps");
    }
}
