//! Fifty interfaces that go down, come back, vanish, are renamed and move to another namespace, under traffic.

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::ensure;
use dataplane_tests::lab::{SERVER, stream::stream, traffic::Family};

use crate::scene::{PROMPT, Scene, within};

/// How many interfaces.
const LINKS: usize = 50;
/// How long, unless `DATAPLANE_FLAP` says so in seconds.
const LENGTH: Duration = Duration::from_secs(6);
/// How soon what a link brought back is forwarded again; the kernel's news are gathered for 5 ms, and other tests may run.
const BACK: Duration = Duration::from_secs(1);

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

    /// The pair, its addresses, the neighbour: all there is before the link is of use.
    fn make(&self, scene: &Scene) {
        let (router, server) = (scene.router(), scene.server());
        let Self { number, near, far, .. } = self;
        let mac = format!("02:00:00:00:7f:{number:02x}");
        router.run(&format!("ip link add {near} type veth peer name {far} netns {}", server.full())).expect("a pair");
        server.run(&format!("ip link set {far} address {mac}")).expect("an address");
        server.run(&format!("ip addr add {}/24 dev {far}", self.host)).expect("an address");
        server.run(&format!("ip link set {far} up")).expect("up");
        self.furnish(scene);
        router.run(&format!("ip link set {near} up")).expect("up");
        self.know(scene, &mac);
    }

    fn furnish(&self, scene: &Scene) {
        scene.router().run(&format!("ip addr replace 198.19.{}.1/24 dev {}", self.number, self.near)).expect("an address");
    }

    fn know(&self, scene: &Scene, mac: &str) {
        let Self { near, host, .. } = self;
        scene.router().run(&format!("ip neigh replace {host} lladdr {mac} dev {near} nud permanent")).expect("a neighbour");
    }

    /// Does something to the link, and leaves it as it was.
    fn turn(&self, scene: &Scene, what: &str) {
        let router = scene.router();
        let Self { near, .. } = self;
        let mac = format!("02:00:00:00:7f:{:02x}", self.number);
        let run = |words: String| drop(router.run(&words).expect("a change of the link"));
        match what {
            "flap" => {
                run(format!("ip link set {near} down"));
                run(format!("ip link set {near} up"));
            }
            "again" => {
                run(format!("ip link del {near}"));
                self.make(scene);
            }
            "rename" => {
                run(format!("ip link set {near} down"));
                run(format!("ip link set {near} name away{}", self.number));
                run(format!("ip link set away{} name {near}", self.number));
                run(format!("ip link set {near} up"));
            }
            _ => {
                run(format!("ip link set {near} netns {}", scene.client().full()));
                let client = scene.client();
                client.run(&format!("ip link set {near} netns {}", router.full())).expect("back again");
                self.furnish(scene);
                run(format!("ip link set {near} up"));
            }
        }
        self.know(scene, &mac);
    }

    /// Whether we, and not the kernel, would forward to it.
    fn is_forwarded(&self, scene: &Scene) -> anyhow::Result<()> {
        let now = scene.decision(&self.host);
        ensure!(now.decision == "forward" && now.table == "mirror", "{}: {now:?}", self.near);
        Ok(())
    }
}

/// Pages and objects of BPF, as bpftool counts them.
fn objects() -> [usize; 3] {
    ["prog", "map", "link"].map(|kind| {
        let said = std::process::Command::new("bpftool").args(["-j", kind, "list"]).output().expect("bpftool runs");
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&said.stdout).expect("JSON");
        rows.len()
    })
}

#[test]
fn fifty_links_come_and_go_under_traffic() {
    let config = "[ports]\nclient0 = { mode = \"native\" }\nserver0 = { mode = \"native\" }\n\"f*\" = { mode = \"tc\" }\n";
    let Some(scene) = Scene::configured(&[], config) else { return };
    let seconds = env::var("DATAPLANE_FLAP").ok().and_then(|text| text.parse().ok());
    let length = seconds.map_or(LENGTH, Duration::from_secs);
    scene.router().sysctl("net.ipv6.conf.all.keep_addr_on_down", "1").expect("a sysctl");
    let links: Vec<_> = (0..LINKS).map(Flapping::new).collect();
    links.iter().for_each(|link| link.make(&scene));
    within(Duration::from_secs(20), || links.iter().try_for_each(|link| link.is_forwarded(&scene)));
    let settled = objects();

    let begun = stream(&scene.lab, Family::V4, 4096, 2000).expect("a stream");
    let (start, mut turns, mut waits) = (Instant::now(), 0_usize, Vec::new());
    while start.elapsed() < length {
        let link = &links[turns * 7 % LINKS];
        link.turn(&scene, TURNS[turns / 3 % TURNS.len()]);
        waits.push(within(PROMPT, || link.is_forwarded(&scene)));
        turns += 1;
    }
    let tally = begun.finish().expect("a tally");
    waits.sort_unstable();
    let [middle, late] = [waits[waits.len() / 2], waits[waits.len() * 99 / 100]];
    println!("{turns} turns in {:?}: back after {middle:?} (median), {late:?} (99 of 100), {:?} at most", start.elapsed(), waits[waits.len() - 1]);
    println!("the stream past them: {tally:?}");
    assert!(late < BACK, "back after {late:?}");
    assert!(turns > TURNS.len(), "{turns} turns");

    // Nothing goes to where it went before: each link gets what is for it, and the kernel forwards none of it.
    within(PROMPT, || links.iter().try_for_each(|link| link.is_forwarded(&scene)));
    let kernel = scene.kernel_forwarded();
    for link in &links {
        scene.server().run(&format!("ip route replace 198.18.0.0/24 via 198.19.{}.1 dev {}", link.number, link.far)).expect("a way back");
        assert_eq!(scene.pinged(&link.host), 3, "{}", link.near);
    }
    assert_eq!(scene.kernel_forwarded(), kernel, "the kernel forwarded");
    assert_eq!(objects(), settled, "programs, maps and links of BPF, after {turns} turns");
    assert!(scene.router().run(&format!("ping -n -c 1 -W 1 {}", SERVER.v4)).is_ok());
    scene.close();
}
