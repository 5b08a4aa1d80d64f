//! Rates of the last minute, and how they are drawn in a line.

use std::collections::{HashMap, VecDeque};

/// Values that are kept of each series.
const LENGTH: usize = 60;
/// From nothing to the most.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The last rates of each series, by name.
#[derive(Debug, Default)]
pub(super) struct History {
    series: HashMap<String, VecDeque<f64>>,
}

impl History {
    /// Adds a value to each series; one that has none now is forgotten.
    pub(super) fn add(&mut self, values: impl IntoIterator<Item = (String, f64)>) {
        let mut before = std::mem::take(&mut self.series);
        for (name, value) in values {
            let mut line = before.remove(&name).unwrap_or_default();
            line.push_back(value);
            if line.len() > LENGTH {
                line.pop_front();
            }
            self.series.insert(name, line);
        }
    }

    /// The last values of a series, as bars up to the largest of them, to the right.
    pub(super) fn line(&self, name: &str, width: usize) -> String {
        let Some(values) = self.series.get(name) else { return " ".repeat(width) };
        let shown = values.iter().skip(values.len().saturating_sub(width));
        let most = shown.clone().copied().fold(0.0, f64::max);
        let bar = |value: &f64| {
            let part = if most > 0.0 { value / most * 7.0 } else { 0.0 };
            let steps = [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5];
            BARS[steps.iter().filter(|step| part >= **step).count()]
        };
        let bars: String = shown.map(bar).collect();
        " ".repeat(width.saturating_sub(bars.chars().count())) + &bars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_show_the_last_values() {
        let mut history = History::default();
        for value in [0.0, 7.0, 14.0, 3.5] {
            history.add([("a".to_owned(), value), ("b".to_owned(), 0.0)]);
        }
        assert_eq!(history.line("a", 6), "  ▁▅█▃");
        assert_eq!(history.line("a", 2), "█▃");
        assert_eq!(history.line("b", 4), "▁▁▁▁");
        assert_eq!(history.line("c", 3), "   ");
        for _ in 0..100 {
            history.add([("a".to_owned(), 1.0)]);
        }
        assert_eq!(history.line("a", 100), format!("{}{}", " ".repeat(40), "█".repeat(60)));
        assert_eq!(history.line("b", 1), " ", "it has no values any more");
    }
}
