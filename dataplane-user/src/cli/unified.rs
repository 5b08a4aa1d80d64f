//! Two texts as a unified diff.

use std::time::Duration;

use similar::{Algorithm, ChangeTag, TextDiff};

use super::paint::{CYAN, GREEN, RED, paint};

/// Lines around a change.
const CONTEXT: usize = 3;
/// After this time the difference may be longer than need be.
const PATIENCE: Duration = Duration::from_secs(2);

/// A difference with its places.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unified {
    /// The hunks, as `diff -u` has them.
    pub(super) text: String,
    /// Lines only in the new text.
    pub(super) added: usize,
    /// Lines only in the old text.
    pub(super) removed: usize,
}

/// What makes the old text the new one.
pub(super) fn unified((old_name, old): (&str, &str), (new_name, new): (&str, &str)) -> Unified {
    let diff = TextDiff::configure().algorithm(Algorithm::Myers).timeout(PATIENCE).diff_lines(old, new);
    let count = |tag| diff.iter_all_changes().filter(|change| change.tag() == tag).count();
    let (added, removed) = (count(ChangeTag::Insert), count(ChangeTag::Delete));
    let plain = diff.unified_diff().context_radius(CONTEXT).header(old_name, new_name).to_string();
    let painted = plain.lines().map(|line| {
        let colour = match line.as_bytes().first() {
            Some(b'+') => GREEN,
            Some(b'-') => RED,
            Some(b'@') => CYAN,
            _ => return format!("{line}\n"),
        };
        format!("{}\n", paint(line, colour))
    });
    Unified { text: painted.collect(), added, removed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_shown() {
        let old = "rule 1\nrule 2\nrule 3\nrule 4\nrule 5\nrule 6\nrule 7\nrule 8\nrule 9\n";
        let new = old.replace("rule 5\n", "rule 5\nrule 5b\n");
        let found = unified(("running", old), ("new.toml", &new));
        assert_eq!((found.added, found.removed), (1, 0));
        let want = "--- running\n+++ new.toml\n@@ -3,6 +3,7 @@\n rule 3\n rule 4\n rule 5\n+rule 5b\n rule 6\n rule 7\n rule 8\n";
        assert_eq!(found.text, want);
        assert_eq!(unified(("a", old), ("b", old)).text, "");
    }

    #[test]
    fn a_moved_rule_shows_where_it_goes() {
        let found = unified(("running", "a\nb\nc\n"), ("new", "b\nc\na\n"));
        assert_eq!((found.added, found.removed), (1, 1));
        assert!(found.text.contains("-a\n b\n c\n+a\n"), "{}", found.text);
    }
}
