//! Requests a second through a transparent proxy: by rules of nft written by hand, and by rules of `dataplane`.

use std::{
    fmt::{self, Write as _},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{load::Load, measure::Spread};
use crate::lab::{CLIENT, Daemon, Lab, Running, SERVER, traffic::Family};

/// Where the server listens, and where the proxy does.
const WEB: u16 = 80;
const PROXY: u16 = 3129;
/// Until programs are in place and daemon and proxy have settled.
const SETTLING: Duration = Duration::from_millis(1500);
/// How long a process may take to end.
const ENDING: Duration = Duration::from_secs(5);
/// Connections at once.
const CONNECTIONS: usize = 16;
/// The server: an `HAProxy` that answers by itself, and says whom it sees.
const ORIGIN: &str = "global\n  maxconn 2000\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 3s\n  timeout client 60s\n  \
                      timeout server 60s\nfrontend web\n  bind 0.0.0.0:80\n  bind :::80 v6only\n  http-request return status 200 \
                      content-type text/plain lf-string \"saw %[src]\\n\"\n";

/// A proxy: its program, what it runs with, its config, and what it writes into the head of each answer.
#[derive(Clone, Copy, Debug)]
struct Proxy {
    program: &'static str,
    words: [&'static str; 2],
    config: &'static str,
    mark: &'static str,
}

const PROXIES: [Proxy; 2] = [
    Proxy {
        program: "haproxy",
        words: ["-db", "-f"],
        config: "global\n  maxconn 2000\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 3s\n  timeout client 60s\n  \
                 timeout server 60s\nfrontend web\n  bind :::3129 v4v6 transparent\n  http-response set-header Via haproxy\n  \
                 default_backend origin\nbackend origin\n  source 0.0.0.0 usesrc clientip\n  server origin *:80\n",
        mark: "via: haproxy\r\n",
    },
    Proxy {
        program: "squid",
        words: ["-N", "-f"],
        config: "http_port 3128\nhttp_port 3129 tproxy\nhttp_access allow all\ncache deny all\naccess_log none\npid_filename none\n\
                 cache_log /dev/null\nnetdb_filename none\npinger_enable off\nunlinkd_program /bin/true\nvisible_hostname lab\n\
                 shutdown_lifetime 0 seconds\nmax_filedescriptors 1024\n",
        mark: "(squid/",
    },
];

/// What hands the packets to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Side {
    /// Rules of nft by hand; nothing of ours.
    Nft,
    /// The same, with a rule that has the kernel track connections.
    NftTracked,
    /// Our rules.
    Native,
    Tc,
    /// Ports without rules, beside rules of nft by hand.
    TcBesideNft,
}

impl Side {
    const ALL: [Self; 5] = [Self::Nft, Self::NftTracked, Self::Native, Self::Tc, Self::TcBesideNft];

    /// The mode of the ports, and whether our rules decide.
    const fn ours(self) -> (Option<&'static str>, bool) {
        match self {
            Self::Nft | Self::NftTracked => (None, false),
            Self::Native => (Some("native"), true),
            Self::Tc => (Some("tc"), true),
            Self::TcBesideNft => (Some("tc"), false),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nft => "nft by hand",
            Self::NftTracked => "nft by hand, connections tracked",
            Self::Native => "dataplane, native",
            Self::Tc => "dataplane, tc",
            Self::TcBesideNft => "dataplane, tc, beside nft by hand",
        })
    }
}

/// How much is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Times that each side is measured.
    pub rounds: usize,
    /// Length of one measurement.
    pub seconds: f64,
    /// The CPU that all runs on.
    pub cpu: usize,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    proxy: &'static str,
    family: &'static str,
    side: Side,
    /// Requests a second.
    rate: Spread,
    /// Beside nft by hand, round by round.
    ratio: Spread,
    /// The same of the best quarter of the rounds of each: what is left when others leave the machine alone.
    undisturbed: f64,
    samples: Vec<f64>,
}

/// A row of `rule list`.
#[derive(Deserialize)]
struct Rule {
    packets: u64,
}

/// Measures; `say` is told of each step.
///
/// # Errors
/// A request that did not pass the proxy, a rule that counted nothing, or what was needed for it and is not there.
pub fn run(settings: &Settings, say: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    let lab = Lab::router()?;
    lab.namespace("router").run("ip link set lo up")?;
    // It loads programs when a side is put in place, and must not do that where the proxy runs.
    let daemon = lab.daemon("router")?;
    pin(settings.cpu)?;
    let mut rows = Vec::new();
    for proxy in PROXIES {
        for family in Family::BOTH {
            let mut samples = vec![Vec::new(); Side::ALL.len()];
            for round in 0..settings.rounds {
                say(&format!("{}, {}, round {} of {}", proxy.program, family.name(), round + 1, settings.rounds));
                for step in 0..Side::ALL.len() {
                    let at = (round + step) % Side::ALL.len();
                    let side = Side::ALL[at];
                    let measured = measure(&lab, &daemon, proxy, family, side, settings.seconds);
                    samples[at].push(measured.with_context(|| format!("{}, {side}", proxy.program))?);
                }
            }
            let row = |(at, side): (usize, &Side)| row(proxy, family, *side, &samples[at], &samples[0]);
            rows.extend(Side::ALL.iter().enumerate().filter_map(row));
        }
    }
    daemon.stop()?;
    Ok(rows)
}

fn row(proxy: Proxy, family: Family, side: Side, samples: &[f64], nft: &[f64]) -> Option<Row> {
    let ratios: Vec<_> = samples.iter().zip(nft).map(|(own, nft)| own / nft).collect();
    Some(Row {
        proxy: proxy.program,
        family: family.name(),
        side,
        rate: Spread::of(samples)?,
        ratio: Spread::of(&ratios)?,
        undisturbed: best(samples)? / best(nft)?,
        samples: samples.to_vec(),
    })
}

/// The value that a quarter of the rounds exceed.
fn best(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(|one, other| other.total_cmp(one));
    sorted.get(samples.len() / 4).copied()
}

/// Requests a second with what one side puts in place, with a proxy and a server that nobody has used.
fn measure(lab: &Lab, daemon: &Daemon, proxy: Proxy, family: Family, side: Side, seconds: f64) -> Result<f64> {
    put(lab, daemon, side)?;
    let mut origin = start(lab, "server", "haproxy", ["-db", "-f"], ORIGIN)?;
    let mut program = start(lab, "router", proxy.program, proxy.words, proxy.config)?;
    sleep(SETTLING);
    let before = counts(lab, daemon, side)?;
    let saw = format!("saw {}\n", family.address(&CLIENT).replace(":0::", "::"));
    let load = Load {
        server: std::net::SocketAddr::new(family.address(&SERVER).parse()?, WEB),
        connections: CONNECTIONS,
        threads: 1,
        marks: vec![proxy.mark.to_owned(), saw],
    };
    let rate = lab.namespace("client").inside(|| load.run(Duration::from_secs_f64(seconds)));
    let rate = rate.with_context(|| format!("the proxy: {}", program.said()))?;
    let after = counts(lab, daemon, side)?;
    let [answers, begun] = [0, 1].map(|rule| after[rule] - before[rule]);
    // Requests and answers match the first rule, each connection of a client begins with the second.
    let counted = f64::from(u32::try_from(answers)?);
    ensure!(
        counted > 1.9 * rate * seconds && begun >= CONNECTIONS as u64,
        "{rate} requests a second in {seconds} s, and the rules counted {answers} and {begun}"
    );
    program.terminate(ENDING)?;
    origin.terminate(ENDING)?;
    take_away(lab, daemon, side)?;
    Ok(rate)
}

fn start(lab: &Lab, place: &str, program: &str, words: [&str; 2], config: &str) -> Result<Running> {
    let file = lab.dir().join(format!("{place}.conf"));
    std::fs::write(&file, config).context("a config")?;
    let namespace = lab.namespace(place);
    let mut command = namespace.command(program);
    command.args(words).arg(file);
    namespace.spawn(&mut command, &lab.dir().join(format!("{place}.log")))
}

fn put(lab: &Lab, daemon: &Daemon, side: Side) -> Result<()> {
    let (mode, rules) = side.ours();
    if let Some(mode) = mode {
        let chain = format!(
            "[chains.prerouting]\nrules = ['socket transparent 1 accept', 'iifname \"client0\" tcp dport {WEB} tproxy to :{PROXY}']\n"
        );
        let chain = if rules { &chain } else { "" };
        let file = lab.dir().join("side.toml");
        let ports = format!("[ports]\nclient0 = {{ mode = '{mode}' }}\nserver0 = {{ mode = '{mode}' }}\n");
        std::fs::write(&file, format!("{ports}{chain}")).context("a config")?;
        daemon.cli(&["config", "apply", &file.to_string_lossy()])?;
    }
    if !rules {
        let tracked = if side == Side::NftTracked { "ct state invalid counter;" } else { "" };
        let ruleset = format!(
            "table inet byhand {{ chain pre {{ type filter hook prerouting priority mangle;\n\
             socket transparent 1 counter meta mark set 1 accept;\n\
             iifname \"client0\" tcp dport {WEB} tproxy to :{PROXY} counter meta mark set 1 accept;\n{tracked} }}; }}\n"
        );
        let file = lab.dir().join("side.nft");
        std::fs::write(&file, ruleset).context("rules")?;
        let router = lab.namespace("router");
        router.run(&format!("nft -f {}", file.display()))?;
        for family in ["-4", "-6"] {
            router.run(&format!("ip {family} rule add fwmark 1/1 lookup 100"))?;
            router.run(&format!("ip {family} route add local default dev lo table 100"))?;
        }
    }
    Ok(())
}

fn take_away(lab: &Lab, daemon: &Daemon, side: Side) -> Result<()> {
    let (mode, rules) = side.ours();
    if mode.is_some() {
        daemon.cli(&["detach", "--all"])?;
    }
    if !rules {
        let router = lab.namespace("router");
        router.run("nft delete table inet byhand")?;
        for family in ["-4", "-6"] {
            router.run(&format!("ip {family} rule del fwmark 1/1 lookup 100"))?;
            router.run(&format!("ip {family} route flush table 100"))?;
        }
    }
    Ok(())
}

/// Packets that the two rules have counted.
fn counts(lab: &Lab, daemon: &Daemon, side: Side) -> Result<Vec<u64>> {
    let counts: Vec<u64> = if side.ours().1 {
        daemon.read::<Vec<Rule>>(&["rule", "list"])?.iter().map(|rule| rule.packets).collect()
    } else {
        let text = lab.namespace("router").run("nft list table inet byhand")?;
        let words: Vec<_> = text.split_whitespace().collect();
        words.windows(2).filter(|pair| pair[0] == "packets").filter_map(|pair| pair[1].parse().ok()).collect()
    };
    ensure!(counts.len() >= 2, "{} rules", counts.len());
    Ok(counts)
}

/// This thread, and all that it starts, stays on one CPU: which of them is woken on which changes more than what is measured.
fn pin(cpu: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("keeping to CPU {cpu}"))
}

/// The table.
pub fn text(settings: &Settings, rows: &[Row]) -> String {
    let mut out = format!(
        "{CONNECTIONS} connections that are kept, all on CPU {}, {} rounds of {} s; each answer was checked\n\n",
        settings.cpu, settings.rounds, settings.seconds
    );
    let _ = writeln!(
        out,
        "{:<8} {:<5} {:<34} {:>10} {:>8} {:>12}",
        "PROXY", "", "BY", "REQUESTS/s", "TO NFT", "UNDISTURBED"
    );
    for row in rows {
        let (rate, ratio) = (row.rate.median, row.ratio.median);
        let line = format!("{:<8} {:<5} {:<34} {rate:>10.0} {ratio:>8.3}", row.proxy, row.family, row.side.to_string());
        let _ = writeln!(out, "{line} {:>12.3}", row.undisturbed);
    }
    out
}
