//! Imported rules against the filter that they came from: the same frames through a router whose kernel has the tables of
//! nft, and through one that has our import of them. What passes must be the same.
//!
//! ```text
//!   hosts: k0 k1 k2                      o0 o1 o2
//!           |  |  |                       |  |  |
//!   kernel: p0 p1 p2, nft          ours: p0 p1 p2, dataplane
//! ```
//!
//! Port N is on `198.18.N.0/24` and `2001:db8:N::/64`, where the router is host 1 and host 2 is known. The names of interfaces in
//! the files are replaced by these. `reject` is taken as `drop`, and what logs or limits does not: only the verdicts are
//! compared.

mod frame;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use dataplane_tests::{
    fixture::plan::{host_mac, port_mac},
    lab::{Daemon, Lab, Leftovers, Need, ready},
    oracle::port::Port,
};

use crate::scene::turn;
use frame::Pool;

/// Ports of each router.
const PORTS: u8 = 3;
/// Frames for each file.
const FRAMES: u32 = 1200;
/// Frames that are sent before what comes out is read.
const BATCH: usize = 150;
/// After so long without a frame no more are expected.
const SILENCE: Duration = Duration::from_millis(25);
/// What the number of a frame is marked with.
const MARK: u32 = 0x5a00_0000;

/// A router in its namespace, and the far ends of its ports.
struct Router {
    name: &'static str,
    ports: Vec<Port>,
}

/// The two routers.
struct Pair {
    routers: [Router; 2],
    daemon: Daemon,
    lab: Lab,
}

impl Pair {
    fn new() -> anyhow::Result<Self> {
        let mut lab = Lab::new()?;
        for name in ["kernel", "ours"] {
            lab.add(name)?;
        }
        lab.add("hosts")?.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let router = |name: &'static str| {
            for net in 0..PORTS {
                let (near, far) = (format!("p{net}"), format!("{}{net}", &name[..1]));
                let (ours, theirs) = (port_mac(net).to_string(), host_mac(net, 2).to_string());
                lab.veth((name, &near, &ours), ("hosts", &far, &theirs))?;
            }
            configure(&lab, name)?;
            let names: Vec<_> = (0..PORTS).map(|net| format!("{}{net}", &name[..1])).collect();
            let ports = lab.namespace("hosts").inside(|| names.iter().map(|name| Port::open(name)).collect())?;
            Ok::<_, anyhow::Error>(Router { name, ports })
        };
        let routers = [router("kernel")?, router("ours")?];
        let daemon = lab.daemon("ours")?;
        daemon.cli(&["attach", "p0", "p1", "p2", "--mode", "tc"])?;
        Ok(Self { routers, daemon, lab })
    }

    /// Puts the tables of a file into the one, and our import of it into the other.
    fn close(self) {
        self.daemon.stop().expect("the daemon stops");
        drop(self.routers);
        drop(self.lab);
    }

    fn load(&self, tables: &str) -> anyhow::Result<()> {
        let file = self.lab.dir().join("rules.nft");
        fs::write(&file, tables)?;
        let file = file.to_str().context("a path of letters")?;
        let kernel = self.lab.namespace("kernel");
        kernel.run("nft flush ruleset")?;
        kernel.run(&format!("nft -f {file}"))?;
        let path = self.lab.dir().join("imported.toml");
        // As it is: with its ports, and with what it says of fragments.
        fs::write(&path, self.daemon.cli(&["import", "nft", file])?)?;
        self.daemon.cli(&["config", "apply", path.to_str().context("a path of letters")?])?;
        Ok(())
    }

    /// The numbers of the frames that come out of each router again, as they are or in an answer.
    fn send(&mut self, frames: &[(u8, Vec<u8>)], first: u32) -> anyhow::Result<[BTreeSet<u32>; 2]> {
        let mut seen = [BTreeSet::new(), BTreeSet::new()];
        for router in &mut self.routers {
            router.read(&mut BTreeSet::new(), 0..0)?;
            for (port, frame) in frames {
                ensure!(router.ports[usize::from(*port)].send(frame)?, "{} took no frame", router.name);
            }
        }
        for (router, seen) in self.routers.iter_mut().zip(&mut seen) {
            router.read(seen, first..first + frames.len() as u32)?;
        }
        Ok(seen)
    }
}

impl Pair {
    /// Sends one frame again: whether it passes, and the reasons that counted.
    /// What becomes of one frame; none where it is the same in both, or the other way round than before: a neighbour that was
    /// not found yet, or an answer that came late.
    fn alone(&mut self, number: u32, ours: bool, (port, frame): &(u8, Vec<u8>)) -> anyhow::Result<Option<String>> {
        let before = self.daemon.stats()?.reasons;
        let [kernel, now] = self.send(&[(*port, frame.clone())], number)?;
        let after = self.daemon.stats()?.reasons;
        let moved: Vec<_> = after.iter().filter(|(name, count)| before.get(*name) != Some(*count)).collect();
        let passes = |seen: &BTreeSet<u32>| seen.contains(&number);
        let same = passes(&kernel) != ours && passes(&now) == ours;
        Ok(same.then(|| format!("alone: nft {}, ours {ours}: {moved:?}", passes(&kernel))))
    }
}

impl Router {
    /// Reads what has come out until nothing more comes.
    fn read(&mut self, seen: &mut BTreeSet<u32>, numbers: std::ops::Range<u32>) -> anyhow::Result<()> {
        let mut last = Instant::now();
        while last.elapsed() < SILENCE {
            let mut quiet = true;
            for port in &mut self.ports {
                while let Some(frame) = port.receive()? {
                    quiet = false;
                    seen.extend(numbered(&frame).filter(|number| numbers.contains(number)));
                }
            }
            if quiet {
                thread::sleep(Duration::from_millis(2));
            } else {
                last = Instant::now();
            }
        }
        Ok(())
    }
}

/// The numbers that are anywhere in a frame: multiples of 16, so that the acknowledgement of one byte more is the same.
///
/// A redirect is none of these: the kernel sends it before it asks chain forward (`ip6_forward`), so it says nothing.
fn numbered(frame: &[u8]) -> impl Iterator<Item = u32> {
    let redirect =
        frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&58) && frame.get(54) == Some(&137);
    let read = if redirect { &[] } else { frame.get(34..).unwrap_or_default() };
    let words = read.windows(4).map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    words.filter(|word| word & 0xff00_0000 == MARK && word & 0xf <= 1).map(|word| (word & 0x00ff_ffff) >> 4)
}

fn configure(lab: &Lab, name: &str) -> anyhow::Result<()> {
    let router = lab.namespace(name);
    router.run(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratemask=0 \
         net.ipv6.icmp.ratelimit=0 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
         net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 net.ipv6.conf.all.accept_ra=0 \
         net.ipv6.conf.default.accept_ra=0 net.ipv6.conf.all.accept_redirects=0 net.ipv6.conf.default.accept_redirects=0",
    )?;
    for net in 0..PORTS {
        let mac = host_mac(net, 2);
        for line in [
            format!("sysctl -qw net.ipv4.conf.p{net}.rp_filter=0 net.ipv4.conf.p{net}.send_redirects=0"),
            format!("ip addr add 198.18.{net}.1/24 dev p{net}"),
            format!("ip -6 addr add 2001:db8:{net}::1/64 dev p{net} nodad"),
            format!("ip neigh add 198.18.{net}.2 lladdr {mac} dev p{net} nud permanent"),
            format!("ip neigh add 2001:db8:{net}::2 lladdr {mac} dev p{net} nud permanent"),
        ] {
            router.run(&line)?;
        }
    }
    // Everything that the files name is somewhere: each port has some of it behind its host.
    for (prefix, net) in [
        ("0.0.0.0/0", 0),
        ("198.51.100.0/24", 1),
        ("203.0.113.0/24", 2),
        ("10.0.0.0/8", 1),
        ("198.18.1.10/32", 1),
        ("198.18.0.16/28", 0),
        ("198.18.1.64/26", 1),
    ] {
        router.run(&format!("ip route add {prefix} via 198.18.{net}.2"))?;
    }
    for (prefix, net) in [("::/0", 0), ("2001:db8:c000::/36", 2), ("2001:db8:a::/48", 1)] {
        router.run(&format!("ip -6 route add {prefix} via 2001:db8:{net}::2"))?;
    }
    Ok(())
}

/// The layouts of the user half's tests that nft can load.
fn layouts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane-user/tests/import");
    let entries = fs::read_dir(folder).expect("the layouts").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|one| one == "nft")).collect();
    files.sort();
    files
}

/// Whether some of it is about connections.
fn has_state(tables: &str) -> bool {
    [" ct ", "\tct ", "type nat", "fib "].iter().any(|word| tables.contains(word))
}

/// The tables with our ports in the place of their interfaces, and verdicts only.
fn comparable(tables: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (index, word) in tables.split('"').enumerate() {
        let before = tables.split('"').nth(index.wrapping_sub(1)).unwrap_or_default().trim_end();
        let text = before.ends_with("comment") || before.ends_with("prefix");
        if index % 2 == 1 && !text && word != "lo" && !names.contains(&word) {
            names.push(word);
        }
    }
    let mut text = tables.to_owned();
    for (net, name) in (0..).map(|net| net % PORTS).zip(&names) {
        text = text.replace(&format!("\"{name}\""), &format!("\"p{net}\""));
    }
    let mut text: String = text.lines().map(|line| verdicts_only(line) + "\n").collect();
    // Ours looks behind extension headers, as a note of the import says.
    text = text.replace("ip6 nexthdr ", "meta nfproto ipv6 meta l4proto ");
    // Tables of one family have its fragments gathered; ours is of both.
    if has_state(&text) && !text.contains("table inet ") {
        text += "table inet gather { chain first { type filter hook forward priority -300; policy accept; ct state new; }\n}\n";
    }
    text
}

/// A line without its `log`, `limit` and the answer of its `reject`.
fn verdicts_only(line: &str) -> String {
    let cut = |line: String, begin: &str, words: usize| match line.find(begin) {
        None => line,
        Some(at) => {
            let rest: Vec<_> = line[at + begin.len()..].split(' ').skip(words).collect();
            format!("{}{}", &line[..at], rest.join(" "))
        }
    };
    // What counts connections and packets of each address has tests of its own.
    let counts = ["add @", "update @", "delete @", "ct count"].iter().any(|word| line.contains(word));
    if line.trim_start().starts_with("log ") || counts {
        return String::new();
    }
    let line = cut(line.to_owned(), "limit rate ", 1);
    let line = cut(line, "burst ", 2);
    let line = match line.find(" comment \"") {
        Some(at) if line.ends_with('"') => line[..at].to_owned(),
        _ => line,
    };
    // The word alone: chains may have it in their names.
    let ends = |text: Option<char>| text.is_none_or(char::is_whitespace);
    let alone = |at: &usize| ends(line[..*at].chars().next_back()) && ends(line[at + "reject".len()..].chars().next());
    match line.match_indices("reject").map(|(at, _)| at).find(alone) {
        Some(at) => format!("{}drop", &line[..at]),
        None => line,
    }
}

/// Sends frames that fit a file of rules through both routers; what passes must be the same.
fn agree(pair: &mut Pair, name: &str, tables: &str, seed: u32) {
    pair.load(tables).unwrap_or_else(|error| panic!("{name}: {error:#}\n{tables}"));
    let mut pool = Pool::new(tables, seed.into());
    // Numbers of its own: an answer may come seconds later, when a neighbour was not found.
    let start = seed * FRAMES;
    let frames: Vec<_> = (start..start + FRAMES).map(|number| pool.frame(number)).collect();
    let mut passed = 0;
    for (index, batch) in frames.chunks(BATCH).enumerate() {
        let first = start + (index * BATCH) as u32;
        let [kernel, ours] = pair.send(batch, first).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        for number in kernel.symmetric_difference(&ours) {
            let sent = &frames[(*number - start) as usize];
            let (port, frame) = sent;
            let Some(reasons) = pair.alone(*number, ours.contains(number), sent).expect("sent again") else { continue };
            let verdict = |passes: bool| if passes { "passes" } else { "does not" };
            let hex = frame.iter().take(80).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
            panic!(
                "{name}: frame {number} into p{port} {} nft and {} ours, as {} others of {} do:\n{hex}\n{reasons}\n{tables}\n{}",
                verdict(kernel.contains(number)),
                verdict(ours.contains(number)),
                kernel.symmetric_difference(&ours).count() - 1,
                batch.len(),
                pair.daemon.cli(&["config", "show"]).expect("the config"),
            );
        }
        passed += ours.len() as u32;
    }
    println!("{name}: {passed} of {FRAMES} pass in both");
    assert!(
        passed > FRAMES / 100 && passed < FRAMES * 99 / 100,
        "{name}: {passed} of {FRAMES} pass: a test of nothing"
    );
}

#[test]
fn imported_rules_decide_as_nft_does() {
    if !ready(&[Need::Root, Need::Tool("ip"), Need::Tool("nsenter"), Need::Tool("nft")]) {
        return;
    }
    let _turn = turn();
    let before = Leftovers::now().expect("looked at the machine");
    let mut pair = Pair::new().expect("two routers");
    let layouts = layouts();
    assert!(layouts.len() >= 9, "{layouts:?}");
    for (seed, path) in layouts.iter().enumerate() {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let tables = comparable(&fs::read_to_string(path).expect("a layout"));
        // No connection of another layout is left.
        if has_state(&tables) {
            pair.close();
            pair = Pair::new().expect("two routers");
        }
        agree(&mut pair, &name, &tables, seed as u32);
    }
    // What they have in common: each names protocols that some take for headers on the way to another.
    for (seed, rule) in [
        "meta l4proto ah drop",
        "meta l4proto != { tcp, udp, 135 } drop",
        "meta l4proto @walked drop",
        "tcp dport 0-65535 drop",
    ]
    .iter()
    .enumerate()
    {
        let set = "set walked { type inet_proto; elements = { 51, 135 }; }";
        let chain = format!("chain forward {{ type filter hook forward priority 0; policy accept; {rule}; }}");
        agree(&mut pair, rule, &format!("table inet t {{ {set}\n{chain}\n}}\n"), (layouts.len() + seed) as u32);
    }
    pair.close();
    before.check().expect("nothing left behind");
}
