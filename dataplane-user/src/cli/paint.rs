//! Colour, on a terminal that wants it.

use std::io::{self, IsTerminal as _};

/// What is good.
pub(super) const GREEN: &str = "32";
/// What is bad.
pub(super) const RED: &str = "31";
/// What may be bad.
pub(super) const YELLOW: &str = "33";
/// Where something is.
pub(super) const CYAN: &str = "36";

/// Whether stdout shows colours (<https://no-color.org/>).
pub(super) fn is_wanted() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The text in a colour, where colours are wanted.
pub(super) fn paint(text: &str, colour: &str) -> String {
    if is_wanted() { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}
