//! `status`, and what it says of changes that wait and of a config file that was edited.

use std::{fs, time::Duration};

use anyhow::ensure;
use dataplane_tests::lab::traffic::{self, Family};
use serde_json::Value;

use crate::scene::{PROMPT, Scene, within};

const FILE: &str = "[ports]\nclient0 = { mode = \"tc\" }\nserver0 = { mode = \"tc\" }\n\n[chains.forward]\nrules = ['tcp dport 1 drop']\n";

fn status(scene: &Scene) -> Value {
    scene.daemon.read(&["status"]).expect("a status")
}

/// Its findings, whatever its exit code is.
fn doctor(scene: &Scene) -> Vec<Value> {
    let output = scene.daemon.attempt(&["doctor", "-j"]).expect("it runs");
    serde_json::from_str(&output.stdout).expect("findings")
}

#[test]
fn counts_rates_and_what_waits() {
    let Some(scene) = Scene::configured(&[], FILE) else { return };
    let found = status(&scene);
    assert_eq!((&found["ports"], &found["up"], &found["modes"]["tc"]), (&2.into(), &2.into(), &2.into()), "{found}");
    assert_eq!((&found["rules"], &found["config"]["differs"]), (&1.into(), &false.into()), "{found}");
    assert!(found["routes4"].as_u64() >= Some(2) && found["routes6"].as_u64() >= Some(2), "{found}");
    assert!(found.get("pending").is_none(), "{found}");
    // Traffic through both ports while it looks.
    let rates = || {
        let pings = traffic::ping(&scene.lab, Family::V4, 40);
        ensure!(pings.is_ok(), "pings run");
        Ok(())
    };
    let found = std::thread::scope(|scope| {
        let pings = scope.spawn(rates);
        let found = within_traffic(&scene);
        pings.join().expect("no panic").expect("pings");
        found
    });
    assert!(found["bits_per_second"]["tx"].as_u64() > Some(0), "{found}");

    // A rule beside the file.
    scene.rule("forward", "tcp dport 2 drop");
    let found = status(&scene);
    assert_eq!((&found["config"]["differs"], &found["config"]["remove"]), (&true.into(), &1.into()), "{found}");
    let findings = doctor(&scene);
    assert!(findings.iter().any(|row| row["check"] == "config file" && row["status"] == "warn"), "{findings:?}");

    // `status`, doctor and metrics all show what waits for confirmation.
    let path = scene.lab.dir().join("new.toml");
    fs::write(&path, FILE).expect("a file");
    scene.cli(&["config", "apply", path.to_str().expect("a path"), "--confirm", "1m"]);
    let found = status(&scene);
    let left = found["pending"]["seconds"].as_u64().expect("seconds");
    assert!((50..=60).contains(&left), "{found}");
    assert!(
        found["pending"]["by"].as_str().is_some_and(|by| by.contains("new.toml") && by.contains("uid 0")),
        "{found}"
    );
    assert!(scene.cli(&["status"]).contains("rolled back in"));
    let findings = doctor(&scene);
    assert!(findings.iter().any(|row| row["check"] == "confirm"), "{findings:?}");
    let metrics = scene.cli(&["metrics"]);
    assert!(metrics.lines().any(|line| line.starts_with("dataplane_config_pending_seconds ")), "{metrics}");
    scene.cli(&["config", "confirm"]);
    assert!(status(&scene).get("pending").is_none());
    scene.close();
}

fn within_traffic(scene: &Scene) -> Value {
    let mut last = Value::Null;
    within(Duration::from_secs(5), || {
        last = status(scene);
        let moves = |way: &str| last["bits_per_second"][way].as_u64() > Some(0);
        ensure!(moves("rx") && moves("tx"), "no traffic: {last}");
        Ok(())
    });
    last
}

#[test]
fn an_edited_file_is_reported_at_the_start() {
    let Some(mut scene) = Scene::idle(&[]) else { return };
    let path = scene.lab.dir().join("first.toml");
    fs::write(&path, FILE).expect("a file");
    let first = ["--first-config", path.to_str().expect("a path")];
    scene.daemon.terminate().expect("it ends");
    // State of the daemon before: the file is not taken, and the log says so.
    scene.daemon.wrap(&[], &first);
    scene.daemon.restart().expect("it starts");
    within(PROMPT * 10, || {
        let log = scene.daemon.log();
        ensure!(log.contains("differs from the running config") && log.contains("config apply"), "{log}");
        Ok(())
    });
    assert_eq!(status(&scene)["config"]["differs"], true);
    scene.cli(&["config", "apply", path.to_str().expect("a path")]);
    assert_eq!(status(&scene)["config"]["differs"], false);
    // What cannot be read is reported, too, and stops nothing.
    fs::write(&path, "[ports\n").expect("a file");
    let found = status(&scene);
    assert_eq!(found["config"]["differs"], Value::Null, "{found}");
    assert!(scene.cli(&["status"]).contains("cannot be compared"));
    scene.close();
}
