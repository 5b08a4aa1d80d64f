//! Names of links and sets.

use std::fmt;

/// Longest name of a link, in bytes: of an altname (ALTIFNAMSIZ without its zero); its own has at most 15.
const LINK_LENGTH: usize = 127;

/// The name of a link, or the beginning of one with `*` behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkPattern {
    text: String,
    followed: bool,
}

impl LinkPattern {
    /// None for what can not name a link (`dev_valid_name` in net/core/dev.c): empty, too long, `.`, `..`, or with a slash,
    /// colon, space or quote; nor for `*` elsewhere than at the end.
    pub fn new(text: &str) -> Option<Self> {
        let name = text.strip_suffix('*').unwrap_or(text);
        let well_formed =
            !name.bytes().any(|byte| matches!(byte, b'/' | b':' | b'"' | b'*') || !byte.is_ascii_graphic());
        let named = !name.is_empty() && name.len() <= LINK_LENGTH && name != "." && name != "..";
        (well_formed && (named || text == "*")).then(|| Self { text: text.to_owned(), followed: false })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same where the link is meant rather than its name: it goes on to fit when that changes.
    #[must_use]
    pub fn followed(&self) -> Self {
        Self { followed: true, ..self.clone() }
    }

    /// Whether it fits links that had the name before, too.
    pub const fn is_followed(&self) -> bool {
        self.followed
    }

    /// Whether it ends in `*`.
    pub fn is_wildcard(&self) -> bool {
        self.text.ends_with('*')
    }

    /// Whether a link of this name fits.
    pub fn fits(&self, name: &str) -> bool {
        self.text.strip_suffix('*').map_or(name == self.text, |beginning| name.starts_with(beginning))
    }
}

impl fmt::Display for LinkPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.text)
    }
}

/// The name of a set, as `@name` refers to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName(String);

impl SetName {
    /// None unless it begins with a letter and goes on with letters, digits, `_`, `-` and `.`.
    pub fn new(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(|first: char| first.is_ascii_alphabetic())?;
        rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)).then(|| Self(text.to_owned()))
    }

    /// The name without `@`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}
