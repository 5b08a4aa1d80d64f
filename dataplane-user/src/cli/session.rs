//! One run of the command line against the daemon.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    os::fd::BorrowedFd,
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::Context as _;
use serde::Serialize;

use crate::control::{
    client::Client,
    json,
    protocol::{Data, Failure, FailureKind, Request},
};

/// What every verb needs to know.
#[derive(Debug)]
pub(super) struct Session {
    /// Of the daemon.
    pub(super) socket: PathBuf,
    /// Print JSON instead of text.
    pub(super) json: bool,
    /// Print one short line a row.
    pub(super) brief: bool,
    /// Only this family: whether IPv4, or IPv6.
    pub(super) v4: Option<bool>,
    /// Warnings that were printed: each answer has those that are about the daemon's state.
    pub(super) printed: Mutex<BTreeSet<String>>,
}

impl Session {
    /// Asks the daemon; its warnings go to stderr.
    pub(super) fn call(&self, request: &Request) -> Result<Data, Failure> {
        self.call_with(request, &[])
    }

    /// The same, with descriptors for the daemon.
    pub(super) fn call_with(&self, request: &Request, sockets: &[BorrowedFd<'_>]) -> Result<Data, Failure> {
        let reply = Client::connect(&self.socket)?.call_with(request, sockets)?;
        for warning in reply.warnings {
            let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
            if !printed.contains(&warning) {
                eprintln!("warning: {warning}");
                printed.insert(warning);
            }
        }
        Ok(reply.data)
    }

    /// Whether an address is of the family that is listed.
    pub(super) fn is_listed(&self, address: std::net::IpAddr) -> bool {
        self.v4.is_none_or(|v4| v4 == address.is_ipv4())
    }

    /// A command that runs in the daemon's network namespace, which need not be ours.
    pub(super) fn beside_daemon(&self, program: &str) -> anyhow::Result<Command> {
        let namespace = format!("/proc/{}/ns/net", Client::connect(&self.socket)?.daemon()?);
        let own = fs::read_link("/proc/self/ns/net").context("cannot tell our network namespace")?;
        match fs::read_link(&namespace) {
            Ok(other) if other == own => return Ok(Command::new(program)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let text = format!("this user may not enter the daemon's network namespace ({error}); use root");
                return Err(Failure::new(FailureKind::Failed, text).into());
            }
            _ => {}
        }
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={namespace}")).arg(program);
        Ok(command)
    }

    /// Asks for a change that has nothing to show.
    pub(super) fn change(&self, request: &Request) -> anyhow::Result<()> {
        match self.call(request)? {
            Data::Done => Ok(()),
            data => Err(unexpected(&data)),
        }
    }

    /// Prints data on stdout: a line of JSON, or `text`, which ends its own lines.
    pub(super) fn print(&self, data: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = if self.json { json::line(data)? + "\n" } else { text() };
        print(&text)
    }
}

/// Writes to stdout, at once.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to stdout")
}

/// The daemon answered a question that was not asked.
pub(super) fn unexpected(data: &Data) -> anyhow::Error {
    let sort = match data {
        Data::Done => "nothing",
        Data::Ports(_) => "ports",
        Data::Routes(_) => "routes",
        Data::Decision(_) => "a decision",
        Data::Neighbours(_) => "neighbours",
        Data::Sockets(_) => "sockets",
        Data::Steer(_) => "steered sockets",
        Data::Flows(_) | Data::Deleted(_) => "flows",
        Data::Rules(_) => "rules",
        Data::Chains(_) => "chains",
        Data::Sets(_) => "sets",
        Data::Config(_) => "a config",
        Data::Difference(_) => "a difference",
        Data::History(_) => "a history",
        Data::Status(_) => "a status",
        Data::Stats(_) => "stats",
        Data::Metrics(_) => "metrics",
        Data::Findings(_) => "findings",
        Data::Whereabouts(_) => "a place",
        Data::Explanations(_) => "explanations",
        Data::Watching | Data::Packet(_) | Data::Missed(_) => "packets",
    };
    anyhow::anyhow!("unexpected reply {sort}; the daemon is probably another version (`dataplane --version`)")
}
