//! Somebody takes the frames of a port before IP sees them: they are his, and not routed.

use anyhow::ensure;
use dataplane_tests::lab::{CLIENT, Namespace, Need, ROUTER_CLIENT};

use crate::scene::{PORTS, PROMPT, Scene, can_have, within};

/// Frames that a link of a namespace has received.
fn received(namespace: &Namespace, link: &str) -> u64 {
    let text = namespace.run(&format!("ip -s -j link show {link}")).expect("counters of the link");
    let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    rows[0]["stats64"]["rx"]["packets"].as_u64().expect("a counter")
}

fn taker(scene: &Scene) -> Option<String> {
    let rows: serde_json::Value = serde_json::from_str(&scene.cli(&["-j", "port", "list"])).expect("JSON");
    let rows = rows.as_array().expect("ports");
    let row = rows.iter().find(|row| row["name"] == ROUTER_CLIENT.port).expect("the port");
    row["taken"].as_str().map(str::to_owned)
}

/// The port's frames, before and after a macvlan takes them into another namespace.
fn is_taken_elsewhere(mode: &str) {
    let needs = [Need::Kernel("macvlan", || can_have(&["veth"]) && has_macvlan())];
    let Some(mut scene) = Scene::attached(&needs, mode) else { return };
    scene.lab.add("container").expect("a namespace");
    let scene = scene;
    scene.ping().expect("routed");
    assert_eq!(taker(&scene), None, "{mode}");
    let (router, elsewhere) = (scene.router(), scene.lab.namespace("container"));
    for line in [
        format!("ip link add mv0 link {} type macvlan mode passthru", ROUTER_CLIENT.port),
        format!("ip link set mv0 netns {}", elsewhere.full()),
    ] {
        router.run(&line).expect("a macvlan");
    }
    elsewhere.run("ip link set mv0 up").expect("up");
    within(PROMPT * 3, || {
        let by = taker(&scene);
        ensure!(by.as_ref().is_some_and(|by| by.contains("macvlan")), "{mode}: taken by {by:?}");
        Ok(())
    });
    let (before, counted) = (received(elsewhere, "mv0"), scene.stats());
    let pinged = scene.pinged("198.18.1.2");
    assert_eq!(pinged, 0, "{mode}: {pinged} pings were routed, which are the macvlan's");
    let arrived = received(elsewhere, "mv0") - before;
    assert!(arrived >= 3, "{mode}: {arrived} frames arrived at the macvlan");
    let after = scene.stats();
    assert!(after.reason("taken") - counted.reason("taken") >= 3, "{mode}: {after:?}");
    let doctor = scene.daemon.attempt(&["doctor"]).expect("doctor runs").stdout;
    assert!(doctor.contains("macvlan"), "{mode}: {doctor}");

    elsewhere.run("ip link del mv0").expect("gone");
    within(PROMPT * 3, || {
        ensure!(taker(&scene).is_none(), "{mode}: taken by {:?}", taker(&scene));
        scene.ping()
    });
    let kernel = scene.kernel_forwarded();
    scene.ping().expect("routed");
    assert_eq!(scene.kernel_forwarded(), kernel, "{mode}: and by us");
    scene.close();
}

fn has_macvlan() -> bool {
    let script = "ip link add probe0 type veth peer name probe1 && ip link add link probe0 type macvlan mode passthru";
    let mut command = std::process::Command::new("unshare");
    command.args(["--net", "sh", "-c", script]);
    command.output().is_ok_and(|output| output.status.success())
}

#[test]
fn by_a_macvlan_in_native() {
    is_taken_elsewhere("native");
}

#[test]
fn by_a_macvlan_in_tc() {
    is_taken_elsewhere("tc");
}

#[test]
fn by_a_macvlan_in_generic() {
    is_taken_elsewhere("generic");
}

/// What looks alike and takes nothing: a capture, a macvlan with frames of its own.
#[test]
fn others_leave_the_frames_to_the_port() {
    let needs = [Need::Kernel("macvlan", || can_have(&["veth"]) && has_macvlan())];
    let Some(scene) = Scene::attached(&needs, "native") else { return };
    let routed = |what: &str| {
        // A look, and the time between two.
        std::thread::sleep(PROMPT + PROMPT / 2);
        assert_eq!(taker(&scene), None, "{what}");
        let kernel = scene.kernel_forwarded();
        scene.ping().expect("routed");
        assert_eq!(scene.kernel_forwarded(), kernel, "{what}: by the kernel");
    };
    scene.router().run(&format!("ip link set {} promisc on", ROUTER_CLIENT.port)).expect("as a capture does");
    routed("promiscuous");
    let line = format!("ip link add vrrp1 link {} type macvlan mode private", ROUTER_CLIENT.port);
    scene.router().run(&line).expect("a macvlan");
    routed("a macvlan with an address of its own");
    assert_eq!(PORTS[0], ROUTER_CLIENT.port, "of {}", CLIENT.namespace);
    scene.close();
}
