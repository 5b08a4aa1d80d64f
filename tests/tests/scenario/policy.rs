//! Routing rules, for which the kernel is asked, and several next hops, which the mirror follows.

use std::{net::UdpSocket, thread, time::Duration};

use anyhow::ensure;
use dataplane_tests::{
    fixture::packet::between,
    lab::{CLIENT, End, ROUTER_CLIENT, ROUTER_SERVER, SERVER, traffic::Family},
};

use crate::{
    scene::{PROMPT, Scene, within},
    wire::{ROUTER, count_within, from_client, wire},
};

/// A second link to the server.
const ROUTER_SECOND: End =
    End { namespace: "router", port: "server1", mac: "02:00:00:00:02:01", v4: "198.18.2.1", v6: "2001:db8:2::1" };
const SECOND: End =
    End { namespace: "server", port: "eth1", mac: "02:00:00:00:02:02", v4: "198.18.2.2", v6: "2001:db8:2::2" };

/// Packets that came to the server over each of its links.
fn arrived(scene: &Scene) -> [u64; 2] {
    [SERVER.port, SECOND.port].map(|port| {
        let text = scene.server().run(&format!("ip -s -j link show {port}")).expect("counters of the link");
        let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        rows[0]["stats64"]["rx"]["packets"].as_u64().expect("a counter")
    })
}

fn spreads(mode: &str) {
    let Some(scene) = Scene::idle(&[]) else { return };
    scene.lab.link(SECOND, ROUTER_SECOND).expect("a second link");
    scene.attach(&[ROUTER_CLIENT.port, ROUTER_SERVER.port, ROUTER_SECOND.port], mode);
    for (family, prefix, start) in
        [(Family::V4, "198.51.100.0/24", "198.51.100."), (Family::V6, "2001:db8:5::/64", "2001:db8:5::")]
    {
        let option = family.option();
        scene.server().run(&format!("ip {option} route add local {prefix} dev lo")).expect("addresses");
        let hops = [&SERVER, &SECOND].map(|end| format!("nexthop via {}", family.address(end))).join(" ");
        scene.router().run(&format!("ip {option} route add {prefix} {hops}")).expect("a route");
        // Both next hops are asked for their link addresses before anything is counted.
        for end in [&SERVER, &SECOND] {
            scene.router().run(&format!("ping {option} -n -c 1 -W 1 {}", family.address(end))).expect("a neighbour");
        }
        within(PROMPT, || {
            let now = scene.decision(&format!("{start}1"));
            ensure!(now.decision == "forward", "{now:?}");
            Ok(())
        });
        let before = arrived(&scene);
        let (stats, kernel) = (scene.stats(), scene.kernel_forwarded());
        for host in 1..=40 {
            let line = format!("ping {option} -n -c 1 -W 1 {start}{host}");
            scene.client().run(&line).expect("every address answers");
        }
        let spread = arrived(&scene);
        let [one, other] = [spread[0] - before[0], spread[1] - before[1]];
        println!("{mode}: 40 flows over {}: {one} and {other} packets", family.name());
        assert!(one >= 5 && other >= 5, "{mode}: {one} and {other}");
        assert_eq!(scene.kernel_forwarded(), kernel, "{mode}: the kernel forwarded");
        assert!(scene.stats().totals.forwarded - stats.totals.forwarded >= 80);

        let before = arrived(&scene);
        let line = format!("ping {option} -n -c 30 -i 0.01 -W 1 {start}77");
        scene.client().run(&line).expect("one flow");
        let after = arrived(&scene);
        let mut counts = [after[0] - before[0], after[1] - before[1]];
        counts.sort_unstable();
        // Now and then a neighbour is asked whether it is still there.
        assert!(counts[0] <= 4 && counts[1] >= 30, "{mode}: one flow took both links: {counts:?}");
    }
    scene.close();
}

/// An ICMP error goes where the flow goes that it is about: without that, path MTU discovery dies behind an anycast address.
fn errors_follow(mode: &str) {
    let Some(scene) = Scene::idle(&[]) else { return };
    scene.lab.link(SECOND, ROUTER_SECOND).expect("a second link");
    scene.attach(&[ROUTER_CLIENT.port, ROUTER_SERVER.port, ROUTER_SECOND.port], mode);
    let client = wire(scene.client(), CLIENT.port);
    let mut servers = [SERVER.port, SECOND.port].map(|port| wire(scene.server(), port));
    for (family, prefix, start, (protocol, kind)) in [
        (Family::V4, "198.51.100.0/24", "198.51.100.", (1, 3)),
        (Family::V6, "2001:db8:5::/64", "2001:db8:5::", (58, 2)),
    ] {
        let hops = [&SERVER, &SECOND].map(|end| format!("nexthop via {}", family.address(end))).join(" ");
        scene.router().run(&format!("ip {} route add {prefix} {hops}", family.option())).expect("a route");
        for end in [&SERVER, &SECOND] {
            let line = format!("ping {} -n -c 1 -W 1 {}", family.option(), family.address(end));
            scene.router().run(&line).expect("a neighbour");
        }
        within(PROMPT, || {
            let now = scene.decision(&format!("{start}1"));
            ensure!(now.decision == "forward", "{now:?}");
            Ok(())
        });
        let mut ways = [0; 2];
        for host in 1..=40 {
            let anycast = format!("{start}{host}");
            let packet = from_client(family, &anycast).udp(4000, 443, 20);
            // What the server sent back, as a router between it and the client quotes it.
            let quoted = between(&anycast, family.address(&CLIENT)).udp(443, 4000, 20).bare();
            let error = [&[kind, if kind == 3 { 4 } else { 0 }, 0, 0, 0, 0, 5, 0], quoted.as_slice()].concat();
            // It says so in its own name.
            let router = if family == Family::V4 { "198.18.0.77" } else { "2001:db8::77" };
            let error = between(router, &anycast).to(ROUTER).carrying(protocol, error);
            for frame in [packet.frame(), error.frame()] {
                client.send(&frame).expect("a frame");
            }
            let target = packet.bare()[if family == Family::V4 { 16..20 } else { 24..40 }].to_vec();
            let at = if family == Family::V4 { 30..34 } else { 38..54 };
            let arrived = servers.each_mut().map(|server| {
                count_within(server, Duration::from_millis(40), |frame| {
                    frame.get(at.clone()) == Some(target.as_slice())
                })
            });
            assert!(arrived == [2, 0] || arrived == [0, 2], "{mode}: {anycast}: {arrived:?}");
            ways[usize::from(arrived[0] == 0)] += 1;
        }
        println!("{mode}: errors of 40 flows over {}: {ways:?}", family.name());
        assert!(ways.iter().all(|way| *way >= 5), "{mode}: {ways:?}");
    }
    scene.close();
}

#[test]
fn errors_follow_their_flows_in_native() {
    errors_follow("native");
}

#[test]
fn errors_follow_their_flows_in_tc() {
    errors_follow("tc");
}

/// An address that is local by a table that only a rule leads to: what is for it meets chain input, and not chain forward.
fn local_elsewhere(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    let client = wire(scene.client(), CLIENT.port);
    let listener = scene.router().inside(|| Ok(UdpSocket::bind("[::]:9999")?)).expect("a listener");
    listener.set_nonblocking(true).expect("a listener that does not wait");
    for (family, address, matches) in
        [(Family::V4, "192.0.2.55", "ip daddr 192.0.2.55"), (Family::V6, "2001:db8:55::5", "ip6 daddr 2001:db8:55::5")]
    {
        let option = family.option();
        scene.router().run(&format!("ip {option} route add local {address} dev lo table 77")).expect("a route");
        scene.router().run(&format!("ip {option} rule add ipproto udp lookup 77 priority 77")).expect("a rule");
        // The kernel's lookup is not made behind options of IPv6.
        let plain = from_client(family, address).udp(4000, 9999, 32);
        let hidden = (family == Family::V6).then(|| plain.clone().extension(60, &[0, 1, 4, 0, 0, 0, 0]));
        let packets: Vec<_> = [Some(plain), hidden].into_iter().flatten().collect();
        let arrives = |wanted: usize, what: &str| {
            within(PROMPT * 3, || {
                let mut arrived = 0;
                for packet in &packets {
                    client.send(&packet.frame())?;
                    thread::sleep(Duration::from_millis(100));
                    arrived += usize::from(listener.recv(&mut [0; 64]).is_ok());
                }
                ensure!(arrived == wanted, "{mode}: {arrived} of {} to {address} with {what}", packets.len());
                Ok(())
            });
        };
        arrives(packets.len(), "no rule");
        // Chain forward has a say only where it is not known that the packet is for this machine.
        scene.rule("forward", &format!("{matches} drop"));
        arrives(1, "a rule of chain forward");
        scene.cli(&["rule", "flush", "forward"]);
        let rule = scene.rule("input", &format!("{matches} drop"));
        arrives(0, "a rule of chain input");
        let met = scene.rules().into_iter().find(|row| row.handle == rule.handle).expect("the rule").packets;
        assert_eq!(met as usize, packets.len(), "{mode}: packets that have met the rule");
        scene.cli(&["rule", "flush", "input"]);
    }
    scene.close();
}

#[test]
fn addresses_of_other_tables_are_this_machines_in_native() {
    local_elsewhere("native");
}

#[test]
fn addresses_of_other_tables_are_this_machines_in_tc() {
    local_elsewhere("tc");
}

#[test]
fn flows_spread_over_next_hops_in_native() {
    spreads("native");
}

#[test]
fn flows_spread_over_next_hops_in_tc() {
    spreads("tc");
}

/// Which way the packets of a port are routed by, as `port list` says.
fn routes(scene: &Scene, family: Family) -> String {
    let rows: serde_json::Value = serde_json::from_str(&scene.cli(&["-j", "port", "list"])).expect("JSON");
    let name = if matches!(family, Family::V4) { "ipv4" } else { "ipv6" };
    rows[0]["routes"][name].as_str().expect("who says the routes").to_owned()
}

fn follows_rules(mode: &str) {
    let Some(scene) = Scene::idle(&[]) else { return };
    scene.lab.link(SECOND, ROUTER_SECOND).expect("a second link");
    scene.attach(&[ROUTER_CLIENT.port, ROUTER_SERVER.port, ROUTER_SECOND.port], mode);
    let router = scene.router();
    for (family, prefix, start) in
        [(Family::V4, "198.51.100.0/24", "198.51.100."), (Family::V6, "2001:db8:5::/64", "2001:db8:5::")]
    {
        let option = family.option();
        let ip = |words: &str| router.run(&format!("ip {option} {words}")).expect("a route or rule");
        scene.server().run(&format!("ip {option} route add local {prefix} dev lo")).expect("addresses");
        for end in [&SERVER, &SECOND] {
            router.run(&format!("ping {option} -n -c 1 -W 1 {}", family.address(end))).expect("a neighbour");
        }
        ip(&format!("route add {prefix} via {}", family.address(&SERVER)));
        ip(&format!("route add {prefix} via {} table 100", family.address(&SECOND)));
        let ping = |host: u8| scene.client().run(&format!("ping {option} -n -c 5 -i 0.01 -W 1 {start}{host}"));
        let client = family.address(&CLIENT);
        let rule = format!("from {client} to {prefix} lookup 100 priority 100");
        for (verb, source, second) in [("add", "kernel", true), ("del", "mirror", false)] {
            ip(&format!("rule {verb} {rule}"));
            within(PROMPT, || {
                let now = routes(&scene, family);
                ensure!(now == source, "{mode}, after {verb}: {now}");
                Ok(())
            });
            ping(1).expect("pings are answered");
            let (before, stats, kernel) = (arrived(&scene), scene.stats(), scene.kernel_forwarded());
            ping(1).expect("pings are answered");
            let after = arrived(&scene);
            let taken = [after[0] - before[0], after[1] - before[1]][usize::from(second)];
            assert!(taken >= 5, "{mode} {} {verb}: {before:?}, then {after:?}", family.name());
            assert_eq!(scene.kernel_forwarded(), kernel, "{mode} {} {verb}: the kernel forwarded", family.name());
            assert!(scene.stats().totals.forwarded - stats.totals.forwarded >= 10);
            let words = ["-j", "route", "get", &format!("{start}1"), "from", client, "iif", ROUTER_CLIENT.port];
            let got: serde_json::Value = serde_json::from_str(&scene.cli(&words)).expect("JSON");
            let way = (got["decision"].as_str(), got["table"].as_str(), got["dev"].as_str());
            let dev = if second { ROUTER_SECOND.port } else { ROUTER_SERVER.port };
            assert_eq!(way, (Some("forward"), Some(source), Some(dev)), "{mode} {verb}: {got}");
        }

        // By protocol and port: one way for each, and the kernel forwards neither.
        ip("rule add ipproto udp dport 5300 lookup 100 priority 100");
        within(PROMPT, || {
            ensure!(routes(&scene, family) == "kernel");
            Ok(())
        });
        let before = (arrived(&scene), scene.kernel_forwarded());
        let socket = if matches!(family, Family::V4) { "AF_INET" } else { "AF_INET6" };
        let script = format!(
            "import socket; s = socket.socket(socket.{socket}, socket.SOCK_DGRAM)\n\
             for port in (5300, 5301):\n for _ in range(20): s.sendto(b'x' * 64, ('{start}1', port))"
        );
        let mut python = scene.client().command("python3");
        scene.client().output(python.args(["-c", &script]), PROMPT).expect("datagrams");
        within(PROMPT, || {
            let now = arrived(&scene);
            ensure!(now[0] - before.0[0] >= 20 && now[1] - before.0[1] >= 20, "{mode}: {before:?}, then {now:?}");
            Ok(())
        });
        // Of the answers, ICMP errors are the kernel's: their path is that of what they are about.
        let kernel = scene.kernel_forwarded() - before.1;
        assert!(kernel < 20, "{mode}: the kernel forwarded {kernel}");
        ip("rule del ipproto udp dport 5300 lookup 100 priority 100");

        // A rule may end a packet, too.
        ip(&format!("rule add to {start}66 blackhole priority 100"));
        within(PROMPT, || {
            ensure!(scene.pinged(&format!("{start}66")) == 0);
            Ok(())
        });
        ping(1).expect("others are answered");
        ip("rule del priority 100");
    }
    scene.close();
}

#[test]
fn routing_rules_are_followed_in_native() {
    follows_rules("native");
}

#[test]
fn routing_rules_are_followed_in_generic() {
    follows_rules("generic");
}

#[test]
fn routing_rules_are_followed_in_tc() {
    follows_rules("tc");
}

/// What only the kernel's own path follows.
#[test]
fn what_programs_cannot_look_up_is_left_to_the_kernel() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    scene.router().run("ip -6 rule add ipproto udp lookup main suppress_prefixlength 0 priority 100").expect("a rule");
    within(PROMPT, || {
        let now = [Family::V4, Family::V6].map(|family| routes(&scene, family));
        ensure!(now == ["mirror", "stack"], "{now:?}");
        Ok(())
    });
    let before = (scene.stats().reason("mirror_off"), scene.kernel_forwarded());
    scene.ping().expect("pings are answered");
    let after = (scene.stats().reason("mirror_off"), scene.kernel_forwarded());
    assert!(after.0 - before.0 >= 6 && after.1 - before.1 >= 6, "{before:?}, then {after:?}");
    assert_eq!(scene.decision(SERVER.v4).table, "mirror");
    assert_eq!(scene.decision(ROUTER_SERVER.v6).decision, "deliver");
    scene.close();
}
