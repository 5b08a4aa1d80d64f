//! The command line: one file per object. It talks to the daemon over the control socket and never opens a map. Only
//! `detach --all` removes the links that a daemon left which no longer runs.
//!
//! Data goes to stdout, prose to stderr; the exit code is that of the operator's contract.

mod bench;
mod care;
mod chain;
mod clock;
mod completions;
mod config;
mod doctor;
mod explain;
mod flow;
mod import;
mod journal;
mod lab;
mod metrics;
mod neigh;
mod paint;
mod port;
mod process;
mod reason;
mod route;
mod route_filter;
mod rule;
mod run;
mod session;
mod set;
mod socket;
mod stats;
mod status;
mod steer;
mod table;
mod top;
mod trace;
mod unified;
mod units;

use std::{env, ffi::OsString, io, net::IpAddr, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

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
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct Cli {
    /// Control socket of the daemon
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "PATH", env = "DATAPLANE_SOCKET", hide_env_values = true, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print JSON
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// Print one short line a row; also `-br`
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    brief: bool,
    /// List only IPv4
    #[arg(short = '4', global = true, help_heading = GLOBAL, conflicts_with = "v6")]
    v4: bool,
    /// List only IPv6
    #[arg(short = '6', global = true, help_heading = GLOBAL)]
    v6: bool,
    #[command(subcommand)]
    verb: Verb,
}

/// An object with a verb; without one it is listed.
#[derive(Debug, Args)]
struct Object<V: Subcommand> {
    #[command(subcommand)]
    verb: Option<V>,
}

impl<V: Subcommand> Object<V> {
    fn or(self, listing: V) -> V {
        self.verb.unwrap_or(listing)
    }
}

/// Prefixes that several verbs share, and the verb that each means: as in `ip`, the one that is wanted most.
const SHORT: [(&str, &[&str]); 5] = [
    ("route", &["r", "ro"]),
    ("rule", &["ru"]),
    ("status", &["s", "st", "sta"]),
    ("stats", &["stat"]),
    ("config", &["c", "co"]),
];

#[derive(Debug, Subcommand)]
enum Verb {
    Status(status::Status),
    Run(run::Run),
    Attach(port::Attach),
    Detach(port::Detach),
    /// Interfaces at which the programs are attached
    Port(Object<port::Port>),
    /// Routes, mirrored from the kernel
    Route(Object<route::Route>),
    /// Neighbours, mirrored from the kernel
    Neigh(Object<neigh::Neigh>),
    /// Connections that netfilter lets through, and how they are carried
    Flow(Object<flow::Flow>),
    /// Sockets of this machine that take packets
    Socket(Object<socket::Socket>),
    /// Sockets that get what is not sent to their addresses
    Steer(Object<steer::Steer>),
    /// Rules of the filter
    Rule(Object<rule::Rule>),
    /// Chains of the filter and their policies
    Chain(Object<chain::Chain>),
    /// Named sets that rules match
    Set(Object<set::Set>),
    /// Config file and running config
    Config(Object<config::Config>),
    /// Rule sets of nft and iptables, translated to a config
    #[command(subcommand)]
    Import(import::Import),
    Stats(stats::Stats),
    /// Reasons for what became of packets
    Reason(Object<reason::Verb>),
    Metrics(metrics::Metrics),
    Explain(explain::Explain),
    Trace(trace::Trace),
    Capture(trace::Capture),
    Top(top::Top),
    /// A router between two hosts in network namespaces, to try things
    Lab(Object<lab::Lab>),
    Bench(Box<bench::Bench>),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(completions::Man),
}

/// A command line with short forms replaced that clap would not know, or find unclear.
fn spelled_out(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<_> = words.into_iter().collect();
    let (mut verb, mut value) = (None, true);
    for (index, word) in words.iter().enumerate() {
        // What follows `--socket` is its value, as is the first word of all.
        match word.to_str() {
            _ if value => value = false,
            Some("--socket") => value = true,
            Some(option) if option.starts_with('-') => {}
            _ => {
                verb = Some(index);
                break;
            }
        }
    }
    let full = |word: &OsString| SHORT.iter().find(|(_, short)| short.iter().any(|short| word == *short));
    if let Some(verb) = verb
        && let Some((full, _)) = full(&words[verb])
    {
        words[verb] = full.into();
    }
    for word in words.iter_mut().take_while(|word| *word != "--").filter(|word| *word == "-br") {
        *word = "--brief".into();
    }
    words
}

impl Cli {
    /// Reads the command line; a wrong one ends the program.
    pub fn read() -> Self {
        let matches = Self::grammar().get_matches_from(spelled_out(env::args_os()));
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The grammar, in which clear prefixes of verbs stand for them.
    fn grammar() -> clap::Command {
        Self::command().infer_subcommands(true)
    }

    /// Runs the verb.
    ///
    /// # Errors
    /// Anything; [`report`] knows the exit code.
    pub fn dispatch(self) -> anyhow::Result<ExitCode> {
        let v4 = match (self.v4, self.v6) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        let session = Session {
            socket: self.socket,
            json: self.json,
            brief: self.brief,
            v4,
            printed: std::sync::Mutex::default(),
        };
        match self.verb {
            Verb::Status(_) => status::Status::dispatch(&session),
            Verb::Run(run) => run.dispatch(session.socket),
            Verb::Attach(attach) => attach.dispatch(&session),
            Verb::Detach(detach) => detach.dispatch(&session),
            Verb::Port(port) => port.or(port::Port::List).dispatch(&session),
            Verb::Route(route) => route.or(route::Route::List { words: Vec::new() }).dispatch(&session),
            Verb::Neigh(neigh) => neigh.or(neigh::Neigh::List { iface: None }).dispatch(&session),
            Verb::Flow(flow) => flow.or(flow::Flow::listing()).dispatch(&session),
            Verb::Socket(socket) => socket.or(socket::Socket::listing()).dispatch(&session),
            Verb::Steer(steer) => steer.or(steer::Steer::List).dispatch(&session),
            Verb::Rule(rule) => rule.or(rule::Rule::List { chain: None }).dispatch(&session),
            Verb::Chain(chain) => chain.or(chain::Chain::List).dispatch(&session),
            Verb::Set(set) => set.or(set::Set::List { name: None }).dispatch(&session),
            Verb::Config(config) => return config.or(config::Config::Show).dispatch(&session),
            Verb::Import(import) => import.dispatch(&session),
            Verb::Stats(stats) => stats.dispatch(&session),
            Verb::Reason(verb) => verb.or(reason::Verb::List).dispatch(&session),
            Verb::Metrics(metrics) => metrics.dispatch(&session),
            Verb::Explain(explain) => explain.dispatch(&session),
            Verb::Trace(trace) => trace.dispatch(&session),
            Verb::Capture(capture) => capture.dispatch(&session),
            Verb::Top(top) => top.dispatch(&session),
            Verb::Lab(lab) => lab.or(lab::Lab::List).dispatch(&session),
            Verb::Bench(bench) => bench.dispatch(&session),
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
            let missing = matches!(
                cause.downcast_ref(),
                Some(LoadError::Unread { cause, .. }) if cause.kind() == io::ErrorKind::NotFound
            );
            let failure = failure.or_else(|| missing.then_some(FailureKind::NotFound));
            failure.or_else(|| rejected.then_some(FailureKind::Rejected))
        })
        .unwrap_or(FailureKind::Failed)
}

/// A wrong use of the command line: exit code 2.
fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure::new(FailureKind::Usage, message).into()
}

/// An address.
fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "this is not an address, such as 198.18.1.2 or 2001:db8::1".to_owned())
}

/// A number of something, one at least.
fn count(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "take a whole number from 1 on".to_owned())
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
mod tests;
