//! Single rules that came and went since the state was last written down: a hundred thousand others are not written again for
//! one.
//!
//! The first line says behind which files the journal belongs. Behind others it is nothing. How many lines there are is in a file
//! beside it, so that one that is gone, or cut off, is not taken for one without changes.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{
    seal,
    state::{Entry, RuleHandles, private},
};
use crate::{
    config::Config,
    control::json,
    rule::{self, ChainName},
};

/// After so many lines everything is written down again.
const LONG: u64 = 1000;

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
    /// A rule came in between. Daemons of before do not know this line: it does not stay for long.
    Insert {
        /// Its row in the ledger.
        entry: Entry,
        /// The handle of the rule that it stands before.
        before: u64,
    },
    /// A rule went.
    Remove {
        /// Of this chain.
        chain: String,
        /// With this handle.
        handle: u64,
    },
}

impl Line {
    /// Whether daemons of before do not know it.
    pub(super) fn is_news(&self) -> bool {
        matches!(self, Self::Insert { .. })
    }
}

/// How long a journal is. It says less than there is, never more: it is written after the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Length {
    /// What the files hash to.
    behind: u64,
    /// Lines behind the first.
    lines: u64,
}

impl Length {
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (behind, lines) = text.trim_end().split_once(' ')?;
        Some(Self { behind: u64::from_str_radix(behind, 16).ok()?, lines: lines.parse().ok()? })
    }

    /// Always as long, so that it is written over in one piece.
    fn write(self, file: &File) -> io::Result<()> {
        file.write_all_at(format!("{:016x} {:020}\n", self.behind, self.lines).as_bytes(), 0)
    }
}

/// The file.
pub(super) struct Journal {
    path: PathBuf,
    /// What the files hash to that were written, or read, last.
    behind: u64,
    /// Open since the first line, with the one that says how long it is.
    files: Option<(File, File)>,
    lines: u64,
    /// Lines that are not on the disk yet.
    unsettled: bool,
    /// The last line may be half written.
    broken: bool,
    /// It has lines that daemons of before do not know.
    news: News,
}

/// Whether a journal has lines that daemons of before do not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum News {
    #[default]
    None,
    /// Since the last second.
    Fresh,
    /// For longer.
    Old,
}

impl Journal {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, behind: 0, files: None, lines: 0, unsettled: false, broken: false, news: News::None }
    }

    fn length(&self) -> PathBuf {
        self.path.with_extension("length")
    }

    /// Begins anew behind these files. Where the old one cannot be removed it belongs to others, and is nothing.
    pub(super) fn begin(&mut self, texts: [&str; 2]) {
        (self.behind, self.files, self.lines) = (seal::hash(texts), None, 0);
        (self.unsettled, self.broken, self.news) = (false, false, News::None);
        // In this order: what is left of it is known by its length.
        let _gone = (fs::remove_file(&self.path), fs::remove_file(self.length()));
    }

    /// Whether it is time to write everything down.
    pub(super) fn is_long(&self) -> bool {
        self.lines >= LONG
    }

    /// Whether it has lines that daemons of before do not know.
    pub(super) fn has_news(&self) -> bool {
        self.news != News::None
    }

    /// Whether it has had them since this was called last, and no more have come: called each second.
    pub(super) fn has_old_news(&mut self) -> bool {
        let before = self.news;
        if before == News::Fresh {
            self.news = News::Old;
        }
        before == News::Old
    }

    /// Writes a line. It is forced to the disk soon after: nobody waits for that, but for the first.
    ///
    /// # Errors
    /// It cannot be written. A line that may be half written is the last one, until everything is written down.
    pub(super) fn note(&mut self, line: &Line) -> anyhow::Result<()> {
        let failed = || format!("cannot write {}", self.path.display());
        anyhow::ensure!(!self.broken, failed());
        let text = seal::json(json::line(line)?) + "\n";
        let done = if let Some((file, _)) = &mut self.files {
            self.unsettled = true;
            self.broken = true;
            file.write_all(text.as_bytes())
        } else {
            let begun = self.open(&(json::line(&Line::Behind(self.behind))? + "\n" + &text));
            if begun.is_err() {
                // What was there before holds.
                let _gone = (fs::remove_file(&self.path), fs::remove_file(self.length()));
            }
            begun.map(|files| self.files = Some(files))
        };
        done.with_context(failed)?;
        self.broken = false;
        self.lines += 1;
        if line.is_news() {
            self.news = News::Fresh;
        }
        Ok(())
    }

    /// The file and the one that says how long it is, with one line. That is forced to the disk: a machine that dies must not
    /// leave an empty one, which is what most file systems make of a new file.
    fn open(&self, text: &str) -> io::Result<(File, File)> {
        let open = |path: &Path| private().create(true).write(true).truncate(true).open(path);
        let (mut file, length) = (open(&self.path)?, open(&self.length())?);
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        Length { behind: self.behind, lines: 1 }.write(&length)?;
        Ok((file, length))
    }

    /// Forces to the disk what is not there yet, then says how long it is. Called each second, and at the end.
    pub(super) fn settle(&mut self) -> Option<JoinHandle<()>> {
        if !std::mem::take(&mut self.unsettled) {
            return None;
        }
        let (file, length) = self.files.as_ref()?;
        let (file, length) = (file.try_clone().ok()?, length.try_clone().ok()?);
        let now = Length { behind: self.behind, lines: self.lines };
        // A disk may take its time, and the ring has none. Files that are removed meanwhile do not come back.
        Some(thread::spawn(move || {
            if let Err(error) = file.sync_data().and_then(|()| now.write(&length)) {
                tracing::debug!("the journal is not forced to the disk: {error}");
            }
        }))
    }

    /// Whether one was begun, whatever is left of it.
    pub(super) fn is_there(&self) -> bool {
        self.path.exists() || Length::read(&self.length()).is_some()
    }

    /// Does again, to what these files said, what happened since.
    ///
    /// # Errors
    /// What is wrong with it. What came before that place is done.
    pub(super) fn replay(
        &self,
        texts: [&str; 2],
        running: &mut Config,
        rule_handles: &mut RuleHandles,
    ) -> anyhow::Result<()> {
        let behind = seal::hash(texts);
        // Where it belongs to others, it is what was not removed after the files were written.
        let length = Length::read(&self.length());
        let ours = length.filter(|length| length.behind == behind);
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let lost = ours.map_or(0, |length| length.lines);
                anyhow::ensure!(lost == 0, "it is gone, and with it {lost} changes of rules");
                return Ok(());
            }
            text => text.context("it cannot be read")?,
        };
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let first = lines.next().context("it is empty")?;
        match json::parse::<Line>(first.as_bytes()) {
            Ok(Line::Behind(other)) if other == behind => {}
            Ok(Line::Behind(other)) if length.is_some_and(|length| length.behind == other) => return Ok(()),
            Ok(Line::Behind(_)) => anyhow::bail!("it does not belong to the other files"),
            _ => anyhow::bail!("its first line is damaged"),
        }
        let mut count = 0;
        for line in lines {
            let place = count + 2;
            let read = seal::open_json(line).map_err(anyhow::Error::from).and_then(|line| {
                anyhow::ensure!(line.sealed || ours.is_none(), "it has lost its seal");
                Ok(json::parse::<Line>(line.text.as_bytes())?)
            });
            read.and_then(|line| take(line, running, rule_handles)).with_context(|| format!("line {place}"))?;
            count += 1;
        }
        let lines = ours.map_or(0, |length| length.lines);
        anyhow::ensure!(count >= lines, "{count} of at least {lines} changes of rules are left of it");
        Ok(())
    }
}

fn take(line: Line, running: &mut Config, rule_handles: &mut RuleHandles) -> anyhow::Result<()> {
    match line {
        Line::Behind(_) => anyhow::bail!("it begins again"),
        Line::Add { entry, in_front } => {
            let chain = entry.chain.parse::<ChainName>()?;
            let rule = rule::parse(&entry.rule).map_err(|error| anyhow::anyhow!("`{}`: {error}", entry.rule))?;
            let rules = &mut running.chains[chain.index()].rules;
            let place = if in_front { 0 } else { rules.len() };
            rules.insert(place, rule.into());
            rule_handles.next = rule_handles.next.max(entry.handle + 1);
            let place = if in_front { 0 } else { rule_handles.rules.len() };
            rule_handles.rules.insert(place, entry);
        }
        Line::Insert { entry, before } => {
            let rule = rule::parse(&entry.rule).map_err(|error| anyhow::anyhow!("`{}`: {error}", entry.rule))?;
            let entries = &mut rule_handles.rules;
            let next = |other: &Entry| other.chain == entry.chain && other.handle == before;
            let row = entries.iter().position(next);
            let row = row.with_context(|| format!("chain {} has no rule with handle {before}", entry.chain))?;
            let place = entries[..row].iter().filter(|other| other.chain == entry.chain).count();
            let rules = &mut running.chains[entry.chain.parse::<ChainName>()?.index()].rules;
            anyhow::ensure!(place < rules.len(), "chain {} has fewer rules than handles", entry.chain);
            rules.insert(place, rule.into());
            rule_handles.next = rule_handles.next.max(entry.handle + 1);
            entries.insert(row, entry);
        }
        Line::Remove { chain, handle } => {
            let of_chain = |entry: &&Entry| entry.chain == chain;
            let place = rule_handles.rules.iter().filter(of_chain).position(|entry| entry.handle == handle);
            let place = place.with_context(|| format!("chain {chain} has no rule with handle {handle}"))?;
            rule_handles.rules.retain(|entry| entry.chain != chain || entry.handle != handle);
            let rules = &mut running.chains[chain.parse::<ChainName>()?.index()].rules;
            anyhow::ensure!(place < rules.len(), "chain {chain} has fewer rules than handles");
            rules.remove(place);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
