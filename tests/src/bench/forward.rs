//! `bench forward`: what forwarding a packet costs, beside the kernel and beside doing nothing.

use anyhow::{Context as _, Result, ensure};
use dataplane_tests_ebpf::Mix;
use serde::{Serialize, Serializer};

use super::{
    chain::Chain,
    contestant::Contestant,
    machine::Machine,
    measure::{Sample, sample},
    program::{Generator, Surroundings},
    table::Frames,
};

/// Which packets: what `--family` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    /// 60-byte frames.
    Ipv4,
    /// 62-byte frames.
    Ipv6,
    /// Both in turn, 62-byte frames.
    Mixed,
}

impl Family {
    /// Name in tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Mixed => "mixed",
        }
    }

    const fn mix(self) -> Mix {
        match self {
            Self::Ipv4 => Mix::Ipv4,
            Self::Ipv6 => Mix::Ipv6,
            Self::Mixed => Mix::Both,
        }
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Forwarding and rules.
    Forward,
    /// Connections that netfilter follows.
    Flow,
    /// Bridges.
    Bridge,
    /// This build and another one.
    Against,
}

impl Suite {
    /// All that take part.
    pub fn contestants(self) -> Vec<Contestant> {
        match self {
            Self::Forward => Contestant::all(),
            Self::Flow => Contestant::with_connections(),
            Self::Bridge => Contestant::with_bridges(),
            Self::Against => Contestant::against(),
        }
    }

    /// What its files are called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Flow => "flow",
            Self::Bridge => "bridge",
            Self::Against => "against",
        }
    }
}

/// What to run.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// IPv4 routes; IPv6 has as many up to 1,000, else a quarter.
    pub routes: usize,
    /// Times that each contestant is measured.
    pub rounds: usize,
    /// Length of one measurement.
    pub seconds: f64,
    /// Destinations.
    #[serde(serialize_with = "display")]
    pub frames: Frames,
    /// Kinds of packets, each measured on its own.
    #[serde(serialize_with = "names")]
    pub families: Vec<Family>,
    /// CPU that everything runs on.
    pub cpu: usize,
    /// Which contestants there are.
    pub suite: Suite,
    /// Contestants whose name contains one of these; all when empty. The floors and the plain kernel always run.
    pub only: Vec<String>,
}

/// All rounds of a contestant with one kind of packets.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// Who.
    #[serde(serialize_with = "display")]
    pub contestant: Contestant,
    /// Kind of packets.
    #[serde(serialize_with = "name")]
    pub family: Family,
    /// One per round; a round in which it failed is not there.
    pub samples: Vec<Sample>,
}

/// Somebody who did not take part, or not to the end.
#[derive(Clone, Debug, Serialize)]
pub struct Absence {
    /// Who.
    #[serde(serialize_with = "display")]
    pub contestant: Contestant,
    /// Why.
    pub reason: String,
    /// It should have worked: the run as a whole has failed.
    pub failed: bool,
}

/// A whole run.
#[derive(Debug)]
pub struct Outcome {
    /// Where.
    pub machine: Machine,
    /// In the order of a round.
    pub series: Vec<Series>,
    /// Who is missing.
    pub absent: Vec<Absence>,
    /// What contestants said when they were taken away, in the last round.
    pub notes: Vec<(Contestant, String)>,
}

impl Outcome {
    /// Whether every contestant that took part delivered packets; the reason if not.
    pub fn plausible(&self) -> Result<()> {
        for series in &self.series {
            let delivered: u64 = series.samples.iter().map(|sample| sample.delivered).sum();
            let family = series.family.name();
            ensure!(delivered > 0, "{} delivered no {family} packet; the figures mean nothing", series.contestant);
        }
        let failures: Vec<_> = self.absent.iter().filter(|absence| absence.failed).collect();
        ensure!(failures.is_empty(), "{} contestant(s) failed; see the table", failures.len());
        Ok(())
    }
}

/// Runs it: in every round each contestant is put in place, measured with each kind of packets, and taken away. An error of
/// `progress` ends it, and all that was made is removed.
pub fn run(settings: &Settings, progress: &mut dyn FnMut(&str) -> Result<()>) -> Result<Outcome> {
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for contestant in settings.suite.contestants().into_iter().filter(|contestant| chosen(settings, *contestant)) {
        match contestant.missing() {
            None => present.push(contestant),
            Some(reason) => absent.push(Absence { contestant, reason, failed: false }),
        }
    }
    progress("building the chain")?;
    let chain = Chain::new(settings.routes, settings.frames)?;
    let mut surroundings = Surroundings::load(&chain)?;
    let _sink = surroundings.attach("sink", &chain.sink, "b1")?;
    let load = |family: &Family| Ok((*family, Generator::load(&chain, family.mix(), settings.cpu)?));
    let mut generators = settings.families.iter().map(load).collect::<Result<Vec<_>>>()?;
    let empty = |contestant: &Contestant| {
        let contestant = *contestant;
        settings.families.iter().map(move |&family| Series { contestant, family, samples: Vec::new() })
    };
    let mut series: Vec<_> = present.iter().flat_map(empty).collect();
    let mut notes = Vec::new();
    for round in 1..=settings.rounds {
        for &contestant in &present {
            if absent.iter().any(|absence: &Absence| absence.contestant == contestant) {
                continue;
            }
            progress(&format!("round {round} of {}: {contestant}", settings.rounds))?;
            match measure(contestant, &chain, &mut surroundings, &mut generators, settings.seconds) {
                Ok((samples, note)) => {
                    let own = series.iter_mut().filter(|series| series.contestant == contestant);
                    own.zip(samples).for_each(|(series, sample)| series.samples.push(sample));
                    notes.retain(|(who, _)| *who != contestant);
                    notes.extend(note.map(|note| (contestant, note)));
                }
                Err(error) => absent.push(Absence { contestant, reason: format!("{error:#}"), failed: true }),
            }
        }
    }
    series.retain(|series| !series.samples.is_empty());
    Ok(Outcome { machine: Machine::read(), series, absent, notes })
}

/// One contestant in one round: a sample for each kind of packets, and what it had to say.
fn measure(
    contestant: Contestant,
    chain: &Chain,
    surroundings: &mut Surroundings,
    generators: &mut [(Family, Generator)],
    seconds: f64,
) -> Result<(Vec<Sample>, Option<String>)> {
    let families: Vec<_> = generators.iter().map(|(family, _)| *family).collect();
    let contender = contestant.set_up(chain, surroundings, &families)?;
    let samples = generators.iter_mut().map(|(family, generator)| {
        sample(chain, surroundings, generator, seconds).with_context(|| format!("measuring {}", family.name()))
    });
    let samples = samples.collect::<Result<_>>()?;
    Ok((samples, contender.tear_down()?))
}

fn chosen(settings: &Settings, contestant: Contestant) -> bool {
    let reference = [Contestant::Drop, Contestant::Null, Contestant::NullTc, Contestant::KERNEL].contains(&contestant);
    let name = contestant.to_string();
    let unnamed = settings.only.is_empty() && !contestant.is_large();
    let whole = |part: &str| settings.suite.contestants().iter().any(|other| other.to_string() == part);
    let named = |part: &String| if whole(part) { name == *part } else { name.contains(part.as_str()) };
    reference || unnamed || settings.only.iter().any(named)
}

fn display<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn name<S: Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(family.name())
}

fn names<S: Serializer>(families: &[Family], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(families.iter().map(|family| family.name()))
}
