//! Ports in a VRF: routed by the VRF's table, by whomever, and never by the main one.

use dataplane_tests::lab::{Need, ROUTER_CLIENT, ROUTER_SERVER};

use crate::scene::{PORTS, Scene, can_have, within};

#[test]
fn ports_of_a_vrf_are_routed_by_its_table() {
    for mode in ["tc", "native", "generic"] {
        let needs = [Need::Kernel("VRF", || can_have(&["vrf", "table", "77"]))];
        let Some(scene) = Scene::idle(&needs) else { return };
        let router = scene.router();
        router.run("ip link add vrf7 type vrf table 77").expect("a VRF");
        router.run("ip link set vrf7 up").expect("up");
        for end in [ROUTER_CLIENT, ROUTER_SERVER] {
            router.run(&format!("ip link set {} master vrf7", end.port)).expect("a port of the VRF");
            // The kernel takes global IPv6 addresses off a link that joins.
            router.run(&format!("ip -6 addr replace {}/64 dev {} nodad", end.v6, end.port)).expect("an address");
        }
        within(std::time::Duration::from_secs(10), || scene.ping());
        scene.attach(&PORTS, mode);
        let before = scene.stats();
        scene.ping().expect("pings are answered");
        scene.carries();
        let after = scene.stats();
        assert!(after.totals.rx - before.totals.rx >= 52, "{mode}: all is counted: {after:?}");
        assert_eq!(after.totals.dropped, before.totals.dropped, "{mode}: {after:?}");

        // The main table leads elsewhere; who took it would lose the packet.
        router.run("ip route add blackhole 198.18.1.0/24").expect("a route");
        scene.ping().expect("pings are answered past the main table");
        router.run("ip route add blackhole 198.18.1.2/32 vrf vrf7").expect("a route");
        assert_eq!(scene.pinged("198.18.1.2"), 0, "{mode}: the VRF's own blackhole holds");
        scene.close();
    }
}
