//! Counting what `cargo test` reports.
//!
//! libtest knows no "skipped at run time". A test that can not run here prints a line `SKIPPED: reason` and returns; libtest
//! counts it as passed, we do not.

use std::{fmt::Write as _, process::ExitCode};

/// How a test says that it can not run here; `dataplane_tests::lab::Need` prints it.
const MARK: &str = "SKIPPED: ";

/// How much of what a failed test said is told once more at the end.
const LINES: usize = 12;
/// How much of each line.
const WIDTH: usize = 300;

/// The sums over all runs.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: u64,
    /// Failed tests, and runs that ended without saying which test failed.
    pub(crate) failed: u64,
    /// Name and reason.
    skipped: Vec<(String, String)>,
    troubles: Vec<String>,
    /// Failed tests, and what they said.
    failures: Vec<(String, String)>,
    /// Tests that failed, and passed when they ran again alone; what they said the first time.
    unsteady: Vec<(String, String)>,
}

impl Tally {
    /// Adds another run's sums.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.troubles.extend(other.troubles);
        self.failures.extend(other.failures);
        self.unsteady.extend(other.unsteady);
    }

    /// The tests that failed, if each failure of the run is that of a test.
    pub(crate) fn failed_tests(&self) -> Vec<String> {
        let names = self.failures.iter().map(|(name, _)| name.clone());
        if self.troubles.is_empty() && self.failed == self.failures.len() as u64 { names.collect() } else { Vec::new() }
    }

    /// Takes the result of a failed test that ran again alone.
    pub(crate) fn again(&mut self, name: &str, second: &Self) {
        let passed = second.passed == 1 && second.failed == 0;
        if let Some(place) = self.failures.iter().position(|(failed, _)| failed == name).filter(|_| passed) {
            self.failed -= 1;
            self.passed += 1;
            self.unsteady.push(self.failures.remove(place));
        }
    }

    /// Counts a run that did not report a failed test, but failed.
    pub(crate) fn trouble(&mut self, what: String) {
        self.failed += 1;
        self.troubles.push(what);
    }

    /// Counts one thing that held, or that did not, with what was seen.
    pub(crate) fn single(&mut self, name: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(seen) => {
                self.failed += 1;
                self.failures.push((name.to_owned(), seen));
            }
        }
    }

    /// Counts something that can not be tried here.
    pub(crate) fn skip(&mut self, name: String, reason: String) {
        self.skipped.push((name, reason));
    }

    /// The same sums, with the place where the tests ran before their names.
    pub(crate) fn within(mut self, place: &str) -> Self {
        for (name, _) in &mut self.skipped {
            *name = format!("{place}: {name}");
        }
        for (name, _) in self.failures.iter_mut().chain(&mut self.unsteady) {
            *name = format!("{place}: {name}");
        }
        for trouble in &mut self.troubles {
            *trouble = format!("{place}: {trouble}");
        }
        self
    }

    /// Whether nothing was counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed == 0 && self.skipped.is_empty()
    }

    /// Prints the skips with their reasons and the closing line.
    pub(crate) fn close(&self) -> ExitCode {
        println!();
        for (name, reason) in &self.skipped {
            println!("skipped {name}: {reason}");
        }
        for (name, said) in &self.unsteady {
            println!("passed only when run again: {name}\n{said}");
        }
        for (name, said) in &self.failures {
            println!("failed: {name}\n{said}");
        }
        for trouble in &self.troubles {
            println!("failed: {trouble}");
        }
        println!("{}", self.line());
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// The closing line.
    pub(crate) fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped.len())
    }
}

/// Reads the output of one `cargo test -- --show-output`, which may hold many test programs.
#[derive(Default)]
pub(crate) struct Transcript {
    tally: Tally,
    section: Section,
    /// The test whose output is being read.
    test: String,
    /// Skips of the test program that is being read.
    skips: Vec<(String, String)>,
    /// Whether a test program was announced and has not reported yet.
    running: bool,
}

#[derive(Default, PartialEq, Eq)]
enum Section {
    #[default]
    Progress,
    Successes,
    Failures,
}

impl Transcript {
    /// Takes one line; says whether it is worth showing.
    pub(crate) fn read(&mut self, line: &str) -> bool {
        if line.starts_with("running ") && line.trim_end_matches('s').ends_with(" test") {
            self.died();
            self.running = true;
            self.section = Section::Progress;
        } else if line == "successes:" {
            self.section = Section::Successes;
            self.test.clear();
            return false;
        } else if line == "failures:" {
            self.section = Section::Failures;
            self.test.clear();
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.result(counts);
        } else if let Some(test) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            test.clone_into(&mut self.test);
            if self.section == Section::Failures {
                self.tally.failures.push((self.test.clone(), String::new()));
            }
        } else if self.section == Section::Failures && !line.is_empty() && !self.test.is_empty() {
            self.failure(line);
        } else if self.section == Section::Progress {
            self.ignored(line);
        } else if self.section == Section::Successes {
            if let Some(reason) = line.strip_prefix(MARK) {
                self.skips.push((self.test.clone(), reason.to_owned()));
            }
            // The list of names that follows the outputs says nothing new.
            return !(self.test.is_empty() && (line.is_empty() || line.starts_with("    ")));
        }
        true
    }

    /// Whether the line that was just read tells more than that a test passed.
    pub(crate) fn is_news(&self, line: &str) -> bool {
        let passed = line.starts_with("test ") && line.ends_with(" ... ok");
        let nothing = line.is_empty() || line.starts_with("running ") || line.contains("ok. 0 passed");
        self.section != Section::Successes && !passed && !nothing
    }

    /// The sums; a test program that never reported is a failure.
    pub(crate) fn finish(mut self) -> Tally {
        self.died();
        self.tally
    }

    /// Counts the test program that is being read as failed, if it never reported.
    fn died(&mut self) {
        if self.running {
            self.tally.trouble("a test program ended without a result".to_owned());
            self.skips.clear();
        }
    }

    /// A line of what a failed test said; the list of names behind the outputs is none.
    fn failure(&mut self, line: &str) {
        if let Some((_, said)) = self.tally.failures.last_mut() {
            let worth = line.chars().take(WIDTH).collect::<String>();
            let _ = writeln!(said, "    {worth}");
            // What a test says last is why it failed.
            if said.lines().count() > LINES {
                *said = said.split_once('\n').map_or_else(String::new, |(_, rest)| rest.to_owned());
            }
        }
    }

    /// `test name ... ignored, reason`
    fn ignored(&mut self, line: &str) {
        let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) else {
            return;
        };
        if let Some(reason) = outcome.strip_prefix("ignored") {
            let reason = reason.trim_start_matches(", ");
            let reason = if reason.is_empty() { "marked `ignore`" } else { reason };
            self.tally.skipped.push((name.to_owned(), reason.to_owned()));
        }
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`
    fn result(&mut self, counts: &str) {
        let count = |what: &str| {
            counts
                .split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        // A test can say more than one reason; it is still one test.
        self.skips.dedup_by(|later, first| later.0 == first.0);
        self.tally.passed += count("passed").saturating_sub(self.skips.len() as u64);
        self.tally.failed += count("failed");
        self.tally.skipped.append(&mut self.skips);
        self.running = false;
        self.section = Section::Progress;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "
running 4 tests
test a ... ok
test b::needs_root ... ok
test c ... ignored, slow
test d ... FAILED

successes:

---- a stdout ----
12 instructions

---- b::needs_root stdout ----
SKIPPED: needs root
SKIPPED: needs tool nft


successes:
    a
    b::needs_root

failures:

---- d stdout ----
SKIPPED: not a skip, it failed

failures:
    d

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 1 test
test e ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s
";

    #[test]
    fn a_run_is_counted() {
        let mut transcript = Transcript::default();
        let shown: Vec<_> = RUN.lines().filter(|line| transcript.read(line)).collect();
        let tally = transcript.finish();
        assert_eq!(tally.line(), "2 passed, 1 failed, 2 skipped");
        assert_eq!(
            tally.skipped,
            [("c".to_owned(), "slow".to_owned()), ("b::needs_root".to_owned(), "needs root".to_owned())]
        );
        assert!(shown.contains(&"12 instructions") && shown.contains(&"test d ... FAILED"));
        assert!(!shown.contains(&"    a") && shown.contains(&"    d"));
    }

    #[test]
    fn news_are_what_is_no_pass() {
        let mut transcript = Transcript::default();
        let news: Vec<_> = RUN.lines().filter(|line| transcript.read(line) & transcript.is_news(line)).collect();
        let said = ["---- d stdout ----", "SKIPPED: not a skip, it failed", "failures:", "    d"];
        assert_eq!(news[..3], ["test c ... ignored, slow", "test d ... FAILED", "failures:"]);
        assert_eq!(news[3..7], [said[0], said[1], said[2], said[3]]);
        assert!(news[7..].iter().all(|line| line.starts_with("test result: ")), "{news:?}");
    }

    #[test]
    fn a_failed_test_is_told_once_more_and_may_run_again() {
        let mut transcript = Transcript::default();
        for line in RUN.lines() {
            transcript.read(line);
        }
        let mut tally = transcript.finish();
        assert_eq!(tally.failures, [("d".to_owned(), "    SKIPPED: not a skip, it failed\n".to_owned())]);
        assert_eq!(tally.failed_tests(), ["d"]);
        let mut second = Tally { failed: 1, ..Tally::default() };
        tally.again("d", &second);
        assert_eq!(tally.line(), "2 passed, 1 failed, 2 skipped");
        second = Tally { passed: 1, ..Tally::default() };
        tally.again("d", &second);
        assert_eq!(tally.line(), "3 passed, 0 failed, 2 skipped");
        assert_eq!(tally.unsteady.len(), 1);
        tally.trouble("no build".to_owned());
        assert!(tally.failed_tests().is_empty());
    }

    #[test]
    fn a_test_program_that_dies_is_a_failure() {
        let mut transcript = Transcript::default();
        for line in ["running 2 tests", "test a ... ok"].into_iter().chain(RUN.lines()).chain(["running 1 test"]) {
            transcript.read(line);
        }
        assert_eq!(transcript.finish().line(), "2 passed, 3 failed, 2 skipped");
    }

    #[test]
    fn sums_add_up() {
        let mut tally = Tally::default();
        assert!(tally.is_empty());
        for _ in 0..2 {
            let mut transcript = Transcript::default();
            for line in RUN.lines() {
                transcript.read(line);
            }
            tally.add(transcript.finish());
        }
        tally.trouble("no build".to_owned());
        assert_eq!(tally.line(), "4 passed, 3 failed, 4 skipped");
        tally.skip("guest".to_owned(), "no emulator".to_owned());
        let tally = tally.within("there");
        assert_eq!(tally.line(), "4 passed, 3 failed, 5 skipped");
        assert_eq!(tally.skipped.last(), Some(&("there: guest".to_owned(), "no emulator".to_owned())));
        assert_eq!(tally.troubles, ["there: no build"]);
    }
}
