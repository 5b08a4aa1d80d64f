//! Packets for a container are handed to its end of the veth, unless a program sees them on their way through the link.

use std::time::Duration;

use anyhow::ensure;
use dataplane_tests::lab::{
    Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER, tells_xdp_features,
    traffic::{self, Family},
};
use rustix::net::{AddressFamily, Protocol, SocketType, socket};
use serde_json::Value;

use crate::scene::{PORTS, Scene, within};

const DATAGRAMS: u32 = 300;
/// What stands in the way is looked for each second.
const SOON: Duration = Duration::from_secs(3);

/// How packets reach the other end of a port, as `port list` says.
fn peer(scene: &Scene, port: &str) -> String {
    let rows: Vec<Value> = scene.daemon.read(&["port", "list"]).expect("ports");
    let row = rows.iter().find(|row| row["name"] == port).expect("the port");
    row["peer"].as_str().expect("a word").to_owned()
}

/// Waits until that contains these words.
fn becomes(scene: &Scene, port: &str, words: &str) {
    within(SOON, || {
        let found = peer(scene, port);
        ensure!(found.contains(words), "{port}: {found:?} instead of {words:?}");
        Ok(())
    });
}

/// Packets that a link of the router has sent, as the kernel counts.
fn sent(scene: &Scene, port: &str) -> u64 {
    let text = scene.router().run(&format!("ip -s -j link show {port}")).expect("counters of the link");
    let rows: Value = serde_json::from_str(&text).expect("JSON");
    rows[0]["stats64"]["tx"]["packets"].as_u64().expect("a counter")
}

/// Sends datagrams through the router, all of which arrive and count as forwarded; says how many went through the link.
fn cross(scene: &Scene) -> u64 {
    let (before, forwarded) = (sent(scene, ROUTER_SERVER.port), scene.stats().totals.forwarded);
    for family in Family::BOTH {
        let arrived = traffic::datagrams(&scene.lab, family, 5302, DATAGRAMS).expect("datagrams");
        assert_eq!(arrived, DATAGRAMS, "{} datagrams", family.name());
    }
    let counted = scene.stats().totals.forwarded - forwarded;
    assert!(counted >= u64::from(2 * DATAGRAMS), "{counted} packets are counted");
    sent(scene, ROUTER_SERVER.port) - before
}

/// A few packets are the kernel's own: neighbours are looked up.
fn is_direct(scene: &Scene) {
    becomes(scene, ROUTER_SERVER.port, "direct");
    let through = cross(scene);
    assert!(through < u64::from(DATAGRAMS / 10), "{through} packets went through the link");
}

fn is_not(scene: &Scene, words: &str) {
    becomes(scene, ROUTER_SERVER.port, words);
    let through = cross(scene);
    assert!(through >= u64::from(2 * DATAGRAMS), "only {through} packets went through the link");
}

fn scene(mode: &str) -> Option<Scene> {
    let tools = [Need::Tool("ethtool"), Need::Tool("iperf3"), Need::Tool("ss")];
    let told = Need::Kernel("word of which devices XDP may send to", tells_xdp_features);
    let needs: Vec<_> = tools.into_iter().chain([told]).collect();
    let scene = Scene::idle(&needs)?;
    scene.attach(&PORTS, mode);
    Some(scene)
}

#[test]
fn containers_get_packets_at_their_end() {
    for mode in ["auto", "generic"] {
        let Some(scene) = scene(mode) else { return };
        scene.ping().expect("pings are answered");
        if mode == "auto" {
            is_direct(&scene);
        } else {
            // XDP leaves to tc what a device does not take as a frame.
            becomes(&scene, ROUTER_SERVER.port, "direct");
            cross(&scene);
        }
        scene.ping().expect("pings are answered");
        let _server = traffic::iperf_server(&scene.lab).expect("a server");
        for family in Family::BOTH {
            traffic::tcp(&scene.lab, family, Duration::from_secs(1)).expect("TCP goes through");
        }
        scene.close();
    }
}

#[test]
fn whoever_sees_packets_on_the_way_goes_on_seeing_them() {
    let Some(scene) = scene("auto") else { return };
    is_direct(&scene);

    // A capture.
    let all = Protocol::from_raw(u32::from(3_u16.to_be()).try_into().expect("a number"));
    let open = || Ok(socket(AddressFamily::PACKET, SocketType::RAW, Some(all))?);
    let capture = scene.router().inside(open).expect("a raw socket");
    is_not(&scene, "a capture");
    drop(capture);
    is_direct(&scene);

    // A discipline.
    let port = ROUTER_SERVER.port;
    scene
        .router()
        .run(&format!("tc qdisc add dev {port} root tbf rate 1gbit burst 1mb latency 50ms"))
        .expect("a shaper");
    is_not(&scene, "queueing discipline");
    scene.router().run(&format!("tc qdisc del dev {port} root")).expect("none");
    is_direct(&scene);

    // What puts segments together at the other end, or an XDP program there.
    scene.server().run(&format!("ethtool -K {} gro on", SERVER.port)).expect("GRO");
    is_not(&scene, "XDP or GRO");
    scene.server().run(&format!("ethtool -K {} gro off", SERVER.port)).expect("no GRO");
    is_direct(&scene);

    // The operator.
    let ports = format!("{} = {{}}\n{port} = {{ peer = \"never\" }}", ROUTER_CLIENT.port);
    let path = scene.daemon.config().with_file_name("never.toml");
    std::fs::write(&path, format!("[ports]\n{ports}\n")).expect("a file");
    scene.cli(&["config", "apply", path.to_str().expect("a path")]);
    is_not(&scene, "switched off");
    scene.close();
}
