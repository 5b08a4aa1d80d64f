//! Routing rules that the mirror follows: an ordered list of tables, and marks that no packet has.

use std::time::Duration;

use anyhow::ensure;
use dataplane_common::wire::Mac;
use dataplane_tests::{
    fixture::packet::between,
    lab::{CLIENT, End, Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER, traffic::Family},
};

use crate::{
    scene::{PROMPT, Scene, within},
    wire::{count_within, from_client, wire},
};

/// A second link to the server: the way into the VPN.
pub const ROUTER_VPN: End =
    End { namespace: "router", port: "server1", mac: "02:00:00:00:02:01", v4: "198.18.2.1", v6: "2001:db8:2::1" };
/// Its other end.
pub const VPN: End =
    End { namespace: "server", port: "eth1", mac: "02:00:00:00:02:02", v4: "198.18.2.2", v6: "2001:db8:2::2" };
/// The ports of the router.
const PORTS: [&str; 3] = [ROUTER_CLIENT.port, ROUTER_SERVER.port, ROUTER_VPN.port];
/// Packets to each address.
const PACKETS: usize = 5;
/// After so long without a frame no more are expected.
const SILENCE: Duration = Duration::from_millis(60);

/// Destinations, and a prefix in main around the first.
fn places(family: Family) -> (&'static str, [&'static str; 6]) {
    match family {
        Family::V4 => (
            "198.51.100.0/24",
            ["198.51.100.7", "203.0.113.7", "203.0.113.70", "203.0.113.140", "203.0.113.200", "192.0.2.7"],
        ),
        Family::V6 => (
            "2001:db8:100::/48",
            [
                "2001:db8:100::7",
                "2001:db8:200::7",
                "2001:db8:201::7",
                "2001:db8:202::7",
                "2001:db8:203::7",
                "2001:db8:300::7",
            ],
        ),
    }
}

/// Networks in the VPN's table that throw, end packets, or are for a rule of their own.
fn networks(family: Family) -> [&'static str; 4] {
    match family {
        Family::V4 => ["203.0.113.64/26", "203.0.113.128/26", "203.0.113.192/26", "192.0.2.0/24"],
        Family::V6 => ["2001:db8:201::/48", "2001:db8:202::/48", "2001:db8:203::/48", "2001:db8:300::/48"],
    }
}

/// Who looks up the routes of the first port, as `port list` says.
fn source(scene: &Scene, family: Family) -> String {
    let rows: serde_json::Value = serde_json::from_str(&scene.cli(&["-j", "port", "list"])).expect("JSON");
    rows[0]["routes"][family.name().to_lowercase()].as_str().expect("who looks up").to_owned()
}

/// The way out that the kernel takes for a packet of the client; nothing where it sends none.
fn kernel_way(scene: &Scene, family: Family, address: &str) -> Option<String> {
    let (option, client) = (family.option(), family.address(&CLIENT));
    let line = format!("ip {option} route get {address} from {client} iif {}", ROUTER_CLIENT.port);
    let said = scene.router().attempt(&line).expect("ip runs").stdout;
    let ends = ["unreachable", "prohibit", "blackhole"].iter().any(|kind| said.starts_with(kind));
    let mut words = said.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).map(str::to_owned).filter(|_| !ends)
}

/// The way out that we take, if it is the mirror that says so.
fn our_way(scene: &Scene, family: Family, address: &str) -> anyhow::Result<Option<String>> {
    let words = ["-j", "route", "get", address, "from", family.address(&CLIENT), "iif", ROUTER_CLIENT.port];
    let got: serde_json::Value = serde_json::from_str(&scene.cli(&words))?;
    ensure!(got["table"].as_str() == Some("mirror"), "{got}");
    let sends = got["decision"].as_str() == Some("forward");
    Ok(got["dev"].as_str().filter(|_| sends).map(str::to_owned))
}

/// Every place goes where the kernel would send it, by the mirror, and the kernel forwards none.
fn agrees(scene: &Scene, family: Family, mode: &str, when: &str) {
    let option = family.option();
    for end in [&SERVER, &VPN] {
        scene.router().run(&format!("ping {option} -n -c 1 -W 1 {}", family.address(end))).expect("a neighbour");
    }
    let places = places(family).1;
    within(PROMPT, || {
        ensure!(source(scene, family) == "mirror", "{mode}, {when}: {}", source(scene, family));
        for address in places {
            let (kernel, ours) = (kernel_way(scene, family, address), our_way(scene, family, address)?);
            ensure!(kernel == ours, "{mode}, {when}: to {address} the kernel takes {kernel:?}, we take {ours:?}");
        }
        Ok(())
    });
    let client = wire(scene.client(), CLIENT.port);
    let mut servers = [SERVER.port, VPN.port].map(|port| wire(scene.server(), port));
    let before = (scene.stats().totals.forwarded, scene.kernel_forwarded());
    let mut sent = 0;
    for address in places {
        let expected = match kernel_way(scene, family, address).as_deref() {
            Some(way) if way == ROUTER_SERVER.port => [PACKETS, 0],
            Some(way) if way == ROUTER_VPN.port => [0, PACKETS],
            _ => continue,
        };
        let packet = from_client(family, address).udp(4000, 5300, 32);
        let at = if family == Family::V4 { 30..34 } else { 38..54 };
        let bytes = packet.frame()[at.clone()].to_vec();
        (0..PACKETS).for_each(|_| assert!(client.send(&packet.frame()).expect("a frame")));
        let arrived = servers
            .each_mut()
            .map(|server| count_within(server, SILENCE, |frame| frame.get(at.clone()) == Some(&bytes)));
        assert_eq!(arrived, expected, "{mode}, {when}: to {address}");
        sent += PACKETS as u64;
    }
    assert!(sent > 0);
    let after = (scene.stats().totals.forwarded, scene.kernel_forwarded());
    assert!(after.0 - before.0 >= sent, "{mode}, {when}: {sent} sent, {before:?}, then {after:?}");
    assert_eq!(after.1, before.1, "{mode}, {when}: the kernel forwarded");
}

/// What wg-quick makes, and what proxies and providers add to it.
fn composed(mode: &str) {
    let Some(scene) = Scene::idle(&[]) else { return };
    scene.lab.link(VPN, ROUTER_VPN).expect("a second link");
    scene.attach(&PORTS, mode);
    for family in [Family::V4, Family::V6] {
        let (server, vpn) = (family.address(&SERVER), family.address(&VPN));
        let ip = |words: &str| {
            scene.router().run(&format!("ip {} {words}", family.option())).expect("a route or rule");
        };
        let ([thrown, ended, lost, own], specific) = (networks(family), places(family).0);
        ip(&format!("route add default via {server}"));
        ip(&format!("route add {specific} via {server}"));
        ip(&format!("route add default via {vpn} table 51820"));
        ip(&format!("route add throw {thrown} table 51820"));
        ip(&format!("route add unreachable {ended} table 51820"));
        ip(&format!("route add blackhole {lost} table 51820"));
        ip("rule add not fwmark 51820 table 51820");
        ip("rule add table main suppress_prefixlength 0");
        agrees(&scene, family, mode, "wg-quick");
        ip("rule add fwmark 1 lookup 100");
        ip("route add local default dev lo table 100");
        agrees(&scene, family, mode, "a proxy beside it");
        ip(&format!("rule add to {own} lookup 200"));
        ip(&format!("route add default via {server} table 200"));
        agrees(&scene, family, mode, "a network with a table of its own");
        ip("route del default table 51820");
        agrees(&scene, family, mode, "no default route in the VPN");
        ip(&format!("route add {own} via {vpn} table 51820"));
        ip("route flush table 200");
        agrees(&scene, family, mode, "a table is empty");
        ip("rule del table main suppress_prefixlength 0");
        ip(&format!("route add default via {vpn} table 51820"));
        agrees(&scene, family, mode, "without the suppressing rule");
        // What the last rule suppresses, some kernels take in IPv6.
        if family == Family::V4 {
            ip("rule add priority 33000 table main suppress_prefixlength 0");
            ip("rule del priority 32766");
            ip("rule del not fwmark 51820 table 51820");
            agrees(&scene, family, mode, "the last rule suppresses");
        }
    }
    // What only the kernel can compare is named.
    scene
        .router()
        .run("ip rule add from 198.18.0.0/16 iif nosuch0 ipproto udp lookup 100 priority 77")
        .expect("a rule");
    within(PROMPT, || {
        ensure!(source(&scene, Family::V4) == "kernel");
        let bpffs = scene.daemon.bpffs().display().to_string();
        let said = scene.daemon.attempt(&["doctor", "--bpffs", &bpffs])?.stdout;
        ensure!(said.contains("rule `77: from 198.18.0.0/16 iif nosuch0"), "{said}");
        Ok(())
    });
    scene.close();
}

#[test]
fn composed_rules_are_followed_in_native() {
    composed("native");
}

#[test]
fn composed_rules_are_followed_in_tc() {
    composed("tc");
}

/// Packets with a mark that a rule is for go the kernel's way, wherever the mark may be seen.
fn marked(mode: &str) {
    let Some(scene) = Scene::idle(&[Need::Tool("python3")]) else { return };
    scene.lab.link(VPN, ROUTER_VPN).expect("a second link");
    let router = scene.router();
    for line in [
        "ip link add m0 address 02:00:00:00:09:02 type veth peer name m1 address 02:00:00:00:09:01",
        "ip link set m0 up",
        "ip link set m1 up",
        "ip address add 198.18.9.1/24 dev m1",
        "sysctl -qw net.ipv4.conf.m1.forwarding=1",
    ] {
        router.run(line).expect("a pair of links");
    }
    scene.attach(&["m1", ROUTER_SERVER.port, ROUTER_VPN.port], mode);
    for end in [&SERVER, &VPN] {
        router.run(&format!("ping -n -c 1 -W 1 {}", end.v4)).expect("a neighbour");
    }
    router.run("ip route add 198.51.100.0/24 via 198.18.1.2").expect("a route");
    router.run("ip route add 198.51.100.0/24 via 198.18.2.2 table 100").expect("a route");
    router.run("ip rule add fwmark 1/0xff lookup 100").expect("a rule");
    let mut servers = [SERVER.port, VPN.port].map(|port| wire(scene.server(), port));
    let mut arrive = |source: &str, mark: u32| {
        let packet = between(source, "198.51.100.7").to(Mac([2, 0, 0, 0, 9, 1])).udp(4000, 5300, 32);
        let hex = packet.frame().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let script = format!(
            "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
             s.setsockopt(socket.SOL_SOCKET, 36, {mark}); s.bind(('m0', 0))\n\
             for _ in range({PACKETS}): s.send(bytes.fromhex('{hex}'))"
        );
        let mut python = router.command("python3");
        router.output(python.args(["-c", &script]), PROMPT).expect("frames");
        servers
            .each_mut()
            .map(|server| count_within(server, SILENCE, |frame| frame.get(30..34) == Some(&[198, 51, 100, 7])))
    };
    within(PROMPT, || {
        ensure!(source(&scene, Family::V4) == "mirror", "{mode}: {}", source(&scene, Family::V4));
        let (before, kernel) = (scene.stats().reason("mirror_off"), scene.kernel_forwarded());
        let arrived = arrive("198.18.9.2", 1);
        ensure!(arrived == [0, PACKETS], "{mode}: with a mark {arrived:?}");
        ensure!(scene.stats().reason("mirror_off") - before >= PACKETS as u64, "{mode}: the reason");
        ensure!(scene.kernel_forwarded() - kernel >= PACKETS as u64, "{mode}: the kernel forwards");
        Ok(())
    });
    let kernel = scene.kernel_forwarded();
    assert_eq!(arrive("198.18.9.2", 0), [PACKETS, 0], "{mode}: without a mark");
    // With rules the kernel looks up every source, and no host has the address of a broadcast.
    let martians = scene.stats().reason("martian_source");
    assert_eq!(arrive("198.18.9.255", 0), [0, 0], "{mode}: from a broadcast address");
    assert_eq!(scene.stats().reason("martian_source") - martians, PACKETS as u64, "{mode}");
    assert_eq!(scene.kernel_forwarded(), kernel, "{mode}: the kernel forwarded what has no mark");
    scene.close();
}

#[test]
fn marked_packets_are_the_kernels_in_native() {
    marked("native");
}

#[test]
fn marked_packets_are_the_kernels_in_generic() {
    marked("generic");
}

#[test]
fn marked_packets_are_the_kernels_in_tc() {
    marked("tc");
}
