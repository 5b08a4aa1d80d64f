//! Tagged frames are the kernel's, after chain prerouting.

use dataplane_tests::lab::{CLIENT, ROUTER_CLIENT, SERVER};

use crate::scene::Scene;

/// Who is on the VLAN: namespace, device below, addresses.
const ENDS: [(&str, &str, &str, &str); 2] = [
    ("client", CLIENT.port, "203.0.113.2", "2001:db8:7::2"),
    ("router", ROUTER_CLIENT.port, "203.0.113.1", "2001:db8:7::1"),
];

fn up(scene: &Scene) {
    for (namespace, port, v4, v6) in ENDS {
        let namespace = scene.lab.namespace(namespace);
        for line in [
            format!("ip link add link {port} name vlan7 type vlan id 7"),
            "sysctl -qw net.ipv4.conf.vlan7.rp_filter=0".to_owned(),
            format!("ip addr add {v4}/24 dev vlan7"),
            format!("ip addr add {v6}/64 dev vlan7 nodad"),
            "ip link set vlan7 up".to_owned(),
        ] {
            namespace.run(&line).expect("a VLAN");
        }
    }
}

fn reaches_the_kernel(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    up(&scene);
    let addresses = [ENDS[1].2, ENDS[1].3];
    let before = scene.stats();
    assert_eq!(addresses.map(|address| scene.pinged(address)), [3, 3], "{mode}: the router answers on the VLAN");
    let after = scene.stats();
    let vlan = after.reason("vlan") - before.reason("vlan");
    assert!(vlan >= 6, "{mode}: {vlan} tagged frames counted: {after:?}");
    assert_eq!(after.reason("local"), before.reason("local"), "{mode}: tagged frames were delivered as untagged");
    assert_eq!(after.totals.forwarded, before.totals.forwarded, "{mode}");

    // Through the VLAN to the server: the kernel forwards, not we, who would put it on the wire without regard to the VLAN.
    for line in [format!("ip route replace {}/32 via {}", SERVER.v4, ENDS[1].2), format!("ip -6 route replace {}/128 via {}", SERVER.v6, ENDS[1].3)] {
        scene.client().run(&line).expect("a route");
    }
    let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
    scene.ping().expect("pings are answered");
    let after = scene.stats();
    assert!(after.reason("vlan") - before.reason("vlan") >= 6, "{mode}: {after:?}");
    assert!(scene.kernel_forwarded() - kernel >= 6, "{mode}: the kernel did not forward");

    for rule in ["ip saddr 203.0.113.2 drop", "ip6 saddr 2001:db8:7::2 drop", "vlan id 7 drop"] {
        let family = if rule.starts_with("ip6") { 1 } else { 0 };
        let rule = scene.rule("prerouting", rule);
        let before = scene.stats().reason("filter_prerouting");
        assert_eq!(scene.pinged(addresses[family]), 0, "{mode}: {}", rule.rule);
        assert!(scene.stats().reason("filter_prerouting") - before >= 3, "{mode}: {}", rule.rule);
        scene.cli(&["rule", "flush", "prerouting"]);
    }
    assert_eq!(addresses.map(|address| scene.pinged(address)), [3, 3], "{mode}");
    scene.close();
}

#[test]
fn in_native() {
    reaches_the_kernel("native");
}

#[test]
fn in_tc() {
    reaches_the_kernel("tc");
}

#[test]
fn in_generic() {
    reaches_the_kernel("generic");
}
