//! Why a file is not a configuration, and where.

use std::ops;

use thiserror::Error;

use crate::rule::{position, render};

/// An error at a place of a file. Displays as `path:line:column: message`, the line, and a caret below the place.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{shown}")]
pub struct ConfigError {
    /// The file.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong there, and what to do.
    pub message: String,
    shown: String,
}

impl ConfigError {
    /// At these bytes of the text.
    pub(super) fn new(text: &str, path: &str, span: ops::Range<usize>, message: &str) -> Self {
        let (line, column) = position(text, span.start);
        let shown = render(text, path, span, message);
        Self { path: path.to_owned(), line, column, message: message.to_owned(), shown }
    }
}
