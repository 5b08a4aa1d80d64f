//! The configs of before. Their texts are on disk: those of large configs would be more than all else that a daemon keeps.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{recovery::HISTORY, seal, state::State};
use crate::control::row::HistoryRow;

/// Configs that are remembered.
const MOST: usize = 10;

/// A config that was in force, and who put another in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PastConfig {
    /// When it was replaced, in seconds since 1970 UTC.
    pub time: u64,
    /// User who replaced it.
    pub uid: u32,
    /// Its text, unless that is in a file: one that could not be written, or what daemons did until version 0.1.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    toml: String,
    /// Number of the file with its text; 0 is none.
    #[serde(default)]
    file: u64,
    /// What that text hashes to; 0: not known.
    #[serde(default)]
    seal: u64,
}

impl PastConfig {
    pub(super) fn new(time: u64, uid: u32, toml: String) -> Self {
        Self { time, uid, toml, file: 0, seal: 0 }
    }
}

/// The configs of before, the latest last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    #[serde(default)]
    pub configs: Vec<PastConfig>,
}

impl History {
    /// One more; the oldest goes.
    pub(super) fn push(&mut self, before: PastConfig) {
        self.configs.push(before);
        let gone = self.configs.len().saturating_sub(MOST);
        self.configs.drain(..gone);
    }
}

/// TOML has no integers of 64 bits without a sign.
fn hash(text: &str) -> u64 {
    seal::hash([text]) >> 1
}

fn name(file: u64) -> String {
    format!("history-{file}.toml")
}

/// The text of a config of before, of which the file is in this directory.
fn text(directory: &Path, before: &PastConfig) -> Option<String> {
    if before.file == 0 {
        return Some(before.toml.clone());
    }
    let path = directory.join(name(before.file));
    let text = fs::read_to_string(&path).map_err(|error| error.to_string()).and_then(|text| {
        let whole = before.seal == 0 || before.seal == hash(&text);
        if whole { Ok(text) } else { Err(seal::Broken.to_string()) }
    });
    text.inspect_err(|error| tracing::error!("cannot read {}: {error}; continuing without it", path.display())).ok()
}

/// The configs of before, the latest first, as they are told. Reading the files takes its time.
pub(super) fn rows(directory: &Path, history: &History) -> Vec<HistoryRow> {
    let row =
        |before: &PastConfig| Some(HistoryRow { time: before.time, uid: before.uid, config: text(directory, before)? });
    history.configs.iter().rev().filter_map(row).collect()
}

impl State {
    /// The text of a config of before; it is said where that cannot be read.
    pub(super) fn text(&self, before: &PastConfig) -> Option<String> {
        text(&self.path(""), before)
    }

    /// Writes the configs of before down: texts first, then what tells of them.
    pub(super) fn write_history(&self, history: &mut History) -> anyhow::Result<()> {
        let mut last = history.configs.iter().map(|before| before.file).max().unwrap_or(0);
        for before in history.configs.iter_mut().filter(|before| !before.toml.is_empty()) {
            last += 1;
            self.write(&name(last), &before.toml)?;
            before.seal = hash(&before.toml);
            (before.file, before.toml) = (last, String::new());
        }
        self.write(HISTORY, &seal::toml(toml_edit::ser::to_string(history)?))?;
        // What is left over does no harm, and is removed the next time.
        let _left = self.forget_texts(history);
        Ok(())
    }

    /// Removes the texts of configs that are not remembered any more.
    fn forget_texts(&self, history: &History) -> io::Result<()> {
        for entry in fs::read_dir(self.path(""))? {
            let entry = entry?;
            let file = entry.file_name().into_string().ok();
            let number =
                file.and_then(|file| file.strip_prefix("history-")?.strip_suffix(".toml")?.parse::<u64>().ok());
            if number.is_some_and(|number| !history.configs.iter().any(|before| before.file == number)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a daemon that starts knows.
    fn known(state: &State) -> Vec<(u64, String)> {
        let history = state.recover(false).history;
        history.configs.iter().map(|before| (before.time, state.text(before).expect("a text"))).collect()
    }

    #[test]
    fn texts_are_in_files_and_go_with_their_configs() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = State::open(directory.path()).expect("a state");
        let mut history = state.recover(false).history;
        assert!(history.configs.is_empty());
        for time in 0..25 {
            history.push(PastConfig::new(time, 0, if time == 20 { String::new() } else { format!("# {time}\n") }));
            state.write_history(&mut history).expect("a history");
            assert!(history.configs.iter().all(|before| before.toml.is_empty()), "{history:?}");
        }
        let text = |time| if time == 20 { String::new() } else { format!("# {time}\n") };
        assert_eq!(known(&state), (15..25).map(|time| (time, text(time))).collect::<Vec<_>>());
        let files = || fs::read_dir(directory.path()).expect("files").count();
        assert_eq!(files(), 10, "nine texts, and what tells of them");
        history.configs.truncate(3);
        state.write_history(&mut history).expect("a history");
        assert_eq!((files(), known(&state).len()), (4, 3));
    }

    #[test]
    fn what_former_daemons_wrote_is_known() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = State::open(directory.path()).expect("a state");
        let former = "[[configs]]\ntime = 7\nuid = 1\ntoml = \"# seven\\n\"\n";
        fs::write(directory.path().join("history.toml"), former).expect("a file");
        assert_eq!(known(&state), [(7, "# seven\n".to_owned())]);
        let mut history = state.recover(false).history;
        history.push(PastConfig::new(8, 0, "# eight\n".to_owned()));
        state.write_history(&mut history).expect("a history");
        assert_eq!(known(&state), [(7, "# seven\n".to_owned()), (8, "# eight\n".to_owned())]);
        assert!(history.configs.iter().all(|before| before.file != 0));
    }
}
