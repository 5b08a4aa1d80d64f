//! `trace` and `capture`: live packets, and what became of them.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use dataplane_tests::lab::{
    Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER, binary,
    traffic::{self, Family},
};
use serde_json::Value;

use crate::scene::Scene;

/// A `trace` that runs until it is dropped, and what reads it.
pub struct Watcher {
    child: Child,
    rows: Option<JoinHandle<Vec<Value>>>,
}

impl Watcher {
    /// Begins one, and waits until it sees packets.
    pub fn new(scene: &Scene, words: &[&str]) -> Self {
        let mut command = Command::new(binary().expect("the binary"));
        command.arg("--socket").arg(scene.daemon.socket()).args(["trace", "-j"]).args(words);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("trace");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let read = |line: std::io::Result<String>| serde_json::from_str(&line.expect("text")).expect("JSON");
        let rows = Some(thread::spawn(move || lines.map(read).collect()));
        // The programs are loaded before anything is said; what comes before that is not seen.
        thread::sleep(Duration::from_secs(2));
        Self { child, rows }
    }

    /// Ends it, and gives what it said.
    pub fn end(mut self) -> Vec<Value> {
        thread::sleep(Duration::from_millis(500));
        self.child.kill().expect("killed");
        self.rows.take().expect("not ended yet").join().expect("lines of JSON")
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn count(rows: &[Value], fields: &[(&str, &str)]) -> usize {
    rows.iter().filter(|row| fields.iter().all(|(name, value)| row[name] == *value)).count()
}

fn traces(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    let rule = scene.rule("forward", "udp dport 5302 drop");
    for family in Family::BOTH {
        let all = Watcher::new(&scene, &["meta", "l4proto", "udp"]);
        let drops = Watcher::new(&scene, &["verdict", "drop"]);
        let before = scene.stats();
        assert_eq!(traffic::datagrams(&scene.lab, family, 5301, 7).expect("datagrams"), 7, "{mode}");
        assert_eq!(traffic::datagrams(&scene.lab, family, 5302, 5).expect("datagrams"), 0, "{mode}");
        let after = scene.stats();
        let (all, drops) = (all.end(), drops.end());
        assert_eq!(count(&all, &[("verdict", "forward"), ("dev", ROUTER_SERVER.port)]), 7, "{mode}: {all:?}");
        for rows in [&all, &drops] {
            let fields = [("verdict", "drop"), ("reason", "filter_forward"), ("port", ROUTER_CLIENT.port)];
            assert_eq!(count(rows, &fields), 5, "{mode}: {rows:?}");
            let dropped = rows.iter().filter(|row| row["verdict"] == "drop");
            assert!(dropped.clone().all(|row| row["handle"] == rule.handle), "{mode}: {rows:?}");
        }
        // Each packet is told once, whichever tier judged it.
        assert_eq!(all.len(), 12, "{mode}: {all:?}");
        assert_eq!(drops.len() as u64, after.totals.dropped - before.totals.dropped, "{mode}: {drops:?}");
    }
    scene.close();
}

#[test]
fn packets_are_traced_once_in_native() {
    traces("native");
}

#[test]
fn packets_are_traced_once_in_generic() {
    traces("generic");
}

#[test]
fn packets_are_traced_once_in_tc() {
    traces("tc");
}

/// A flood is told in part, and what is picked by chance is about the share that was asked for.
#[test]
fn a_flood_is_traced_in_part() {
    let Some(scene) = Scene::attached(&[Need::Tool("ping")], "native") else { return };
    // One after the other: they would share what is told in a second.
    let told = |words: &[&str]| {
        let watcher = Watcher::new(&scene, words);
        let before = scene.stats();
        // As fast as it goes: more than is told in a second.
        let ping = format!("ping -q -f -c 30000 -i 0 {}", SERVER.v4);
        scene.client().run(&ping).expect("a flood");
        let sent = scene.stats().totals.rx - before.totals.rx;
        assert!(sent >= 60_000, "{sent} packets");
        (watcher.end().len() as u64, sent)
    };
    let (rows, _) = told(&["icmp", "type", "echo-request"]);
    assert!((1000..=30_000).contains(&rows), "{rows} rows");
    let (rows, sent) = told(&["--sample", "20"]);
    assert!(rows * 20 < sent * 3 / 2 && rows * 20 > sent / 2, "{rows} of {sent} sampled");
    scene.close();
}

#[test]
fn filters_that_make_no_sense_are_refused() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    for (words, code, said) in [
        (vec!["tcp", "dport"], 5, "filter:1:"),
        (vec!["verdict", "maybe"], 5, "`maybe` is none of"),
        (vec!["reason", "nonsense"], 5, "`nonsense` is none of"),
        (vec!["ip", "saddr", "@nobody"], 5, "not known"),
        (vec!["tcp", "dport", "22", "drop"], 5, "filter:1:"),
    ] {
        let output = scene.daemon.attempt(&[&["trace"], &words[..]].concat()).expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        assert!(output.stderr.contains(said), "{words:?}: {}", output.stderr);
    }
    scene.close();
}
