//! What rules cost: the loaded program with sets of a realistic shape, against the same program without rules.

use std::{
    fmt::Write as _,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{TestRun as _, TestRunOptions};
use dataplane_common::abi::{CHAINS, Features};
use dataplane_user::{
    fib::TableSizes,
    filter::{Image, build},
    kernel::Hook,
    lower::filter::{ChainRules, LoweredFilter, lower},
    rule::{Rule, parse},
};
use fastrand::Rng;
use serde::Serialize;

use super::{
    classbench::{self, Flow, Set},
    curve::{self, Line},
    measure::Spread,
};
use crate::fixture::{Setting, World, packet};

/// What to measure.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Where sets are; own ones are made when it is not there.
    pub directory: PathBuf,
    /// Only sets whose name contains one of these.
    pub only: Vec<String>,
    /// Times that everything is measured.
    pub rounds: usize,
    /// Packets drawn from the rules, and as many that match nothing.
    pub packets: usize,
}

/// One set, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub set: String,
    /// How many rules.
    pub rules: usize,
    /// From text to rules.
    pub parse_ms: f64,
    /// From rules to entries.
    pub lower_ms: f64,
    /// From entries to tables in memory.
    pub build_ms: f64,
    /// Bytes of the tables.
    pub bytes: usize,
    /// Tables of the class that the packets meet.
    pub tables: u32,
    /// Tables and entries looked at, mean over packets drawn from the rules.
    pub effort: (f64, f64),
    /// The same for packets that match nothing.
    pub effort_none: (f64, f64),
    /// Nanoseconds over the program without rules; packets drawn from the rules, each many times in a row.
    pub hot: f64,
    /// Each once, one after the other.
    pub cold: f64,
    /// Packets that match nothing, hot.
    pub none: f64,
    /// Nanoseconds of the program without rules, hot and cold.
    pub base: (f64, f64),
}

/// The chain that rules are in.
const CHAIN: usize = 0;
/// How often a packet is judged in a row.
const REPEAT: u32 = 10_000;

/// Measures all sets; `tell` hears what is being done.
pub fn run(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    let sets = if settings.directory.is_dir() {
        classbench::read(&settings.directory, &settings.only)?
    } else {
        tell("no sets there; measuring some of our own making");
        let kinds = ["access", "firewall"].into_iter();
        kinds.flat_map(|kind| [1_000, 10_000, 100_000].map(|count| classbench::made(kind, count, 7))).collect()
    };
    sets.iter()
        .map(|set| {
            tell(&format!("{}: {} rules", set.name, set.filters.len()));
            measure(set, settings).with_context(|| set.name.clone())
        })
        .collect()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed().as_secs_f64() * 1e3)
}

fn measure(set: &Set, settings: &Settings) -> Result<Row> {
    let texts: Vec<String> = set.filters.iter().map(classbench::Filter::rule).collect();
    let (rules, parse_ms) =
        timed(|| texts.iter().map(|text| parse(text).with_context(|| text.clone())).collect::<Result<Vec<Rule>>>());
    let rules = rules?;
    let numbered: Vec<(&Rule, u32)> = rules.iter().zip(0..).collect();
    let mut chains = [ChainRules::default(); CHAINS];
    chains[CHAIN] = ChainRules { rules: &numbered, ..ChainRules::default() };
    let (lowered, lower_ms) = timed(|| lower(chains, &|_| Vec::new(), &|_| None));
    let lowered = lowered?;
    let (image, build_ms) = timed(|| build(&lowered));
    let image = image?;

    let mut random = Rng::with_seed(7);
    let drawn: Vec<Flow> =
        (0..settings.packets).map(|_| set.filters[random.usize(..set.filters.len())].draw(&mut random)).collect();
    let strange = strangers(&image, settings.packets, &mut random);
    let sizes = TableSizes::SMALL.with_filter(image.lines());
    let (hot, cold, none, base) =
        World::sized(sizes, |world| contest(world, &lowered, &image, &drawn, &strange, settings))?;
    Ok(Row {
        set: set.name.clone(),
        rules: rules.len(),
        parse_ms,
        lower_ms,
        build_ms,
        bytes: image.words.len() * size_of::<u64>(),
        tables: image.filter.tables[CHAIN][0].count,
        effort: effort(&image, &drawn),
        effort_none: effort(&image, &strange),
        hot,
        cold,
        none,
        base,
    })
}

/// Packets that no rule takes, if such can be found.
fn strangers(image: &Image, count: usize, random: &mut Rng) -> Vec<Flow> {
    let mut strangers = Vec::with_capacity(count);
    for _ in 0..count * 20 {
        let flow = (random.u32(..).into(), random.u32(..).into(), random.u16(..), random.u16(..), 17);
        if image.find(CHAIN, &key(&flow), 0).0.is_none() {
            strangers.push(flow);
            if strangers.len() == count {
                break;
            }
        }
    }
    strangers
}

/// A packet as the kernel half describes it.
pub(super) fn key((source, destination, source_port, destination_port, protocol): &Flow) -> dataplane_common::abi::Key {
    use dataplane_common::abi::{Key, KeyFlags, field, mixed};
    let mut key = Key { length: 46, ..Key::default() };
    key.address[0] = u64::from(u32::from(*destination)) << 32 | u64::from(u32::from(*source));
    let ports = [6, 17].contains(protocol);
    let (from, to) = if ports { (*source_port, *destination_port) } else { (0, 0) };
    key.mixed = mixed::of(from.into(), to.into(), (*protocol).into(), 0, 0);
    key.fields[field::NETWORK] = 4 << 24 | u32::from(*protocol) << 16 | 64;
    key.flags = if ports { KeyFlags::PORTS | KeyFlags::TRANSPORT } else { KeyFlags::empty() };
    key
}

/// Tables and entries looked at, in the mean.
fn effort(image: &Image, flows: &[Flow]) -> (f64, f64) {
    let mut sums = (0, 0);
    for flow in flows {
        let (_, effort) = image.find(CHAIN, &key(flow), 0);
        sums = (sums.0 + effort.tables, sums.1 + effort.entries);
    }
    let mean = |sum: u32| f64::from(sum) / f64::from(flows.len().max(1) as u32);
    (mean(sums.0), mean(sums.1))
}

fn frame((source, destination, source_port, destination_port, protocol): &Flow) -> Vec<u8> {
    let packet = packet::ip(IpAddr::V4(*source), IpAddr::V4(*destination));
    match protocol {
        6 => packet.tcp(*source_port, *destination_port, 0x10),
        17 => packet.udp(*source_port, *destination_port, 18),
        protocol => packet.carrying(*protocol, vec![0; 18]),
    }
    .frame()
}

/// With rules and without, in turn: nanoseconds over none (hot, cold, nothing matches), and those of none.
fn contest(
    world: &mut World,
    lowered: &LoweredFilter,
    image: &Image,
    drawn: &[Flow],
    strange: &[Flow],
    settings: &Settings,
) -> Result<(f64, f64, f64, (f64, f64))> {
    world.commit(image)?;
    let plain = world.furnish(Setting::Plain)?;
    let ruled = plain | lowered.features;
    let ifindex = world.ifindex("client");
    let frames = |flows: &[Flow]| -> Vec<Vec<u8>> { flows.iter().map(frame).collect() };
    let (drawn, strange) = (frames(drawn), frames(strange));
    // The kernel waits for a grace period around each run of more than one.
    let few = |frames: &[Vec<u8>]| frames[..frames.len().min(48)].to_vec();
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..settings.rounds {
        let mut one = |features, frames: &[Vec<u8>], repeat| nanoseconds(world, features, ifindex, frames, repeat);
        let base = one(plain, &few(&drawn), REPEAT)?;
        times[0].push(one(ruled, &few(&drawn), REPEAT)? - base);
        let base_cold = one(plain, &drawn, 1)?;
        times[1].push(one(ruled, &drawn, 1)? - base_cold);
        if !strange.is_empty() {
            let base = one(plain, &few(&strange), REPEAT)?;
            times[2].push(one(ruled, &few(&strange), REPEAT)? - base);
        }
        times[3].push(base);
        times[4].push(base_cold);
    }
    let [hot, cold, none, base, base_cold] = times.map(|times| Spread::of(&times).map_or(0.0, |spread| spread.median));
    Ok((hot, cold, none, (base, base_cold)))
}

fn nanoseconds(world: &mut World, features: Features, ifindex: u32, frames: &[Vec<u8>], repeat: u32) -> Result<f64> {
    let mut total = Duration::ZERO;
    let mut context = [0_u8; 24];
    context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
    for frame in frames {
        context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        let options =
            TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), repeat, ..TestRunOptions::default() };
        total += world.load(features)?.xdp(Hook::Xdp)?.test_run(options)?.duration;
    }
    Ok(total.as_secs_f64() * 1e9 / f64::from(frames.len() as u32))
}

/// Cost against rules, a line for each kind of sets; a kind is a name without its size.
pub fn chart(rows: &[Row]) -> String {
    let kind = |row: &Row| row.set.rsplit_once('_').map_or_else(|| row.set.clone(), |(kind, _)| kind.to_owned());
    let mut kinds: Vec<_> = rows.iter().map(kind).collect();
    kinds.sort();
    kinds.dedup();
    let mut lines = Vec::new();
    for name in kinds {
        let mut of_kind: Vec<_> = rows.iter().filter(|row| kind(row) == name).collect();
        of_kind.sort_by_key(|row| row.rules);
        let line = |what: &str, dashed: bool, cost: fn(&Row) -> f64| Line {
            name: format!("{name} {what}"),
            points: of_kind.iter().map(|row| (f64::from(row.rules as u32), cost(row))).collect(),
            dashed,
        };
        lines.extend([line("hot", false, |row| row.hot), line("cold", true, |row| row.cold)]);
    }
    curve::draw("What rules cost a packet", ("rules", "ns over the program without rules"), &lines)
}

/// The rows as a table.
pub fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<22}{:>8}{:>9}{:>9}{:>9}{:>9}{:>8}{:>14}{:>14}{:>8}{:>8}{:>8}{:>8}\n",
        "set",
        "rules",
        "parse ms",
        "lower ms",
        "build ms",
        "KiB",
        "tables",
        "looks",
        "looks (none)",
        "hot ns",
        "cold ns",
        "none ns",
        "base ns"
    );
    for row in rows {
        let looks = |(tables, entries): (f64, f64)| format!("{tables:.1}+{entries:.1}");
        let _ = writeln!(
            text,
            "{:<22}{:>8}{:>9.1}{:>9.1}{:>9.1}{:>9}{:>8}{:>14}{:>14}{:>8.1}{:>8.1}{:>8.1}{:>8.1}",
            row.set,
            row.rules,
            row.parse_ms,
            row.lower_ms,
            row.build_ms,
            row.bytes / 1024,
            row.tables,
            looks(row.effort),
            looks(row.effort_none),
            row.hot,
            row.cold,
            row.none,
            row.base.0
        );
    }
    text
}
