//! The machine next to itself: two routers of the same configuration, link addresses and neighbours. In one the kernel
//! forwards alone, in the other dataplane is attached. The same frames go into both; whatever comes out of any port is
//! compared byte for byte, and what is delivered by the kernel's counters.
//!
//! ```text
//! picture      the topologies
//! tree         one router, and what goes in and comes out
//! port         the far end of a port: a packet socket
//! generate     frames at the corners
//! outcome      what is compared, without what only a clock or a secret decides
//! difference   the known differences (tests/oracle/differences.toml)
//! hunt         both trees, and what differs, down to the single frame
//! layout       rules of real routers
//! exchange     connections, as frames of both ends
//! stateful     connections through both trees, with these rules
//! report       what is told
//! ```

mod difference;
mod exchange;
mod forecast;
mod generate;
mod hunt;
mod layout;
mod outcome;
mod picture;
pub mod port;
mod report;
pub mod stateful;
mod tree;

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context as _, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub use self::{
    difference::{Differences, Known},
    report::{Mismatch, Tally},
};
use self::{
    generate::Generator,
    hunt::Hunt,
    picture::{PICTURES, Picture},
    tree::Tree,
};

/// The modes of a port.
pub const MODES: [&str; 3] = ["native", "generic", "tc"];

/// Rules that no packet of ours meets, so that the programs that filter are compared too.
const RULES: [&str; 3] = [
    "prerouting ether saddr 0e:00:00:00:00:01 drop",
    "input ether saddr 0e:00:00:00:00:02 drop",
    "forward ether saddr 0e:00:00:00:00:03 drop",
];

/// What to compare.
#[derive(Clone, Debug)]
pub struct Order {
    /// Frames in all, shared out evenly.
    pub packets: u64,
    /// From which the frames are made.
    pub seed: u64,
    /// Only pictures whose name contains this.
    pub picture: Option<String>,
    /// Only this mode.
    pub mode: Option<String>,
}

/// Runs all pictures in all modes, and one with rules, and tells what was found. An unexplained difference is an error.
pub fn run(order: &Order) -> anyhow::Result<()> {
    let known = difference::known()?;
    let runs = runs(order);
    let share = order.packets.div_ceil(runs.len().max(1) as u64);
    let mut tallies = BTreeMap::new();
    let start = Instant::now();
    for (picture, mode, rules) in &runs {
        let begun = Instant::now();
        let tally = one(picture, mode, rules, share, order.seed, &known)
            .with_context(|| format!("picture {}, mode {mode}", picture.name))?;
        let filtering = if rules.is_empty() { "" } else { " filtering" };
        println!("{} {mode}{filtering}: {tally}; {:.1} s", picture.name, begun.elapsed().as_secs_f64());
        if !tally.mismatches.is_empty() {
            println!("{} {mode}{filtering}, seed {}:\n{}", picture.name, order.seed, tally.tell());
        }
        tallies.entry(*mode).or_insert_with(Tally::default).add(&tally);
    }
    let mut all = Tally::default();
    for (mode, tally) in &tallies {
        println!("{mode}: {tally}");
        let reasons: Vec<_> = tally
            .reasons
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        println!("{mode}: by reason, with the oracle's own echoes: {}", reasons.join(", "));
        all.add(tally);
    }
    for (difference, why) in &known {
        println!("known {difference:?}: {} frames: {why}", all.known.get(difference).copied().unwrap_or(0));
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{} packets, seed {}, {seconds:.0} s, {} unexplained", all.packets, order.seed, all.mismatches.len());
    if all.batches > 0 || !all.mismatches.is_empty() {
        bail!("{} batches and {} frames differ for no known reason", all.batches, all.mismatches.len());
    }
    Ok(())
}

type Run = (&'static Picture, &'static str, &'static [&'static str]);

fn runs(order: &Order) -> Vec<Run> {
    let wanted = |picture: &&Picture| order.picture.as_ref().is_none_or(|part| picture.name.contains(part));
    let modes: Vec<_> =
        MODES.into_iter().filter(|mode| order.mode.as_ref().is_none_or(|wanted| wanted == mode)).collect();
    let rules = |picture: &Picture| -> &'static [&'static [&'static str]] {
        if picture.name == PICTURES[0].name { &[&[], &RULES] } else { &[&[]] }
    };
    let pictures = PICTURES.iter().filter(wanted);
    let with = pictures.flat_map(|picture| rules(picture).iter().map(move |rules| (picture, *rules)));
    with.flat_map(|(picture, rules)| modes.iter().map(move |mode| (picture, *mode, rules))).collect()
}

/// One picture in one mode.
fn one(
    picture: &'static Picture,
    mode: &str,
    rules: &[&str],
    packets: u64,
    seed: u64,
    known: &Differences,
) -> anyhow::Result<Tally> {
    let kernel = Tree::new(picture)?;
    let ours = Tree::with_dataplane(picture, mode, rules)?;
    let mut hunt = Hunt::new(picture, known, kernel, ours)?;
    let mut generator = Generator::new(picture, seed);
    let _pinned = Pinned::new()?;
    hunt.run((0..packets).map(|_| generator.shot()))?;
    Ok(hunt.close())
}

/// The calling thread on one CPU: the kernel then handles a frame before `send` returns, and in order.
struct Pinned(CpuSet);

impl Pinned {
    fn new() -> anyhow::Result<Self> {
        let before = sched_getaffinity(None)?;
        let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| before.is_set(*cpu)).context("no CPU to run on")?;
        let mut only = CpuSet::new();
        only.set(last);
        sched_setaffinity(None, &only)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The worst that can happen is a thread that stays where it is.
        let _ = sched_setaffinity(None, &self.0);
    }
}
