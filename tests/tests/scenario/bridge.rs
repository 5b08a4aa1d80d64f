//! A bridge as interface, and a bridge's port: its frames are the bridge's, also those for a neighbour behind another port.

use dataplane_tests::lab::{Need, ROUTER_CLIENT, ROUTER_SERVER};

use crate::scene::{Scene, can_have};

/// The router's port to the client becomes a port of a bridge, which takes its addresses.
fn bridged() -> Option<Scene> {
    let scene = Scene::idle(&[Need::Kernel("bridges", || can_have(&["bridge"]))])?;
    for line in [
        format!("ip link add br7 address {} type bridge stp_state 0 forward_delay 0", ROUTER_CLIENT.mac),
        format!("ip link set {} master br7", ROUTER_CLIENT.port),
    ] {
        scene.router().run(&line).expect("a bridge");
    }
    scene.addresses_to("br7");
    Some(scene)
}

#[test]
fn traffic_of_a_bridge_is_routed_and_counted() {
    for mode in ["tc", "generic"] {
        let Some(scene) = bridged() else { return };
        scene.attach(&["br7", ROUTER_SERVER.port], mode);
        let before = scene.stats().port("br7").expect("the bridge").counts;
        scene.ping().expect("pings are answered");
        scene.carries();
        let after = scene.stats().port("br7").expect("the bridge").counts;
        let forwarded = after.forwarded - before.forwarded;
        assert!(forwarded >= 46, "{mode}: 6 pings and 40 datagrams, {forwarded} forwarded: {after:?}");
        scene.close();
    }
}

#[test]
fn frames_of_a_port_are_left_to_the_bridge() {
    for mode in ["tc", "generic", "native"] {
        let Some(scene) = bridged() else { return };
        scene.attach(&[ROUTER_CLIENT.port, ROUTER_SERVER.port], mode);
        let before = scene.stats().port(ROUTER_CLIENT.port).expect("the port").counts;
        scene.ping().expect("pings are answered");
        scene.carries();
        let after = scene.stats().port(ROUTER_CLIENT.port).expect("the port").counts;
        assert!(after.rx - before.rx >= 46, "{mode}: frames of the port are counted: {after:?}");
        assert_eq!(after.rx - before.rx, after.passed - before.passed, "{mode}: and left to the kernel: {after:?}");
        scene.close();
    }
}
