//! `metrics`: the numbers that `stats` and `rule list` have.

use std::collections::BTreeMap;

use dataplane_tests::lab::traffic::{self, Family};

use crate::scene::Scene;

/// The sum over all ports of each reason.
fn by_reason(text: &str) -> BTreeMap<&str, u64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("dataplane_port_packets_total{")) {
        let (labels, value) = line.rsplit_once(' ').expect("a value");
        let reason = labels.split_once("reason=\"").and_then(|(_, rest)| rest.split_once('"')).expect("a reason").0;
        *sums.entry(reason).or_default() += value.parse::<u64>().expect("a count");
    }
    sums
}

#[test]
fn metrics_are_what_stats_says() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    let rule = scene.rule("forward", "udp dport 5302 drop");
    let before = scene.cli(&["metrics"]);
    for family in Family::BOTH {
        assert_eq!(traffic::datagrams(&scene.lab, family, 5301, 7).expect("datagrams"), 7);
        assert_eq!(traffic::datagrams(&scene.lab, family, 5302, 5).expect("datagrams"), 0);
    }
    let low = scene.stats();
    let after = scene.cli(&["metrics"]);
    let high = scene.stats();
    assert!(after.ends_with("\n# EOF\n"), "{after}");
    let (before, sums) = (by_reason(&before), by_reason(&after));
    assert_eq!(sums["filter_forward"] - before["filter_forward"], 10, "{after}");
    // Neighbour discovery may go on between two looks.
    for (reason, count) in &sums {
        assert!((low.reasons[*reason]..=high.reasons[*reason]).contains(count), "{reason}: {count}");
    }
    assert_eq!(sums.len(), low.reasons.len());
    let line = format!("\ndataplane_rule_packets_total{{chain=\"forward\",handle=\"{}\"}} 10\n", rule.handle);
    assert!(after.contains(&line), "{line}{after}");
    scene.close();
}
