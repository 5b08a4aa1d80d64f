//! Named sets: elements come and go under rules that stay.

use std::fs;

use dataplane_tests::lab::{
    CLIENT,
    traffic::{self, Family},
};
use serde::Deserialize;

use crate::scene::Scene;

/// Datagrams sent to see a rule act.
const COUNT: u32 = 5;
/// As an operator writes it: one set is in a file, one has nothing in it.
const CONFIG: &str = r#"[ports]
client0 = { mode = "native" }
server0 = { mode = "tc" }

[sets.blocked]
type = "ipv4_addr"
file = "blocked.txt"

[sets.blocked6]
type = "ipv6_addr"

[sets.services]
type = "inet_service"
elements = ["5301"]

[chains.forward]
policy = "accept"
rules = [
  'ip saddr @blocked udp dport @services drop',
  'ip6 saddr @blocked6 drop',
]
"#;

/// A row of `set list`.
#[derive(Debug, PartialEq, Deserialize)]
struct Set {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    elements: Vec<String>,
}

fn arrived(scene: &Scene, port: u16) -> [u32; 2] {
    Family::BOTH.map(|family| traffic::datagrams(&scene.lab, family, port, COUNT).expect("datagrams"))
}

fn listed(scene: &Scene, name: &str) -> Vec<String> {
    let mut rows: Vec<Set> = scene.daemon.read(&["set", "list", name]).expect("a set");
    rows.pop().expect("the set").elements
}

/// Addresses with ports, and links with addresses.
const TOGETHER: &str = r#"[ports]
client0 = { mode = "native" }
server0 = { mode = "tc" }

[sets.services]
type = "ipv4_addr . inet_service"
elements = ["198.18.0.0/24 . 5301", "203.0.113.7 . 5302"]

[sets.ways]
type = "ifname . ipv6_addr"
elements = ["client* . 2001:db8::/48"]

[chains.forward]
rules = [
  'ip saddr . udp dport @services drop',
  'iifname . ip6 saddr @ways udp dport 5302 drop',
]
"#;

#[test]
fn concatenations_match() {
    let Some(scene) = Scene::idle(&[]) else { return };
    let path = scene.lab.dir().join("together.toml");
    fs::write(&path, TOGETHER).expect("a file");
    scene.cli(&["config", "apply", path.to_str().expect("a path of letters")]);
    assert_eq!(scene.rules()[0].rule, "ip saddr . udp dport @services drop");
    assert_eq!(arrived(&scene, 5301), [0, COUNT], "address and port");
    assert_eq!(arrived(&scene, 5302), [COUNT, 0], "the port of another address; link and address");
    scene.cli(&["set", "add", "services", &format!("{} . 5302", CLIENT.v4)]);
    assert_eq!(arrived(&scene, 5302), [0, 0], "one more element");
    scene.cli(&["set", "del", "services", "198.18.0.0/24 . 5301"]);
    assert_eq!(arrived(&scene, 5301), [COUNT; 2], "one less");
    scene.refused(&["rule", "add", "forward", "udp dport @services drop"], 5, &["ipv4_addr . inet_service"]);
    scene.cli(&["rule", "insert", "forward", &format!("ip saddr . udp dport {{ {} . 5303 }} drop", CLIENT.v4)]);
    assert_eq!(arrived(&scene, 5303), [0, COUNT], "without a name");
    scene.close();
}

#[test]
fn elements_come_and_go_and_outlive_the_daemon() {
    let Some(mut scene) = Scene::idle(&[]) else { return };
    let path = scene.lab.dir().join("sets.toml");
    fs::write(&path, CONFIG).expect("a file");
    fs::write(scene.lab.dir().join("blocked.txt"), "192.0.2.0/24 # not the client\n\n203.0.113.7\n").expect("a file");
    let path = path.to_str().expect("a path of letters");
    scene.cli(&["config", "apply", path]);
    assert_eq!(listed(&scene, "blocked"), ["192.0.2.0/24", "203.0.113.7"], "from its file");
    assert_eq!(arrived(&scene, 5301), [COUNT; 2], "an empty set holds nothing, and the other not the client");

    scene.cli(&["set", "add", "blocked", CLIENT.v4, "192.0.2.0/24"]);
    assert_eq!(listed(&scene, "blocked"), ["192.0.2.0/24", "203.0.113.7", CLIENT.v4], "once each");
    assert_eq!(arrived(&scene, 5301), [0, COUNT], "one more address");
    assert_eq!(arrived(&scene, 5302), [COUNT; 2], "the other set of the rule");
    scene.cli(&["set", "add", "services", "5302"]);
    scene.cli(&["set", "add", "blocked6", "{", "2001:db8::/64,", "2001:db8:9::1", "}"]);
    assert_eq!(arrived(&scene, 5302), [0, 0], "more in all three");
    let rules = scene.rules();

    // All or nothing, each with its code.
    let before = scene.cli(&["config", "show"]);
    scene.refused(&["set", "list", "nobody"], 3, &["there is no set nobody"]);
    scene.refused(&["set", "add", "nobody", "192.0.2.1"], 3, &["there is no set nobody"]);
    scene.refused(&["set", "del", "blocked", CLIENT.v4, "192.0.2.1"], 3, &["has no element 192.0.2.1"]);
    scene.refused(
        &["set", "add", "blocked", "192.0.2.1", "192.0.2.999"],
        5,
        &["element of blocked:1:1: found `192.0.2.999`, expected an IPv4 address", "^^^^^^^^^^^"],
    );
    scene.refused(&["set", "add", "services", "2001:db8::1"], 5, &["expected a port"]);
    assert_eq!(scene.cli(&["config", "show"]), before);
    // The running config lists what it was told, so it differs from the file until that is applied again.
    assert!(before.contains(CLIENT.v4) && !before.contains("blocked.txt"), "{before}");
    let differs = scene.daemon.attempt(&["config", "diff", path]).expect("the verb runs");
    assert_eq!(differs.status.code(), Some(6), "{}", differs.said());

    scene.daemon.restart().expect("a new daemon");
    assert_eq!(scene.cli(&["config", "show"]), before);
    assert_eq!(arrived(&scene, 5301), [0, 0], "after a restart");

    scene.cli(&["set", "del", "blocked", CLIENT.v4]);
    scene.cli(&["set", "del", "blocked6", "2001:db8::/64"]);
    assert_eq!(arrived(&scene, 5301), [COUNT; 2], "deleted");
    let handles = |rules: &[crate::scene::Rule]| rules.iter().map(|rule| rule.handle).collect::<Vec<_>>();
    assert_eq!(handles(&scene.rules()), handles(&rules), "the rules are the same");
    scene.cli(&["set", "del", "blocked", "192.0.2.0/24", "203.0.113.7"]);
    assert_eq!(listed(&scene, "blocked"), [""; 0]);
    assert_eq!(arrived(&scene, 5301), [COUNT; 2], "an empty set holds nothing");
    scene.close();
}
