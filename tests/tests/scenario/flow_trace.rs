//! The row of a connection, and its translation, in `explain` and `trace`.

use std::{thread, time::Duration};

use anyhow::ensure;
use dataplane_tests::lab::{CLIENT, ROUTER_CLIENT, ROUTER_SERVER, SERVER, traffic::Family};
use serde_json::Value;

use crate::{
    scene::{PROMPT, Scene, within},
    session::{HOME, Tcp, address, becomes_fast, count, flows, load, router},
    trace::Watcher,
};

/// Where the server listens.
const PORT: u16 = 5501;

/// What `explain` says of a packet that comes in on a port.
fn explain(scene: &Scene, iface: &str, words: &str) -> Value {
    scene.daemon.read(&["explain", "--iface", iface, words]).unwrap_or_else(|error| panic!("{words}: {error:#}"))
}

/// A packet of TCP in words.
fn segment(row: &Value, direction: &str, flags: &str) -> String {
    let end = |address: &str, port: &str| {
        let (address, port) = (row[direction][address].as_str().expect("an address"), &row[direction][port]);
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    };
    format!("tcp {} > {} flags {flags}", end("saddr", "sport"), end("daddr", "dport"))
}

/// The stage of that name, in words.
fn stage(explanation: &Value, name: &str) -> String {
    let stages = explanation["stages"].as_array().expect("stages");
    let found = stages.iter().find(|stage| stage["name"] == name);
    found.unwrap_or_else(|| panic!("no stage {name}: {explanation}"))["result"].as_str().expect("words").to_owned()
}

fn explains(mode: &str) {
    let Some(scene) = router(mode, HOME) else { return };
    for family in Family::BOTH {
        let mut tcp = Tcp::open(&scene, family, PORT);
        let row = becomes_fast(&scene, &mut tcp);
        // The last acknowledgement may be delayed.
        thread::sleep(Duration::from_millis(100));
        let (epochs, before) = (count(&scene, "epochs"), flows(&scene, &[])[0]["packets"].clone());
        for (direction, port, to, leaves) in [
            ("original", ROUTER_CLIENT.port, ROUTER_SERVER.port, ("saddr", address(family, &ROUTER_SERVER))),
            ("reply", ROUTER_SERVER.port, ROUTER_CLIENT.port, ("daddr", address(family, &CLIENT))),
        ] {
            let said = explain(&scene, port, &segment(&row, direction, "ack"));
            assert_eq!((&said["verdict"], &said["reason"]), (&"forward".into(), &"forwarded".into()), "{said}");
            let flow = &said["flow"];
            assert_eq!((&flow["original"], &flow["reply"]), (&row["original"], &row["reply"]), "{said}");
            assert_eq!((&flow["direction"], &flow["state"]), (&direction.into(), &"armed".into()), "{said}");
            assert_eq!((&flow["iif"], &flow["oif"]), (&port.into(), &to.into()), "{said}");
            assert_eq!(flow["translated"][leaves.0], leaves.1.to_string(), "{said}");
            assert_eq!(flow["why"], Value::Null, "{said}");
            assert!(stage(&said, "frame").contains(leaves.0), "{said}");
            let said = explain(&scene, port, &segment(&row, direction, "fin,ack"));
            assert_eq!((&said["reason"], &said["flow"]["state"]), (&"flow_closing".into(), &"armed".into()), "{said}");
            assert!(said["flow"]["why"].is_string() && said["flow"]["translated"].is_null(), "{said}");
        }
        // What was never sent has no effect: not on rows, not on their counters, not on what is armed.
        let now = &flows(&scene, &[])[0];
        assert_eq!((&now["packets"], &now["state"]), (&before, &"fast".into()), "{now}");
        assert_eq!(count(&scene, "epochs"), epochs);
        tcp.talk(3).expect("it goes on");
        scene.cli(&["flow", "flush"]);
        within(PROMPT, || {
            let said = explain(&scene, ROUTER_CLIENT.port, &segment(&row, "original", "ack"));
            ensure!(said["reason"] == "flow_unarmed" && said["flow"]["state"] == "unarmed", "{said}");
            ensure!(said["flow"]["why"].as_str().is_some_and(|why| why.contains("under the rules in force")), "{said}");
            Ok(())
        });
        becomes_fast(&scene, &mut tcp);
        // Through another port than the packets before it.
        let said = explain(&scene, ROUTER_SERVER.port, &segment(&row, "original", "ack"));
        assert!(said["flow"]["why"].as_str().is_some_and(|why| why.contains("another interface")), "{said}");
        let other = explain(&scene, ROUTER_CLIENT.port, &segment(&row, "original", "ack").replace("5501", "5502"));
        assert_eq!((&other["reason"], &other["flow"]), (&"netfilter".into(), &Value::Null), "{other}");
        assert!(stage(&other, "flow").contains("--why-not"), "{other}");
    }
    load(&scene, "table inet watch {\n chain crossing {\n  type filter hook forward priority 5; log\n }\n}\n");
    within(PROMPT, || {
        let words = format!("tcp {}:1 > {}:2 flags ack", CLIENT.v4, SERVER.v4);
        let said = stage(&explain(&scene, ROUTER_CLIENT.port, &words), "flow");
        ensure!(said.contains("has log"), "{said}");
        Ok(())
    });
    scene.close();
}

#[test]
fn a_row_is_explained_in_native() {
    explains("native");
}

#[test]
fn a_row_is_explained_in_tc() {
    explains("tc");
}

#[test]
fn packets_of_a_connection_are_traced_with_their_row() {
    let Some(scene) = router("native", HOME) else { return };
    for family in Family::BOTH {
        let mut tcp = Tcp::open(&scene, family, PORT);
        let row = becomes_fast(&scene, &mut tcp);
        let watcher = Watcher::new(&scene, &["meta", "l4proto", "tcp"]);
        // Other programs were loaded.
        becomes_fast(&scene, &mut tcp);
        tcp.talk(5).expect("both are heard");
        scene.cli(&["flow", "flush"]);
        thread::sleep(Duration::from_millis(20));
        tcp.talk(5).expect("both are heard");
        let rows = watcher.end();
        let told = |direction: &str, reason: &str| {
            let of = |told: &&Value| told["reason"] == reason && told["flow"]["direction"] == direction;
            rows.iter().filter(of).collect::<Vec<_>>()
        };
        for direction in ["original", "reply"] {
            let carried = told(direction, "forwarded");
            assert!(carried.len() >= 5, "{direction}: {rows:?}");
            for packet in carried {
                let flow = &packet["flow"];
                assert_eq!((&flow["original"], &flow["reply"]), (&row["original"], &row["reply"]), "{packet}");
                assert_eq!((&flow["state"], &flow["why"]), (&"armed".into(), &Value::Null), "{packet}");
                let other = if direction == "original" { "reply" } else { "original" };
                for (name, back) in [("saddr", "daddr"), ("sport", "dport"), ("daddr", "saddr"), ("dport", "sport")] {
                    assert_eq!(flow["translated"][name], row[other][back], "{packet}");
                }
            }
            let unarmed = told(direction, "flow_unarmed");
            assert!(!unarmed.is_empty(), "{direction}: {rows:?}");
            for packet in unarmed {
                assert!(packet["flow"]["why"].is_string() && packet["flow"]["translated"].is_null(), "{packet}");
            }
        }
    }
    scene.close();
}
