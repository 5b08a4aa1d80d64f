//! Connections through both routers, with the rules of real ones: state, translation, errors, ends. What comes out is compared
//! byte for byte; where the kernel drew a port, it stands for the one that was asked for.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use fastrand::Rng;
use serde_json::Value;

use super::{
    Order, Pinned,
    exchange::{Connection, End, Outside},
    layout::{LAYOUTS, Layout},
    outcome::{is_own, is_timed},
    picture::PORTS,
    report::decoded,
    tree::{INWARD, Outcome, Shot, Tree},
};
use crate::fixture::packet::{Version, sum};

/// Connections at a time.
const CONNECTIONS: usize = 40;
/// Acts of different connections that go in together.
const TOGETHER: usize = 16;
/// After so many of these, connections rest until rows of the flow table are written.
const ROUND: u64 = 25;
/// Longer than the daemon waits before it sets a connection of the kernel liberal (`flow::YOUNG`).
const REST: Duration = Duration::from_millis(80);
/// Differences that are described.
const ENOUGH: usize = 5;

/// In the word of flags and offset of IPv4.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Where a frame came out, as it is compared.
type Frames = BTreeMap<(u8, Vec<u8>), u32>;

/// What was found.
#[derive(Debug, Default)]
struct Found {
    frames: u64,
    carried: u64,
    forwarded: u64,
    acts: BTreeMap<&'static str, u64>,
    differences: u64,
    texts: Vec<String>,
}

/// Runs all layouts, each in native and in tc. A difference is an error.
pub fn run(order: &Order) -> anyhow::Result<()> {
    let wanted = |layout: &&Layout| order.picture.as_ref().is_none_or(|part| layout.picture.name.contains(part));
    let modes = ["native", "tc"].into_iter().filter(|mode| order.mode.as_ref().is_none_or(|wanted| wanted == mode));
    let modes: Vec<_> = modes.collect();
    let runs: Vec<_> =
        LAYOUTS.iter().filter(wanted).flat_map(|layout| modes.iter().map(move |mode| (layout, *mode))).collect();
    let share = order.packets.div_ceil(runs.len().max(1) as u64);
    let (mut frames, mut differences) = (0, 0);
    for (layout, mode) in runs {
        let begun = Instant::now();
        let name = layout.picture.name;
        let found = one(layout, mode, share, order.seed).with_context(|| format!("layout {name}, mode {mode}"))?;
        println!(
            "{name} {mode}: {} frames, {} forwarded by the kernel alone, {} carried by rows of ours, {} differences; {:.1} s; {:?}",
            found.frames,
            found.forwarded,
            found.carried,
            found.differences,
            begun.elapsed().as_secs_f64(),
            found.acts
        );
        for text in &found.texts {
            println!("{name} {mode}, seed {}: {text}", order.seed);
        }
        // What is never carried shows nothing.
        ensure!(
            found.carried * 10 > found.forwarded,
            "{name} {mode}: {} of {} carried",
            found.carried,
            found.forwarded
        );
        frames += found.frames;
        differences += found.differences;
    }
    println!("{frames} frames of connections, seed {}, {differences} unexplained", order.seed);
    if differences > 0 {
        bail!("{differences} batches of connections differ");
    }
    Ok(())
}

fn one(layout: &Layout, mode: &str, frames: u64, seed: u64) -> anyhow::Result<Found> {
    let kernel = Tree::new(&layout.picture)?;
    kernel.load(layout.rules)?;
    let mut ours = Tree::new(&layout.picture)?;
    ours.load(layout.rules)?;
    ours.attach(mode, &[], "[flows]\nlease = 1\n")?;
    wait_until_followed(&ours)?;
    let _pinned = Pinned::new()?;
    let mut pair = Pair {
        trees: [kernel, ours],
        layout,
        rng: Rng::with_seed(seed ^ layout.picture.seed()),
        connections: Vec::new(),
        next: 0,
        found: Found::default(),
    };
    let mut batches = 0;
    while pair.found.frames < frames && pair.found.texts.len() < ENOUGH {
        pair.batch()?;
        batches += 1;
        if batches % ROUND == 0 {
            thread::sleep(REST);
        }
    }
    let stats: Value = pair.trees[1].daemon().context("a daemon")?.read(&["stats"])?;
    pair.found.carried = stats["totals"]["forwarded"].as_u64().context("no count")?;
    Ok(pair.found)
}

/// Nothing is carried before the daemon knows the rules.
fn wait_until_followed(tree: &Tree) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let ports: Vec<Value> = tree.daemon().context("a daemon")?.read(&["port", "list"])?;
        if ports.iter().all(|port| port["flows"] == "on") {
            return Ok(());
        }
        ensure!(Instant::now() < end, "connections are not followed: {ports:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Both routers, and the connections through them.
struct Pair<'l> {
    trees: [Tree; 2],
    layout: &'l Layout,
    rng: Rng,
    connections: Vec<Connection>,
    next: u16,
    found: Found,
}

impl Pair<'_> {
    /// A new connection, or one between the ends of an old one.
    fn begin(&mut self) {
        let over = self.connections.iter().position(Connection::is_over);
        if self.connections.len() == CONNECTIONS && over.is_none() {
            return;
        }
        let begins = self.layout.begins;
        let (port, targets, ports) = begins[self.rng.usize(..begins.len())];
        let version = Version::ALL[self.rng.usize(..2)];
        let target: IpAddr = targets[usize::from(version == Version::V6)].parse().expect("an address");
        let number = ports[self.rng.usize(..ports.len())];
        // Few ports, so that some are wanted twice.
        let from = (version.address((port, 2 + self.rng.u8(..2))), 10_000 + self.rng.u16(..60) * 100);
        let tcp = match number {
            53 | 4000 | 5353 | 51820 | 51821 => false,
            443 => self.rng.u8(..4) > 0,
            _ => true,
        };
        self.next = (self.next + 1) & 0x7fff;
        let mut connection = Connection::new(self.next, tcp, port, from, (target, number));
        if let Some(old) = over {
            // The same ends at once after their end.
            if self.rng.bool() {
                connection = self.connections[old].again(self.next);
            }
            self.connections.swap_remove(old);
        }
        if self.connections.iter().all(|other| !other.is_like(&connection)) {
            self.connections.push(connection);
        }
    }

    /// Sends one act of some connections into both, and compares what comes out.
    fn batch(&mut self) -> anyhow::Result<()> {
        self.begin();
        self.begin();
        self.rng.shuffle(&mut self.connections);
        let (mut shots, mut words): ([Vec<Shot>; 2], _) = ([Vec::new(), Vec::new()], Vec::new());
        for connection in self.connections.iter_mut().take(TOGETHER) {
            if let Some((word, [kernel, ours])) = connection.act(&mut self.rng) {
                *self.found.acts.entry(word).or_default() += 1;
                words.push(format!("{word} of {}", connection.name()));
                shots[0].extend(kernel);
                shots[1].extend(ours);
            }
        }
        self.found.frames += shots[0].len() as u64;
        let [first, second] = &mut self.trees;
        let outcomes = [first.send(&shots[0])?, second.send(&shots[1])?];
        self.found.forwarded += outcomes[0].forwarded;
        for (tree, outcome) in outcomes.iter().enumerate() {
            self.learn(tree, outcome);
        }
        let compared = [0, 1].map(|tree| canonical(&self.connections, tree, &outcomes[tree]));
        if compared[0] != compared[1] || outcomes[0].delivered != outcomes[1].delivered {
            self.found.differences += 1;
            self.found.texts.push(self.describe(&compared, &outcomes, &words));
        }
        Ok(())
    }

    /// Finds out how connections leave a router.
    fn learn(&mut self, tree: usize, outcome: &Outcome) {
        for (exit, frame) in &outcome.frames {
            let Some((protocol, [from, to], transport)) = flow(frame) else { continue };
            let mut of = self.connections.iter_mut().filter(|connection| connection.is_of(protocol, transport));
            if let Some(connection) = of.next() {
                connection.learn(tree, Outside { exit: *exit, from, to });
            }
        }
    }

    fn describe(&self, [kernel, ours]: &[Frames; 2], outcomes: &[Outcome; 2], words: &[String]) -> String {
        let only = |name: &str, one: &Frames, other: &Frames| {
            let more = one.iter().filter(|(frame, count)| other.get(*frame) != Some(count));
            let lines = more.take(6).map(|((exit, frame), _)| format!("    only {name}: p{exit} {}\n", decoded(frame)));
            lines.collect::<Vec<_>>().concat()
        };
        let delivered = [0, 1].map(|tree| &outcomes[tree].delivered);
        let lists = only("kernel", kernel, ours) + &only("ours", ours, kernel);
        format!("after {} frames\n{lists}    delivered {delivered:?}\n    of: {}", self.found.frames, words.join(", "))
    }
}

/// Protocol, both ends, and the transport header with what is behind it; none of what has no ports, or is not its first piece.
fn flow(frame: &[u8]) -> Option<(u8, [End; 2], &[u8])> {
    let (protocol, addresses, at) = match frame.get(12..14)? {
        [8, 0] if u16::from_be_bytes([*frame.get(20)?, *frame.get(21)?]) & FRAGMENT_OFFSET == 0 => {
            let address =
                |at: usize| frame.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from);
            (*frame.get(23)?, [address(26)?, address(30)?], 14 + usize::from(frame[14] & 15) * 4)
        }
        [0x86, 0xdd] => {
            let address =
                |at: usize| frame.get(at..at + 16).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(IpAddr::from);
            (*frame.get(20)?, [address(22)?, address(38)?], 54)
        }
        _ => return None,
    };
    let transport = frame.get(at..).filter(|bytes| bytes.len() >= 8 && matches!(protocol, 6 | 17))?;
    let port = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
    let [from, to] = addresses;
    Some((protocol, [(from, port(0)), (to, port(2))], transport))
}

/// What came out of a router, with the ports that were asked for where others were drawn.
fn canonical(connections: &[Connection], tree: usize, outcome: &Outcome) -> Frames {
    let mut frames = Frames::new();
    for (exit, frame) in &outcome.frames {
        // What the router sent to itself has no part in connections.
        if *exit == INWARD || is_timed(frame) {
            continue;
        }
        let mut frame = frame.clone();
        restore(connections, tree, &mut frame);
        *frames.entry((*exit, frame)).or_default() += 1;
    }
    frames
}

fn restore(connections: &[Connection], tree: usize, frame: &mut Vec<u8>) {
    let ipv4 = frame.get(12..14) == Some(&[8, 0]);
    let at = if ipv4 { 14 + usize::from(frame[14] & 15) * 4 } else { 54 };
    let whole = !ipv4 || u16::from_be_bytes([frame[20], frame[21]]) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0;
    let protocol = frame.get(if ipv4 { 23 } else { 20 }).copied().unwrap_or_default();
    // A wrong checksum shows, whatever else does.
    if whole && matches!(protocol, 1 | 6 | 17 | 58) && !is_sound(frame, ipv4, at, protocol) {
        frame.extend(b"wrong checksum");
    }
    if is_own(frame) && matches!(protocol, 1 | 58) && ipv4 {
        // The kernel draws the identification.
        frame[18..20].fill(0);
        frame[24..26].fill(0);
    }
    if matches!(protocol, 1 | 58) {
        // Behind the message's own header is a packet with a link header that is not there.
        let Some(quoted) = frame.get(at + 8..) else { return };
        let mut inner = [&frame[..14], quoted].concat();
        if rename(connections, tree, &mut inner) {
            frame.truncate(at + 8);
            frame[at + 2..at + 4].fill(0);
            frame.extend(&inner[14..]);
        }
        return;
    }
    rename(connections, tree, frame);
}

/// Puts the port that was asked for in place of one that was drawn. Says whether there was one.
fn rename(connections: &[Connection], tree: usize, frame: &mut [u8]) -> bool {
    let Some((protocol, [from, to], transport)) = flow(frame) else { return false };
    let at = frame.len() - transport.len();
    let found = connections.iter().find_map(|connection| {
        let outside = connection.outside[tree].filter(|outside| outside.from.1 != connection.from.1)?;
        let place = if (from, to) == (outside.from, outside.to) { 0 } else { 2 };
        let is = place == 0 || (to, from) == (outside.from, outside.to);
        (is && connection.is_tcp() == (protocol == 6)).then_some((place, connection.from.1))
    });
    let Some((place, port)) = found else { return false };
    frame[at + place..at + place + 2].copy_from_slice(&port.to_be_bytes());
    let sum = at + if protocol == 6 { 16 } else { 6 };
    if let Some(sum) = frame.get_mut(sum..sum + 2) {
        sum.fill(0);
    }
    true
}

/// Whether the checksum of a whole packet is right.
fn is_sound(frame: &[u8], ipv4: bool, at: usize, protocol: u8) -> bool {
    let (end, addresses) = if ipv4 {
        (14 + usize::from(u16::from_be_bytes([frame[16], frame[17]])), 26..34)
    } else {
        (54 + usize::from(u16::from_be_bytes([frame[18], frame[19]])), 22..54)
    };
    let Some(message) = frame.get(at..end) else { return false };
    if protocol == 17 && ipv4 && message.get(6..8) == Some(&[0, 0]) {
        return true;
    }
    let length = (message.len() as u32).to_be_bytes();
    let pseudo = [&frame[addresses], &length, &[0, 0, 0, protocol], message].concat();
    let header = !ipv4 || sum(&frame[14..at]) == 0xffff;
    header && sum(if protocol == 1 { message } else { &pseudo }) == 0xffff
}

impl Connection {
    /// What it is called where something differs.
    fn name(&self) -> String {
        let [from, to] = [self.from, self.to()].map(|(address, port)| SocketAddr::new(address, port));
        format!("{} {from} > {to} at p{}", if self.is_tcp() { "tcp" } else { "udp" }, self.port() % PORTS)
    }
}
