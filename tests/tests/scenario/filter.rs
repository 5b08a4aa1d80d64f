//! Rules on the wire, in each chain and both families.

use dataplane_tests::lab::{
    CLIENT, ROUTER_CLIENT, ROUTER_SERVER,
    traffic::{self, Family},
};

use crate::scene::Scene;

/// Datagrams sent to see a rule act.
const COUNT: u32 = 10;

fn through(scene: &Scene, port: u16) -> [u32; 2] {
    Family::BOTH.map(|family| traffic::datagrams(&scene.lab, family, port, COUNT).expect("datagrams"))
}

fn packets(scene: &Scene, handle: u64) -> u64 {
    scene.rules().iter().find(|rule| rule.handle == handle).expect("the rule").packets
}

fn bytes(scene: &Scene, handle: u64) -> u64 {
    scene.rules().iter().find(|rule| rule.handle == handle).expect("the rule").bytes
}

/// Chains that a forwarded packet meets.
fn on_the_way(scene: &Scene, mode: &str) {
    for (chain, reason) in [("prerouting", "filter_prerouting"), ("forward", "filter_forward")] {
        let rule = scene.rule(chain, "udp dport 5301 drop");
        let before = scene.stats();
        assert_eq!(through(scene, 5301), [0, 0], "{mode}: {chain} drops");
        assert_eq!(through(scene, 5302), [COUNT; 2], "{mode}: {chain} spares");
        assert_eq!(packets(scene, rule.handle), 2 * u64::from(COUNT), "{mode}: {chain} counts");
        // Ethernet 14, IPv4 20 or IPv6 40, UDP 8, a number of 4 bytes.
        assert_eq!(bytes(scene, rule.handle), u64::from(COUNT) * (46 + 66), "{mode}: {chain} counts bytes");
        let after = scene.stats();
        assert_eq!(after.reason(reason) - before.reason(reason), 2 * u64::from(COUNT), "{mode}: {chain}");
        assert_eq!(after.totals.dropped - before.totals.dropped, 2 * u64::from(COUNT), "{mode}: {chain}");

        // One in front that accepts ends the chain, for its family.
        let words = ["rule", "insert", chain, "ip daddr 198.18.1.2 udp dport 5301 accept"];
        let accepting: Vec<crate::scene::Rule> = scene.daemon.read(&words).expect("a rule");
        assert_eq!(through(scene, 5301), [COUNT, 0], "{mode}: {chain}: the first match decides");
        assert_eq!(packets(scene, accepting[0].handle), u64::from(COUNT), "{mode}: {chain}");

        scene.cli(&["rule", "del", chain, "handle", &rule.handle.to_string()]);
        assert_eq!(through(scene, 5301), [COUNT; 2], "{mode}: {chain} without its rule");
        scene.refused(&["rule", "del", chain, "handle", &rule.handle.to_string()], 3, &["handle"]);
        scene.rule(chain, "ip6 saddr 2001:db8::/64 drop");
        assert_eq!(through(scene, 5302), [COUNT, 0], "{mode}: {chain} by source");
        scene.cli(&["rule", "flush", chain]);
        assert_eq!(through(scene, 5302), [COUNT; 2], "{mode}: {chain} flushed");
    }
    assert!(scene.rules().is_empty());
}

/// Chains of the router's own packets.
fn at_the_ends(scene: &Scene, mode: &str) {
    let own = [ROUTER_CLIENT.v4, ROUTER_CLIENT.v6];
    scene.rule("input", "icmp type echo-request drop");
    scene.rule("input", "icmpv6 type echo-request drop");
    let before = scene.stats();
    assert_eq!(own.map(|address| scene.pinged(address)), [0, 0], "{mode}: input drops");
    scene.ping().expect("what is forwarded does not meet input");
    let after = scene.stats();
    assert_eq!(after.reason("filter_input") - before.reason("filter_input"), 6, "{mode}");
    scene.cli(&["rule", "flush", "input"]);
    assert_eq!(own.map(|address| scene.pinged(address)), [3, 3], "{mode}: input flushed");

    scene.rule("output", "icmp type echo-reply drop");
    scene.rule("output", "icmpv6 type echo-reply drop");
    let before = scene.stats();
    assert_eq!(own.map(|address| scene.pinged(address)), [0, 0], "{mode}: output drops");
    scene.ping().expect("what is forwarded does not meet output");
    let after = scene.stats();
    assert_eq!(after.reason("filter_output") - before.reason("filter_output"), 6, "{mode}");
    assert_eq!(after.totals.dropped, before.totals.dropped, "{mode}: what is not sent was not received");
    assert!(scene.rules().iter().all(|rule| rule.packets == 3), "{mode}: {:?}", scene.rules());
    scene.cli(&["rule", "flush", "output"]);
    assert_eq!(own.map(|address| scene.pinged(address)), [3, 3], "{mode}: output flushed");
}

/// By interface.
fn by_port(scene: &Scene, mode: &str) {
    scene
        .rule("forward", &format!("iifname {} oifname {} udp dport 5301 drop", ROUTER_CLIENT.port, ROUTER_SERVER.port));
    scene.rule("forward", &format!("iifname {} udp dport 5302 drop", ROUTER_SERVER.port));
    assert_eq!(through(scene, 5301), [0, 0], "{mode}: this way");
    assert_eq!(through(scene, 5302), [COUNT; 2], "{mode}: not this way");
    scene.cli(&["rule", "flush", "forward"]);
}

fn filters(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    on_the_way(&scene, mode);
    at_the_ends(&scene, mode);
    by_port(&scene, mode);
    scene.close();
}

/// What keeps a rate passes, the rest meets the next rule.
fn by_rate(scene: &Scene, mode: &str) {
    let kept = scene.rule("forward", "udp dport 5301 limit rate 1/hour burst 4 packets accept");
    let rest = scene.rule("forward", "udp dport 5301 drop");
    let [v4, v6] = through(scene, 5301);
    // One bucket for both families, and it does not matter who came first.
    assert_eq!(v4 + v6, 4, "{mode}: {v4} and {v6}");
    assert_eq!([packets(scene, kept.handle), packets(scene, rest.handle)], [4, u64::from(2 * COUNT) - 4], "{mode}");
    // Another rule that comes does not fill the bucket.
    scene.rule("forward", "udp dport 5303 drop");
    assert_eq!(through(scene, 5301), [0, 0], "{mode}: still empty");
    scene.cli(&["rule", "flush", "forward"]);
    let over = scene.rule("forward", "udp dport 5301 limit rate over 1/hour burst 4 packets drop");
    let [v4, v6] = through(scene, 5301);
    assert_eq!((v4 + v6, packets(scene, over.handle)), (4, u64::from(2 * COUNT) - 4), "{mode}: over");
    scene.cli(&["rule", "flush", "forward"]);
    assert_eq!(through(scene, 5301), [COUNT; 2], "{mode}: flushed");
    // Packets for the router meet chain forward only as far as it may be that the kernel forwards them.
    let kept =
        scene.rule("forward", &format!("oifname {} limit rate 1/hour burst 4 packets accept", ROUTER_SERVER.port));
    scene.rule("forward", &format!("oifname {} drop", ROUTER_SERVER.port));
    scene.rule("forward", "oifname other9 drop");
    for address in [ROUTER_CLIENT.v4, ROUTER_CLIENT.v6] {
        (0..3).for_each(|_| assert_eq!(scene.pinged(address), 3, "{mode}: the router answers"));
    }
    let [v4, v6] = through(scene, 5301);
    assert_eq!((v4 + v6, packets(scene, kept.handle)), (4, 4), "{mode}: the bucket is for packets that are forwarded");
    scene.cli(&["rule", "flush", "forward"]);
}

#[test]
fn rates_in_native() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    by_rate(&scene, "native");
    scene.close();
}

#[test]
fn rates_in_tc() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    by_rate(&scene, "tc");
    scene.close();
}

#[test]
fn rules_in_native() {
    filters("native");
}

#[test]
fn rules_in_tc() {
    filters("tc");
}

#[test]
fn rules_in_generic() {
    filters("generic");
}

/// With checksums in the packets it is XDP that filters; without, tc.
#[test]
fn rules_in_native_without_offloads() {
    let Some(scene) = Scene::attached(&[dataplane_tests::lab::Need::Tool("ethtool")], "native") else { return };
    scene.client().run(&format!("ethtool -K {} tx off", CLIENT.port)).expect("offloads off");
    on_the_way(&scene, "native, no offloads");
    by_port(&scene, "native, no offloads");
    scene.close();
}

#[test]
fn a_bad_rule_is_refused_at_its_place() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    scene.rule("forward", "udp dport 5301 drop");
    let before = scene.rules();
    for (rule, word) in [("udp dport x drop", "1:11"), ("ip saddr @none drop", "none")] {
        scene.refused(&["rule", "add", "forward", rule], 5, &[word]);
    }
    scene.refused(&["rule", "add", "sideways", "drop"], 2, &["sideways"]);
    assert_eq!(scene.rules(), before);
    assert_eq!(through(&scene, 5301), [0, 0]);
    scene.close();
}
