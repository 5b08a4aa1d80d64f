//! Neighbours: the first packet to an unknown one, and one that changes its link address.

use anyhow::ensure;
use dataplane_tests::lab::{
    ROUTER_SERVER, SERVER,
    traffic::{self, Family},
};

use crate::scene::{PROMPT, Scene, within};

fn first_packet(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    for family in Family::BOTH {
        let address = family.address(&SERVER);
        scene.router().run(&format!("ip neigh flush dev {}", ROUTER_SERVER.port)).expect("flushed");
        within(PROMPT, || {
            let decision = scene.decision(address);
            ensure!(decision.reason == "neighbour_unresolved" && decision.decision == "kernel", "{decision:?}");
            Ok(())
        });
        let before = scene.stats();
        assert_eq!(traffic::ping(&scene.lab, family, 1).expect("ping runs"), 1, "{mode}: {}", family.name());
        assert!(scene.stats().reason("neighbour_unresolved") > before.reason("neighbour_unresolved"));
        within(PROMPT, || {
            let decision = scene.decision(address);
            ensure!(decision.decision == "forward", "{decision:?}");
            Ok(())
        });
        let before = scene.stats();
        assert_eq!(traffic::ping(&scene.lab, family, 2).expect("ping runs"), 2);
        let forwarded = scene.stats().totals.forwarded - before.totals.forwarded;
        assert!(forwarded >= 4, "two pings and their answers: {forwarded}");
    }
    scene.close();
}

#[test]
fn the_first_packet_gets_through_in_native() {
    first_packet("native");
}

#[test]
fn the_first_packet_gets_through_in_tc() {
    first_packet("tc");
}

#[test]
fn a_new_link_address_is_used() {
    const NEW: &str = "02:00:00:00:01:99";
    let Some(scene) = Scene::attached(&[], "native") else { return };
    scene.server().run(&format!("ip link set {} address {NEW}", SERVER.port)).expect("another address");
    for family in Family::BOTH {
        let (address, port) = (family.address(&SERVER), ROUTER_SERVER.port);
        let line = format!("ip neigh replace {address} lladdr {NEW} dev {port} nud reachable");
        scene.router().run(&line).expect("a neighbour");
        within(PROMPT, || {
            let decision = scene.decision(address);
            ensure!(decision.lladdr.as_deref() == Some(NEW), "{decision:?}");
            Ok(())
        });
    }
    let rows: Vec<serde_json::Value> = scene.daemon.read(&["neigh", "list"]).expect("neighbours");
    let known = |row: &&serde_json::Value| row["dst"] == SERVER.v4 && row["lladdr"] == NEW;
    assert!(rows.iter().any(|row| known(&row)), "{rows:?}");
    let before = scene.stats();
    scene.ping().expect("the server answers at its new address");
    assert!(scene.stats().totals.forwarded - before.totals.forwarded >= 12);
    scene.close();
}
