//! Fifty interfaces that go down, come back, vanish, are renamed and move to another namespace, under traffic.

use std::{
    collections::BTreeSet,
    env,
    net::UdpSocket,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;
use dataplane_tests::lab::{SERVER, stream::stream, traffic::Family};

use crate::scene::{Scene, within};

/// How many interfaces.
const LINKS: usize = 50;
/// How long, unless `DATAPLANE_FLAP` says so in seconds.
const LENGTH: Duration = Duration::from_secs(6);
/// How soon traffic must be back, from the start of the command that brings the link up. A margin of twenty times: other
/// tests may run. What it was is printed.
const BACK: Duration = Duration::from_secs(1);

/// When something is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a round does to a link.
const TURNS: [&str; 4] = ["flap", "again", "rename", "move"];

/// Names, addresses and commands of one link: the router's end `fN`, the far end `gN` in the server.
struct Flapping {
    number: usize,
    near: String,
    far: String,
    host: String,
}

impl Flapping {
    fn new(number: usize) -> Self {
        let host = format!("198.19.{number}.2");
        Self { number, near: format!("f{number}"), far: format!("g{number}"), host }
    }

    /// The pair and its addresses.
    fn make(&self, scene: &Scene) -> Instant {
        let (router, server) = (scene.router(), scene.server());
        let Self { near, far, .. } = self;
        router.run(&format!("ip link add {near} type veth peer name {far} netns {}", server.full())).expect("a pair");
        server.run(&format!("ip link set {far} address {}", self.mac())).expect("an address");
        server.run(&format!("ip addr add {}/24 dev {far}", self.host)).expect("an address");
        server.run(&format!("ip link set {far} up")).expect("up");
        self.address(scene);
        self.up(scene)
    }

    fn address(&self, scene: &Scene) {
        let Self { number, near, .. } = self;
        scene.router().run(&format!("ip addr replace 198.19.{number}.1/24 dev {near}")).expect("an address");
    }

    fn mac(&self) -> String {
        format!("02:00:00:00:7f:{:02x}", self.number)
    }

    /// Switches the link on; since when. The neighbour is given, since the kernel may take seconds to find one.
    fn up(&self, scene: &Scene) -> Instant {
        let Self { near, host, .. } = self;
        let start = Instant::now();
        let words = [
            format!("ip link set {near} up"),
            format!("ip neigh replace {host} lladdr {} dev {near} nud permanent", self.mac()),
        ];
        for words in words {
            scene.router().run(&words).expect("a change of the link");
        }
        start
    }

    /// Does something to the link, and leaves it as it was; since when it is up again.
    fn turn(&self, scene: &Scene, what: &str) -> Instant {
        let router = scene.router();
        let Self { near, number, .. } = self;
        let run = |words: String| drop(router.run(&words).expect("a change of the link"));
        match what {
            "flap" => run(format!("ip link set {near} down")),
            "again" => {
                run(format!("ip link del {near}"));
                return self.make(scene);
            }
            "rename" => {
                run(format!("ip link set {near} down"));
                run(format!("ip link set {near} name away{number}"));
                run(format!("ip link set away{number} name {near}"));
            }
            _ => {
                run(format!("ip link set {near} netns {}", scene.client().full()));
                let client = scene.client();
                client.run(&format!("ip link set {near} netns {}", router.full())).expect("back again");
                self.address(scene);
            }
        }
        self.up(scene)
    }

    /// Whether we, and not the kernel, would forward to it.
    fn is_forwarded(&self, scene: &Scene) -> anyhow::Result<()> {
        let now = scene.decision(&self.host);
        ensure!(now.decision == "forward" && now.table == "mirror", "{}: {now:?}", self.near);
        Ok(())
    }
}

/// Datagrams to the far ends: sent by the client, and taken by the server.
struct Probe {
    source: UdpSocket,
    sink: UdpSocket,
}

impl Probe {
    fn new(scene: &Scene) -> Self {
        let open = || Ok(UdpSocket::bind(("0.0.0.0", PORT))?);
        let (source, sink) =
            (scene.client().inside(open).expect("a socket"), scene.server().inside(open).expect("a socket"));
        sink.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        Self { source, sink }
    }

    /// How long after `start` something arrives at the far end of a link.
    fn until_back(&self, scene: &Scene, link: &Flapping, start: Instant) -> Duration {
        let mut datagram = [0; 8];
        let number = (link.number as u64).to_be_bytes();
        // What is still there was sent before.
        while self.sink.recv(&mut datagram).is_ok() {}
        loop {
            // While the link is on its way the kernel may say that there is none.
            let _ = self.source.send_to(&number, (link.host.as_str(), PORT));
            if matches!(self.sink.recv(&mut datagram), Ok(8)) && datagram == number {
                return start.elapsed();
            }
            assert!(start.elapsed() < PATIENCE, "nothing arrives over {}: {:?}", link.near, scene.decision(&link.host));
        }
    }
}

/// Of the datagrams.
const PORT: u16 = 4097;

/// Programs, maps and links of BPF that the daemon has open, and what is pinned. Others on the machine have their own.
fn objects(scene: &Scene) -> [usize; 4] {
    let folder = format!("/proc/{}/fdinfo", scene.daemon.pid().expect("a daemon"));
    let infos: Vec<_> = std::fs::read_dir(folder)
        .expect("its descriptors")
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .collect();
    let open = |kind: &str| {
        let of = |info: &String| info.lines().find_map(|line| line.strip_prefix(kind).map(str::to_owned));
        infos.iter().filter_map(of).collect::<BTreeSet<_>>().len()
    };
    // A link names its program, too.
    let [links, maps] = ["link_id:", "map_id:"].map(open);
    let programs = infos.iter().filter(|info| info.contains("prog_id:") && !info.contains("link_id:")).count();
    [programs, maps, links, pins(&scene.daemon.bpffs())]
}

/// Files in a folder and those below.
fn pins(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("the pins");
    let count = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("a pin").path();
        if path.is_dir() { pins(&path) } else { 1 }
    };
    entries.map(count).sum()
}

#[test]
fn fifty_links_come_and_go_under_traffic() {
    let config =
        "[ports]\nclient0 = { mode = \"native\" }\nserver0 = { mode = \"native\" }\n\"f*\" = { mode = \"tc\" }\n";
    let Some(scene) = Scene::configured(&[], config) else { return };
    let seconds = env::var("DATAPLANE_FLAP").ok().and_then(|text| text.parse().ok());
    let length = seconds.map_or(LENGTH, Duration::from_secs);
    scene.router().sysctl("net.ipv6.conf.all.keep_addr_on_down", "1").expect("a sysctl");
    let links: Vec<_> = (0..LINKS).map(Flapping::new).collect();
    let probe = Probe::new(&scene);
    for link in &links {
        let start = link.make(&scene);
        probe.until_back(&scene, link, start);
    }
    within(PATIENCE, || links.iter().try_for_each(|link| link.is_forwarded(&scene)));
    let settled = objects(&scene);
    assert!(settled.iter().all(|count| *count > 0), "{settled:?}");

    let begun = stream(&scene.lab, Family::V4, 4096, 2000).expect("a stream");
    let (start, mut turns, mut waits) = (Instant::now(), 0_usize, Vec::new());
    while start.elapsed() < length {
        let link = &links[turns * 7 % LINKS];
        let what = TURNS[turns % TURNS.len()];
        let start = link.turn(&scene, what);
        waits.push((probe.until_back(&scene, link, start), what));
        turns += 1;
    }
    let tally = begun.finish().expect("a tally");
    waits.sort_unstable();
    let [middle, late] = [waits[waits.len() / 2].0, waits[waits.len() * 99 / 100].0];
    println!(
        "{turns} turns in {:?}: back after {middle:?} (median), {late:?} (99 of 100), {:?} at most",
        start.elapsed(),
        waits[waits.len() - 1]
    );
    println!("the stream past them: {tally:?}");
    assert!(late < BACK, "back after {late:?}");
    assert!(turns > TURNS.len(), "{turns} turns");

    // Nothing goes to where it went before: each link gets what is for it, and the kernel forwards none of it.
    for link in &links {
        probe.until_back(&scene, link, Instant::now());
    }
    within(PATIENCE, || links.iter().try_for_each(|link| link.is_forwarded(&scene)));
    let kernel = scene.kernel_forwarded();
    for link in &links {
        scene
            .server()
            .run(&format!("ip route replace 198.18.0.0/24 via 198.19.{}.1 dev {}", link.number, link.far))
            .expect("a way back");
        assert_eq!(scene.pinged(&link.host), 3, "{}", link.near);
    }
    assert_eq!(scene.kernel_forwarded(), kernel, "the kernel forwarded");
    assert_eq!(objects(&scene), settled, "programs, maps, links and pins, after {turns} turns");
    assert!(scene.router().run(&format!("ping -n -c 1 -W 1 {}", SERVER.v4)).is_ok());
    scene.close();
}
