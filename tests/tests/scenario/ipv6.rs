//! What only IPv6 has: interfaces without it, an MTU of its own, routes that expire, neighbours that are proxied.

use std::{thread, time::Duration};

use anyhow::ensure;
use dataplane_tests::lab::{CLIENT, Namespace, ROUTER_CLIENT, ROUTER_SERVER, SERVER};

use crate::scene::{PROMPT, Scene, within};

/// Datagrams to a closed port that came to a namespace.
fn arrived(namespace: &Namespace) -> u64 {
    let text = namespace.inside(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp6")?)).expect("counters");
    let value = text.lines().find_map(|line| line.strip_prefix("Udp6NoPorts")).expect("a counter");
    value.trim().parse().expect("a number")
}

/// Sends datagrams from the client to an address of the server; how many arrived.
fn sent(scene: &Scene, to: &str, size: usize) -> u64 {
    let before = arrived(scene.server());
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\nfor _ in range(20):\n \
         try: s.sendto(b'x' * {size}, ('{to}', 7777))\n except OSError: pass"
    );
    let mut python = scene.client().command("python3");
    scene.client().output(python.args(["-c", &script]), PROMPT).expect("datagrams");
    thread::sleep(Duration::from_millis(100));
    arrived(scene.server()) - before
}

/// The client keeps sending to the router, whatever becomes of IPv6 there.
fn persist(scene: &Scene) {
    let line = format!(
        "ip -6 neigh replace {} lladdr {} nud permanent dev {}",
        ROUTER_CLIENT.v6, ROUTER_CLIENT.mac, CLIENT.port
    );
    scene.client().run(&line).expect("a neighbour");
}

fn needs_ipv6(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    persist(&scene);
    let port = ROUTER_CLIENT.port;
    let off = |name: &str, value: &str| scene.router().sysctl(name, value).expect("a setting");
    for (what, begin, end) in [("disable_ipv6", "1", "0"), ("mtu", "1279", "1500")] {
        assert_eq!(sent(&scene, SERVER.v6, 64), 20, "{mode}, before {what}");
        let set = |value: &str| match what {
            "mtu" => drop(scene.router().run(&format!("ip link set {port} mtu {value}")).expect("an MTU")),
            _ => off(&format!("net.ipv6.conf.{port}.disable_ipv6"), value),
        };
        set(begin);
        within(PROMPT * 2, || {
            let arrived = sent(&scene, SERVER.v6, 64);
            ensure!(arrived == 0, "{mode}, {what}: {arrived} of 20 datagrams were routed, which the kernel drops");
            Ok(())
        });
        assert_eq!(scene.pinged(SERVER.v4), 3, "{mode}, {what}: IPv4 goes on");
        set(end);
        scene
            .router()
            .run(&format!("ip -6 addr replace {}/64 dev {port} nodad", ROUTER_CLIENT.v6))
            .expect("an address");
        within(PROMPT * 3, || {
            let (kernel, arrived) = (scene.kernel_forwarded(), sent(&scene, SERVER.v6, 64));
            let by_kernel = scene.kernel_forwarded() - kernel;
            ensure!(arrived == 20 && by_kernel == 0, "{mode}, after {what}: {arrived}, {by_kernel} by the kernel");
            Ok(())
        });
    }
    scene.close();
}

#[test]
fn interfaces_without_it_route_none_in_native() {
    needs_ipv6("native");
}

#[test]
fn interfaces_without_it_route_none_in_tc() {
    needs_ipv6("tc");
}

/// `net.ipv6.conf.IFACE.mtu`, and what a router advertises, bounds IPv6 and nothing else.
fn has_an_mtu(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    let ping = |size: u32| {
        let line = format!("ping -6 -n -c 1 -W 1 -M do -s {} {}", size - 48, SERVER.v6);
        scene.client().attempt(&line).expect("ping runs")
    };
    assert!(ping(1400).status.success(), "{mode}");
    scene.router().sysctl(&format!("net.ipv6.conf.{}.mtu", ROUTER_SERVER.port), "1300").expect("an MTU");
    within(PROMPT * 2, || {
        let refused = ping(1400);
        let answered = !refused.status.success() && refused.stdout.contains("mtu=1300");
        ensure!(answered || refused.stdout.contains("mtu: 1300"), "{mode}: no answer: {}", refused.said());
        Ok(())
    });
    let before = scene.stats();
    scene.client().run("ip -6 route flush cache").expect("what was learnt is forgotten");
    assert!(!ping(1301).status.success(), "{mode}: 1301 bytes do not fit");
    assert!(scene.stats().reason("too_big") > before.reason("too_big"), "{mode}");
    scene.client().run("ip -6 route flush cache").expect("what was learnt is forgotten");
    let kernel = scene.kernel_forwarded();
    assert!(ping(1300).status.success(), "{mode}: 1300 bytes fit");
    assert_eq!(scene.kernel_forwarded(), kernel, "{mode}: by the kernel");
    let large = format!("ping -4 -n -c 1 -W 1 -M do -s 1472 {}", SERVER.v4);
    assert!(scene.client().attempt(&large).expect("ping runs").status.success(), "{mode}: IPv4 has another");
    assert_eq!(scene.kernel_forwarded(), kernel, "{mode}: by the kernel");
    scene.close();
}

#[test]
fn it_has_an_mtu_of_its_own_in_native() {
    has_an_mtu("native");
}

#[test]
fn it_has_an_mtu_of_its_own_in_tc() {
    has_an_mtu("tc");
}

/// A route is not used from the moment on at which it expires, though the kernel removes it later.
#[test]
fn routes_expire_in_time() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    scene.server().run("ip -6 route add local 2001:db8:5::/64 dev lo").expect("addresses");
    let route = |verb: &str, seconds: u32| {
        let line = format!("ip -6 route {verb} 2001:db8:5::/64 via {} expires {seconds}", SERVER.v6);
        scene.router().run(&line).expect("a route");
    };
    route("add", 2);
    within(PROMPT, || {
        ensure!(sent(&scene, "2001:db8:5::1", 64) == 20, "the route is not used");
        Ok(())
    });
    thread::sleep(Duration::from_secs(2));
    let arrived = sent(&scene, "2001:db8:5::1", 64);
    assert_eq!(arrived, 0, "{arrived} of 20 datagrams took a route that has expired");
    // One that is renewed goes on, though nothing is said of that where a router advertises it.
    route("replace", 2);
    thread::sleep(Duration::from_secs(1));
    route("replace", 3);
    for _ in 0..4 {
        assert_eq!(sent(&scene, "2001:db8:5::1", 64), 20, "a route that was renewed");
        thread::sleep(Duration::from_millis(400));
    }
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(sent(&scene, "2001:db8:5::1", 64), 0, "it expires, too");
    scene.close();
}
