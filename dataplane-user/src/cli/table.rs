//! Columns of text.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
};

/// Text to the left.
pub(super) const LEFT: bool = false;
/// Numbers to the right.
pub(super) const RIGHT: bool = true;

/// Text is not wrapped to less than this.
const NARROW: usize = 20;

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

/// The same with a rank for each column, for a width: while the table is wider, columns that say nothing are left out, then
/// others, those of the highest rank first. Columns of rank 0 stay.
pub(super) fn fitting<const N: usize>(
    columns: [(&str, bool, u8); N],
    rows: impl IntoIterator<Item = [String; N]>,
    width: Option<usize>,
) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let mut shown = [true; N];
    let wide = |index: usize| {
        let cells = rows.iter().map(|row| row[index].chars().count());
        cells.chain([columns[index].0.chars().count()]).max().unwrap_or_default() + 2
    };
    let widths: [usize; N] = std::array::from_fn(wide);
    let idle = |index: usize| rows.iter().all(|row| ["", "-", "0"].contains(&row[index].as_str()));
    let order = |idle_first: bool| {
        let mut order: Vec<_> = (0..N).filter(|index| columns[*index].2 > 0 && (!idle_first || idle(*index))).collect();
        order.sort_by_key(|index| std::cmp::Reverse((columns[*index].2, *index)));
        order
    };
    for index in order(true).into_iter().chain(order(false)) {
        let total: usize = (0..N).filter(|index| shown[*index]).map(|index| widths[index]).sum();
        if width.is_none_or(|width| total <= width + 2) {
            break;
        }
        shown[index] = false;
    }
    let heading = columns.map(|(heading, ..)| heading.to_owned());
    let mut text = String::new();
    for line in std::iter::once(&heading).chain(&rows) {
        let start = text.len();
        for index in (0..N).filter(|index| shown[*index]) {
            let (cell, width) = (&line[index], widths[index] - 2);
            // Writing to a string cannot fail.
            let _ = if columns[index].1 { write!(text, "{cell:>width$}  ") } else { write!(text, "{cell:<width$}  ") };
        }
        text.truncate(start + text[start..].trim_end().len());
        text.push('\n');
    }
    text
}

/// [`fitting`], whose last column is text: what does not fit of it goes on in lines below.
pub(super) fn wrapped<const N: usize>(
    columns: [(&str, bool, u8); N],
    rows: impl IntoIterator<Item = [String; N]>,
    width: Option<usize>,
) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let wide = |index: usize| {
        let cells = rows.iter().map(|row| row[index].chars().count());
        cells.chain([columns[index].0.len()]).max().unwrap_or_default() + 2
    };
    let before: usize = (0..N - 1).map(wide).sum();
    let Some(room) = width.map(|width| width.saturating_sub(before)).filter(|room| *room >= NARROW) else {
        return fitting(columns, rows, width);
    };
    let lines = rows.into_iter().flat_map(|row| {
        let mut lines = vec![String::new()];
        for word in row[N - 1].split(' ') {
            let line = lines.last().map_or(0, |line| line.chars().count());
            if line > 0 && line + 1 + word.chars().count() > room {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                let space = if line.is_empty() { "" } else { " " };
                line.extend([space, word]);
            }
        }
        let mut head = Some(row);
        lines.into_iter().map(move |text| {
            let mut row = head.take().unwrap_or_else(|| std::array::from_fn(|_| String::new()));
            row[N - 1] = text;
            row
        })
    });
    fitting(columns, lines.collect::<Vec<_>>(), width)
}

/// Rows without a heading.
pub(super) fn plain<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> String {
    let text = table([("", LEFT); N], rows);
    text.split_once('\n').map_or_else(String::new, |(_, rows)| rows.to_owned())
}

/// Columns of the terminal on stdout; none where that is no terminal: a program that reads the text gets all of it.
pub(super) fn width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let named = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    named
        .or_else(|| ratatui::crossterm::terminal::size().ok().map(|(columns, _)| columns.into()))
        .filter(|width| *width > 0)
}

/// What is not there.
pub(super) fn dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_say_nothing_go_first() {
        let columns = [("NAME", LEFT, 0), ("MTU", RIGHT, 2), ("ERR", RIGHT, 1), ("RX", RIGHT, 0)];
        let rows = || [["eth0", "1500", "0", "17"].map(str::to_owned)];
        let all = "NAME   MTU  ERR  RX\neth0  1500    0  17\n";
        assert_eq!(fitting(columns, rows(), None), all);
        assert_eq!(fitting(columns, rows(), Some(19)), all);
        assert_eq!(fitting(columns, rows(), Some(18)), "NAME   MTU  RX\neth0  1500  17\n");
        assert_eq!(fitting(columns, rows(), Some(9)), "NAME  RX\neth0  17\n");
        assert_eq!(fitting(columns, rows(), Some(1)), "NAME  RX\neth0  17\n");
        assert_eq!(plain(rows()), "eth0  1500  0  17\n");
        assert_eq!(fitting(columns, [], Some(80)), "NAME  MTU  ERR  RX\n");
    }

    #[test]
    fn text_is_wrapped_under_its_heading() {
        let columns = [("PACKETS", RIGHT, 0), ("MEANING", LEFT, 0)];
        let rows = || [["17", "Neither IPv4 nor IPv6, or off."].map(str::to_owned), ["1", "No."].map(str::to_owned)];
        let whole = "PACKETS  MEANING\n     17  Neither IPv4 nor IPv6, or off.\n      1  No.\n";
        assert_eq!(wrapped(columns, rows(), None), whole);
        assert_eq!(wrapped(columns, rows(), Some(39)), whole);
        let narrow = "PACKETS  MEANING\n     17  Neither IPv4 nor\n         IPv6, or off.\n      1  No.\n";
        assert_eq!(wrapped(columns, rows(), Some(29)), narrow);
        assert_eq!(wrapped(columns, rows(), Some(28)), whole);
    }

    #[test]
    fn columns_line_up_and_lines_end_clean() {
        let rows =
            [["a".to_owned(), "1000".to_owned(), "x".to_owned()], ["long".to_owned(), "1".to_owned(), String::new()]];
        let text = table([("NAME", LEFT), ("RX", RIGHT), ("NOTE", LEFT)], rows);
        assert_eq!(text, "NAME    RX  NOTE\na     1000  x\nlong     1\n");
    }
}
