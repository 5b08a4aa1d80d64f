//! What a verb says is so: a config that was applied is in force, and one that could not be has changed nothing.

use std::{fs, path::PathBuf, process::Command};

use dataplane_tests::lab::{
    Need,
    traffic::{self, Family},
};

use crate::scene::Scene;

/// One port, and 5301 is dropped.
const OLD: &str = "[ports]\nclient0 = { mode = \"native\" }\n[chains.forward]\nrules = [\"udp dport 5301 drop\"]\n";
/// Two ports, another chain, and 5302 is dropped.
const NEW: &str = "[ports]\nclient0 = { mode = \"native\" }\nserver0 = { mode = \"tc\" }\n\
                   [chains.prerouting]\nrules = [\"udp dport 5302 drop\"]\n";
/// Nothing.
const NONE: &str = "[ports]\n";

/// How many file descriptors the daemon may have.
fn limit(scene: &Scene, descriptors: usize) {
    let pid = scene.daemon.pid().expect("a daemon");
    let mut prlimit = Command::new("prlimit");
    prlimit.arg(format!("--pid={pid}")).arg(format!("--nofile={descriptors}:"));
    assert!(prlimit.status().expect("prlimit runs").success());
}

fn descriptors(scene: &Scene) -> usize {
    let pid = scene.daemon.pid().expect("a daemon");
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon lives").count()
}

/// What arrives at each of the two ports.
fn pair(scene: &Scene) -> (u32, u32) {
    let arrived = |port| traffic::datagrams(&scene.lab, Family::V4, port, 5).expect("datagrams");
    (arrived(5301), arrived(5302))
}

fn file(scene: &Scene, name: &str, config: &str) -> PathBuf {
    let path = scene.lab.dir().join(name);
    fs::write(&path, config).expect("a config");
    path
}

/// With fewer file descriptors than a config takes, however many these are, it is in force or refused.
fn applied_or_not(before: (&str, (u32, u32)), after: (&str, (u32, u32))) {
    let Some(scene) = Scene::idle(&[Need::Tool("prlimit")]) else { return };
    let (old, new) = (file(&scene, "old.toml", before.0), file(&scene, "new.toml", after.0));
    let words =
        |path: &PathBuf| ["config".to_owned(), "apply".to_owned(), path.display().to_string(), "--force".to_owned()];
    let (mut refused, mut spare) = (0, 6);
    loop {
        limit(&scene, 1_024);
        let old = words(&old);
        scene.cli(&old.each_ref().map(String::as_str));
        let shown = scene.cli(&["config", "show"]);
        limit(&scene, descriptors(&scene) + spare);
        let new = words(&new);
        let said = scene.daemon.attempt(&new.each_ref().map(String::as_str)).expect("the verb ends");
        let found = pair(&scene);
        limit(&scene, 1_024);
        let now = scene.cli(&["config", "show"]);
        if said.status.success() {
            assert_eq!(found, after.1, "{spare} descriptors to spare: {}", said.said());
            assert_ne!(now, shown, "{spare} descriptors to spare");
            if refused > 0 && spare > 40 {
                break;
            }
        } else {
            refused += 1;
            assert_eq!(found, before.1, "{spare} descriptors to spare: {}", said.said());
            assert_eq!(now, shown, "{spare} descriptors to spare: {}", said.said());
            let ports: serde_json::Value = scene.daemon.read(&["port", "list"]).expect("ports");
            let listed = ports.as_array().map_or(0, Vec::len);
            assert_eq!(listed, before.0.matches("mode").count(), "{spare} descriptors to spare: {ports}");
        }
        spare += 5;
        assert!(spare < 400, "it is never applied");
    }
    println!("refused {refused} times, until {spare} descriptors were to spare");
    scene.ping().expect("pings are answered");
    scene.close();
}

#[test]
fn a_first_config_is_in_force_or_refused() {
    applied_or_not((NONE, (5, 5)), (OLD, (0, 5)));
}

#[test]
fn another_config_is_in_force_or_refused() {
    applied_or_not((OLD, (0, 5)), (NEW, (5, 0)));
}
