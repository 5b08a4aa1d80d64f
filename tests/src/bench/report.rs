//! A run as a table for people, JSON for programs, and the command to repeat it.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    chart,
    contestant::Contestant,
    forward::{Absence, Family, Outcome, Series, Settings},
    machine::Machine,
    measure::{Sample, Spread},
};

/// One line of the table: a contestant with one kind of packets.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Who.
    pub contestant: String,
    /// Kind of packets.
    pub family: &'static str,
    /// Nanoseconds per packet for the whole chain.
    pub nanoseconds: Option<Spread>,
    /// Millions of packets per second, from the median.
    pub mpps: Option<f64>,
    /// The kernel's time divided by its time, round by round: above 1 is faster than the kernel.
    pub ratio_to_kernel: Option<Spread>,
    /// Nanoseconds over the null redirect, round by round.
    pub over_null: Option<Spread>,
    /// Worst share of packets lost in a round.
    pub loss: f64,
    /// Rounds with any loss.
    pub lossy_rounds: usize,
    /// Time the hypervisor took during all rounds.
    pub steal_ms: u64,
    /// Time that other processes had the CPU during all rounds.
    pub waited_ms: u64,
    /// The rounds themselves.
    pub samples: Vec<Sample>,
}

/// What is written to `forward.json`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    command: &'a str,
    settings: &'a Settings,
    machine: &'a Machine,
    rows: &'a [Row],
    absent: &'a [Absence],
    notes: Vec<Note>,
}

#[derive(Debug, Serialize)]
struct Note {
    contestant: String,
    text: String,
}

/// Lines of the table, grouped by kind of packets.
pub fn rows(outcome: &Outcome, families: &[Family]) -> Vec<Row> {
    let of = |family: Family| outcome.series.iter().filter(move |series| series.family == family);
    let row = |series: &Series| {
        let peer = |who| of(series.family).find(|peer| peer.contestant == who);
        row(series, peer(Contestant::KERNEL), peer(series.contestant.floor()))
    };
    families.iter().flat_map(|&family| of(family).map(row).collect::<Vec<_>>()).collect()
}

fn row(series: &Series, kernel: Option<&Series>, null: Option<&Series>) -> Row {
    let own: Vec<_> = series.samples.iter().filter_map(|sample| sample.nanoseconds).collect();
    let nanoseconds = Spread::of(&own);
    let half = series.contestant == Contestant::Drop;
    Row {
        contestant: series.contestant.to_string(),
        family: series.family.name(),
        nanoseconds,
        mpps: nanoseconds.map(|spread| 1000.0 / spread.median),
        ratio_to_kernel: paired(kernel, series, |kernel, own| kernel / own),
        over_null: if half { None } else { paired(null, series, |null, own| own - null) },
        loss: series.samples.iter().map(Sample::loss).fold(0.0, f64::max),
        lossy_rounds: series.samples.iter().filter(|sample| sample.loss() > 0.0).count(),
        steal_ms: series.samples.iter().map(|sample| sample.steal_ms).sum(),
        waited_ms: series.samples.iter().filter_map(|sample| sample.waited_ms).sum(),
        samples: series.samples.clone(),
    }
}

/// Compares two series round by round, so that a slow minute of the machine hits both.
fn paired(reference: Option<&Series>, own: &Series, compare: fn(f64, f64) -> f64) -> Option<Spread> {
    let pairs = reference?.samples.iter().zip(&own.samples);
    let values = pairs.filter_map(|(left, right)| Some(compare(left.nanoseconds?, right.nanoseconds?)));
    Spread::of(&values.collect::<Vec<_>>())
}

/// The table and what belongs beside it.
pub fn text(outcome: &Outcome, settings: &Settings, rows: &[Row], command: &str) -> Result<String> {
    let mut out = String::new();
    let machine = &outcome.machine;
    writeln!(out, "machine: {} ({} CPUs), Linux {}", machine.cpu, machine.cpus, machine.kernel)?;
    writeln!(out, "         spectre_v2: {}", machine.mitigations)?;
    let hz = machine.hz.as_deref().unwrap_or("unknown");
    let steal: u64 = rows.iter().map(|row| row.steal_ms).sum();
    let waited: u64 = rows.iter().map(|row| row.waited_ms).sum();
    writeln!(out, "         HZ {hz}, bpf_jit_enable {}", machine.jit)?;
    writeln!(
        out,
        "lost:    {steal} ms to the hypervisor (steal), {waited} ms to other processes, in all measurements"
    )?;
    let (routes, frames) = (settings.routes, settings.frames);
    writeln!(
        out,
        "run:     {routes} routes, {frames} ({} destinations), CPU {}, {} rounds of {} s, interleaved",
        frames.destinations(),
        settings.cpu,
        settings.rounds,
        settings.seconds
    )?;
    writeln!(out, "         times are per packet for the whole chain generator, veth, device under test, veth, sink")?;
    writeln!(
        out,
        "pktgen:  {}",
        if machine.pktgen {
            "this kernel has it; not used here, as its skbs take another path than frames"
        } else {
            "this kernel has none"
        }
    )?;
    for family in &settings.families {
        table(&mut out, family.name(), rows)?;
    }
    absences(&mut out, &outcome.absent)?;
    for (contestant, note) in &outcome.notes {
        writeln!(out, "note: {contestant}: {note}")?;
    }
    writeln!(out, "repeat with: {command}")?;
    Ok(out)
}

/// One line for each reason.
fn absences(out: &mut String, absent: &[Absence]) -> Result<()> {
    let same = |left: &Absence, right: &Absence| (left.failed, &left.reason) == (right.failed, &right.reason);
    for group in absent.chunk_by(same) {
        let names: Vec<_> = group.iter().map(|absence| absence.contestant.to_string()).collect();
        let what = if group[0].failed { "FAILED" } else { "skipped" };
        writeln!(out, "{what}: {}: {}", names.join("; "), group[0].reason)?;
    }
    Ok(())
}

fn table(out: &mut String, family: &str, rows: &[Row]) -> Result<()> {
    let name = |row: &Row| row.contestant.chars().count();
    let width = rows.iter().map(name).max().unwrap_or(0);
    writeln!(out, "\n{family:width$}  ns/packet   min .. max       MAD    Mpps  x kernel  over null   loss")?;
    for row in rows.iter().filter(|row| row.family == family) {
        let Some(time) = row.nanoseconds else {
            writeln!(out, "{:width$}  delivered nothing", row.contestant)?;
            continue;
        };
        let cell = |value: Option<Spread>, digits| value.map_or("-".to_owned(), |it| format!("{:.digits$}", it.median));
        let loss = if row.lossy_rounds == 0 {
            "0".to_owned()
        } else {
            format!("{:.4} % LOSS in {} of {} rounds", row.loss * 100.0, row.lossy_rounds, row.samples.len())
        };
        writeln!(
            out,
            "{:width$}  {:9.1} {:7.0} .. {:<7.0} {:6.1} {:7.3} {:>9} {:>10}   {loss}",
            row.contestant,
            time.median,
            time.min,
            time.max,
            time.mad,
            row.mpps.unwrap_or_default(),
            cell(row.ratio_to_kernel, 2),
            cell(row.over_null, 1),
        )?;
    }
    writeln!(out)?;
    Ok(())
}

/// Writes JSON and SVG, named for the suite.
pub fn write(directory: &Path, outcome: &Outcome, settings: &Settings, rows: &[Row], command: &str) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let note =
        |(contestant, text): &(Contestant, String)| Note { contestant: contestant.to_string(), text: text.clone() };
    let document = Document {
        command,
        settings,
        machine: &outcome.machine,
        rows,
        absent: &outcome.absent,
        notes: outcome.notes.iter().map(note).collect(),
    };
    let json = serde_json::to_string_pretty(&document).context("writing the figures as JSON")?;
    for (name, content) in [("json", json), ("svg", chart::draw(&title(settings, outcome), rows))] {
        let path = directory.join(format!("{}.{name}", settings.suite.name()));
        fs::write(&path, content + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn title(settings: &Settings, outcome: &Outcome) -> String {
    let Machine { cpu, kernel, .. } = &outcome.machine;
    let release = kernel.split(' ').next().unwrap_or_default();
    format!("ns per packet, whole chain: {} routes, {}; {cpu}, Linux {release}", settings.routes, settings.frames)
}
