//! A bridge as interface, and a bridge's port: its frames are the bridge's, also those for a neighbour behind another port.

use anyhow::ensure;
use dataplane_tests::lab::{
    Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER,
    traffic::{self, Family},
};

use crate::{
    passage::run,
    scene::{PORTS, PROMPT, Scene, can_have, within},
};

/// The router's port to the client becomes a port of a bridge, which takes its addresses.
pub fn bridged() -> Option<Scene> {
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
        // Its member judges them, but for some that the bridge has to see.
        let forwarded = || {
            let stats = scene.stats();
            let of = |name| stats.port(name).expect("a port").counts.forwarded;
            of("br7") + of(ROUTER_CLIENT.port)
        };
        let before = forwarded();
        scene.ping().expect("pings are answered");
        scene.carries();
        let forwarded = forwarded() - before;
        assert!(forwarded >= 46, "{mode}: 6 pings and 40 datagrams, {forwarded} forwarded");
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

/// A second link from the bridge to the server, for it to move to.
const SECOND: (&str, &str) = ("other0", "eth1");

/// The router's port to the server becomes a member of a bridge, with a second one beside it. The server is behind the first.
pub fn server_behind_a_bridge() -> Option<Scene> {
    let needs = [Need::Tool("nft"), Need::Tool("bridge"), Need::Kernel("bridges", || can_have(&["bridge"]))];
    let scene = Scene::idle(&needs)?;
    scene.take_frames();
    scene
        .lab
        .veth(("router", SECOND.0, "02:00:00:00:02:01"), ("server", SECOND.1, "02:00:00:00:02:02"))
        .expect("a link");
    run(scene.server(), &["ethtool -K eth1 gro on", "ip link set eth1 down"]);
    run(
        scene.router(),
        &[
            "ip link add br7 type bridge stp_state 0 forward_delay 0",
            "ip link set server0 master br7",
            "ip link set other0 master br7",
            "ip addr flush dev server0",
            "ip link set br7 up",
            "ip addr add 198.18.1.1/24 dev br7",
            "ip addr add 2001:db8:1::1/64 dev br7 nodad",
        ],
    );
    within(PROMPT * 10, || scene.ping());
    Some(scene)
}

/// How many packets of both families arrive at the server, and how many of them the router's kernel forwarded.
fn sent(scene: &Scene) -> (u32, u64) {
    let before = scene.kernel_forwarded();
    let arrived = Family::BOTH.map(|family| traffic::datagrams(&scene.lab, family, 5301, 20).expect("datagrams"));
    (arrived.iter().sum(), scene.kernel_forwarded() - before)
}

/// Packets that the bridge itself has transmitted.
fn through_the_bridge(scene: &Scene) -> u64 {
    let text = scene.router().run("ip -s -j link show br7").expect("counters of the bridge");
    let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    rows[0]["stats64"]["tx"]["packets"].as_u64().expect("a counter")
}

/// Waits until all that is sent is forwarded by us, through the bridge or past it to its member.
fn is_ours(scene: &Scene, what: &str, by_member: bool) {
    within(PROMPT * 10, || {
        let before = through_the_bridge(scene);
        let found = sent(scene);
        ensure!(found == (40, 0), "{what}: of 40 arrived, and the kernel forwarded: {found:?}");
        let bridged = through_the_bridge(scene) - before;
        // The bridge also sends what the router has to say.
        ensure!((bridged < 20) == by_member, "{what}: the bridge transmitted {bridged} packets");
        Ok(())
    });
}

/// Waits until nothing arrives.
fn nothing_arrives(scene: &Scene, what: &str) {
    within(PROMPT * 3, || {
        let (arrived, _) = sent(scene);
        ensure!(arrived == 0, "{what}: {arrived} arrived");
        Ok(())
    });
}

/// What is routed into a bridge goes straight to the member that the host is behind, as long as nothing else has a say; also
/// when the host moves to another member.
#[test]
fn what_is_routed_into_a_bridge_goes_to_the_member() {
    for mode in ["native", "tc"] {
        let Some(scene) = server_behind_a_bridge() else { return };
        scene.attach(&PORTS[..1], mode);
        is_ours(&scene, &format!("{mode}, as it is"), true);
        let router = scene.router();
        run(router, &["ip link set br7 promisc on"]);
        is_ours(&scene, &format!("{mode}, with a capture"), false);
        run(router, &["ip link set br7 promisc off"]);
        is_ours(&scene, &format!("{mode}, without one again"), true);
        roam(&scene, "eth0", "eth1");
        is_ours(&scene, &format!("{mode}, behind the other member"), true);
        run(router, &["ip link set other0 down"]);
        nothing_arrives(&scene, &format!("{mode}, a member that is down"));
        run(router, &["ip link set other0 up"]);
        roam(&scene, "eth1", "eth0");
        is_ours(&scene, &format!("{mode}, behind the first one again"), true);
        // Without its entry the bridge floods, until the host says something.
        run(router, &["ip link set server0 type bridge_slave fdb_flush"]);
        assert_eq!(sent(&scene).0, 40, "{mode}: what the bridge floods arrives");
        scene.close();
    }
}

/// Rules of netfilter for bridges hold for what is routed into one.
#[test]
fn rules_for_bridges_hold_for_what_is_routed_into_one() {
    let needs = [Need::Tool("nft"), Need::Kernel("nftables for bridges", has_rules_for_bridges)];
    if !dataplane_tests::lab::ready(&needs) {
        return;
    }
    for mode in ["native", "tc"] {
        let Some(scene) = server_behind_a_bridge() else { return };
        scene.attach(&PORTS[..1], mode);
        is_ours(&scene, mode, true);
        for line in [
            "nft add table bridge t",
            "nft add chain bridge t out { type filter hook postrouting priority 0; policy drop; }",
        ] {
            scene.router().run(line).expect("a rule");
        }
        nothing_arrives(&scene, &format!("{mode}, a rule for bridges"));
        scene.router().run("nft delete table bridge t").expect("no rule");
        is_ours(&scene, &format!("{mode}, without the rule again"), true);
        scene.close();
    }
}

/// Whether the kernel has chains of nftables in bridges.
fn has_rules_for_bridges() -> bool {
    let script = "nft add table bridge t && nft add chain bridge t c '{ type filter hook postrouting priority 0; }'";
    let output = std::process::Command::new("unshare").args(["--net", "sh", "-c", script]).output();
    output.is_ok_and(|output| output.status.success())
}

/// The server moves to the other member, with its link address and its addresses, and says so.
pub fn roam(scene: &Scene, from: &str, to: &str) {
    let mac = SERVER.mac;
    run(
        scene.server(),
        &[
            &format!("ip link set {from} down"),
            &format!("ip link set {to} down"),
            &format!("ip addr flush dev {from}"),
            &format!("ip link set {from} address 02:00:00:00:02:0f"),
            &format!("ip link set {to} address {mac}"),
            &format!("ip link set {to} up"),
            &format!("ip addr add 198.18.1.2/24 dev {to}"),
            &format!("ip addr add 2001:db8:1::2/64 dev {to} nodad"),
            "ip route replace default via 198.18.1.1",
            "ip -6 route replace default via 2001:db8:1::1",
        ],
    );
    within(PROMPT * 10, || {
        let answered = scene.server().attempt("ping -n -c 1 -W 1 198.18.1.1")?;
        ensure!(answered.status.success(), "the server has no link yet");
        Ok(())
    });
}
