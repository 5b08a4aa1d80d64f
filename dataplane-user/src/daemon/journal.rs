//! Single rules that came and went since the state was last written down: a hundred thousand others are not written again for
//! one.
//!
//! The first line says behind which files the journal belongs. Behind others, or where it breaks off, it is nothing.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::PathBuf,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::state::{Entry, Ledger};
use crate::{
    config::Config,
    control::json,
    rule::{self, ChainName},
};

/// After so many lines everything is written down again.
const LONG: usize = 1000;

/// What happened.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The first line: what the files hash to.
    Behind(u64),
    /// A rule came.
    Add {
        /// Its row in the ledger.
        entry: Entry,
        /// In front of its chain, not at the end.
        in_front: bool,
    },
    /// A rule went.
    Remove {
        /// Of this chain.
        chain: String,
        /// With this handle.
        handle: u64,
    },
}

/// The file.
pub(super) struct Journal {
    path: PathBuf,
    /// What the files hash to that were written, or read, last.
    behind: u64,
    /// Open since the first line.
    file: Option<File>,
    lines: usize,
}

impl Journal {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, behind: 0, file: None, lines: 0 }
    }

    /// Begins anew behind these files. Where the old one cannot be removed it belongs to others, and is nothing.
    pub(super) fn begin(&mut self, texts: [&str; 2]) {
        (self.behind, self.file, self.lines) = (hash(texts), None, 0);
        let _gone = fs::remove_file(&self.path);
    }

    /// Whether it is time to write everything down.
    pub(super) fn is_long(&self) -> bool {
        self.lines >= LONG
    }

    /// Writes a line. It is not forced to the disk: a machine that dies has lost what the kernel had, too.
    pub(super) fn note(&mut self, line: &Line) -> anyhow::Result<()> {
        let failed = || format!("cannot write {}", self.path.display());
        let mut text = String::new();
        let mut file = if let Some(file) = self.file.take() {
            file
        } else {
            text = json::line(&Line::Behind(self.behind))? + "\n";
            OpenOptions::new().create(true).write(true).truncate(true).open(&self.path).with_context(failed)?
        };
        text += &(json::line(line)? + "\n");
        // One that may be half written is not gone on with.
        file.write_all(text.as_bytes()).with_context(failed)?;
        (self.file, self.lines) = (Some(file), self.lines + 1);
        Ok(())
    }

    /// Does again, to what these files said, what happened since.
    pub(super) fn replay(&self, texts: [&str; 2], running: &mut Config, ledger: &mut Ledger) {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let mut lines =
            text.split_inclusive('\n').map_while(|line| json::parse::<Line>(line.strip_suffix('\n')?.as_bytes()).ok());
        if !matches!(lines.next(), Some(Line::Behind(behind)) if behind == hash(texts)) {
            return;
        }
        for line in lines {
            if let Err(error) = take(line, running, ledger) {
                tracing::error!("{}: {error:#}; what follows there is left out", self.path.display());
                return;
            }
        }
    }
}

fn take(line: Line, running: &mut Config, ledger: &mut Ledger) -> anyhow::Result<()> {
    match line {
        Line::Behind(_) => {}
        Line::Add { entry, in_front } => {
            let chain = entry.chain.parse::<ChainName>()?;
            let rule = rule::parse(&entry.rule).map_err(|error| anyhow::anyhow!("`{}`: {error}", entry.rule))?;
            let rules = &mut running.chains[chain.index()].rules;
            let place = if in_front { 0 } else { rules.len() };
            rules.insert(place, rule);
            ledger.next = ledger.next.max(entry.handle + 1);
            let place = if in_front { 0 } else { ledger.rules.len() };
            ledger.rules.insert(place, entry);
        }
        Line::Remove { chain, handle } => {
            let of_chain = |entry: &&Entry| entry.chain == chain;
            let place = ledger.rules.iter().filter(of_chain).position(|entry| entry.handle == handle);
            let place = place.with_context(|| format!("chain {chain} has no rule with handle {handle}"))?;
            ledger.rules.retain(|entry| entry.chain != chain || entry.handle != handle);
            let rules = &mut running.chains[chain.parse::<ChainName>()?.index()].rules;
            anyhow::ensure!(place < rules.len(), "chain {chain} has fewer rules than handles");
            rules.remove(place);
        }
    }
    Ok(())
}

/// FNV-1a: the same in every version of this program.
fn hash(texts: [&str; 2]) -> u64 {
    let bytes = texts.into_iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests;
