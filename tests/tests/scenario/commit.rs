//! Two sets of rules that take turns under a stream: each packet meets one of them, whole.

use std::{env, fs, time::Instant};

use dataplane_tests::lab::{Need, stream::stream, traffic::Family};

use crate::scene::{PORTS, Scene};

/// Commits, unless `DATAPLANE_COMMITS` says how many.
const COMMITS: u64 = 120;
/// Datagrams a second, unless `DATAPLANE_RATE` says how many.
const RATE: u64 = 5000;
/// Rules beside those that matter, so that there is something to write.
const OTHERS: usize = 300;

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

/// A packet of the stream meets all of these, once each, in any order. What decides comes last.
const MET: [&str; 4] = [
    "ip saddr 198.18.0.0/24 continue",
    "udp dport 5400 continue",
    "iifname \"client0\" ip daddr 198.18.1.0/24 continue",
    "meta l4proto udp ip saddr { 192.0.2.1, 192.0.2.3, 192.0.2.5, 192.0.2.7, 192.0.2.9, 192.0.2.11, 192.0.2.13, 192.0.2.15, \
     198.18.0.0/25, 203.0.113.0/24 } continue",
];
const LAST: &str = "udp dport 5400 accept";

/// One of the two: the rules in this order or the other, between others that differ.
fn config(backwards: bool, mode: &str) -> String {
    let mut met = MET.to_vec();
    if backwards {
        met.reverse();
    }
    let net = if backwards { "192.0.2" } else { "203.0.113" };
    let other = |number: usize| format!("ip daddr {net}.{} udp sport {} drop", number % 250, 1000 + number);
    let mut rules: Vec<String> = Vec::new();
    for (place, rule) in met.into_iter().enumerate() {
        rules.extend((0..OTHERS / MET.len()).map(|number| other(place * 1000 + number)));
        rules.push(rule.to_owned());
    }
    rules.push(LAST.to_owned());
    let rules: Vec<_> = rules.iter().map(|rule| format!("  '{rule}',\n")).collect();
    let ports: Vec<_> = PORTS.iter().map(|port| format!("{port} = {{ mode = \"{mode}\" }}\n")).collect();
    format!("[ports]\n{}[chains.forward]\npolicy = \"drop\"\nrules = [\n{}]\n", ports.concat(), rules.concat())
}

fn takes_turns(mode: &str) {
    let Some(scene) = Scene::idle(&[Need::Tool("ethtool")]) else { return };
    scene.take_frames();
    let files = [false, true].map(|backwards| {
        let file = scene.lab.dir().join(format!("{backwards}.toml"));
        fs::write(&file, config(backwards, mode)).expect("a config");
        file.to_str().expect("UTF-8").to_owned()
    });
    scene.cli(&["config", "apply", &files[0]]);
    let known = handles(&scene);
    let (commits, rate) = (number("DATAPLANE_COMMITS", COMMITS), number("DATAPLANE_RATE", RATE));
    let before = scene.stats();
    let sender = stream(&scene.lab, Family::V4, 5400, rate).expect("a stream");
    let start = Instant::now();
    for round in 1..=commits {
        scene.cli(&["config", "apply", &files[(round % 2) as usize]]);
    }
    let took = start.elapsed();
    let tally = sender.finish().expect("a tally");
    let after = scene.stats();
    println!("{commits} commits in {took:?} under {tally:?}");
    assert_eq!((tally.lost, tally.repeated), (0, 0), "{mode}: {tally:?}");
    assert_eq!(after.reason("filter_forward"), before.reason("filter_forward"), "{mode}: {after:?}");
    assert_eq!(handles(&scene), known, "{mode}: rules that stay keep their handles");
    for rule in scene.rules().iter().filter(|rule| MET.contains(&&*rule.rule) || rule.rule == LAST) {
        assert_eq!(rule.packets, tally.sent, "{mode}: {rule:?}");
    }
    scene.close();
}

/// Handles of the rules that are in both, by the rules.
fn handles(scene: &Scene) -> Vec<(String, u64)> {
    let rules = scene.rules().into_iter().filter(|rule| rule.rule.ends_with("continue") || rule.rule == LAST);
    let mut handles: Vec<_> = rules.map(|rule| (rule.rule, rule.handle)).collect();
    assert_eq!(handles.len(), MET.len() + 1, "{handles:?}");
    handles.sort();
    handles
}

#[test]
fn two_sets_of_rules_never_mix_in_native() {
    takes_turns("native");
}

#[test]
fn two_sets_of_rules_never_mix_in_tc() {
    takes_turns("tc");
}
