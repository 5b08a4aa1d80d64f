//! `dataplane lab`: a router between two hosts to play with, in network namespaces of its own.

use std::fs;

use anyhow::ensure;
use clap::{Args, Subcommand};

pub(super) use self::dirs::{LabDirs, LabOptions, Machine};
use super::{
    bench::{LabBench, LabTraffic},
    session::Session,
};

mod dirs;

/// Where labs keep sockets, state and logs.
const HOME: &str = "/run/dataplane/lab";

/// A router between two hosts in network namespaces, to try things
///
/// The lab does not touch the interfaces of this machine. It needs root.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  dataplane lab up demo\n  dataplane lab shell demo\n  dataplane lab down demo")]
pub(super) enum Lab {
    /// Build a lab, start a daemon on its router and attach both ports
    #[command(
        after_help = "Examples:\n  dataplane lab up demo\n  dataplane lab up demo --native\n\nThe picture:\n\n  client                            router                             server\n  eth0 ------------------- client0         server0 ------------------- eth0\n  198.18.0.2/24            198.18.0.1/24   198.18.1.1/24      198.18.1.2/24\n  2001:db8::2/64        2001:db8::1/64     2001:db8:1::1/64  2001:db8:1::2/64"
    )]
    Up(Up),
    /// Open a shell on a machine of the lab
    ///
    /// In it, all verbs of `dataplane` use the lab's daemon.
    #[command(
        after_help = "Examples:\n  dataplane lab shell demo\n  dataplane lab shell demo client\n  dataplane lab shell demo client -- ping -c 3 198.18.1.2"
    )]
    Shell(Shell),
    Traffic(LabTraffic),
    Bench(LabBench),
    /// List the labs
    #[command(visible_alias = "show", aliases = ["ls", "lst"], after_help = "Example:\n  dataplane lab list")]
    List,
    /// Remove a lab
    #[command(after_help = "Examples:\n  dataplane lab down demo")]
    Down(Name),
}

#[derive(Debug, Args)]
pub(super) struct Up {
    #[command(flatten)]
    name: Name,
    /// Attach at the driver, and let the hosts take and send frames as network cards do
    ///
    /// Frames that XDP redirects into a veth arrive only where its other end is ready for them, and those that a host's stack
    /// made have no checksum yet: with this the hosts have GRO on, and compute checksums themselves.
    #[arg(long)]
    native: bool,
}

#[derive(Debug, Args)]
pub(super) struct Name {
    /// Name of the lab
    #[arg(value_parser = name)]
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct Shell {
    /// Name of the lab
    #[arg(value_parser = name)]
    name: String,
    /// The machine
    #[arg(value_enum, default_value_t = Machine::Router)]
    machine: Machine,
    /// Command to run in place of a shell
    #[arg(last = true)]
    command: Vec<String>,
}

/// A name that fits into those of namespaces and folders.
pub(super) fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if text.is_empty() || text.len() > 32 || text.starts_with('-') || !text.chars().all(fits) {
        return Err("a lab's name has 1 to 32 letters, digits and '-'".to_owned());
    }
    Ok(text.to_owned())
}

impl Lab {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        if let Self::List = self {
            return list(session);
        }
        ensure!(rustix::process::geteuid().is_root(), "a lab is made of network namespaces, which needs root");
        match self {
            Self::List => Ok(()),
            Self::Up(Up { name, native }) => LabDirs(name.name).up(LabOptions { native, queues: None }),
            Self::Down(Name { name }) => LabDirs(name).down(),
            Self::Shell(Shell { name, machine, command }) => LabDirs(name).enter(machine, &command),
            Self::Traffic(traffic) => traffic.dispatch(session),
            Self::Bench(bench) => bench.dispatch(session),
        }
    }
}

/// Prints the names of the labs.
fn list(session: &Session) -> anyhow::Result<()> {
    let names = names();
    session.print(&names, || [names.join("\n").as_str(), if names.is_empty() { "" } else { "\n" }].concat())
}

/// The labs there are, in the order of their names.
pub(super) fn names() -> Vec<String> {
    let entries = fs::read_dir(HOME).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_labs() {
        for good in ["demo", "a-1", "X"] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a/b", "..", "a b", "ü", "123456789012345678901234567890123"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
