//! Looks at the machine: files of /proc and /sys, netlink, the BPF side.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    fs::File,
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    control::{protocol::Whereabouts, row::PortRow},
    kernel,
    model::{Event, Link, Model, TcPlace},
    netlink::{Mirror, ethtool, qdisc},
};

/// Where the package, or an administrator, puts the unit of the daemon.
const UNITS: [&str; 2] = ["/lib/systemd/system/dataplane.service", "/etc/systemd/system/dataplane.service"];

/// An interface is unknown.
#[derive(Debug, thiserror::Error)]
#[error("there is no interface {0} in this network namespace; `ip link` lists them")]
pub struct Unknown(pub String);

/// All that is judged.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// Whether the kernel tells its own types.
    pub btf: bool,
    /// `net.core.bpf_jit_enable`; none where it cannot be seen.
    pub jit: Option<u32>,
    /// Where maps and links are pinned, and whether that is a BPF file system; none where the daemon itself says that.
    pub bpffs: Option<(PathBuf, bool)>,
    /// The daemon is in a network namespace that cannot be looked at: its process, and why.
    pub elsewhere: Option<(u32, String)>,
    /// Effective capabilities of this process, a bit for each.
    pub capabilities: u64,
    /// Limit of locked memory in bytes; none: no limit.
    pub memlock: Option<u64>,
    /// Whether the daemon is a service of systemd here.
    pub unit: bool,
    /// Whether a daemon answers; else why not.
    pub daemon: Result<(), String>,
    /// What the kernel has.
    pub model: Model,
    /// Chains of netfilter that forwarded packets meet in the kernel.
    pub netfilter: Vec<String>,
    /// Connection tracking of this network namespace.
    pub conntrack: Conntrack,
    /// Interfaces, or `all`, with `net.ipv4.conf.IFACE.src_valid_mark`.
    pub source_marks: Vec<String>,
    /// The interfaces to look at.
    pub ports: Vec<PortFacts>,
}

/// `net.netfilter.nf_conntrack_*`; none where there is no connection tracking.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conntrack {
    /// Whether connections are announced: 0 never, 1 always, 2 those that begin while a program listens.
    pub events: Option<u64>,
    /// How many connections there are.
    pub count: Option<u64>,
    /// How many there may be.
    pub max: Option<u64>,
}

impl Conntrack {
    fn read() -> Self {
        let number = |name: &str| text(&format!("/proc/sys/net/netfilter/nf_conntrack_{name}"))?.parse().ok();
        Self { events: number("events"), count: number("count"), max: number("max") }
    }
}

/// One interface.
#[derive(Clone, Debug, Default)]
pub struct PortFacts {
    /// As the kernel has it.
    pub link: Link,
    /// As the daemon has it, if it is a port.
    pub row: Option<PortRow>,
    /// Offloads that are on, by the kernel's names.
    pub offloads: BTreeSet<String>,
    /// XDP programs that are not ours.
    pub foreign_xdp: Vec<String>,
    /// tc programs that are not ours.
    pub foreign_tc: Vec<String>,
    /// Packets that reverse path filtering dropped here.
    pub reverse_path: u64,
}

/// A port of the daemon, with its packets by reason.
pub type Counted = (PortRow, BTreeMap<String, u64>);

impl Facts {
    /// Looks where the daemon is. `rows` are its ports with their packets by reason, or why there is no daemon.
    pub fn gather(
        only: Option<&str>,
        bpffs: Option<&Path>,
        place: Option<Whereabouts>,
        rows: Result<Vec<Counted>, String>,
    ) -> anyhow::Result<Self> {
        let elsewhere = place.and_then(|place| Some((place.pid, enter(&place).err()?.to_string())));
        let model = if elsewhere.is_some() { Model::default() } else { model()? };
        if let Some(name) = only
            && elsewhere.is_none()
            && model.link_named(name).is_none()
        {
            return Err(Unknown(name.to_owned()).into());
        }
        let daemon = rows.as_ref().map(drop).map_err(Clone::clone);
        let rows = rows.unwrap_or_default();
        let row = |link: &Link| rows.iter().find(|(row, _)| row.ifindex == link.ifindex);
        // Without a daemon it is not known which are to be ports.
        let examined = |link: &&Link| match only {
            Some(name) => link.name == name,
            None => !link.loopback && (daemon.is_err() || row(link).is_some()),
        };
        let alone = daemon.is_err();
        let ports: Vec<_> = model.links.values().filter(examined).map(|link| port(link, row(link), alone)).collect();
        Ok(Self {
            release: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            jit: jit(),
            bpffs: bpffs.map(|bpffs| (bpffs.to_owned(), kernel::is_bpffs(bpffs).unwrap_or_default())),
            elsewhere,
            capabilities: capabilities(),
            memlock: memlock(),
            unit: UNITS.iter().any(|unit| Path::new(unit).exists()) && Path::new("/run/systemd/system").exists(),
            daemon,
            conntrack: Conntrack::read(),
            source_marks: source_marks(&ports),
            netfilter: model.netfilter.chains.iter().map(ToString::to_string).collect(),
            model,
            ports,
        })
    }
}

/// Goes to the network namespace of the daemon, unless this is it. The process looks, and ends: it need not come back.
fn enter(place: &Whereabouts) -> anyhow::Result<()> {
    let is_it = |file: io::Result<fs::Metadata>| file.is_ok_and(|file| file.ino() == place.namespace);
    if is_it(fs::metadata("/proc/thread-self/ns/net")) {
        return Ok(());
    }
    let path = format!("/proc/{}/ns/net", place.pid);
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    anyhow::ensure!(is_it(namespace.metadata()), "{path} is not that of the daemon");
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {path}"))
}

/// What the kernel tells of this network namespace.
fn model() -> anyhow::Result<Model> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut model = Model::default();
        let events: Vec<Event> = Mirror::open()?.next().await?;
        for event in events {
            model.apply(event);
        }
        Ok(model)
    })
}

/// `alone`: without a daemon, what an ended one left goes by the names of our programs.
fn port(link: &Link, row: Option<&(PortRow, BTreeMap<String, u64>)>, alone: bool) -> PortFacts {
    let named = |(id, name): (u32, String)| format!("{name} (id {id})");
    let xdp = link.xdp.iter().map(|xdp| {
        let name = kernel::program_name(xdp.program).unwrap_or_else(|| "a program".to_owned());
        (xdp.program, name)
    });
    // With a daemon its word counts: a program of the same name may be another daemon's.
    let attached = row.is_some_and(|(row, _)| !row.state.starts_with("failed") && row.mode != "tc");
    let foreign_xdp = xdp.filter(|(_, name)| !(attached || alone && kernel::is_ours(name))).map(named).collect();
    // At egress the daemon leaves packets to them.
    let tcx = kernel::foreign_programs(&link.name, TcPlace::Ingress).into_iter().flatten().map(named);
    let classic = qdisc::classifiers(link.ifindex, TcPlace::Ingress).unwrap_or_default();
    PortFacts {
        link: link.clone(),
        row: row.map(|(row, _)| row.clone()),
        offloads: ethtool::offloads(link.ifindex).unwrap_or_default(),
        foreign_xdp,
        foreign_tc: tcx.chain(classic.into_iter().map(|filter| format!("tc {filter}"))).collect(),
        reverse_path: row.and_then(|(_, reasons)| reasons.get("reverse_path").copied()).unwrap_or_default(),
    }
}

/// The switch is the machine's own, and only seen in its first network namespace.
fn jit() -> Option<u32> {
    const FILE: &str = "/proc/sys/net/core/bpf_jit_enable";
    let first = || {
        let file = File::open("/proc/1/ns/net").ok()?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
        text(FILE)
    };
    let found = text(FILE).or_else(|| std::thread::spawn(first).join().ok().flatten());
    found?.parse().ok()
}

fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}

fn source_marks(ports: &[PortFacts]) -> Vec<String> {
    let on = |name: &&str| text(&format!("/proc/sys/net/ipv4/conf/{name}/src_valid_mark")).as_deref() == Some("1");
    let names = std::iter::once("all").chain(ports.iter().map(|port| port.link.name.as_str()));
    names.filter(on).map(str::to_owned).collect()
}

fn memlock() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
