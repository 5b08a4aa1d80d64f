//! Columns of text.

use std::fmt::Write as _;

/// Text to the left.
pub(super) const LEFT: bool = false;
/// Numbers to the right.
pub(super) const RIGHT: bool = true;

/// Lines `rows` up under `columns` (heading, and [`LEFT`] or [`RIGHT`]), two spaces apart.
pub(super) fn table<const N: usize>(columns: [(&str, bool); N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = vec![columns.map(|(heading, _)| heading.to_owned())];
    lines.extend(rows);
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in &lines {
        let start = text.len();
        for ((cell, width), (_, right)) in line.iter().zip(widths).zip(columns) {
            // Writing to a string cannot fail.
            let _ = if right { write!(text, "{cell:>width$}  ") } else { write!(text, "{cell:<width$}  ") };
        }
        text.truncate(start + text[start..].trim_end().len());
        text.push('\n');
    }
    text
}

/// What is not there.
pub(super) fn dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_clean() {
        let rows =
            [["a".to_owned(), "1000".to_owned(), "x".to_owned()], ["long".to_owned(), "1".to_owned(), String::new()]];
        let text = table([("NAME", LEFT), ("RX", RIGHT), ("NOTE", LEFT)], rows);
        assert_eq!(text, "NAME    RX  NOTE\na     1000  x\nlong     1\n");
    }
}
