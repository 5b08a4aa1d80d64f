//! `dataplane bench`, `dataplane lab bench` and `dataplane lab traffic`: packets a second on this machine.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Args;

mod measure;
mod place;
mod port;
mod report;
mod site;
mod traffic;

pub(super) use self::place::{Place, index};
use self::{
    measure::{Passed, Plan, STOP, Wire},
    port::Outside,
    report::{Absent, Report, Row, machine},
    site::{Kind, OwnLab, Site, Way},
    traffic::{Size, Traffic},
};
use super::{
    count,
    lab::{self, LabDirs, LabOptions},
    session::Session,
    units::grouped,
};

/// Packets a second at which their times are measured: so few that none waits for another.
const SPARSE: u64 = 20_000;
/// How long what was put in place is warmed up.
const WARMING: Duration = Duration::from_millis(100);

/// Measure packets a second on this machine, beside the kernel
///
/// In a lab of its own, which it takes away again: frames that the kernel makes go from the client through the router to the
/// server, where they are counted. The paths take turns: our programs in both modes, the kernel alone, both with rules that do
/// not match. Client, router and server share the CPUs that send, so a packet takes all of its way there. With --from, frames
/// go out of an interface instead. Root is needed.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dataplane bench\n  dataplane bench --size imix --family 4 --svg bench.svg\n  dataplane bench --rate 250k --time 5s --rules 0 -j\n  dataplane bench --from eth0 --gateway 192.0.2.1 --to eth1"
)]
pub(super) struct Bench {
    #[command(flatten)]
    compare: Compare,
    #[command(flatten)]
    outside: Outside,
}

/// What is measured, and where the picture goes.
#[derive(Debug, Args)]
struct Compare {
    #[command(flatten)]
    traffic: Traffic,
    /// How often each path is measured, in turn
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = count)]
    rounds: u64,
    /// Rules that do not match, of the paths with rules; 0: no such paths
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=50_000))]
    rules: u16,
    /// Write a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Measure packets a second in a lab, beside the kernel
///
/// As `dataplane bench`, in a lab that is there. Its config comes back in the end.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane lab bench demo\n  dataplane lab bench demo --family 6 --rules 0")]
pub(super) struct LabBench {
    /// Name of the lab
    #[arg(value_parser = lab::name)]
    name: String,
    #[command(flatten)]
    compare: Compare,
}

/// Send packets through a lab, from its client to its server
///
/// They go to 198.19.0.0/16 and `2001:db8:1000::/36`, for which the router gets routes meanwhile. What has arrived is counted in
/// the end.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dataplane lab traffic demo\n  dataplane lab traffic demo --rate 2000 --time 1m --size imix"
)]
pub(super) struct LabTraffic {
    /// Name of the lab
    #[arg(value_parser = lab::name)]
    name: String,
    #[command(flatten)]
    traffic: Traffic,
}

impl Bench {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        root()?;
        if self.outside.is_wanted() {
            return self.outside.dispatch(&self.compare.traffic, self.compare.svg.as_deref(), session);
        }
        watch_signals()?;
        OwnLab::sweep();
        eprintln!("making a lab");
        let lab = OwnLab::named();
        // Also if it is made by half.
        let queues = Some(self.compare.traffic.cpus as usize).filter(|cpus| *cpus > 1);
        lab.raise(LabOptions { native: true, queues })?;
        let lab = OwnLab(lab);
        let report = self.compare.run(&lab.0, false);
        drop(lab);
        self.compare.show(&report?, session)
    }
}

impl LabBench {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        watch_signals()?;
        let report = self.compare.run(&LabDirs(self.name), true)?;
        self.compare.show(&report, session)
    }
}

impl LabTraffic {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        watch_signals()?;
        let traffic = &self.traffic;
        let (site, wire) = Site::prepare(&LabDirs(self.name), traffic, true)?;
        site.forwards(traffic).unwrap_or_else(|error| eprintln!("warning: {error:#}"));
        let passed = wire.send(Plan { time: traffic.time, rate: traffic.rate })?;
        let mut row = Row::named("traffic".to_owned());
        row.add(&passed, None, None);
        drop(site);
        session.print(&row, || {
            let (sent, received) = (grouped(row.sent), grouped(row.received.unwrap_or_default()));
            format!("{sent} packets sent, {received} arrived\n")
        })
    }
}

impl Compare {
    /// The paths that take part, and those that do not.
    fn paths(&self) -> (Vec<Way>, Vec<Absent>) {
        let all = |rules: usize| [Kind::Ours("native"), Kind::Ours("tc"), Kind::Kernel].map(|kind| Way { kind, rules });
        let mut paths = all(0).to_vec();
        let mut absent = Vec::new();
        if self.rules > 0 {
            paths.extend(all(self.rules.into()));
        }
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let has_nft = std::env::split_paths(&folders).any(|folder| folder.join("nft").is_file());
        paths.retain(|path| {
            let known = has_nft || path.kind != Kind::Kernel || path.rules == 0;
            if !known {
                let why = "nft is not installed, so the kernel has no rules".to_owned();
                absent.push(Absent { path: path.to_string(), why });
            }
            known
        });
        paths.sort_by_key(|path| path.kind == Kind::Kernel);
        (paths, absent)
    }

    fn run(&self, lab: &LabDirs, keep: bool) -> anyhow::Result<Report> {
        let (paths, absent) = self.paths();
        let (site, wire) = Site::prepare(lab, &self.traffic, keep)?;
        let mut rows: Vec<_> = paths.iter().map(|path| Row::named(path.to_string())).collect();
        for round in 1..=self.rounds {
            for (path, row) in paths.iter().zip(&mut rows) {
                eprintln!("round {round} of {}: {path}", self.rounds);
                self.measure(&site, &wire, *path, row).with_context(|| format!("measuring {path}"))?;
            }
        }
        Ok(self.traffic.report(rows, absent))
    }

    /// One path in one round.
    fn measure(&self, site: &Site, wire: &Wire, path: Way, row: &mut Row) -> anyhow::Result<()> {
        site.set_up(path, &self.traffic)?;
        wire.send(Plan { time: WARMING, rate: None })?;
        let before = site.counters()?;
        let passed = wire.send(Plan { time: self.traffic.time, rate: self.traffic.rate })?;
        let after = site.counters()?;
        let counters = std::array::from_fn(|index| after[index].saturating_sub(before[index]));
        let latency = match self.traffic.rate {
            Some(_) => None,
            None => Some(wire.send(Plan { time: self.traffic.time / 2, rate: Some(SPARSE) })?),
        };
        row.add(&passed, Some(counters), latency.as_ref());
        site.take_away(path)
    }

    fn show(&self, report: &Report, session: &Session) -> anyhow::Result<()> {
        show(report, self.svg.as_deref(), session)
    }
}

/// Prints a report, and writes its picture.
fn show(report: &Report, svg: Option<&std::path::Path>, session: &Session) -> anyhow::Result<()> {
    if let Some(file) = svg {
        fs::write(file, report.svg()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    session.print(report, || report.text())
}

impl Traffic {
    /// In words.
    fn words(&self) -> String {
        let size = match self.size {
            Size::Fixed(size) => format!("frames of {size} bytes"),
            Size::Imix => "frames of 60, 590 and 1514 bytes (imix)".to_owned(),
        };
        let many = |number: u32, one: &str, many: &str| match number {
            1 => format!("1 {one}"),
            number => format!("{number} {many}"),
        };
        let (flows, prefixes) = (many(self.flows, "flow", "flows"), many(self.prefixes, "prefix", "prefixes"));
        format!("{}, {size}, {flows} over {prefixes}", self.family.name())
    }

    fn report(&self, paths: Vec<Row>, absent: Vec<Absent>) -> Report {
        let (kernel, cpu) = machine();
        Report {
            version: env!("CARGO_PKG_VERSION"),
            kernel,
            cpu,
            generator: "runs of a BPF program on live frames",
            pktgen: std::path::Path::new("/proc/net/pktgen").exists(),
            traffic: self.words(),
            cpus: self.cpus,
            rate: self.rate,
            seconds: self.time.as_secs_f64(),
            paths,
            absent,
        }
    }
}

fn root() -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "a bench loads BPF programs and makes network namespaces; use root");
    Ok(())
}

/// From now on SIGINT, SIGTERM and SIGHUP end a measurement, after which all is taken away.
fn watch_signals() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot wait for signals")?;
    let mut signals = {
        let _inside = runtime.enter();
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        kinds.map(signal).into_iter().collect::<Result<Vec<_>, _>>().context("cannot wait for signals")?
    };
    let wait = async move {
        let [interrupt, terminate, hangup] = &mut signals[..] else { return };
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
        STOP.store(true, std::sync::atomic::Ordering::Relaxed);
        eprintln!("ending; what was made is taken away");
    };
    thread::spawn(move || runtime.block_on(wait));
    Ok(())
}

/// What was sent through one path and nothing else.
fn single(traffic: &Traffic, path: String, passed: &Passed, counters: Option<[u64; 3]>) -> Report {
    let mut row = Row::named(path);
    row.add(passed, counters, None);
    traffic.report(vec![row], Vec::new())
}
