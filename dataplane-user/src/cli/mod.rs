//! The command line: one file per object. It talks to the daemon over the control socket and never opens a map.
//!
//! Data goes to stdout, prose to stderr; the exit code is that of the operator's contract.

mod clock;
mod completions;
mod config;
mod doctor;
mod explain;
mod flow;
mod import;
mod lab;
mod metrics;
mod neigh;
mod port;
mod reason;
mod route;
mod rule;
mod run;
mod session;
mod set;
mod stats;
mod status;
mod table;
mod top;
mod trace;
mod units;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use self::session::Session;
use crate::{
    config::{ConfigError, LoadError},
    control::protocol::{Failure, FailureKind},
    import::ImportError,
};

/// Heading of the options that every verb has.
const GLOBAL: &str = "Global options";
/// Where the daemon listens by default.
pub const DEFAULT_SOCKET: &str = "/run/dataplane/dataplane.sock";

/// Router and packet filter at the network driver, following the kernel's tables
#[derive(Debug, Parser)]
#[command(
    name = "dataplane",
    version,
    after_help = "Examples:\n  dataplane run &\n  dataplane attach eth0 eth1\n  dataplane rule add forward tcp dport 23 drop\n  dataplane status\n\n\
                  Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 daemon unreachable, 5 rejected by validation, \
                  6 differences found, 7 degraded"
)]
pub struct Cli {
    /// Control socket of the daemon
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "PATH", env = "DATAPLANE_SOCKET", hide_env_values = true, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print JSON
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Status(status::Status),
    Run(run::Run),
    Attach(port::Attach),
    Detach(port::Detach),
    /// Interfaces at which the programs are attached
    #[command(subcommand)]
    Port(port::Port),
    /// Routes, mirrored from the kernel
    #[command(subcommand)]
    Route(route::Route),
    /// Neighbours, mirrored from the kernel
    #[command(subcommand)]
    Neigh(neigh::Neigh),
    /// Connections that netfilter lets through, and how they are carried
    #[command(subcommand)]
    Flow(flow::Flow),
    /// Rules of the filter
    #[command(subcommand)]
    Rule(rule::Rule),
    /// Named sets that rules match
    #[command(subcommand)]
    Set(set::Set),
    /// Config file and running config
    #[command(subcommand)]
    Config(config::Config),
    /// Rule sets of nft and iptables, translated to a config
    #[command(subcommand)]
    Import(import::Import),
    Stats(stats::Stats),
    /// Reasons for what became of packets
    #[command(subcommand)]
    Reason(reason::Verb),
    Metrics(metrics::Metrics),
    Explain(explain::Explain),
    Trace(trace::Trace),
    Capture(trace::Capture),
    Top(top::Top),
    /// A router between two hosts in network namespaces, to try things
    #[command(subcommand)]
    Lab(lab::Lab),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(completions::Man),
}

impl Cli {
    /// Runs the verb.
    ///
    /// # Errors
    /// Anything; [`report`] knows the exit code.
    pub fn dispatch(self) -> anyhow::Result<ExitCode> {
        let session = Session { socket: self.socket, json: self.json };
        match self.verb {
            Verb::Status(status) => status.dispatch(&session),
            Verb::Run(run) => run.dispatch(session.socket),
            Verb::Attach(attach) => attach.dispatch(&session),
            Verb::Detach(detach) => detach.dispatch(&session),
            Verb::Port(port) => port.dispatch(&session),
            Verb::Route(route) => route.dispatch(&session),
            Verb::Neigh(neigh) => neigh.dispatch(&session),
            Verb::Flow(flow) => flow.dispatch(&session),
            Verb::Rule(rule) => rule.dispatch(&session),
            Verb::Set(set) => set.dispatch(&session),
            Verb::Config(config) => return config.dispatch(&session),
            Verb::Import(import) => import.dispatch(session.json),
            Verb::Stats(stats) => stats.dispatch(&session),
            Verb::Reason(verb) => verb.dispatch(&session),
            Verb::Metrics(metrics) => metrics.dispatch(&session),
            Verb::Explain(explain) => explain.dispatch(&session),
            Verb::Trace(trace) => trace.dispatch(&session),
            Verb::Capture(capture) => capture.dispatch(&session),
            Verb::Top(top) => top.dispatch(&session),
            Verb::Lab(lab) => lab.dispatch(),
            Verb::Doctor(doctor) => return doctor.dispatch(&session),
            Verb::Completions(completions) => completions.dispatch(),
            Verb::Man(man) => man.dispatch(),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints an error with all its causes on stderr, and gives its exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(is_broken_pipe) {
        // The reader of stdout has seen enough, as in `dataplane route list | head`.
        return ExitCode::SUCCESS;
    }
    let text = format!("{error:#}");
    // Errors that show a place in a file bring their own heading.
    let heading = if text.starts_with("error") { "" } else { "error: " };
    eprintln!("{heading}{}", text.trim_end());
    ExitCode::from(kind(error).exit_code())
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn kind(error: &anyhow::Error) -> FailureKind {
    error
        .chain()
        .find_map(|cause| {
            let rejected = cause.is::<ConfigError>()
                || cause.is::<ImportError>()
                || matches!(cause.downcast_ref(), Some(LoadError::Invalid(_)));
            let failure = cause.downcast_ref::<Failure>().map(|failure| failure.kind);
            failure.or_else(|| rejected.then_some(FailureKind::Rejected))
        })
        .unwrap_or(FailureKind::Failed)
}

/// A wrong use of the command line: exit code 2.
fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure::new(FailureKind::Usage, message).into()
}

/// The name of an interface, as the kernel takes it (`dev_valid_name` in net/core/dev.c).
fn iface(text: &str) -> Result<String, String> {
    let refused = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.contains(refused) {
        return Err(
            "an interface's name has 1 to 15 bytes, without '/', ':' and spaces; `ip link` lists them".to_owned()
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        fn walk(command: &mut clap::Command, seen: &mut usize) {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "no example in the help of {}:\n{help}", command.get_name());
            let after = command.get_after_help().expect("examples").to_string();
            for example in after.lines().filter(|line| line.starts_with("  ")) {
                assert!(example.len() <= 80, "too wide for a terminal: {example}");
            }
            *seen += 1;
            for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
                walk(verb, seen);
            }
        }
        let mut seen = 0;
        walk(&mut Cli::command(), &mut seen);
        assert!(seen >= 25, "only {seen} verbs were found");
    }

    #[test]
    fn names_of_interfaces() {
        for good in ["lo", "eth0.100", "wg-a", "fifteen-bytes-x"] {
            assert!(iface(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "a:b", "sixteen-bytes-xy"] {
            assert!(iface(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exit_codes_come_from_the_cause() {
        let failure = Failure::new(FailureKind::NotFound, "no port");
        let rows = [
            (anyhow::anyhow!("anything"), FailureKind::Failed),
            (usage("words"), FailureKind::Usage),
            (anyhow::Error::from(failure).context("deleting"), FailureKind::NotFound),
            (crate::config::parse("=", "x").map(drop).expect_err("no TOML").into(), FailureKind::Rejected),
            (LoadError::from(crate::config::parse("=", "x").expect_err("no TOML")).into(), FailureKind::Rejected),
        ];
        for (error, want) in rows {
            assert_eq!(kind(&error), want, "{error:#}");
        }
    }
}
