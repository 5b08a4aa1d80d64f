//! Routing rules, which the mirror does not follow, and several next hops, which it does.

use anyhow::ensure;
use dataplane_tests::lab::{End, ROUTER_CLIENT, ROUTER_SERVER, SERVER, traffic::Family};

use crate::scene::{PROMPT, Scene, within};

#[test]
fn routing_rules_turn_the_mirror_off_and_on() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    for family in Family::BOTH {
        let (option, address) = (family.option(), family.address(&SERVER));
        let rule = format!("from {} lookup 100 priority 100", family.address(&ROUTER_CLIENT));
        for (verb, decision, table) in [("add", "kernel", "kernel"), ("del", "forward", "mirror")] {
            scene.router().run(&format!("ip {option} rule {verb} {rule}")).expect("a routing rule");
            within(PROMPT, || {
                let now = scene.decision(address);
                ensure!((now.decision.as_str(), now.table.as_str()) == (decision, table), "{verb}: {now:?}");
                Ok(())
            });
            let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
            scene.ping().expect("pings are answered");
            let (off, kernel) =
                (scene.stats().reason("mirror_off") - before.reason("mirror_off"), scene.kernel_forwarded() - kernel);
            if verb == "add" {
                assert!(off >= 6 && kernel >= 6, "{off} packets were left to the kernel, it forwarded {kernel}");
            } else {
                assert_eq!((off, kernel), (0, 0), "the mirror is on again");
            }
        }
        // What is for this machine needs no mirror.
        assert_eq!(scene.decision(family.address(&ROUTER_SERVER)).decision, "deliver");
    }
    scene.close();
}

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

#[test]
fn flows_spread_over_next_hops_in_native() {
    spreads("native");
}

#[test]
fn flows_spread_over_next_hops_in_tc() {
    spreads("tc");
}
