//! What the table of own rules does is what the rules say, whatever is sent, and whatever others write beside it.

use std::net::SocketAddr;

use anyhow::ensure;
use dataplane_tests::{
    fixture::packet::Packet,
    lab::{CLIENT, Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER, traffic::Family},
};

use crate::{
    scene::{PROMPT, Scene, within},
    session::{Tcp, address},
    wire::{count, crossing, holds, wire},
};

/// Where the server listens.
const PORT: u16 = 5601;

fn apply(scene: &Scene, config: &str) {
    let file = scene.lab.dir().join("table.toml");
    std::fs::write(&file, config).expect("a config");
    scene.cli(&["config", "apply", file.to_str().expect("a path")]);
}

const PORTS: &str = "[ports]\nclient0 = { mode = 'native' }\nserver0 = { mode = 'native' }\n";

/// A SYN to port 80 in two fragments, of which the first ends in front of its flags. Of IPv6 no host takes such a one, and the
/// kernel leaves it as it is (RFC 8200, section 4.5; `ipv6frag_thdr_truncated`).
fn halves() -> [Packet; 2] {
    let tcp = crossing(Family::V4).tcp(4000, 80, 2);
    let (first, second) = tcp.payload().split_at(8);
    let half = |bytes: &[u8], word: u16| {
        crossing(Family::V4).carrying(6, bytes.to_vec()).identification(0x4321).fragment(word)
    };
    [half(first, 0x2000), half(second, 1)]
}

/// Whatever makes the table necessary: rules read whole packets.
#[test]
fn small_fragments_slip_past_no_rule_of_the_table() {
    let Some(scene) = Scene::idle(&[Need::Tool("nft")]) else { return };
    let (client, mut server) = (wire(scene.client(), CLIENT.port), wire(scene.server(), SERVER.port));
    // Without it no rule hands to a proxy.
    scene.router().run("ip link set lo up").expect("lo");
    let needs =
        ["meta mark set 0x1", "fib daddr type local accept", "socket transparent 1 accept", "tcp dport 9 tproxy to :9"];
    for needed in needs {
        let chain = if needed.contains("socket") || needed.contains("tproxy") { "prerouting" } else { "forward" };
        apply(&scene, PORTS);
        scene.rule(chain, needed);
        for (rule, passes) in [("tcp dport 81 drop", true), ("tcp flags & (syn | ack) == syn drop", false)] {
            let rule = scene.rule("forward", rule);
            for half in halves() {
                client.send(&half.frame()).expect("a frame");
            }
            let ports = [4000_u16.to_be_bytes(), 80_u16.to_be_bytes()].concat();
            let arrived = count(&mut server, |frame| holds(frame, &ports)) != 0;
            assert_eq!(arrived, passes, "{needed}, {}", rule.rule);
            let found = scene.rules().into_iter().find(|row| row.handle == rule.handle).expect("the rule");
            assert_eq!(found.packets, u64::from(!passes), "{needed}: {found:?}");
        }
    }
    scene.close();
}

/// Ports behind `redirect` and `masquerade`.
#[test]
fn connections_get_the_ports_that_rules_give() {
    let Some(scene) = Scene::idle(&[Need::Tool("nft")]) else { return };
    apply(
        &scene,
        &format!(
            "{PORTS}[chains.prerouting]\nrules = ['tcp dport 80 redirect to :{PORT}']\n[chains.postrouting]\n\
             rules = ['oifname \"server0\" meta l4proto tcp masquerade to :40000-40009']\n"
        ),
    );
    for family in Family::BOTH {
        let server = SocketAddr::new(address(family, &SERVER), PORT);
        let mut masked = Tcp::open(&scene, family, PORT);
        masked.talk(1).expect("bytes both ways");
        let peer = masked.server.peer_addr().expect("an address");
        assert_eq!(peer.ip(), address(family, &ROUTER_SERVER));
        assert!((40_000..40_010).contains(&peer.port()), "{peer}");
        // It goes to the router itself, whatever it was meant for.
        let router = SocketAddr::new(address(family, &ROUTER_CLIENT), PORT);
        let wanted = SocketAddr::new(server.ip(), 80);
        let mut redirected = Tcp::within(scene.client(), scene.router(), wanted, router);
        redirected.talk(1).expect("bytes both ways");
        assert_eq!(redirected.server.local_addr().expect("an address"), router);
    }
    scene.close();
}

/// The table comes behind what others write into marks, whichever is younger.
#[test]
fn marks_are_read_as_others_left_them() {
    let Some(scene) = Scene::idle(&[Need::Tool("nft")]) else { return };
    let others = "table inet others { chain marks { type filter hook prerouting priority mangle; \
                  tcp dport 5601 meta mark set 0x7; }; }";
    let file = scene.lab.dir().join("others.nft");
    std::fs::write(&file, others).expect("rules");
    scene.router().run(&format!("nft -f {}", file.display())).expect("rules of others");
    apply(&scene, &format!("{PORTS}[chains.prerouting]\nrules = ['meta mark 0x7 continue']\n"));
    within(PROMPT * 3, || {
        Tcp::open(&scene, Family::V4, PORT).talk(1)?;
        let rule = scene.rules().into_iter().next();
        ensure!(rule.as_ref().is_some_and(|rule| rule.packets > 0), "{rule:?}");
        Ok(())
    });
    scene.close();
}

/// What a user of this machine sends is told by its socket; what is forwarded has none.
#[test]
fn packets_of_a_user_are_dropped() {
    let Some(scene) = Scene::idle(&[Need::Tool("nft")]) else { return };
    apply(&scene, PORTS);
    let rules =
        [("meta skuid 65534 drop", 3), ("meta skgid 4242 drop", 2), ("meta skuid != 65534 udp dport 9 drop", 4)];
    let handles = rules.map(|(rule, _)| scene.rule("output", rule).handle);
    let script = "import os, socket, sys\n\
                  user, group, count = map(int, sys.argv[2:])\n\
                  os.setgid(group); os.setuid(user)\n\
                  for _ in range(count):\n    \
                    try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], 9))\n    \
                    except OSError: pass\n";
    let client = address(Family::V4, &CLIENT).to_string();
    for (user, group, count) in [("65534", "65534", "3"), ("1", "4242", "2"), ("0", "0", "4")] {
        let mut command = scene.router().command("python3");
        let done = command.args(["-c", script, &client, user, group, count]).status().expect("python runs");
        assert!(done.success());
    }
    for ((rule, packets), handle) in rules.iter().zip(handles) {
        let found = scene.rules().into_iter().find(|row| row.handle == handle).expect("the rule");
        assert_eq!(found.packets, *packets, "{rule}");
    }
    scene.refused(&["rule", "add", "forward", "meta skuid 0 drop"], 5, &["output or postrouting"]);
    scene.close();
}
