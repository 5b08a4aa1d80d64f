//! Words of the operator, in quotes.

use std::fmt;

/// Longest text, in bytes (`NFTNL_UDATA_COMMENT_MAXLEN`).
pub const TEXT_LENGTH: usize = 128;

/// A text that stands in quotes on one line: nft's strings have no escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Text(String);

impl Text {
    /// None with quotes or control characters in it, or longer than [`TEXT_LENGTH`] bytes.
    pub fn new(text: &str) -> Option<Self> {
        let well_formed = !text.chars().any(|letter| letter == '"' || letter.is_control());
        (well_formed && text.len() <= TEXT_LENGTH).then(|| Self(text.to_owned()))
    }

    /// Without its quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}
