//! One flow whose verdict is remembered, while the rules change.

use std::{fs, net::UdpSocket, time::Duration};

use dataplane_tests::lab::{CLIENT, SERVER};

use crate::scene::{PORTS, Scene};

/// The server's port.
const PORT: u16 = 5600;
/// Datagrams for a verdict to be remembered, and used.
const COUNT: usize = 20;
/// Rules of so many shapes that a search costs more than to remember.
const SHAPES: [&str; 6] = [
    "ip saddr 203.0.113.0/24 udp dport 1 drop",
    "ip saddr 203.0.113.7 drop",
    "ip daddr 203.0.113.0/25 udp sport 2 drop",
    "ip daddr 203.0.113.9 ip saddr 192.0.2.0/24 drop",
    "ip6 saddr 2001:db8:77::/48 drop",
    "ip6 daddr 2001:db8:77::/64 tcp dport 3 drop",
];

struct Flow {
    source: UdpSocket,
    sink: UdpSocket,
}

impl Flow {
    fn new(scene: &Scene, ipv6: bool) -> Self {
        let bind = move |host: &'static str| move || Ok(UdpSocket::bind((host, PORT))?);
        let (from, to) = if ipv6 { (CLIENT.v6, SERVER.v6) } else { (CLIENT.v4, SERVER.v4) };
        let source = scene.client().inside(bind(from)).expect("a socket");
        let sink = scene.server().inside(bind(to)).expect("a socket");
        source.connect((to, PORT)).expect("an address");
        sink.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        Self { source, sink }
    }

    /// How many of some datagrams arrive.
    fn arrive(&self) -> usize {
        for _ in 0..COUNT {
            self.source.send(b"packet").expect("a datagram");
        }
        let mut datagram = [0; 16];
        (0..COUNT).take_while(|_| self.sink.recv(&mut datagram).is_ok()).count()
    }
}

fn follows(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    scene.take_frames();
    scene.carries();
    let quoted: Vec<_> = SHAPES.iter().map(|rule| format!("  '{rule}',\n")).collect();
    let ports: Vec<_> = PORTS.iter().map(|port| format!("{port} = {{ mode = \"{mode}\" }}\n")).collect();
    let file = scene.lab.dir().join("rules.toml");
    let accepting = "udp dport 5600 accept";
    let text =
        format!("[ports]\n{}[chains.forward]\nrules = [\n{}'{accepting}',\n]\n", ports.concat(), quoted.concat());
    fs::write(&file, text).expect("a config");
    let file = file.to_str().expect("UTF-8");
    scene.cli(&["config", "apply", file]);
    let flows = [false, true].map(|ipv6| Flow::new(&scene, ipv6));
    let arrive = || flows.each_ref().map(Flow::arrive);
    let counted = || scene.rules().iter().find(|rule| rule.rule == accepting).expect("the rule").packets;

    assert_eq!(arrive(), [COUNT; 2], "{mode}");
    assert_eq!(arrive(), [COUNT; 2], "{mode}: remembered");
    assert_eq!(counted(), 4 * COUNT as u64, "{mode}: what is remembered is counted");

    // In place, and back.
    let rules: Vec<crate::scene::Rule> =
        scene.daemon.read(&["rule", "insert", "forward", "udp dport 5600 drop"]).expect("a rule");
    assert_eq!(arrive(), [0; 2], "{mode}: a rule in front");
    assert_eq!(scene.rules()[0].packets, 2 * COUNT as u64, "{mode}: it counts");
    scene.cli(&["rule", "del", "forward", "handle", &rules[0].handle.to_string()]);
    assert_eq!(arrive(), [COUNT; 2], "{mode}: without it");

    // By a set, which is a new build, and back.
    let words = ["rule", "insert", "forward", "ip daddr . udp dport { 198.18.1.2 . 5600, 198.18.7.7 . 1 } drop"];
    let rules: Vec<crate::scene::Rule> = scene.daemon.read(&words).expect("a rule");
    let by_set = arrive();
    assert_eq!(by_set[1], COUNT, "{mode}: IPv6 does not meet it");
    assert_eq!(by_set[0], 0, "{mode}: IPv4 does");
    scene.cli(&["rule", "del", "forward", "handle", &rules[0].handle.to_string()]);
    assert_eq!(arrive(), [COUNT; 2], "{mode}: without the set");

    // The policy, when no rule decides any more.
    scene.cli(&["chain", "policy", "forward", "drop"]);
    assert_eq!(arrive(), [COUNT; 2], "{mode}: the rule accepts");
    let rule = scene.rules().into_iter().find(|rule| rule.rule == accepting).expect("the rule");
    scene.cli(&["rule", "del", "forward", "handle", &rule.handle.to_string()]);
    assert_eq!(arrive(), [0; 2], "{mode}: the policy decides");
    scene.cli(&["config", "apply", file]);
    assert_eq!(arrive(), [COUNT; 2], "{mode}: as it was");
    scene.close();
}

#[test]
fn remembered_flows_follow_the_rules_in_native() {
    follows("native");
}

#[test]
fn remembered_flows_follow_the_rules_in_tc() {
    follows("tc");
}

#[test]
fn remembered_flows_follow_the_rules_in_generic() {
    follows("generic");
}
