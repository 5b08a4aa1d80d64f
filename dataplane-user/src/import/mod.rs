//! Rule sets of other filters as a config: what `nft list ruleset`, `iptables-save` and `ip6tables-save` print.
//!
//! Everything is translated to what means the same, or it is an error with its place; nothing is left out silently. Both
//! languages are read into chains of lines (`chain`); `inline` writes chains out where they are jumped to, `hook` makes the
//! chains of the config.

mod base;
mod chain;
mod complement;
mod conditional;
mod hook;
mod inline;
mod iptables;
mod json;
mod line;
mod nft;
mod piece;
mod problem;
mod room;
mod set;
mod simplify;
mod tail;

pub use problem::ImportError;

use crate::config::{self, Config};
use crate::rule::ChainName;
use problem::{Position, Problems};

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// What `nft list ruleset` prints, as text or, with `-j`, as JSON.
    Nft,
    /// What `iptables-save` and `ip6tables-save` print; both may stand in one file.
    Iptables,
}

/// What a file comes to.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its chains and sets.
    pub config: Config,
    /// What the operator should know, each as `path:line:column: note`.
    pub notes: Vec<String>,
    /// What the config does without, where that was allowed.
    pub left_out: Option<LeftOut>,
}

/// What a config does without.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// Each as `path:line:column: why`, on one line.
    pub constructs: Vec<String>,
    /// Chains that stand on a hook and have come to nothing: they let everything through.
    pub chains: Vec<ChainName>,
    /// The same for stderr.
    pub error: ImportError,
}

impl LeftOut {
    /// Comments for the top of the config.
    pub fn comments(&self) -> String {
        let constructs =
            self.constructs.iter().map(|one| format!("# left out: {}\n", one.replace(char::is_control, " ")));
        let chains = self.chains.iter().map(|chain| {
            format!("# left out: all rules of chain {chain} and its policy; this config accepts there what the tables may drop\n")
        });
        constructs.chain(chains).collect()
    }
}

/// How much of a file has to be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// What can be.
    Possible,
}

/// Translates a file; `path` is for the messages.
///
/// # Errors
/// All that cannot be translated, each with its place. If as much as possible was asked for: only what leaves nothing to take.
pub fn import(language: Language, extent: Extent, text: &str, path: &str) -> Result<Imported, ImportError> {
    let json = language == Language::Nft && text.trim_start().starts_with('{');
    let mut problems = Problems::default();
    let (ruleset, config) = match language {
        Language::Nft if json => {
            let (listing, there) = match json::listing(text) {
                Ok(listing) => listing,
                Err((place, message)) => {
                    problems.fatal(place, message);
                    return Err(problems.into_error(text, path, true));
                }
            };
            let mut inside = Problems::default();
            let listing = nft::without_comments(&listing, &mut inside);
            let ruleset = nft::ruleset(&listing, &mut inside);
            let config = hook::config(&ruleset, &mut inside);
            problems = inside.moved(there);
            (ruleset, config)
        }
        Language::Nft => {
            let blank = nft::without_comments(text, &mut problems);
            let ruleset = nft::ruleset(&blank, &mut problems);
            let config = hook::config(&ruleset, &mut problems);
            (ruleset, config)
        }
        Language::Iptables => {
            let ruleset = iptables::ruleset(text, &mut problems);
            let config = hook::config(&ruleset, &mut problems);
            (ruleset, config)
        }
    };
    // The proof of the translation: what is printed can be read.
    if (!problems.any() || extent == Extent::Possible)
        && let Err(error) = config::parse(&config.to_toml(), path)
    {
        problems.fatal(Position { start: 0, end: 0 }, format!("what this comes to is not a config: {}", error.message));
    }
    let notes = problems.notes(text, path);
    if !problems.any() {
        return Ok(Imported { config, notes, left_out: None });
    }
    let (nothing, constructs) = (problems.is_fatal(), problems.left_out(text, path));
    let error = problems.into_error(text, path, json);
    if nothing || extent == Extent::Whole {
        return Err(error);
    }
    let chains = ruleset.lost(&config);
    Ok(Imported { config, notes, left_out: Some(LeftOut { constructs, chains, error: error.left_out() }) })
}

#[cfg(test)]
mod tests;
