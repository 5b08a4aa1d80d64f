//! Runs test programs: those that need a kernel in lanes beside each other.
//!
//! A scenario waits most of its time: for timeouts of the kernel, for links, for traffic. Two at once end in little more than
//! half the time of one after the other. Each lane is a process of its own, and a test judges only what its process made.

use std::{
    collections::VecDeque,
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, bail};

use crate::{
    command::{answer, line, run},
    root,
    setup::Toolchain,
    tally::{Tally, Transcript},
};

/// Lanes of scenarios. More would only wait for two processors.
const LANES: usize = 2;
/// Tests of one run in a lane: few, so that no lane is left with much when the other has ended.
const RUN: usize = 12;
/// The test program whose tests run in lanes.
const SCENARIO: &str = "scenario";
/// Scenarios that measure time or memory, or that fill the machine with work: they run when the lanes have ended, alone.
const ALONE: [&str; 5] = ["bench::", "flap::", "loss::", "reader::", "scale::"];
/// Which lane a process of scenarios has its turn in; `tests/tests/scenario/scene.rs` reads it.
const TURN: &str = "DATAPLANE_TURN";

/// When the lines of a run are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// As they come.
    AtOnce,
    /// When the run has ended, so that lines of two runs do not mix.
    Together,
}

/// What runs the tests that need a kernel.
pub(crate) struct Kernel<'a> {
    pub(crate) toolchain: &'a Toolchain,
    /// The daemon that they start.
    pub(crate) binary: &'a Path,
    /// What the test programs are given where this is root.
    pub(crate) privileged: &'a [&'a str],
}

/// What one `cargo test` runs: its targets, and the names of tests; all, where there are none.
struct Run {
    targets: Vec<String>,
    names: Vec<String>,
    exact: bool,
}

impl Kernel<'_> {
    /// All tests whose names contain one of `names`, or all.
    pub(crate) fn all(&self, names: &[String]) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        // Failures of a build are counted: what other tests found is still to be told.
        if let Err(error) = run(self.cargo().args(["test", "--no-run"]).args(PACKAGE)) {
            tally.trouble(error.to_string());
            return Ok(tally);
        }
        let others = Run { targets: others()?, names: names.to_vec(), exact: false };
        let (alone, beside): (Vec<_>, Vec<_>) = self.scenarios(names)?.into_iter().partition(|name| is_alone(name));
        let scenarios = |names: &[String]| Run { targets: scenario(), names: names.to_vec(), exact: true };
        // The longest run first.
        let waiting =
            Mutex::new(std::iter::once(others).chain(beside.chunks(RUN).map(scenarios)).collect::<VecDeque<_>>());
        for ended in self.in_lanes(&waiting) {
            tally.add(ended?);
        }
        for names in alone.chunks(RUN) {
            tally.add(self.run(&scenarios(names), 0, Show::AtOnce)?);
        }
        Ok(tally)
    }

    /// One test of any test program, by its whole name.
    pub(crate) fn alone(&self, name: &str) -> anyhow::Result<Tally> {
        self.run(&Run { targets: Vec::new(), names: vec![name.to_owned()], exact: true }, 0, Show::AtOnce)
    }

    /// Each lane takes the next run until none waits.
    fn in_lanes(&self, waiting: &Mutex<VecDeque<Run>>) -> Vec<anyhow::Result<Tally>> {
        let lane = |number: usize| {
            let mut tally = Tally::default();
            loop {
                let Some(next) = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
                    return Ok(tally);
                };
                tally.add(self.run(&next, number, Show::Together)?);
            }
        };
        thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES).map(|number| scope.spawn(move || lane(number))).collect();
            let ended =
                |lane: thread::ScopedJoinHandle<'_, _>| lane.join().unwrap_or_else(|_| bail!("a lane panicked"));
            lanes.into_iter().map(ended).collect()
        })
    }

    fn run(&self, what: &Run, lane: usize, show: Show) -> anyhow::Result<Tally> {
        let mut cargo = self.cargo();
        cargo.env("DATAPLANE_BIN", self.binary).env(TURN, lane.to_string());
        let packages = [PACKAGE.map(str::to_owned).as_slice(), &what.targets].concat();
        // One at a time in its process: they count what this process has made.
        let exact: &[&str] = if what.exact { &["--exact"] } else { &[] };
        let harness = [self.privileged, &["--test-threads=1"], exact].concat();
        cargo_test(cargo, &packages, &harness, &what.names, show)
    }

    /// The names of the scenarios that contain one of `names`, or of all.
    fn scenarios(&self, names: &[String]) -> anyhow::Result<Vec<String>> {
        let mut cargo = self.cargo();
        cargo.args(["test", "--quiet"]).args(PACKAGE).args(scenario()).args(["--", "--list"]).args(names);
        let listed = answer(&mut cargo).with_context(|| format!("`{}` did not list the scenarios", line(&cargo)))?;
        Ok(listed.lines().filter_map(|line| line.strip_suffix(": test").map(str::to_owned)).collect())
    }

    fn cargo(&self) -> Command {
        self.toolchain.command("cargo")
    }
}

const PACKAGE: [&str; 2] = ["--package", "dataplane-tests"];

fn scenario() -> Vec<String> {
    ["--test", SCENARIO].map(str::to_owned).into()
}

/// What selects every target of the tests' crate but the scenarios.
fn others() -> anyhow::Result<Vec<String>> {
    let mut targets = ["--lib", "--bins"].map(str::to_owned).to_vec();
    let folder = root().join("tests/tests");
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let name = entry?.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name != SCENARIO {
            targets.extend(["--test".to_owned(), name]);
        }
    }
    Ok(targets)
}

fn is_alone(name: &str) -> bool {
    ALONE.iter().any(|module| name.starts_with(module))
}

/// One `cargo test`: shows what it prints and counts; in CI it shows only what is no pass.
pub(crate) fn cargo_test(
    mut cargo: Command,
    packages: &[String],
    harness: &[&str],
    names: &[String],
    show: Show,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let terse = env::var_os("CI").is_some();
    cargo.args(["test", "--no-fail-fast"]).args(packages);
    if terse && show == Show::AtOnce {
        // What it builds, as quietly as CI wants it.
        let mut build = Command::new(cargo.get_program());
        build.envs(cargo.get_envs().filter_map(|(name, value)| Some((name, value?)))).args(cargo.get_args());
        if let Err(error) = run(build.arg("--no-run")) {
            tally.trouble(error.to_string());
            return Ok(tally);
        }
    }
    cargo.args(["--", "--show-output", "--color=never"]).args(harness).args(names);
    let mut shown = Vec::new();
    if show == Show::AtOnce || !terse {
        shown.push(format!("$ {}", line(&cargo)));
    }
    // A quiet cargo makes the harness print dots, and a backtrace hides why a test failed.
    cargo.env("CARGO_TERM_QUIET", "false").env("RUST_BACKTRACE", "0");
    let mut child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cargo did not start")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut transcript = Transcript::default();
    for text in BufReader::new(stdout).lines() {
        let text = text.context("the output of cargo test is not text")?;
        let worth = transcript.read(&text);
        if worth && (!terse || transcript.is_news(&text)) {
            shown.push(text);
        }
        if show == Show::AtOnce {
            shown.drain(..).for_each(|text| println!("{text}"));
        }
    }
    if !shown.is_empty() {
        println!("{}", shown.join("\n"));
    }
    let status = child.wait()?;
    let tests = transcript.finish();
    if !status.success() && tests.failed == 0 {
        tally.trouble(format!("`{}` ended with {status}: it did not build, or a test program died", line(&cargo)));
    }
    tally.add(tests);
    Ok(tally)
}
