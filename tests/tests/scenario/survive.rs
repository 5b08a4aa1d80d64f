//! The daemon dies, ends and is replaced under traffic; the data plane goes on, and the next daemon takes it over.
//!
//! By hand: `DATAPLANE_KILLS` says how often it is killed at a random moment, `DATAPLANE_RATE` how many datagrams a second pass
//! meanwhile, `DATAPLANE_OTHER` another version of the program, which is the upgrade and takes over from this one.

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use dataplane_tests::lab::{
    self, CLIENT, Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER, Stats,
    stream::stream,
    traffic::{self, Family},
};

use crate::scene::{PORTS, PROMPT, Rule, Scene, within};

/// Datagrams per second.
const RATE: u64 = 12_000;
/// How long the stream is watched in each state.
const WATCHED: Duration = Duration::from_millis(300);
/// How often it is killed at a random moment, unless told otherwise.
const KILLS: u64 = 5;
/// Datagrams per second of the stream that a rule drops.
const DROPPED_RATE: u64 = 2_000;

/// What a daemon knows and the next one must know too.
struct Known {
    stats: Stats,
    rules: Vec<Rule>,
    config: String,
}

fn known(scene: &Scene) -> Known {
    // The counters first: everything after them can only have grown.
    Known { stats: scene.stats(), rules: scene.rules(), config: scene.cli(&["config", "show"]) }
}

/// Whether counters begin anew, as they do with another layout of the maps.
fn anew() -> bool {
    env::var_os("DATAPLANE_OTHER").is_some()
}

fn adopted(scene: &Scene, before: &Known, how: &str) {
    let after = known(scene);
    assert_eq!(after.config, before.config, "{how}");
    for port in &before.stats.ports {
        let now = after.stats.port(&port.name).unwrap_or_else(|| panic!("{how}: {} is lost", port.name));
        assert_eq!((&now.mode, &now.state), (&port.mode, &port.state), "{how}");
        assert!(anew() || now.counts.rx >= port.counts.rx, "{how}: {now:?} after {port:?}");
    }
    for (name, count) in &before.stats.reasons {
        assert!(
            anew() || after.stats.reason(name) >= *count,
            "{how}: {name} went back from {count}: {:?}",
            after.stats
        );
    }
    assert_eq!(after.rules.len(), before.rules.len(), "{how}");
    for (now, rule) in after.rules.iter().zip(&before.rules) {
        assert_eq!((&now.rule, now.handle, &now.chain), (&rule.rule, rule.handle, &rule.chain), "{how}");
        assert!(anew() || now.packets >= rule.packets && now.bytes >= rule.bytes, "{how}: {now:?} after {rule:?}");
    }
}

/// A copy of the program, or another version: what a package manager puts in its place.
fn next(scene: &Scene) -> PathBuf {
    let copy = scene.lab.dir().join("dataplane-next");
    let next = env::var_os("DATAPLANE_OTHER").map_or_else(|| lab::binary().expect("the program"), PathBuf::from);
    fs::copy(next, &copy).expect("a copy of the program");
    copy
}

/// Without offloads the stream has its checksums, so it is XDP that forwards it.
fn survives(mode: &str, family: Family, offloads: bool) {
    let Some(mut scene) = Scene::attached(&[Need::Tool("ethtool")], mode) else { return };
    if !offloads {
        scene.take_frames();
        scene.client().run(&format!("ethtool -K {} tx off", CLIENT.port)).expect("offloads off");
    }
    scene.rule("forward", "udp dport 5400 accept");
    scene.rule("forward", "udp dport 5301 drop");
    scene.rule("prerouting", "meta l4proto udp accept");
    assert_eq!(traffic::datagrams(&scene.lab, family, 5301, 10).expect("datagrams"), 0);

    let before_stream = scene.stats();
    let flow = stream(&scene.lab, family, 5400, number("DATAPLANE_RATE", RATE)).expect("a stream");
    thread::sleep(WATCHED);
    for how in ["kill -9", "SIGTERM", "upgrade", "downgrade"] {
        let before = known(&scene);
        if how == "SIGTERM" {
            let status = scene.daemon.terminate().expect("it ends");
            assert!(status.success(), "{how}: {status}");
        } else {
            scene.daemon.kill9().expect("it dies");
        }
        thread::sleep(WATCHED);
        match how {
            "upgrade" => scene.daemon.upgrade(&next(&scene)),
            "downgrade" => scene.daemon.upgrade(&lab::binary().expect("the program")),
            _ => {}
        }
        scene.daemon.restart().unwrap_or_else(|error| panic!("after {how}: {error:#}"));
        thread::sleep(WATCHED);
        adopted(&scene, &before, how);
        let rule = &scene.rules()[0];
        assert!(
            rule.packets > if anew() { 0 } else { before.rules[0].packets },
            "{how}: rules count no more: {rule:?}"
        );
    }
    let tally = flow.finish().expect("a tally");
    println!("{mode}, {}, offloads {offloads}: {tally:?}", family.name());
    assert!(tally.sent > 20_000, "too few to tell: {tally:?}");
    assert_eq!((tally.lost, tally.repeated), (0, 0), "{tally:?}");
    let after = scene.stats();
    let counted = |reason: &str| after.reason(reason).saturating_sub(before_stream.reason(reason));
    let changed: Vec<_> =
        after.reasons.keys().map(|name| (name, counted(name))).filter(|(_, count)| *count != 0).collect();
    assert!(anew() || counted("forwarded") >= tally.sent, "{} datagrams, counted were {changed:?}", tally.sent);
    works(&mut scene, family);
    scene.close();
}

/// Whether the adopted data plane takes changes.
fn works(scene: &mut Scene, family: Family) {
    assert_eq!(traffic::datagrams(&scene.lab, family, 5301, 10).expect("datagrams"), 0, "the old rule drops");
    scene.rule("forward", "udp dport 5302 drop");
    assert_eq!(traffic::datagrams(&scene.lab, family, 5302, 10).expect("datagrams"), 0, "a new rule drops");
    assert_eq!(traffic::datagrams(&scene.lab, family, 5303, 10).expect("datagrams"), 10);
    let (prefix, address) = match family {
        Family::V4 => ("198.51.100.0/24", "198.51.100.2"),
        Family::V6 => ("2001:db8:5::/64", "2001:db8:5::2"),
    };
    scene.server().run(&format!("ip {} addr add {address} dev lo", family.option())).expect("an address");
    let via = family.address(&SERVER);
    scene.router().run(&format!("ip {} route add {prefix} via {via}", family.option())).expect("a route");
    within(PROMPT, || {
        let decision = scene.decision(address);
        ensure!(decision.decision == "forward", "{decision:?}");
        Ok(())
    });
    assert_eq!(scene.pinged(address), 3);
}

#[test]
fn in_native_without_offloads() {
    survives("native", Family::V4, false);
}

#[test]
fn in_native() {
    survives("native", Family::V6, true);
}

#[test]
fn in_tc() {
    survives("tc", Family::V4, true);
}

#[test]
fn what_changed_meanwhile_is_found() {
    let Some(mut scene) = Scene::attached(&[], "native") else { return };
    let before = scene.stats();
    scene.daemon.kill9().expect("it dies");
    // A route away and a device anew, with nobody to see it.
    scene.router().run("ip route add blackhole 198.51.100.0/24").expect("a route");
    scene.router().run(&format!("ip link del {}", ROUTER_SERVER.port)).expect("a device less");
    scene.lab.link(SERVER, ROUTER_SERVER).expect("a device anew");
    scene.server().run(&format!("ip route add default via {}", ROUTER_SERVER.v4)).expect("a route");
    scene.server().run(&format!("ip -6 route add default via {}", ROUTER_SERVER.v6)).expect("a route");
    scene.daemon.restart().expect("it starts");
    assert_eq!(scene.decision("198.51.100.2").reason, "blackhole");
    let now = scene.stats();
    assert!(now.totals.rx >= before.totals.rx, "{now:?} after {before:?}");
    for port in PORTS {
        let row = now.port(port).expect("the port");
        assert_eq!((row.mode.as_str(), row.state.as_str()), ("native", "up"), "{port}");
    }
    let client = now.port(ROUTER_CLIENT.port).expect("the port").counts.rx;
    assert!(client >= before.port(ROUTER_CLIENT.port).expect("the port").counts.rx);
    scene.ping().expect("pings are answered");
    scene.close();
}

/// A number of the environment.
fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |number| number.parse().expect("a number"))
}

/// What the daemon left gets the name of another map layout: for the next one it is that of another version.
fn relabel(bpffs: &Path, random: &mut fastrand::Rng) {
    for entry in fs::read_dir(bpffs).expect("the pins") {
        let entry = entry.expect("a pin");
        let name = entry.file_name().into_string().expect("a name");
        if name.len() == 16 && u64::from_str_radix(&name, 16).is_ok() {
            fs::rename(entry.path(), bpffs.join(format!("{:016x}", random.u64(..)))).expect("renamed");
        }
    }
}

/// Killed at any moment, while it works and while it starts, also beside what another version left: no packet is lost, none
/// passes that a rule drops.
#[test]
fn killed_at_random_moments() {
    let Some(mut scene) = Scene::attached(&[Need::Tool("ethtool")], "native") else { return };
    scene.take_frames();
    scene.client().run(&format!("ethtool -K {} tx off", CLIENT.port)).expect("offloads off");
    scene.rule("prerouting", "meta l4proto udp accept");
    scene.rule("forward", "udp dport 5301 drop");
    scene.rule("forward", "udp dport 5400 accept");
    let (kills, rate) = (number("DATAPLANE_KILLS", KILLS), number("DATAPLANE_RATE", RATE));
    let seed = number("DATAPLANE_SEED", 11);
    let mut random = fastrand::Rng::with_seed(seed);
    let known = known(&scene);
    let accepted = stream(&scene.lab, Family::V4, 5400, rate).expect("a stream");
    let dropped = stream(&scene.lab, Family::V4, 5301, DROPPED_RATE).expect("a stream");
    let (mut ready, mut young, mut relabelled) = (Vec::new(), 0, 0);
    for round in 0..kills {
        thread::sleep(Duration::from_millis(random.u64(..300)));
        scene.daemon.kill9().expect("it dies");
        if round % 3 == 1 {
            // Another one dies on its way up.
            scene.daemon.launch().expect("it starts");
            thread::sleep(Duration::from_millis(random.u64(..700)));
            scene.daemon.kill9().expect("it dies");
            young += 1;
        }
        if round % 3 == 2 {
            relabel(&scene.daemon.bpffs(), &mut random);
            relabelled += 1;
        }
        let start = Instant::now();
        scene.daemon.restart().unwrap_or_else(|error| panic!("round {round} of seed {seed}: {error:#}"));
        within(Duration::from_secs(10), || {
            let stats: serde_json::Value = scene.daemon.read(&["stats"])?;
            ensure!(stats["mirror"]["state"] == "live", "{stats}");
            Ok(())
        });
        ready.push(start.elapsed());
        let now = self::known(&scene);
        assert_eq!(now.config, known.config, "round {round} of seed {seed}");
        let rules = |known: &Known| known.rules.iter().map(|rule| (rule.rule.clone(), rule.handle)).collect::<Vec<_>>();
        assert_eq!(rules(&now), rules(&known), "round {round} of seed {seed}");
    }
    thread::sleep(WATCHED);
    let lost_behind = scene.stats().reason("redirect_failed");
    let (accepted, dropped) = (accepted.finish().expect("a tally"), dropped.finish().expect("a tally"));
    ready.sort();
    println!(
        "{kills} kills, {young} more while it started, {relabelled} beside another version: {accepted:?}; dropped by a rule: \
         {dropped:?}; ready after {:?} in the middle, {:?} at most; redirect_failed {lost_behind}",
        ready.get(ready.len() / 2),
        ready.last()
    );
    assert_eq!((accepted.lost, accepted.repeated), (0, 0), "{accepted:?}");
    assert_eq!(dropped.lost, dropped.sent, "passed what a rule drops: {dropped:?}");
    assert!(accepted.sent > 0 && dropped.sent > 0);
    works(&mut scene, Family::V4);
    scene.close();
}
