//! The demo: two hosts and a router in namespaces, `dataplane` on the router's ports, traffic, a filter rule, counters, and
//! the speed beside the kernel's own path. Leaves nothing behind, also when it fails or is interrupted.

mod show;
mod speed;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use dataplane_tests::lab::{
    self, Daemon, Lab, Leftovers, Need, ROUTER_CLIENT, ROUTER_SERVER, balanced,
    traffic::{self, Family},
};
use serde::Deserialize;
use show::{Part, Show};

/// The ports of the router.
const PORTS: [&str; 2] = [ROUTER_CLIENT.port, ROUTER_SERVER.port];
/// What the rule of the demo drops, and what it must not.
const DROPPED: u16 = 5301;
const UNTOUCHED: u16 = 5302;
/// How many datagrams are sent to see a rule act.
const DATAGRAMS: u32 = 10;
/// Whether the user has interrupted the demo.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Whether a bench runs, which cleans up after itself.
static MEASURING: AtomicBool = AtomicBool::new(false);

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

fn main() -> ExitCode {
    let options = Options::parse();
    let show = Show::start(plan(&options));
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
    let tools = ["ip", "nsenter", "ping", "iperf3", "ss", "bpftool", "nft"].map(Need::Tool);
    for need in [Need::Root].into_iter().chain(tools) {
        if let Some(reason) = need.unmet() {
            bail!("the demo {reason}; start it with `cargo xtask demo`, as root");
        }
    }
    ctrlc::set_handler(|| {
        eprintln!("interrupted: cleaning up");
        INTERRUPTED.store(true, Ordering::Relaxed);
        // Benches take away what they made as soon as they see it; the laboratory is taken away here.
        if !MEASURING.load(Ordering::Relaxed) {
            lab::clear_own();
            std::process::exit(130);
        }
    })?;
    show.part();
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
    MEASURING.store(true, Ordering::Relaxed);
    interrupted()?;
    speed::packets(show)?;
    before.check()
}

/// An error once the user has interrupted the demo.
fn interrupted() -> anyhow::Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// What the demo does, and about how long each part takes.
fn plan(options: &Options) -> Vec<Part> {
    let seconds = Duration::from_secs;
    vec![
        Part { name: "a router between two hosts, and a rule", length: seconds(6) },
        Part { name: "streams, beside the kernel", length: speed::streams_length(seconds(options.seconds)) },
        Part { name: "the cost of a packet, beside the kernel", length: speed::packets_length() },
    ]
}

/// A rate in bits per second, for people.
fn bits(rate: f64) -> String {
    format!("{:.2} Gbit/s", rate / 1e9)
}

fn tour(options: &Options, show: &Show, lab: &Lab, daemon: &Daemon) -> anyhow::Result<()> {
    let said = attach(daemon)?;
    show.detail(&said);
    show.step("`dataplane attach client0 server0`, then `dataplane port list`:");
    show.detail(&daemon.cli(&["port", "list"])?);
    let server = traffic::iperf_server(lab)?;
    crossing(show, lab)?;
    filter(show, lab, daemon)?;
    show.step("`dataplane stats`; every packet received was forwarded, delivered, dropped or passed to the kernel:");
    show.detail(&daemon.cli(&["stats"])?);
    let stats = daemon.stats()?;
    balanced(&stats)?;
    ensure!(stats.totals.forwarded > 0, "traffic got through, but dataplane forwarded none of it: {:?}", stats.reasons);
    speed::streams(show, lab, daemon, Duration::from_secs(options.seconds))?;
    drop(server);
    Ok(())
}

/// Attaches both ports; returns what the command printed for people, warnings among it.
fn attach(daemon: &Daemon) -> anyhow::Result<String> {
    let said = daemon.attempt(&["attach", PORTS[0], PORTS[1]])?;
    let text = said.stderr.clone();
    said.checked().context("the router's ports could not be attached")?;
    Ok(text)
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
    show.detail(&daemon.cli(&["rule", "list", "forward"])?);
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
