//! Why a text is not a rule, and where.

use std::fmt;
use std::ops;

use annotate_snippets::{Level, Renderer, Snippet};
use thiserror::Error;

/// A text that is not a rule.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct RuleError {
    /// Bytes of the text that are wrong; empty at its end.
    pub span: ops::Range<usize>,
    /// What is wrong with them.
    pub fault: RuleFault,
}

/// What is wrong with a part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleFault {
    /// Not what can stand there.
    Unexpected {
        /// What stands there; none at the end of the text.
        found: Option<String>,
        /// What could.
        expected: Vec<String>,
    },
    /// Well formed, but without meaning.
    Invalid(String),
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl fmt::Display for RuleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(message) => f.write_str(message),
            Self::Unexpected { found, expected } => {
                match found {
                    Some(found) => write!(f, "found `{found}`")?,
                    None => f.write_str("the rule ends here")?,
                }
                match expected.as_slice() {
                    [] => Ok(()),
                    [one] => write!(f, ", expected {one}"),
                    [all @ .., last] => write!(f, ", expected {} or {last}", all.join(", ")),
                }
            }
        }
    }
}

impl RuleError {
    /// The message with the line of `text` it is about and a caret below; `origin` names where the text came from.
    pub fn render(&self, text: &str, origin: &str) -> String {
        render(text, origin, self.span.clone(), &self.to_string())
    }
}

/// Line and column of a byte of `text`, both from 1; columns count characters.
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// `origin:line:column: message`, then the line of `text` and a caret below `span`.
pub fn render(text: &str, origin: &str, span: ops::Range<usize>, message: &str) -> String {
    let (line, column) = position(text, span.start);
    // A caret needs a line to stand under: show the whole lines of the span, and nothing of the others.
    let start = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[span.end..].find('\n').map_or(text.len(), |newline| span.end + newline);
    let source = text[start..end].trim_end_matches('\r');
    let inside = |offset: usize| (offset - start).min(source.len());
    let mark = Level::Error.span(inside(span.start)..inside(span.end));
    let snippet = Snippet::source(source).line_start(line).annotation(mark);
    let title = format!("{origin}:{line}:{column}: {message}");
    Renderer::plain().render(Level::Error.title(&title).snippet(snippet)).to_string()
}
