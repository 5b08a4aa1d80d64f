//! Frames that a way out does not take after XDP has redirected them: they count as dropped, and not as forwarded.

use std::net::UdpSocket;

use dataplane_tests::lab::{
    CLIENT, Lab, Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER, Stats, tells_xdp_features,
    traffic::{self, Family},
};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::scene::{PORTS, PROMPT, Scene, within};

/// Datagrams of each family that are sent into the hole.
const LOST: u64 = 150;

/// A way to make a way out fail under the programs' feet: a daemon that runs would hear of it, and take another way.
struct Fault {
    what: &'static str,
    namespace: &'static str,
    line: &'static str,
}

const FAULTS: [Fault; 3] = [
    // Refused at the redirect, since the device says so; before Linux 6.3 when it transmits.
    Fault { what: "the peer does not poll any more", namespace: "server", line: "ethtool -K eth0 gro off" },
    // Refused when the device transmits.
    Fault { what: "the peer is down", namespace: "server", line: "ip link set eth0 down" },
    // Refused at the redirect.
    Fault { what: "the way out is down", namespace: "router", line: "ip link set server0 down" },
];

/// A router between hosts that send and take frames of XDP.
fn scene(mode: &str) -> Option<Scene> {
    // Without its word, a veth with its peer elsewhere gets no frames of XDP.
    let told = Need::Kernel("word of which devices XDP may send to", tells_xdp_features);
    let scene = Scene::idle(&[Need::Tool("ethtool"), told])?;
    scene.take_frames();
    scene.client().run(&format!("ethtool -K {} tx off", CLIENT.port)).expect("checksums of its own");
    scene.attach(&PORTS, mode);
    settled(&scene);
    Some(scene)
}

/// Waits until XDP sends to the server.
fn settled(scene: &Scene) {
    within(PROMPT * 5, || scene.ping());
    scene.carries();
}

/// Sends datagrams to the server, whether they arrive or not.
fn send(scene: &Scene) {
    for family in Family::BOTH {
        let bind = || Ok(UdpSocket::bind((family.address(&CLIENT), 0))?);
        let socket = scene.client().inside(bind).expect("a socket");
        for number in 0..LOST {
            socket.send_to(&number.to_be_bytes(), (family.address(&SERVER), 9)).expect("sent");
        }
    }
}

/// Does something while the daemon does not run, and what the ports counted.
fn unheard(scene: &Scene, act: impl FnOnce()) -> (Stats, Stats) {
    let pid = scene.daemon.pid().expect("the daemon runs");
    let before = scene.stats();
    scene.router().run(&format!("kill -STOP {pid}")).expect("stopped");
    act();
    scene.router().run(&format!("kill -CONT {pid}")).expect("goes on");
    (before, scene.stats())
}

/// Breaks the way out, sends, and looks at the counters.
fn lose(scene: &Scene, mode: &str, fault: &Fault) {
    let (before, after) = unheard(scene, || {
        scene.lab.namespace(fault.namespace).run(fault.line).expect("a fault");
        send(scene);
    });
    let what = format!("{mode}: {}", fault.what);
    let grown = |name: &str| after.reason(name) - before.reason(name);
    assert_eq!(grown("redirect_failed"), 2 * LOST, "{what}: {after:?}, before {before:?}");
    assert_eq!(grown("forwarded"), 0, "{what}: {after:?}, before {before:?}");
    let port = |stats: &Stats| stats.port(ROUTER_CLIENT.port).expect("the port").counts;
    assert_eq!(port(&after).dropped - port(&before).dropped, 2 * LOST, "{what}: at the port that received them");
}

#[test]
fn what_is_lost_in_native_counts_as_dropped() {
    for fault in &FAULTS {
        let Some(scene) = scene("native") else { return };
        lose(&scene, "native", fault);
        scene.close();
    }
}

#[test]
fn what_is_lost_in_generic_counts_as_dropped() {
    let Some(scene) = scene("generic") else { return };
    // In generic mode a peer need not poll, so only the device itself can refuse.
    lose(&scene, "generic", &FAULTS[2]);
    scene.close();
}

#[test]
fn the_doctor_checks_loss_counting() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    let finding = |scene: &Scene| {
        let output = scene.daemon.attempt(&["doctor", "-j"]).expect("the doctor runs");
        let findings: Vec<serde_json::Value> = serde_json::from_str(&output.stdout).expect("JSON");
        findings.into_iter().find(|finding| finding["check"] == "losses")
    };
    let found = finding(&scene).expect("a port is at XDP");
    assert_eq!(found["status"], "ok", "{found}\n{}", scene.daemon.log());
    scene.attach(&PORTS, "tc");
    assert_eq!(finding(&scene), None, "no port is at XDP");
    scene.close();
}

#[test]
fn what_arrives_is_not_lost() {
    let Some(scene) = scene("native") else { return };
    let before = scene.stats();
    for family in Family::BOTH {
        assert_eq!(traffic::datagrams(&scene.lab, family, 5301, 500).expect("datagrams"), 500, "{}", family.name());
    }
    let after = scene.stats();
    assert_eq!(after.reason("redirect_failed"), 0, "{after:?}");
    assert!(after.reason("forwarded") - before.reason("forwarded") >= 1000, "{after:?}");
    scene.close();
}

/// An observer goes on without the daemon, and the next daemon's takes its place: each frame is counted once.
#[test]
fn restarts_count_each_frame_once() {
    let Some(mut scene) = scene("native") else { return };
    for round in 0..2 {
        let before = scene.stats();
        if round == 0 {
            scene.daemon.kill9().expect("killed");
        } else {
            scene.daemon.terminate().expect("ended");
        }
        scene.server().run("ethtool -K eth0 gro off").expect("a fault");
        send(&scene);
        scene.daemon.restart().expect("a daemon");
        let after = scene.stats();
        let grown = after.reason("redirect_failed") - before.reason("redirect_failed");
        assert_eq!(grown, 2 * LOST, "without a daemon, round {round}: {after:?}, before {before:?}");
        scene.server().run("ethtool -K eth0 gro on").expect("mended");
        settled(&scene);
        lose(&scene, "after a restart", &FAULTS[0]);
        scene.server().run("ethtool -K eth0 gro on").expect("mended");
        settled(&scene);
    }
    let links = scene.router().run("bpftool link list").expect("links");
    scene.cli(&["detach", "--all"]);
    let pins = std::fs::read_dir(scene.daemon.bpffs().join("links")).expect("pins").count();
    assert_eq!(pins, 0, "nothing is observed without ports: {links}");
    scene.close();
}

/// Interface indices are of one namespace: another router's port has the same.
#[test]
fn losses_of_another_namespace_are_not_ours() {
    let Some(scene) = scene("native") else { return };
    // All on one CPU: only there has the other router counted packets that could be taken for these.
    let mut cpu = CpuSet::new();
    cpu.set(0);
    sched_setaffinity(None, &cpu).expect("one CPU");
    let other = Lab::router().expect("a laboratory");
    let daemon = other.daemon("router").expect("a daemon");
    for family in Family::BOTH {
        assert_eq!(traffic::ping(&other, family, 1).expect("pings"), 1);
    }
    daemon.cli(&["attach", ROUTER_CLIENT.port, ROUTER_SERVER.port, "--mode", "native"]).expect("attached");
    for family in Family::BOTH {
        assert_eq!(traffic::datagrams(&other, family, 5301, 200).expect("datagrams"), 200);
    }
    let before = daemon.stats().expect("stats");
    let index = |stats: &Stats| stats.port(ROUTER_CLIENT.port).expect("the port").ifindex;
    assert_eq!(index(&before), index(&scene.stats()), "the test is about equal indices");
    assert!(before.reason("forwarded") >= 2 * LOST, "{before:?}");
    lose(&scene, "native", &FAULTS[0]);
    let after = daemon.stats().expect("stats");
    assert_eq!(after.reason("redirect_failed"), 0, "{after:?}");
    assert_eq!(after.reason("forwarded"), before.reason("forwarded"), "{after:?}");
    daemon.stop().expect("the daemon stops");
    drop(other);
    scene.close();
}
