//! What the demo prints: each step with the time since the start, and about how long the rest takes.

use std::{
    cell::Cell,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// A part of the demo and about how long it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) length: Duration,
}

/// The printer of steps.
pub(crate) struct Show {
    start: Instant,
    parts: Vec<Part>,
    /// How many parts have begun.
    begun: Cell<usize>,
    /// When the latest of them began.
    since: Cell<Instant>,
    /// Whether a line of progress stands at the cursor.
    open: Cell<bool>,
}

impl Show {
    /// Nothing has begun yet.
    pub(crate) fn start(parts: Vec<Part>) -> Self {
        let now = Instant::now();
        Self { start: now, parts, begun: Cell::new(0), since: Cell::new(now), open: Cell::new(false) }
    }

    /// The next part begins.
    pub(crate) fn part(&self) {
        let number = self.begun.get();
        self.begun.set(number + 1);
        self.since.set(Instant::now());
        if let Some(part) = self.parts.get(number) {
            self.close();
            println!("\n== {} of {}: {} ==", number + 1, self.parts.len(), part.name);
        }
    }

    /// Something was done.
    pub(crate) fn step(&self, text: &str) {
        self.close();
        println!("{} {text}", self.time());
    }

    /// Something is being done; on a terminal the next line takes its place, elsewhere nothing is printed.
    pub(crate) fn progress(&self, text: &str) {
        if io::stdout().is_terminal() {
            print!("\r\x1b[K{} {text}", self.time());
            // The text is for a person who waits; without it nothing is lost.
            let _ = io::stdout().flush();
            self.open.set(true);
        }
    }

    /// Lines that belong to the step before.
    pub(crate) fn detail(&self, text: &str) {
        self.close();
        for line in text.trim_end().lines() {
            println!("          {line}");
        }
    }

    fn close(&self) {
        if self.open.replace(false) {
            print!("\r\x1b[K");
        }
    }

    /// Time since the start, and about how long it will go on.
    fn time(&self) -> String {
        let left = left(&self.parts, self.begun.get(), self.since.get().elapsed());
        format!("[{:5.1} s, {:3} s left]", self.start.elapsed().as_secs_f64(), left.as_secs())
    }
}

/// The parts that have not begun, and the rest of the one that has.
fn left(parts: &[Part], begun: usize, elapsed: Duration) -> Duration {
    let (past, next) = parts.split_at(begun.min(parts.len()));
    let rest = past.last().map_or(Duration::ZERO, |part| part.length.saturating_sub(elapsed));
    next.iter().map(|part| part.length).sum::<Duration>() + rest
}

/// A bar as long as `value` is in relation to `whole`, in eighths of a character; what is not 0 is seen.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bar has at most some hundred eighths")]
pub(crate) fn bar(value: f64, whole: f64, width: u32) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (value / whole * f64::from(width) * 8.0).round().clamp(1.0, f64::from(width) * 8.0) as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        for (value, text) in [(100.0, "████"), (50.0, "██"), (12.5, "▌"), (0.1, "▏"), (400.0, "████")]
        {
            assert_eq!(bar(value, 100.0, 4), text, "{value}");
        }
    }

    #[test]
    fn what_has_not_begun_is_left() {
        let second = Duration::from_secs(1);
        let parts = [Part { name: "a", length: second * 4 }, Part { name: "b", length: second * 2 }];
        for (begun, elapsed, expected) in [(0, 0, 6), (1, 1, 5), (1, 9, 2), (2, 1, 1), (2, 9, 0), (3, 0, 2)] {
            assert_eq!(left(&parts, begun, second * elapsed), second * expected, "{begun} {elapsed}");
        }
    }
}
