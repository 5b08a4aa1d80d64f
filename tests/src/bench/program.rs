//! The bench's own programs: loaded, attached, run and read.

#![expect(clippy::cast_precision_loss, reason = "packets and nanoseconds of a run stay far below 2^53")]

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{Array, MapData, PerCpuArray, PerCpuValues, xdp::DevMapHash},
    programs::{SchedClassifier, TcAttachType, Xdp, XdpMode, tc::SchedClassifierLink, xdp::XdpLink},
};
use dataplane_tests_ebpf::{MARK, Mix, Progress, TEMPLATE_LENGTH};
use rustix::thread::{CpuSet, gettid, sched_setaffinity};

use super::{
    chain::Chain,
    classbench::Flow,
    frame::{flow, length, template_of_flows, template4, template6, words},
    namespace::{self, Namespace},
};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench"));
/// Frames per run of the generator before they are flushed into the veth: the kernel's default, and one NAPI budget.
const BATCH: u32 = 64;

/// The generator, loaded for one mix.
#[derive(Debug)]
pub struct Generator {
    ebpf: Ebpf,
    mix: Mix,
    cpu: usize,
}

impl Generator {
    /// Loads the generator for packets of `mix`, to run on `cpu`.
    pub fn load(chain: &Chain, mix: Mix, cpu: usize) -> Result<Self> {
        let template = template4(&chain.path, length(mix));
        let count = chain.table4.destinations.len();
        let uses = |family: Mix| if mix == family || mix == Mix::Both { count } else { 1 };
        let sizes = [uses(Mix::Ipv4), uses(Mix::Ipv6), 1];
        let mut ebpf = open(chain, mix, words(template), count, sizes)?;
        if mix != Mix::Ipv6 {
            let address = |address: &Ipv4Addr| u32::from_ne_bytes(address.octets());
            fill(&mut ebpf, "DESTINATIONS4", chain.table4.destinations.iter().map(address))?;
        }
        if mix != Mix::Ipv4 {
            fill(&mut ebpf, "DESTINATIONS6", chain.table6.destinations.iter().map(Ipv6Addr::octets))?;
        }
        Ok(Self { ebpf, mix, cpu })
    }

    /// The same for these flows in turn, whose number is a power of two.
    pub fn with_flows(chain: &Chain, flows: &[Flow], cpu: usize) -> Result<Self> {
        ensure!(flows.len().is_power_of_two(), "{} flows: not a power of two", flows.len());
        let (template, mix) = (template_of_flows(&chain.path), Mix::Flows);
        let mut ebpf = open(chain, mix, words(template), flows.len(), [1, 1, flows.len()])?;
        fill(&mut ebpf, "FLOWS", flows.iter().map(|of| flow(&template, of)))?;
        Ok(Self { ebpf, mix, cpu })
    }

    /// Sends `packets` frames, at least [`Generator::SHORTEST`] for a time to be known.
    pub fn run(&mut self, chain: &Chain, packets: u32) -> Result<Run> {
        let before = self.progress()?[0];
        let map = self.ebpf.map_mut("SENT").context("the object has no map SENT")?;
        let fresh =
            vec![[before, 0, 0, 0, 0]; aya::util::nr_cpus().map_err(|(file, error)| anyhow!("{file}: {error}"))?];
        PerCpuArray::<_, Progress>::try_from(map)?
            .set(0, PerCpuValues::try_from(fresh)?, 0)
            .context("writing map SENT")?;
        let program = self.ebpf.program("generate").context("the object has no program generate")?;
        let program: &Xdp = program.try_into()?;
        let blank = vec![0; length(self.mix)];
        let waited = chain.source.enter(|| {
            pin(self.cpu)?;
            // Others that share the CPU would be measured too. Where this fails, their share is shown all the same.
            let _unchanged = prefer();
            let before = waited();
            let run = TestRunOptions {
                data_in: Some(&blank),
                repeat: packets,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            };
            program.test_run(run).context("running the generator with live frames (Linux 5.18 or later)")?;
            Ok(waited().zip(before).map(|(after, before)| after.saturating_sub(before)))
        })?;
        let [sent, start, first, end, last] = self.progress()?;
        let nanoseconds = (last > first).then(|| (end - start) as f64 / (last - first) as f64);
        Ok(Run { sent: sent - before, nanoseconds, waited })
    }

    /// Packets of a run that is sure to see two marks.
    pub const SHORTEST: u32 = 4 * MARK as u32;

    /// The CPU it runs on.
    pub const fn cpu(&self) -> usize {
        self.cpu
    }

    fn progress(&self) -> Result<Progress> {
        let map = self.ebpf.map("SENT").context("the object has no map SENT")?;
        let progress = PerCpuArray::<&MapData, Progress>::try_from(map)?.get(&0, 0).context("reading map SENT")?;
        let here = progress.get(self.cpu).copied();
        here.with_context(|| format!("there is no CPU {}; choose another with --cpu", self.cpu))
    }
}

/// What a run of the generator did. On veth the whole chain runs within the generator's own time.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Frames sent.
    pub sent: u64,
    /// Nanoseconds per frame between the first and the last mark; unknown for a short run.
    pub nanoseconds: Option<f64>,
    /// Time that other processes had the CPU meanwhile; unknown where the kernel does not keep it.
    pub waited: Option<Duration>,
}

/// Lets this thread run before all ordinary ones (`SCHED_FIFO`); niceness would count within its own control group only.
/// The kernel keeps 5 % for the others (`/proc/sys/kernel/sched_rt_runtime_us`).
fn prefer() -> Result<String> {
    let thread = gettid().as_raw_nonzero().to_string();
    namespace::run(Command::new("chrt").args(["--fifo", "--pid", "1", &thread]), "")
}

/// How long this thread has been ready without a CPU (second number of `/proc/PID/schedstat`, ns).
fn waited() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Sink and floors, loaded once for a chain.
#[derive(Debug)]
pub struct Surroundings(Ebpf);

impl Surroundings {
    /// Loads the programs and puts nothing anywhere.
    pub fn load(chain: &Chain) -> Result<Self> {
        let exit = Chain::index(&chain.dut, "b0")?;
        let mut ebpf = EbpfLoader::new()
            .override_global("EXIT_TC", &exit, true)
            .map_max_entries("DESTINATIONS4", 1)
            .map_max_entries("DESTINATIONS6", 1)
            .map_max_entries("FLOWS", 1)
            .load(OBJECT)
            .context("loading sink and floors; this needs root")?;
        for name in ["sink", "pass", "null", "rewrite"] {
            xdp(&mut ebpf, name)?.load().with_context(|| format!("loading program {name}"))?;
        }
        tc(&mut ebpf)?.load().context("loading program null_tc")?;
        Ok(Self(ebpf))
    }

    /// Attaches `program` (`sink`, `pass`, `null` or `rewrite`) natively; it comes off when the link is dropped.
    pub fn attach(&mut self, program: &str, namespace: &Namespace, link: &str) -> Result<XdpLink> {
        let xdp = xdp(&mut self.0, program)?;
        namespace.enter(|| {
            let id = xdp.attach(link, XdpMode::Driver);
            let id = id.with_context(|| format!("attaching {program} to {link} in {}", namespace.name()))?;
            Ok(xdp.take_link(id)?)
        })
    }

    /// Attaches the null redirect of tc at the ingress of `link`; it comes off when the link is dropped.
    pub fn attach_tc(&mut self, namespace: &Namespace, link: &str) -> Result<SchedClassifierLink> {
        let program = tc(&mut self.0)?;
        namespace.enter(|| {
            let id = program.attach(link, TcAttachType::Ingress);
            let id = id.with_context(|| format!("attaching null_tc to {link} in {}", namespace.name()))?;
            Ok(program.take_link(id)?)
        })
    }

    /// Points the null redirect of XDP at a link; the namespace of who writes a devmap decides what an index means.
    pub fn set_exit(&mut self, namespace: &Namespace, link: &str) -> Result<()> {
        let index = Chain::index(namespace, link)?;
        let map = self.0.map_mut("EXIT").context("the object has no map EXIT")?;
        let mut exit = DevMapHash::try_from(map)?;
        namespace.enter(|| exit.insert(0, index, None, 0).context("writing map EXIT"))
    }

    /// Packets that `sink` and `pass` have counted so far.
    pub fn received(&self) -> Result<u64> {
        let map = self.0.map("RECEIVED").context("the object has no map RECEIVED")?;
        let counter = PerCpuArray::<&MapData, u64>::try_from(map)?;
        Ok(counter.get(&0, 0).context("reading map RECEIVED")?.iter().sum())
    }
}

/// A program of another owner at tc egress of a link of this namespace, which drops all that leaves; it comes off when what this
/// gives is dropped.
pub fn drop_at_egress(link: &str) -> Result<(Ebpf, SchedClassifierLink)> {
    let mut ebpf = EbpfLoader::new()
        // There is no such link.
        .override_global("EXIT_TC", &0_u32, true)
        .map_max_entries("DESTINATIONS4", 1)
        .map_max_entries("DESTINATIONS6", 1)
        .map_max_entries("FLOWS", 1)
        .load(OBJECT)
        .context("loading a program for tc; this needs root")?;
    let program = tc(&mut ebpf)?;
    program.load().context("loading program null_tc")?;
    let id = program.attach(link, TcAttachType::Egress);
    let attached = program.take_link(id.with_context(|| format!("attaching null_tc to the egress of {link}"))?)?;
    Ok((ebpf, attached))
}

/// Confines the calling thread to one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    ensure!(cpu < CpuSet::MAX_CPU, "CPU {cpu} is beyond {}, the last one that can be named", CpuSet::MAX_CPU - 1);
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("pinning to CPU {cpu}; choose another with --cpu"))
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

fn tc(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    Ok(ebpf.program_mut("null_tc").context("the object has no program null_tc")?.try_into()?)
}

fn open(chain: &Chain, mix: Mix, frame4: [u64; TEMPLATE_LENGTH / 8], count: usize, sizes: [usize; 3]) -> Result<Ebpf> {
    let (frame6, kind) = (words(template6(&chain.path)), mix as u32);
    let mask = u32::try_from(count - 1).context("more destinations than a map holds")?;
    let egress = Chain::index(&chain.source, "a0")?;
    let [ipv4, ipv6, flows] = sizes.map(|size| size as u32);
    let mut ebpf = EbpfLoader::new()
        .override_global("MIX", &kind, true)
        .override_global("MASK", &mask, true)
        .override_global("EGRESS", &egress, true)
        .override_global("TEMPLATE4", &frame4, true)
        .override_global("TEMPLATE6", &frame6, true)
        .map_max_entries("DESTINATIONS4", ipv4)
        .map_max_entries("DESTINATIONS6", ipv6)
        .map_max_entries("FLOWS", flows)
        .load(OBJECT)
        .context("loading the generator; this needs root")?;
    xdp(&mut ebpf, "generate")?.load().context("loading program generate")?;
    Ok(ebpf)
}

fn fill<T: aya::Pod>(ebpf: &mut Ebpf, name: &str, values: impl Iterator<Item = T>) -> Result<()> {
    let map = ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))?;
    let mut map = Array::<_, T>::try_from(map)?;
    for (index, value) in (0..).zip(values) {
        map.set(index, value, 0).with_context(|| format!("writing map {name}"))?;
    }
    Ok(())
}
