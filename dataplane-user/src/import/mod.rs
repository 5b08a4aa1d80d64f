//! Rule sets of other filters as a config: what `nft list ruleset`, `iptables-save` and `ip6tables-save` print.
//!
//! Everything is translated to what means the same, or it is an error with its place; nothing is left out silently. Both
//! languages are read into chains of lines (`chain`); `inline` writes chains out where they are jumped to, `hook` makes the
//! chains of the config.

mod base;
mod chain;
mod complement;
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

pub use problem::ImportError;

use crate::config::{self, Config};
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
}

/// Translates a file; `path` is for the messages.
///
/// # Errors
/// All that cannot be translated, each with its place.
pub fn import(language: Language, text: &str, path: &str) -> Result<Imported, ImportError> {
    let json = language == Language::Nft && text.trim_start().starts_with('{');
    let mut problems = Problems::default();
    let config = match language {
        Language::Nft if json => {
            let (listing, there) = match json::listing(text) {
                Ok(listing) => listing,
                Err((place, message)) => {
                    problems.error(place, message);
                    return Err(problems.into_error(text, path, true));
                }
            };
            let mut inside = Problems::default();
            let listing = nft::without_comments(&listing, &mut inside);
            let ruleset = nft::ruleset(&listing, &mut inside);
            let config = hook::config(&ruleset, &mut inside);
            problems = inside.moved(there);
            config
        }
        Language::Nft => {
            let blank = nft::without_comments(text, &mut problems);
            let ruleset = nft::ruleset(&blank, &mut problems);
            hook::config(&ruleset, &mut problems)
        }
        Language::Iptables => {
            let ruleset = iptables::ruleset(text, &mut problems);
            hook::config(&ruleset, &mut problems)
        }
    };
    // The proof of the translation: what is printed can be read.
    if !problems.any()
        && let Err(error) = config::parse(&config.to_toml(), path)
    {
        problems.error(Position { start: 0, end: 0 }, format!("what this comes to is not a config: {}", error.message));
    }
    if problems.any() {
        return Err(problems.into_error(text, path, json));
    }
    Ok(Imported { config, notes: problems.notes(text, path) })
}

#[cfg(test)]
mod tests;
