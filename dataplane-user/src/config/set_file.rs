//! Files with the elements of a set.

use super::ConfigError;
use crate::rule::{Element, SetType, parse_element};

/// Reads the elements of a set, one a line; what follows `#` is a comment.
///
/// # Errors
/// The first line that is not an element of this type, with its place.
pub fn parse_set_file(kind: &SetType, text: &str, path: &str) -> Result<Vec<Element>, ConfigError> {
    let mut elements = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let content = line.split_once('#').map_or(line, |(content, _)| content).trim_end();
        if !content.is_empty() {
            elements.push(parse_element(kind, content).map_err(|error| {
                let span = start + error.span.start..start + error.span.end;
                ConfigError::new(text, path, span, &error.to_string())
            })?);
        }
        start += line.len();
    }
    Ok(elements)
}
