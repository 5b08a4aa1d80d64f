//! One run of the command line against the daemon.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use serde::Serialize;

use crate::control::{
    client::Client,
    json,
    protocol::{Data, Failure, Request},
};

/// What every verb needs to know.
#[derive(Debug)]
pub(super) struct Session {
    /// Of the daemon.
    pub(super) socket: PathBuf,
    /// Print JSON instead of text.
    pub(super) json: bool,
}

impl Session {
    /// Asks the daemon; its warnings go to stderr.
    pub(super) fn call(&self, request: &Request) -> Result<Data, Failure> {
        let reply = Client::connect(&self.socket)?.call(request)?;
        for warning in &reply.warnings {
            eprintln!("warning: {warning}");
        }
        Ok(reply.data)
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
        Data::Rules(_) => "rules",
        Data::Config(_) => "a config",
        Data::Difference(_) => "a difference",
        Data::History(_) => "a history",
        Data::Stats(_) => "stats",
    };
    anyhow::anyhow!("the daemon answered with {sort}, which was not the question; is it of another version?")
}
