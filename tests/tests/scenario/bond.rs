//! A bond as interface, and a bond's member: what a member receives is the bond's, whatever we are attached to.

use dataplane_tests::lab::{Need, ROUTER_CLIENT, ROUTER_SERVER};

use crate::scene::{Scene, can_have};

/// The router's port to the client becomes the member of a bond, which takes its addresses.
fn bonded() -> Option<Scene> {
    let scene = Scene::idle(&[Need::Kernel("bonding", || can_have(&["bond"]))])?;
    for line in [
        "ip link add bond7 type bond mode active-backup miimon 100".to_owned(),
        format!("ip link set {} down", ROUTER_CLIENT.port),
        format!("ip link set {} master bond7", ROUTER_CLIENT.port),
    ] {
        scene.router().run(&line).expect("a bond");
    }
    scene.router().run(&format!("ip link set bond7 address {}", ROUTER_CLIENT.mac)).expect("the old address");
    scene.addresses_to("bond7");
    Some(scene)
}

#[test]
fn traffic_of_a_bond_is_routed_and_counted() {
    for mode in ["tc", "generic"] {
        let Some(scene) = bonded() else { return };
        scene.attach(&["bond7", ROUTER_SERVER.port], mode);
        let before = scene.stats().port("bond7").expect("the bond").counts;
        scene.ping().expect("pings are answered");
        scene.carries();
        let after = scene.stats().port("bond7").expect("the bond").counts;
        let forwarded = after.forwarded - before.forwarded;
        assert!(forwarded >= 46, "{mode}: 6 pings and 40 datagrams, {forwarded} forwarded: {after:?}");
        scene.close();
    }
}

#[test]
fn frames_of_a_member_are_left_to_the_bond() {
    for mode in ["tc", "generic", "native"] {
        let Some(scene) = bonded() else { return };
        scene.attach(&[ROUTER_CLIENT.port, ROUTER_SERVER.port], mode);
        let before = scene.stats().port(ROUTER_CLIENT.port).expect("the member").counts;
        scene.ping().expect("pings are answered");
        scene.carries();
        let after = scene.stats().port(ROUTER_CLIENT.port).expect("the member").counts;
        assert!(after.rx - before.rx >= 46, "{mode}: frames of the member are counted: {after:?}");
        assert_eq!(after.rx - before.rx, after.passed - before.passed, "{mode}: and left to the kernel: {after:?}");
        scene.close();
    }
}
