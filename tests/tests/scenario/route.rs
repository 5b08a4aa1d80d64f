//! Routes and addresses of the kernel, followed within a second: in `route get`, in `route list`, and on the wire.

use anyhow::ensure;
use dataplane_tests::lab::{SERVER, traffic::Family};

use crate::scene::{PROMPT, Scene, within};

/// A prefix behind the server, an address in it, and the way there.
struct Behind {
    family: Family,
    prefix: &'static str,
    address: &'static str,
}

const BEHIND: [Behind; 2] = [
    Behind { family: Family::V4, prefix: "198.51.100.0/24", address: "198.51.100.2" },
    Behind { family: Family::V6, prefix: "2001:db8:5::/64", address: "2001:db8:5::2" },
];

/// Whether prefix stands in `route list`, and of which type.
fn listed(scene: &Scene, prefix: &str) -> Option<String> {
    let rows: Vec<serde_json::Value> = scene.daemon.read(&["route", "list"]).expect("routes");
    let row = rows.iter().find(|row| row["dst"] == prefix)?;
    row["type"].as_str().map(str::to_owned)
}

fn follows(scene: &Scene, behind: &Behind) {
    let Behind { family, prefix, address } = behind;
    let option = family.option();
    let via = format!("{prefix} via {}", family.address(&SERVER));
    scene.server().run(&format!("ip {option} addr add {address} dev lo")).expect("an address");
    // What is done to the route; then: type in the list, decision, reason, table, what is counted, whether pings are answered.
    let rows = [
        (format!("add {via}"), Some("unicast"), "forward", "forwarded", true),
        (format!("replace blackhole {prefix}"), Some("blackhole"), "drop", "blackhole", false),
        (format!("del blackhole {prefix}"), None, "kernel", "no_route", false),
        (format!("add unreachable {prefix}"), Some("unreachable"), "kernel", "unreachable", false),
        (format!("del unreachable {prefix}"), None, "kernel", "no_route", false),
        (format!("add prohibit {prefix}"), Some("prohibit"), "kernel", "prohibit", false),
        (format!("del prohibit {prefix}"), None, "kernel", "no_route", false),
        (format!("add {via}"), Some("unicast"), "forward", "forwarded", true),
        (format!("del {via}"), None, "kernel", "no_route", false),
    ];
    for (change, kind, decision, reason, answered) in rows {
        // The kernel of IPv6 adds where it should replace by another type, and prefers the older.
        let change = match (family, change.strip_prefix("replace ")) {
            (Family::V6, Some(rest)) => {
                scene.router().run(&format!("ip -6 route del {via}")).expect("a route less");
                format!("add {rest}")
            }
            _ => change,
        };
        scene.router().run(&format!("ip {option} route {change}")).expect("a change of routes");
        within(PROMPT, || {
            let now = scene.decision(address);
            ensure!((now.decision.as_str(), now.reason.as_str()) == (decision, reason), "after `{change}`: {now:?}");
            ensure!(now.table == "mirror", "after `{change}`: {now:?}");
            ensure!(now.prefix.as_deref() == kind.map(|_| *prefix), "after `{change}`: {now:?}");
            let listed = listed(scene, prefix);
            ensure!(listed.as_deref() == kind, "after `{change}` the list has {listed:?}");
            Ok(())
        });
        let before = scene.stats();
        let count = scene.pinged(address);
        assert_eq!(count, if answered { 3 } else { 0 }, "after `{change}`");
        let counted = scene.stats().reason(reason) - before.reason(reason);
        assert!(counted >= 3, "after `{change}`: {reason} counted {counted}");
    }
}

#[test]
fn changes_of_routes_take_effect_in_native() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    for behind in &BEHIND {
        follows(&scene, behind);
    }
    scene.close();
}

#[test]
fn changes_of_routes_take_effect_in_tc() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    for behind in &BEHIND {
        follows(&scene, behind);
    }
    scene.close();
}

#[test]
fn addresses_of_the_router_come_and_go() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    for Behind { family, address, .. } in &BEHIND {
        let option = family.option();
        for (verb, decision, reason, count) in [("add", "deliver", "local", 3), ("del", "kernel", "no_route", 0)] {
            scene.router().run(&format!("ip {option} addr {verb} {address} dev lo")).expect("an address");
            within(PROMPT, || {
                let now = scene.decision(address);
                ensure!((now.decision.as_str(), now.reason.as_str()) == (decision, reason), "{verb}: {now:?}");
                Ok(())
            });
            let before = scene.stats();
            assert_eq!(scene.pinged(address), count, "{verb}");
            assert!(scene.stats().reason(reason) - before.reason(reason) >= 3, "{verb}: {reason}");
        }
    }
    scene.close();
}

#[test]
fn a_route_with_metric_and_mtu_is_listed_as_it_is() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    for Behind { family, prefix, address } in &BEHIND {
        let via = family.address(&SERVER);
        scene.server().run(&format!("ip {} addr add {address} dev lo", family.option())).expect("an address");
        let line = format!("ip {} route add {prefix} via {via} proto static metric 50 mtu 1300", family.option());
        scene.router().run(&line).expect("a route");
        within(PROMPT, || {
            let rows: Vec<serde_json::Value> = scene.daemon.read(&["route", "list", prefix])?;
            ensure!(rows[0]["mtu"] == 1300, "{rows:?}");
            Ok(())
        });
        assert_eq!(scene.pinged(address), 3);
    }
    scene.close();
}

#[test]
fn routes_are_added_to_the_kernels_table_and_deleted() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    for Behind { family, prefix, address } in &BEHIND {
        scene.server().run(&format!("ip {} addr add {address} dev lo", family.option())).expect("an address");
        let via = family.address(&SERVER);
        scene.cli(&["route", "add", prefix, "via", via]);
        let decision = scene.decision(address);
        assert_eq!(decision.decision, "forward", "in force when the verb returns: {decision:?}");
        assert_eq!(scene.pinged(address), 3);
        let kernel = scene.router().run(&format!("ip {} route show {prefix}", family.option())).expect("routes");
        assert!(kernel.contains("proto 218"), "{kernel}");
        scene.refused(&["route", "add", prefix, "via", via], 1, &["File exists"]);
        scene.refused(&["route", "add", prefix, "vja", via], 2, &["vja"]);
        scene.cli(&["route", "del", prefix]);
        assert_eq!(scene.decision(address).reason, "no_route");
        scene.refused(&["route", "del", prefix], 3, &[prefix, "218"]);
        // What somebody else made stays, unless it is named.
        scene
            .router()
            .run(&format!("ip {} route add {prefix} via {via} proto static", family.option()))
            .expect("a route");
        scene.refused(&["route", "del", prefix], 3, &[prefix]);
        scene.cli(&["route", "del", prefix, "proto", "static"]);
        assert_eq!(scene.decision(address).reason, "no_route");
    }
    scene.close();
}
