//! The mirror is compared with the kernel, and what it has missed is mended and counted.

use anyhow::ensure;
use dataplane_tests::lab::{ROUTER_CLIENT, traffic::Family};
use serde_json::Value;

use crate::scene::{PROMPT, Scene, within};

/// Comparisons and what they mended.
fn counts(scene: &Scene) -> (u64, u64) {
    let stats: Value = scene.daemon.read(&["stats"]).expect("stats");
    let number = |name: &str| stats["mirror"][name].as_u64().expect("a count");
    (number("resyncs"), number("mended"))
}

/// Asks for a comparison and waits for it: how many things it mended.
pub fn compare(scene: &Scene) -> u64 {
    let (resyncs, mended) = counts(scene);
    let pid = scene.daemon.pid().expect("the daemon runs");
    scene.router().run(&format!("kill -HUP {pid}")).expect("SIGHUP");
    within(PROMPT, || {
        let now = counts(scene).0;
        ensure!(now > resyncs, "{now} comparisons");
        Ok(())
    });
    counts(scene).1 - mended
}

#[test]
fn a_change_that_was_not_announced_is_mended() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    for _ in 0..3 {
        assert_eq!(compare(&scene), 0, "nothing was missed: {}", scene.daemon.log());
    }
    // The kernel does not announce this one.
    scene.router().sysctl(&format!("net.ipv4.conf.{}.accept_local", ROUTER_CLIENT.port), "1").expect("a sysctl");
    assert_eq!(compare(&scene), 1, "{}", scene.daemon.log());
    assert!(scene.daemon.log().contains("had missed 1 change"), "{}", scene.daemon.log());
    assert_eq!(compare(&scene), 0, "mended once");
    scene.ping().expect("pings are answered");
    scene.close();
}

/// What `ip -j route` lists and what the mirror does: destinations of a family, in order.
pub fn listed(scene: &Scene, family: Family) -> (Vec<String>, Vec<String>) {
    let text = scene.router().run(&format!("ip {} -j route", family.option())).expect("routes");
    let kernel: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let mirror: Vec<Value> = scene.daemon.read(&["route", "list"]).expect("routes");
    let names = |rows: &[Value]| {
        let words = rows
            .iter()
            .filter_map(|row| row["dst"].as_str())
            .filter(|dst| *dst == "default" || dst.contains(':') == (family == Family::V6));
        let whole = words.map(|dst| match (dst, family) {
            ("default", Family::V4) => "0.0.0.0/0".to_owned(),
            ("default", Family::V6) => "::/0".to_owned(),
            (dst, _) if dst.contains('/') => dst.to_owned(),
            (host, Family::V4) => format!("{host}/32"),
            (host, Family::V6) => format!("{host}/128"),
        });
        let mut names: Vec<_> = whole.collect();
        names.sort();
        names
    };
    (names(&kernel), names(&mirror))
}

#[test]
fn the_mirror_is_what_ip_route_lists() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    let port = ROUTER_CLIENT.port;
    let steps: &[(&str, &str)] = &[
        ("next-hop objects", "ip nexthop add id 7 via 198.18.0.2 dev PORT"),
        ("a route through one", "ip route add 203.0.113.0/24 nhid 7"),
        ("another route", "ip route add 198.51.100.0/24 via 198.18.0.2"),
        ("a next-hop object deleted, and its routes with it", "ip nexthop del id 7"),
        ("a link down takes routes silently", "ip link set PORT down"),
        ("up again", "ip link set PORT up"),
        ("an address gone takes routes", "ip addr del 198.18.0.1/24 dev PORT"),
        ("and back", "ip addr add 198.18.0.1/24 dev PORT"),
    ];
    for (what, line) in steps {
        scene.router().run(&line.replace("PORT", port)).expect("a step");
        within(PROMPT, || {
            let (kernel, mirror) = listed(&scene, Family::V4);
            ensure!(kernel == mirror, "{what}: the kernel has {kernel:?}, the mirror {mirror:?}");
            Ok(())
        });
        assert_eq!(compare(&scene), 0, "{what}: {}", scene.daemon.log());
    }
    scene.close();
}
