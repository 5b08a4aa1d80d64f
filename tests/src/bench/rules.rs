//! `bench rules`: what rules cost on a packet's way, with fresh sets, and with few and many flows in turn.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::abi::{CHAINS, ChainId};
use dataplane_user::{
    filter::{Image, build},
    lower::filter::{ChainRules, lower},
    rule::{Rule, parse},
};
use fastrand::Rng;
use serde::Serialize;

use super::{
    chain::Chain,
    classbench::{Filter, Flow, Set},
    daemon::{self, Daemon, Mode},
    filter::key,
    machine::Machine,
    measure::{Spread, sample},
    program::{Generator, Surroundings},
    shape,
    table::Frames,
};

/// Flows in turn: the last are so many that each is new whenever it comes.
pub const FLOWS: [usize; 5] = [64, 1024, 4096, 65_536, 1 << 20];
/// Packets in front of a measurement, at most: what is remembered of flows is to be there.
const WARM_UP: usize = 6 * 65_536;

/// What to run.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Rules of a set.
    pub rules: usize,
    /// Sets, of three shapes in turn.
    pub sets: usize,
    /// Times that each set is measured.
    pub rounds: usize,
    /// Length of one measurement.
    pub seconds: f64,
    /// Seed of the first set; the next has the next number.
    pub seed: u64,
    /// CPU that everything runs on.
    pub cpu: usize,
    /// Whether another build takes part.
    pub against: bool,
}

/// One build with one set.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Times {
    /// Nanoseconds of a packet without rules, for each of [`FLOWS`]; medians of the rounds.
    pub floor: Vec<f64>,
    /// Nanoseconds more with the rules.
    pub over: Vec<f64>,
}

/// One set.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its shape and seed.
    pub set: String,
    /// Tables of the class that the packets meet.
    pub tables: u32,
    /// In a search, mean: tables, entries and cache lines read.
    pub effort: [f64; 3],
    /// Of this build and the other.
    pub times: Vec<Times>,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Where.
    pub machine: Machine,
    /// The sets.
    pub rows: Vec<Row>,
}

/// Runs it; `progress` hears what is being done.
pub fn run(settings: &Settings, progress: &mut dyn FnMut(&str)) -> Result<Outcome> {
    progress("building the chain");
    let chain = Chain::new(2, Frames::Cold)?;
    let mut surroundings = Surroundings::load(&chain)?;
    let _sink = surroundings.attach("sink", &chain.sink, "b1")?;
    let mut rows = Vec::new();
    for number in 0..settings.sets {
        let set = shape::set(number, settings.rules, settings.seed + number as u64);
        progress(&format!("set {} of {}: {}", number + 1, settings.sets, set.name));
        rows.push(measure(&set, settings, &chain, &surroundings).with_context(|| set.name.clone())?);
    }
    Ok(Outcome { machine: Machine::read(), rows })
}

fn measure(set: &Set, settings: &Settings, chain: &Chain, surroundings: &Surroundings) -> Result<Row> {
    let flows = draw(set, FLOWS[FLOWS.len() - 1], settings.seed)?;
    let rules: Vec<String> = set.filters.iter().map(Filter::rule).collect();
    let image = image(&rules)?;
    let generator = |count: &usize| Generator::with_flows(chain, &flows[..*count], settings.cpu);
    let mut generators = FLOWS.iter().map(generator).collect::<Result<Vec<_>>>()?;
    let mut builds = vec![daemon::binary()?];
    builds.extend(settings.against.then(daemon::against).transpose()?);
    // By build and number of flows: the floor, and what rules add to it.
    let mut samples = vec![vec![[Vec::new(), Vec::new()]; FLOWS.len()]; builds.len()];
    for _ in 0..settings.rounds {
        for (build, samples) in builds.iter().zip(&mut samples) {
            let daemon = Daemon::start(chain, build.clone(), Mode::Native, &[])?;
            let mut floors = Vec::new();
            for generator in &mut generators {
                floors.push(nanoseconds(chain, surroundings, generator, settings.seconds)?);
            }
            daemon.apply(chain, Mode::Native, &rules)?;
            for ((generator, floor), samples) in generators.iter_mut().zip(floors).zip(samples) {
                let time = nanoseconds(chain, surroundings, generator, settings.seconds)?;
                samples[0].push(floor);
                samples[1].push(time - floor);
            }
            daemon.stop(chain)?;
        }
    }
    let median = |values: &Vec<f64>| Spread::of(values).map_or(0.0, |spread| spread.median);
    let of = |samples: &Vec<[Vec<f64>; 2]>, at: usize| samples.iter().map(|both| median(&both[at])).collect();
    Ok(Row {
        set: set.name.clone(),
        tables: image.filter.tables[FORWARD][0].count,
        effort: effort(&image, &flows[..4096]),
        times: samples.iter().map(|samples| Times { floor: of(samples, 0), over: of(samples, 1) }).collect(),
    })
}

const FORWARD: usize = ChainId::Forward as usize;

/// Packets drawn from the rules, as far as a router forwards them.
fn draw(set: &Set, count: usize, seed: u64) -> Result<Vec<Flow>> {
    let random = &mut Rng::with_seed(seed);
    let mut flows = Vec::with_capacity(count);
    for _ in 0..count * 100 {
        let flow = set.filters[random.usize(..set.filters.len())].draw(random);
        if shape::is_unicast(flow.0) && shape::is_unicast(flow.1) {
            flows.push(flow);
        }
        if flows.len() == count {
            return Ok(flows);
        }
    }
    anyhow::bail!("too few of the rules match packets that a router forwards")
}

fn image(rules: &[String]) -> Result<Image> {
    let rules = rules.iter().map(|text| parse(text).with_context(|| text.clone())).collect::<Result<Vec<Rule>>>()?;
    let numbered: Vec<(&Rule, u32)> = rules.iter().zip(0..).collect();
    let mut chains = [ChainRules::default(); CHAINS];
    chains[FORWARD] = ChainRules { rules: &numbered, ..ChainRules::default() };
    Ok(build(&lower(chains, &|_| Vec::new(), &|_| None)?)?)
}

fn effort(image: &Image, flows: &[Flow]) -> [f64; 3] {
    let mut sums = [0; 3];
    for flow in flows {
        let (_, effort) = image.find(FORWARD, &key(flow), 0);
        sums = [sums[0] + effort.tables, sums[1] + effort.entries, sums[2] + effort.lines];
    }
    sums.map(|sum| f64::from(sum) / f64::from(flows.len() as u32))
}

fn nanoseconds(chain: &Chain, surroundings: &Surroundings, generator: &mut Generator, seconds: f64) -> Result<f64> {
    generator.run(chain, WARM_UP as u32)?;
    let sample = sample(chain, surroundings, generator, seconds)?;
    ensure!(sample.loss() < 0.001, "{} of {} packets arrived", sample.delivered, sample.sent);
    sample.nanoseconds.context("no packet arrived")
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / f64::from(values.len().max(1) as u32)
}

/// The sets as a table, with means in the last lines.
pub fn text(settings: &Settings, outcome: &Outcome) -> String {
    let machine = &outcome.machine;
    let mut text = format!(
        "machine: {} ({} CPUs), Linux {}\nrun:     {} rules, seeds from {}, CPU {}, {} rounds of {} s; ns over no rules, by flows in turn\n\n",
        machine.cpu,
        machine.cpus,
        machine.kernel,
        settings.rules,
        settings.seed,
        settings.cpu,
        settings.rounds,
        settings.seconds
    );
    let mut head = format!("{:<22}{:>8}{:>8}{:>8}{:>8}  {:<8}", "set", "tables", "probes", "entries", "lines", "build");
    for flows in ["64", "1024", "4096", "65,536", "all new"] {
        let _infallible = write!(head, "{flows:>9}");
    }
    text += &head;
    text += "   floors\n";
    let line = |Times { floor, over }: &Times| {
        let mut line = String::new();
        for over in over {
            let _infallible = write!(line, "{over:>9.1}");
        }
        line += "   ";
        for floor in floor {
            let _infallible = write!(line, "{floor:>6.0}");
        }
        line + "\n"
    };
    let names = ["this", "other"];
    for Row { set, tables, effort: [probes, entries, lines], times } in &outcome.rows {
        for (name, times) in names.iter().zip(times) {
            let _infallible =
                write!(text, "{set:<22}{tables:>8}{probes:>8.1}{entries:>8.1}{lines:>8.1}  {name:<8}{}", line(times));
        }
    }
    for (at, name) in names.iter().enumerate().take(1 + usize::from(settings.against)) {
        let times = || outcome.rows.iter().filter_map(|row| row.times.get(at));
        let means = Times {
            floor: (0..FLOWS.len()).map(|flows| mean(times().map(|times| times.floor[flows]))).collect(),
            over: (0..FLOWS.len()).map(|flows| mean(times().map(|times| times.over[flows]))).collect(),
        };
        let _infallible = write!(text, "{:<54}  {name:<8}{}", "mean", line(&means));
    }
    text
}
