//! What XDP hands to tc in front of a frame stays there when the kernel of a container sends it on, into another port.

use std::time::Duration;

use dataplane_tests::{
    fixture::packet::between,
    lab::{CLIENT, Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER, traffic::Family},
};

use crate::{
    ipsec,
    rules::{ROUTER_VPN, VPN},
    scene::{PROMPT, Scene, within},
    wire::{ROUTER, count_within, wire},
};

const PACKETS: usize = 10;
const SILENCE: Duration = Duration::from_millis(300);
/// The port that a rule drops.
const DROPPED: u16 = 7777;

/// A network behind the server's second link, as the router sees it, which the router itself leads back to the client.
fn network(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("203.0.113.0/24", "203.0.113.9"),
        Family::V6 => ("2001:db8:200::/48", "2001:db8:200::9"),
    }
}

/// Client, router, server, and back through the router: by the first port the packet is judged and handed over, by the second
/// XDP leaves it to tc.
fn comes_back(mode: &str) {
    let Some(scene) = Scene::idle(&[ipsec::able(), Need::Tool("sysctl")]) else { return };
    scene.lab.link(VPN, ROUTER_VPN).expect("a second link");
    // With a policy, generic XDP leaves all packets to tc: it cannot see which were encrypted.
    scene.router().run("ip xfrm policy add src 192.0.2.1 dst 192.0.2.2 dir out action block").expect("a policy");
    scene.attach(&[ROUTER_CLIENT.port], mode);
    scene.attach(&[ROUTER_SERVER.port], "tc");
    scene.attach(&[ROUTER_VPN.port], "generic");
    let loose = "net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0";
    for namespace in [scene.router(), scene.server()] {
        let forwarding = "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";
        let links = [SERVER.port, VPN.port, ROUTER_CLIENT.port, ROUTER_SERVER.port, ROUTER_VPN.port];
        namespace.run(&format!("sysctl -qw {loose} {forwarding}")).expect("settings");
        for link in links {
            let _ = namespace.attempt(&format!("sysctl -qw net.ipv4.conf.{link}.rp_filter=0"));
        }
    }
    for family in [Family::V4, Family::V6] {
        let (option, (network, address)) = (family.option(), network(family));
        let route = |words: &str| scene.router().run(&format!("ip {option} {words}")).expect("a route or rule");
        route(&format!("route add {network} via {}", family.address(&SERVER)));
        route(&format!("route add {network} via {} table 100", family.address(&CLIENT)));
        route(&format!("rule add iif {} lookup 100", ROUTER_VPN.port));
        let back = family.address(&ROUTER_VPN);
        scene.server().run(&format!("ip {option} route add {network} via {back}")).expect("a route");
        for (namespace, to) in [
            (scene.server(), back),
            (scene.router(), family.address(&SERVER)),
            (scene.router(), family.address(&CLIENT)),
        ] {
            within(PROMPT, || namespace.run(&format!("ping {option} -n -c 1 -W 1 {to}")).map(drop));
        }
        let client = wire(scene.client(), CLIENT.port);
        let mut arrived = wire(scene.client(), CLIENT.port);
        let mut send = |port: u16| {
            for _ in 0..PACKETS {
                let packet = between(family.address(&CLIENT), address).to(ROUTER).udp(4000, port, 32);
                assert!(client.send(&packet.frame()).expect("a frame"));
            }
            let target = port.to_be_bytes();
            let at = if family == Family::V4 { 36..38 } else { 56..58 };
            let ours = |frame: &[u8]| frame.get(6..12) == Some(&ROUTER.0) && frame.get(at.clone()) == Some(&target);
            count_within(&mut arrived, SILENCE, ours)
        };
        within(PROMPT, || {
            anyhow::ensure!(send(DROPPED) == PACKETS, "{mode} {family:?}: the picture leads back to the client");
            Ok(())
        });
        scene.rule("forward", &format!("iifname {} udp dport {DROPPED} drop", ROUTER_VPN.port));
        assert_eq!(send(DROPPED), 0, "{mode} {family:?}: what the first port said is believed at the second");
        assert_eq!(send(DROPPED + 1), PACKETS, "{mode} {family:?}: the rule is for one port");
        scene.cli(&["rule", "flush", "forward"]);
    }
    scene.close();
}

#[test]
fn of_another_port_is_not_believed_in_native() {
    comes_back("native");
}

#[test]
fn of_another_port_is_not_believed_in_tc() {
    comes_back("tc");
}
