//! Neighbours: the first packet to an unknown one, those that change their link address, grow old, die, and come in thousands.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use dataplane_tests::lab::{
    Need, ROUTER_SERVER, SERVER,
    stream::{Stream, Tally, stream},
    traffic::{self, Family},
};
use serde_json::Value;

use crate::{
    mirror::{compare, listed},
    scene::{PROMPT, Scene, within},
};

/// Datagrams of a stream per second.
const RATE: u64 = 500;
/// How soon a neighbour that does not answer is given up, and asked for anew: a round of the daemon, and the times of
/// [`hasty`], several times over.
const PATIENCE: Duration = Duration::from_secs(30);

fn first_packet(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    for family in Family::BOTH {
        let address = family.address(&SERVER);
        scene.router().run(&format!("ip neigh flush dev {}", ROUTER_SERVER.port)).expect("flushed");
        within(PROMPT, || {
            let decision = scene.decision(address);
            ensure!(decision.reason == "neighbour_unresolved" && decision.decision == "kernel", "{decision:?}");
            Ok(())
        });
        let before = scene.stats();
        assert_eq!(traffic::ping(&scene.lab, family, 1).expect("ping runs"), 1, "{mode}: {}", family.name());
        assert!(scene.stats().reason("neighbour_unresolved") > before.reason("neighbour_unresolved"));
        within(PROMPT, || {
            let decision = scene.decision(address);
            ensure!(decision.decision == "forward", "{decision:?}");
            Ok(())
        });
        let before = scene.stats();
        assert_eq!(traffic::ping(&scene.lab, family, 2).expect("ping runs"), 2);
        let forwarded = scene.stats().totals.forwarded - before.totals.forwarded;
        assert!(forwarded >= 4, "two pings and their answers: {forwarded}");
    }
    scene.close();
}

#[test]
fn the_first_packet_gets_through_in_native() {
    first_packet("native");
}

#[test]
fn the_first_packet_gets_through_in_tc() {
    first_packet("tc");
}

#[test]
fn the_first_packet_through_a_gateway_gets_through() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    for (family, prefix, far) in
        [(Family::V4, "198.51.100.0/24", "198.51.100.2"), (Family::V6, "2001:db8:5::/64", "2001:db8:5::2")]
    {
        let gateway = family.address(&SERVER);
        scene.server().run(&format!("ip addr add {far} dev lo")).expect("an address");
        scene.router().run(&format!("ip {} route add {prefix} via {gateway}", family.option())).expect("a route");
        for round in 0..2 {
            scene.router().run(&format!("ip neigh flush dev {}", ROUTER_SERVER.port)).expect("flushed");
            within(PROMPT, || {
                let decision = scene.decision(far);
                ensure!(decision.reason == "neighbour_unresolved" && decision.decision == "kernel", "{decision:?}");
                Ok(())
            });
            assert_eq!(scene.pinged(far), 3, "{far}, round {round}: the first packet too");
            within(PROMPT, || {
                let decision = scene.decision(far);
                ensure!(
                    decision.decision == "forward" && decision.lladdr.as_deref() == Some(SERVER.mac),
                    "{decision:?}"
                );
                Ok(())
            });
            let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
            assert_eq!(scene.pinged(far), 3, "{far}, round {round}");
            assert!(scene.stats().totals.forwarded - before.totals.forwarded >= 6, "{far}, round {round}");
            assert_eq!(scene.kernel_forwarded(), kernel, "{far}, round {round}");
        }
    }
    scene.close();
}

#[test]
fn a_new_link_address_is_used() {
    const NEW: &str = "02:00:00:00:01:99";
    let Some(scene) = Scene::attached(&[], "native") else { return };
    scene.server().run(&format!("ip link set {} address {NEW}", SERVER.port)).expect("another address");
    for family in Family::BOTH {
        let (address, port) = (family.address(&SERVER), ROUTER_SERVER.port);
        let line = format!("ip neigh replace {address} lladdr {NEW} dev {port} nud reachable");
        scene.router().run(&line).expect("a neighbour");
        within(PROMPT, || {
            let decision = scene.decision(address);
            ensure!(decision.lladdr.as_deref() == Some(NEW), "{decision:?}");
            Ok(())
        });
    }
    let rows: Vec<Value> = scene.daemon.read(&["neigh", "list"]).expect("neighbours");
    let known = |row: &&Value| row["dst"] == SERVER.v4 && row["lladdr"] == NEW;
    assert!(rows.iter().any(|row| known(&row)), "{rows:?}");
    let before = scene.stats();
    scene.ping().expect("the server answers at its new address");
    assert!(scene.stats().totals.forwarded - before.totals.forwarded >= 12);
    scene.close();
}

/// A router whose neighbours behind the server's port grow old within seconds. What the client sends needs nothing that only
/// tc can do, and the server takes frames of XDP.
fn hasty(mode: &str) -> Option<Scene> {
    let scene = Scene::attached(&[Need::Tool("ethtool"), Need::Tool("sysctl")], mode)?;
    scene.take_frames();
    scene.client().run("ethtool -K eth0 tx off").expect("checksums of its own");
    for family in ["ipv4", "ipv6"] {
        for (name, value) in [
            ("base_reachable_time_ms", 1500),
            ("delay_first_probe_time", 1),
            ("gc_stale_time", 2),
            ("retrans_time_ms", 200),
        ] {
            let name = format!("net.{family}.neigh.{}.{name}", ROUTER_SERVER.port);
            scene.router().sysctl(&name, &value.to_string()).expect("a sysctl");
        }
    }
    // What is known already goes by the old times.
    scene.router().run(&format!("ip neigh flush dev {}", ROUTER_SERVER.port)).expect("flushed");
    within(PROMPT * 5, || scene.ping());
    Some(scene)
}

/// The states of the server's addresses in the router's kernel.
fn states(scene: &Scene) -> BTreeMap<String, String> {
    let text = scene.router().run(&format!("ip -j neigh show dev {}", ROUTER_SERVER.port)).expect("neighbours");
    let rows: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    rows.iter().map(|row| (word(&row["dst"]), word(&row["state"][0]))).collect()
}

/// A stream of each family.
fn streams(scene: &Scene) -> [Stream; 2] {
    let mut port = 5301;
    Family::BOTH.map(|family| {
        port += 1;
        stream(&scene.lab, family, port, RATE).expect("a stream")
    })
}

fn finish(streams: [Stream; 2]) -> [Tally; 2] {
    streams.map(|stream| stream.finish().expect("a tally"))
}

/// Nobody but the daemon sees that the neighbour is in use.
fn stays_alive(mode: &str) {
    let Some(scene) = hasty(mode) else { return };
    let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
    let streams = streams(&scene);
    let mut last = BTreeMap::new();
    let mut revived = BTreeMap::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(24) {
        let now = states(&scene);
        for (address, state) in &now {
            let was: Option<&String> = last.get(address);
            if state == "REACHABLE" && was.is_some_and(|was| was != state) {
                *revived.entry(address.clone()).or_insert(0) += 1;
            }
        }
        last = now;
        thread::sleep(Duration::from_millis(100));
    }
    let tallies = finish(streams);
    let probes = scene.daemon.read::<Value>(&["stats"]).expect("stats")["mirror"]["probes"].as_u64();
    println!("{mode}: {tallies:?}, reachable again: {revived:?}, {probes:?} probes");
    for (family, tally) in Family::BOTH.into_iter().zip(tallies) {
        assert_eq!(tally.lost, 0, "{mode}: {}: {tally:?}", family.name());
        let times = revived.get(family.address(&SERVER)).copied().unwrap_or_default();
        assert!(times >= 3, "{mode}: {}: reachable again {times} times: {revived:?}, {last:?}", family.name());
    }
    let forwarded = scene.stats().totals.forwarded - before.totals.forwarded;
    assert_eq!(scene.kernel_forwarded(), kernel, "{mode}: all of it was forwarded by us");
    assert!(forwarded >= tallies.iter().map(|tally| tally.sent).sum(), "{mode}: {forwarded}");
    scene.close();
}

#[test]
fn one_in_use_stays_alive_in_native() {
    stays_alive("native");
}

#[test]
fn one_in_use_stays_alive_in_tc() {
    stays_alive("tc");
}

/// What the kernel would lose by being asked is left alone.
#[test]
fn those_that_others_see_to_are_left_alone() {
    let Some(scene) = hasty("native") else { return };
    for family in Family::BOTH {
        let line = format!("ip neigh replace {} lladdr {}", family.address(&SERVER), SERVER.mac);
        for kind in ["nud permanent", "nud stale extern_learn"] {
            scene.router().run(&format!("{line} dev {} {kind}", ROUTER_SERVER.port)).expect("a neighbour");
            let stream = stream(&scene.lab, family, 5303, RATE).expect("a stream");
            thread::sleep(Duration::from_secs(6));
            let tally = stream.finish().expect("a tally");
            assert_eq!(tally.lost, 0, "{kind}: {tally:?}");
            let line = format!("ip neigh show {} dev {}", family.address(&SERVER), ROUTER_SERVER.port);
            let now = scene.router().run(&line).expect("neighbours").to_lowercase();
            let kept = kind.split(' ').skip(1).all(|word| now.contains(word));
            assert!(kept, "{kind} became {now}");
        }
    }
    scene.close();
}

/// Waits until frames go to this link address.
fn goes_to(scene: &Scene, limit: Duration, mac: &str) {
    for family in Family::BOTH {
        let took = within(limit, || {
            let decision = scene.decision(family.address(&SERVER));
            ensure!(decision.decision == "forward" && decision.lladdr.as_deref() == Some(mac), "{decision:?}");
            Ok(())
        });
        println!("{} goes to {mac} after {took:?}", family.name());
    }
}

#[test]
fn a_link_address_that_changes_under_traffic_is_followed() {
    const ANNOUNCED: &str = "02:00:00:00:01:98";
    const SILENT: &str = "02:00:00:00:01:97";
    let Some(scene) = hasty("native") else { return };
    let server = scene.server();
    server.sysctl(&format!("net.ipv4.conf.{}.arp_notify", SERVER.port), "1").expect("a sysctl");
    server.sysctl(&format!("net.ipv6.conf.{}.ndisc_notify", SERVER.port), "1").expect("a sysctl");
    let streams_of_announced = streams(&scene);
    server.run(&format!("ip link set {} address {ANNOUNCED}", SERVER.port)).expect("another address");
    goes_to(&scene, PROMPT, ANNOUNCED);
    let lost = finish(streams_of_announced).map(|tally| tally.lost);
    println!("announced: {lost:?} of {RATE} per second lost");
    assert!(lost.iter().all(|lost| *lost < RATE), "{lost:?}");
    scene.carries();

    server.sysctl(&format!("net.ipv4.conf.{}.arp_notify", SERVER.port), "0").expect("a sysctl");
    server.sysctl(&format!("net.ipv6.conf.{}.ndisc_notify", SERVER.port), "0").expect("a sysctl");
    let streams_of_silent = streams(&scene);
    server.run(&format!("ip link set {} address {SILENT}", SERVER.port)).expect("another address");
    // Nobody tells: the old one must be asked for in vain first.
    goes_to(&scene, PATIENCE, SILENT);
    println!("silent: {:?}", finish(streams_of_silent));
    scene.carries();
    scene.close();
}

#[test]
fn one_that_dies_is_not_sent_to() {
    let Some(scene) = hasty("native") else { return };
    let end = SERVER;
    for family in Family::BOTH {
        let address = family.address(&end);
        let length = if family == Family::V4 { 24 } else { 64 };
        let stream = stream(&scene.lab, family, 5304, RATE).expect("a stream");
        scene.server().run(&format!("ip addr del {address}/{length} dev {}", end.port)).expect("an address less");
        let took = within(PATIENCE, || {
            let decision = scene.decision(address);
            ensure!(decision.reason == "neighbour_unresolved" && decision.decision == "kernel", "{decision:?}");
            Ok(())
        });
        println!("{}: given up after {took:?}", family.name());
        let known = states(&scene).remove(address);
        assert!(matches!(known.as_deref(), Some("FAILED" | "INCOMPLETE")), "{known:?}");
        let before = scene.stats();
        thread::sleep(PROMPT);
        let after = scene.stats();
        let passed = after.reason("neighbour_unresolved") - before.reason("neighbour_unresolved");
        assert!(passed >= RATE / 2, "{}: the kernel got {passed} of {RATE}", family.name());
        assert_eq!(after.totals.forwarded, before.totals.forwarded, "{}: nothing into the hole", family.name());

        let line = format!("ip addr add {address}/{length} dev {}", end.port);
        scene.server().run(&if family == Family::V6 { line + " nodad" } else { line }).expect("an address");
        let took = within(PATIENCE, || {
            let decision = scene.decision(address);
            ensure!(decision.decision == "forward", "{decision:?}");
            Ok(())
        });
        println!("{}: back after {took:?}", family.name());
        let tally = stream.finish().expect("a tally");
        println!("{}: {tally:?}", family.name());
        assert!(tally.lost > 0 && tally.lost < tally.sent, "{tally:?}");
        assert_eq!(traffic::datagrams(&scene.lab, family, 5305, 20).expect("datagrams"), 20, "{}", family.name());
    }
    scene.close();
}

/// Neighbours of each family that come and go. Those that the operator sets do not count against the kernel's own limit for
/// all namespaces together (`gc_thresh3`), so nobody else on this machine is starved.
const STORM: u32 = 2000;

#[test]
fn a_storm_of_neighbours_loses_nothing() {
    let Some(scene) = hasty("native") else { return };
    let port = ROUTER_SERVER.port;
    // None goes by itself before all have come.
    for family in ["ipv4", "ipv6"] {
        scene.router().sysctl(&format!("net.{family}.neigh.{port}.gc_stale_time"), "60").expect("a sysctl");
    }
    for address in ["198.19.0.1/16", "2001:db8:7::1/64 nodad"] {
        scene.router().run(&format!("ip addr add {address} dev {port}")).expect("an address");
    }
    let routes = Family::BOTH.map(|family| listed(&scene, family).0);
    let mut files = Vec::new();
    for verb in ["replace", "del"] {
        let mut lines = String::new();
        for number in 1..=STORM {
            let [high, low] = (number as u16).to_be_bytes();
            let state = if number.is_multiple_of(20) { "stale" } else { "permanent" };
            for address in [format!("198.19.{high}.{low}"), format!("2001:db8:7::{:x}", 0x1000 + number)] {
                let end = format!("lladdr 02:00:00:07:{high:02x}:{low:02x} nud {state}");
                let end = if verb == "del" { "" } else { &end };
                writeln!(lines, "neigh {verb} {address} dev {port} {end}").expect("written");
            }
        }
        let file = scene.lab.dir().join(verb);
        fs::write(&file, lines).expect("a file");
        files.push(file);
    }
    let streams = streams(&scene);
    for round in 0..3 {
        for (file, expected) in files.iter().zip([2 * STORM as usize, 0]) {
            scene.router().run(&format!("ip -force -batch {}", file.display())).expect("neighbours");
            within(5 * PROMPT, || {
                let rows: Vec<Value> = scene.daemon.read(&["neigh", "list"])?;
                let storm = |row: &&Value| row["lladdr"].as_str().is_some_and(|mac| mac.starts_with("02:00:00:07"));
                let known = rows.iter().filter(storm).count();
                ensure!(known == expected, "round {round}: {known} of {expected} neighbours");
                Ok(())
            });
            for (family, routes) in Family::BOTH.into_iter().zip(&routes) {
                let (kernel, mirror) = listed(&scene, family);
                assert_eq!(kernel, mirror, "round {round}: {}", family.name());
                assert_eq!(kernel, *routes, "round {round}: {}", family.name());
            }
        }
    }
    let tallies = finish(streams);
    println!("{tallies:?}");
    assert!(tallies.iter().all(|tally| tally.lost == 0), "{tallies:?}");
    assert_eq!(compare(&scene), 0, "{}", scene.daemon.log());
    scene.ping().expect("pings are answered");
    scene.close();
}
