//! Sets that rules fill: the kernel holds them, and what is in them outlives changes of rules, restarts and kills.

use dataplane_tests::lab::{
    CLIENT, Need, SERVER,
    traffic::{self, Family},
};
use serde::Deserialize;

use crate::{
    scene::Scene,
    session::{Tcp, address},
};

/// What is let through at once, and how many are sent.
const BURST: u32 = 5;
const COUNT: u32 = 20;

const CONFIG: &str = "
[ports]
client0 = { mode = 'MODE' }
server0 = { mode = 'MODE' }

[sets.seen]
type = 'ipv4_addr'
dynamic = true
timeout = '10m'

[sets.seen6]
type = 'ipv6_addr . inet_service'
dynamic = true
timeout = '10m'

[sets.knocked]
type = 'ipv4_addr'
dynamic = true

[sets.connected]
type = 'ipv4_addr'
dynamic = true

[chains.prerouting]
rules = ['ip saddr @knocked udp dport 5710 drop']

[chains.forward]
rules = [
  'udp dport 5701 update @seen { ip saddr & 255.255.0.0 limit rate over 1/minute burst 5 packets } drop',
  'udp dport 5701 update @seen6 { ip6 saddr . udp dport limit rate over 1/minute burst 5 packets } drop',
  'udp dport 5711 add @knocked { ip saddr timeout 5m } drop',
  'udp dport 5712 delete @knocked { ip saddr } drop',
  'tcp dport 5720 ct state new add @connected { ip saddr ct count over 2 } reject with tcp reset',
]
";

#[derive(Debug, PartialEq, Deserialize)]
struct Row {
    name: String,
    elements: Vec<String>,
}

/// What is in a set.
fn elements(scene: &Scene, set: &str) -> Vec<String> {
    let mut rows: Vec<Row> = scene.daemon.read(&["set", "list", set]).expect("a set");
    rows.remove(0).elements
}

fn arrived(scene: &Scene, family: Family, port: u16) -> u32 {
    traffic::datagrams(&scene.lab, family, port, COUNT).expect("datagrams")
}

fn started(mode: &str) -> Option<Scene> {
    let scene = Scene::idle(&[Need::Tool("nft")])?;
    let file = scene.lab.dir().join("dynamic.toml");
    std::fs::write(&file, CONFIG.replace("MODE", mode)).expect("a config");
    scene.cli(&["config", "apply", file.to_str().expect("a path")]);
    Some(scene)
}

/// Each address has a rate of its own, which stays when other rules come, and when the daemon does.
fn keeps_what_it_saw(mode: &str) {
    let Some(mut scene) = started(mode) else { return };
    let masked = ["198.18.0.0".to_owned()];
    let own = [format!("{} . 5701", address(Family::V6, &CLIENT))];
    for family in Family::BOTH {
        assert_eq!(arrived(&scene, family, 5701), BURST, "{family:?}");
    }
    let counted: Vec<_> = scene.rules().iter().filter(|rule| rule.packets > 0).map(|rule| rule.packets).collect();
    assert_eq!(counted, [u64::from(COUNT - BURST); 2]);
    assert_eq!((elements(&scene, "seen"), elements(&scene, "seen6")), (masked.to_vec(), own.to_vec()));
    // The table is written anew, and knows them still.
    scene.rule("forward", "udp dport 9 drop");
    for family in Family::BOTH {
        assert_eq!(arrived(&scene, family, 5701), 0, "{family:?}: another rule came");
    }
    scene.daemon.kill9().expect("it is killed");
    assert_eq!(arrived(&scene, Family::V4, 5701), 0, "without a daemon");
    scene.daemon.restart().expect("it starts");
    for family in Family::BOTH {
        assert_eq!(arrived(&scene, family, 5701), 0, "{family:?}: another daemon");
    }
    assert_eq!((elements(&scene, "seen"), elements(&scene, "seen6")), (masked.to_vec(), own.to_vec()));
    // What is taken out begins anew.
    scene.cli(&["set", "del", "seen", &masked[0]]);
    assert_eq!(elements(&scene, "seen"), Vec::<String>::new());
    assert_eq!(arrived(&scene, Family::V4, 5701), BURST);
    scene.cli(&["detach", "--all"]);
    assert_eq!(scene.router().attempt("nft list table inet dataplane").expect("nft runs").stdout, "");
    scene.close();
}

#[test]
fn a_rate_for_each_address_outlives_changes_native() {
    keeps_what_it_saw("native");
}

#[test]
fn a_rate_for_each_address_outlives_changes_tc() {
    keeps_what_it_saw("tc");
}

/// One packet opens or closes a way for those behind it: what the kernel alone knows is not decided ahead of it.
#[test]
fn what_one_packet_did_holds_for_the_next() {
    let Some(scene) = started("native") else { return };
    let client = address(Family::V4, &CLIENT).to_string();
    assert_eq!(arrived(&scene, Family::V4, 5710), COUNT);
    assert_eq!(arrived(&scene, Family::V4, 5711), 0);
    assert_eq!(elements(&scene, "knocked"), std::slice::from_ref(&client));
    assert_eq!(arrived(&scene, Family::V4, 5710), 0, "it knocked");
    assert_eq!(arrived(&scene, Family::V4, 5712), 0);
    assert_eq!(arrived(&scene, Family::V4, 5710), COUNT, "it is deleted");
    scene.cli(&["set", "add", "knocked", &client]);
    assert_eq!(arrived(&scene, Family::V4, 5710), 0, "an operator put it there");
    scene.refused(&["set", "add", "knocked", "198.18.0.0/24"], 5, &["single values"]);
    scene.refused(&["set", "del", "knocked", "192.0.2.9"], 3, &["has no element 192.0.2.9"]);
    scene.close();
}

/// Rules that fill sets stand only where they can.
#[test]
fn rules_that_cannot_fill_a_set_are_refused() {
    let Some(scene) = started("native") else { return };
    for (rule, said) in [
        ("udp dport 1 add @none { ip saddr } drop", "dynamic = true"),
        ("udp dport 1 add @seen { ip6 saddr } drop", "a set of ipv6_addr can stand here"),
        ("udp dport 1 add @seen { ip saddr ct count over 3 } drop", "time out"),
        ("ip6 saddr ::1 add @seen { ip saddr } drop", "is IPv4"),
        ("icmp type echo-request update @seen6 { ip6 saddr . udp dport } drop", "is IPv6"),
        ("udp dport 1 add @seen { ip saddr timeout 400d } drop", "400d"),
    ] {
        scene.refused(&["rule", "add", "forward", rule], 5, &[said]);
    }
    scene.cli(&["set", "create", "plain", "ipv4_addr"]);
    scene.refused(&["rule", "add", "forward", "add @plain { ip saddr } drop"], 5, &["rules cannot change @plain"]);
    scene.cli(&["set", "create", "other", "ipv4_addr", "--dynamic", "--timeout", "30s", "--size", "100"]);
    scene.rule("forward", "udp dport 2 add @other { ip saddr } drop");
    let table = scene.router().run("nft list set inet dataplane other").expect("nft runs");
    assert!(table.contains("size 100") && table.contains("timeout 30s"), "{table}");
    scene.close();
}

#[test]
fn connections_of_an_address_are_counted() {
    let Some(scene) = started("tc") else { return };
    let open: Vec<_> = (0..2).map(|_| Tcp::open(&scene, Family::V4, 5720)).collect();
    let script = "import socket, sys; socket.create_connection((sys.argv[1], 5720), 3)";
    let server = address(Family::V4, &SERVER).to_string();
    let third = scene.client().command("python3").args(["-c", script, &server]).output().expect("it runs");
    let said = String::from_utf8_lossy(&third.stderr);
    assert!(said.contains("refused"), "a third one is open: {said}");
    drop(open);
    scene.close();
}
