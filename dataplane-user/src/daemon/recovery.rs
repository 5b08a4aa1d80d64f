//! What a daemon that starts makes of the files that another one left.
//!
//! A file that is damaged, empty, gone or newer is never taken for a config without rules. Where the others make up for it the
//! daemon goes on, and says so. Where they do not, it does not know what it must drop: that is a grave fault, see
//! `quarantine.rs`.

use std::{fmt, fs, io, sync::Arc};

use dataplane_common::abi::Features;
use serde::de::DeserializeOwned;

use super::{
    confirm::Pending,
    former,
    history::History,
    running::RunningConfig,
    seal::{self, Broken, Unsealed},
    state::{PENDING, RuleHandles, State},
};
use crate::{
    config::{self, ChainConfig, Config},
    control::json,
    rule::{self, ChainName},
};

const RUNNING: &str = "running.toml";
const HANDLES: &str = "handles.json";
const JOURNAL: &str = "journal.json";
pub(super) const HISTORY: &str = "history.toml";

/// What is wrong with a file of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Its name in the directory.
    pub file: &'static str,
    /// What was found.
    pub what: String,
    /// Whether nothing makes up for it: it is not known what is to be dropped.
    pub grave: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.what)
    }
}

/// What an earlier daemon was doing, as far as that can be known.
pub(super) struct RecoveredState {
    pub running: RunningConfig,
    pub features: Features,
    pub history: History,
    /// The config that nobody has confirmed yet.
    pub pending: Option<Pending>,
    /// Whether there was an earlier daemon.
    pub any: bool,
    /// Chains that may have dropped something; none where that is not known.
    pub used: Option<Vec<ChainName>>,
    /// Patterns of ports; none where they are not known.
    pub patterns: Option<Vec<String>>,
    pub faults: Vec<Fault>,
}

/// A file.
enum Found<T> {
    Absent,
    Bad(String),
    Good(Good<T>),
}

struct Good<T> {
    value: T,
    /// All of it, seal included.
    text: String,
    sealed: bool,
    blank: bool,
}

impl<T> Found<T> {
    fn good(&self) -> Option<&Good<T>> {
        if let Self::Good(good) = self { Some(good) } else { None }
    }

    fn into_value(self) -> Option<T> {
        if let Self::Good(good) = self { Some(good.value) } else { None }
    }
}

impl State {
    /// What an earlier daemon was doing. `attached`: programs of one are in place.
    pub(super) fn recover(&self, attached: bool) -> RecoveredState {
        let running = self.look(RUNNING, seal::open_toml, |text, path| Ok(config::parse(&former::whole(text), path)?));
        let rule_handles = match self.look_json(HANDLES) {
            // What daemons wrote until version 0.1.
            Found::Absent => self.look("handles.toml", seal::open_toml, |text, _| Ok(toml_edit::de::from_str(text)?)),
            found => found,
        };
        let mut faults = Vec::new();
        let mut fault = |file, grave, what: String| faults.push(Fault { file, what, grave });
        let any =
            [RUNNING, HANDLES, JOURNAL, HISTORY, PENDING[0], PENDING[1]].iter().any(|name| self.path(name).exists());
        if let Some(what) = judge_running(&running, &rule_handles, any, attached) {
            fault(RUNNING, true, what);
        }
        let journal = self.journal.is_there();
        let needed = "; without it the changes of rules in journal.json cannot be followed";
        match &rule_handles {
            Found::Bad(what) if journal => fault(HANDLES, true, format!("{what}{needed}")),
            Found::Bad(what) => fault(HANDLES, false, format!("{what}; rules have new handles")),
            Found::Absent if journal => fault(HANDLES, true, format!("it is gone{needed}")),
            Found::Absent if any => fault(HANDLES, false, "it is gone; rules have new handles".to_owned()),
            _ => {}
        }
        let texts = (running.good(), rule_handles.good());
        let texts = if let (Some(running), Some(rule_handles)) = texts {
            Some([running.text.clone(), rule_handles.text.clone()])
        } else {
            None
        };
        let pending_config = rule_handles.good().map(|rule_handles| rule_handles.value.pending_config);
        let (mut running, mut rule_handles) = (running.into_value().unwrap_or_default(), rule_handles.into_value());
        let (used, patterns) =
            rule_handles.as_ref().map_or((None, None), |rule_handles| (used(rule_handles), rule_handles.ports.clone()));
        let pending = self.look_pending(pending_config, &mut fault);
        let history = self.look_history(&mut fault);
        let mut rule_handles = rule_handles.take().unwrap_or_default();
        if let Some([toml, json]) = &texts
            && let Err(error) = self.journal.replay([toml, json], &mut running, &mut rule_handles)
        {
            fault(JOURNAL, true, format!("{error:#}"));
        }
        let features = Features::from_bits_truncate(rule_handles.features).difference(Features::TRACING);
        let running = RunningConfig::new(&running, &rule_handles);
        RecoveredState { running, features, history, pending, any, used, patterns, faults }
    }

    /// A file, and what is in it.
    fn look<T>(
        &self,
        name: &str,
        open: impl Fn(&str) -> Result<Unsealed<'_>, Broken>,
        parse: impl Fn(&str, &str) -> anyhow::Result<T>,
    ) -> Found<T> {
        let path = self.path(name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Absent,
            Err(error) => return Found::Bad(format!("it cannot be read: {error}")),
        };
        let read = open(&text).map_err(anyhow::Error::from).and_then(|unsealed| {
            let value = parse(unsealed.text, &path.display().to_string())?;
            Ok((value, unsealed.sealed, unsealed.text.trim().is_empty()))
        });
        match read {
            Ok((value, sealed, blank)) => Found::Good(Good { value, text, sealed, blank }),
            Err(error) => Found::Bad(format!("it is damaged, or a later version wrote it: {error:#}")),
        }
    }

    fn look_json<T: DeserializeOwned>(&self, name: &str) -> Found<T> {
        self.look(name, seal::open_json, |text, _| Ok(json::parse(text.as_bytes())?))
    }

    /// The config that nobody has confirmed yet. `pending_config`: whether there is one, as far as that is known.
    fn look_pending(
        &self,
        pending_config: Option<bool>,
        fault: &mut impl FnMut(&'static str, bool, String),
    ) -> Option<Pending> {
        let look = |name| self.look::<Pending>(name, seal::open_toml, |text, _| Ok(toml_edit::de::from_str(text)?));
        let what = match (look(PENDING[0]), pending_config) {
            (Found::Good(good), _) => return Some(good.value),
            // Who confirms a config removes the copy last, and older daemons do not know it.
            (Found::Absent, Some(false) | None) => return None,
            (Found::Absent, Some(true)) => "it is gone".to_owned(),
            (Found::Bad(what), _) => what,
        };
        if let Some(copy) = look(PENDING[1]).into_value().filter(|_| pending_config == Some(true)) {
            fault(PENDING[0], false, format!("{what}; its copy says what to go back to, and when"));
            return Some(copy);
        }
        fault(PENDING[0], true, format!("{what}; it has the config to roll back to unless the last one is confirmed"));
        None
    }

    fn look_history(&self, fault: &mut impl FnMut(&'static str, bool, String)) -> History {
        match self.look(HISTORY, seal::open_toml, |text, _| Ok(toml_edit::de::from_str(text)?)) {
            Found::Good(good) => good.value,
            Found::Absent => History::default(),
            Found::Bad(what) => {
                fault(HISTORY, false, format!("{what}; the configs of before are in history-N.toml beside it"));
                History::default()
            }
        }
    }
}

/// Chains that drop something, or might.
fn used(rule_handles: &RuleHandles) -> Option<Vec<ChainName>> {
    rule_handles.chains.as_ref()?.iter().map(|name| name.parse().ok()).collect()
}

/// What is wrong with the running config, if anything.
fn judge_running(
    running: &Found<Config>,
    rule_handles: &Found<RuleHandles>,
    any: bool,
    attached: bool,
) -> Option<String> {
    let running = match running {
        Found::Bad(what) => return Some(what.clone()),
        Found::Absent if attached => return Some("it is gone, although programs are attached".to_owned()),
        Found::Absent if any => return Some("it is gone, although other files of the state are there".to_owned()),
        Found::Absent => return None,
        Found::Good(running) => running,
    };
    if running.sealed {
        return None;
    }
    // Daemons of before wrote no seals, but the rules twice.
    match rule_handles.good() {
        Some(rule_handles) if rule_handles.sealed => Some("it has lost its seal".to_owned()),
        Some(rule_handles) if !same_rules(&running.value, &rule_handles.value) => {
            Some("it has other rules or policies than handles.json: one of both is damaged".to_owned())
        }
        rule_handles if running.blank && (attached || rule_handles.is_none()) => Some("it is empty".to_owned()),
        _ => None,
    }
}

/// Whether both have the same rules, and drop in the same chains. Another version may have written rules otherwise.
fn same_rules(running: &Config, rule_handles: &RuleHandles) -> bool {
    ChainName::ALL.into_iter().all(|chain| {
        let rules = &running.chain(chain).rules;
        let entries: Vec<_> = rule_handles.rules.iter().filter(|entry| entry.chain == chain.name()).collect();
        let same = |(rule, entry): (&Arc<rule::Rule>, &&super::state::Entry)| {
            rule.to_string() == entry.rule || rule::parse(&entry.rule).is_ok_and(|other| other == **rule)
        };
        let used = Features::from_bits_truncate(rule_handles.features).intersects(chain.feature());
        let lost = used && *running.chain(chain) == ChainConfig::default();
        !lost && rules.len() == entries.len() && rules.iter().zip(&entries).all(same)
    })
}

#[cfg(test)]
mod tests;
