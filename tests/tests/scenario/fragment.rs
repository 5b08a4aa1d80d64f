//! Fragments do not slip past a rule that drops by port or type.

use dataplane_tests::lab::{
    SERVER,
    traffic::{self, Family},
};

use crate::scene::Scene;

/// Larger than two fragments of the link.
const LENGTH: usize = 4000;

/// Whether a datagram in fragments arrives at the server.
fn arrives(scene: &Scene, family: Family, port: u16) -> bool {
    let count = traffic::large(&scene.lab, family, port, LENGTH).expect("a datagram");
    count == 1
}

/// Fragments that arrived at the server.
fn seen(scene: &Scene) -> u64 {
    let read = || {
        Ok((
            std::fs::read_to_string("/proc/thread-self/net/snmp")?,
            std::fs::read_to_string("/proc/thread-self/net/snmp6")?,
        ))
    };
    let (v4, v6) = scene.server().inside(read).expect("counters of the kernel");
    let mut lines = v4.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let v4 = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "ReasmReqds").expect("a counter").1;
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6ReasmReqds")).expect("a counter");
    let number = |text: &str| text.trim().parse::<u64>().expect("a number");
    number(v4) + number(v6)
}

fn does_not_slip_past(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    for family in Family::BOTH {
        assert!(arrives(&scene, family, 5301), "{mode}: {} without a rule", family.name());
    }
    assert!(seen(&scene) >= 6, "the datagrams were not in fragments");
    for chain in ["forward", "prerouting"] {
        scene.rule(chain, "udp dport 5301 drop");
        let before = (seen(&scene), scene.stats());
        for family in Family::BOTH {
            assert!(!arrives(&scene, family, 5301), "{mode}: {chain}: {}", family.name());
        }
        assert_eq!(seen(&scene), before.0, "{mode}: {chain}: some fragments got through");
        let after = scene.stats();
        assert!(after.reason("unreadable") - before.1.reason("unreadable") >= 4, "{mode}: {chain}: {after:?}");
        scene.cli(&["rule", "flush", chain]);
    }
    scene.rule("forward", "icmp type echo-request drop");
    scene.rule("forward", "icmpv6 type echo-request drop");
    let before = seen(&scene);
    for family in Family::BOTH {
        let line = format!("ping {} -n -c 1 -W 1 -s {LENGTH} {}", family.option(), family.address(&SERVER));
        let ping = scene.client().attempt(&line).expect("ping runs");
        assert!(!ping.status.success(), "{mode}: {}", ping.said());
    }
    assert_eq!(seen(&scene), before, "{mode}: some fragments got through");
    scene.cli(&["rule", "flush", "forward"]);
    for family in Family::BOTH {
        let line = format!("ping {} -n -c 1 -W 2 -s {LENGTH} {}", family.option(), family.address(&SERVER));
        scene.client().run(&line).expect("pings are answered");
        assert!(arrives(&scene, family, 5301), "{mode}: {} without a rule", family.name());
    }
    scene.close();
}

/// As in nft, for those who ask for it: a rule is not met by what it can not read, and datagrams arrive without their head.
fn pass_when_configured(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    scene.rule("forward", "udp dport 5301 drop");
    let file = scene.lab.dir().join("passing.toml");
    let text = format!("fragments = \"pass\"\n{}", scene.cli(&["config", "show"]));
    std::fs::write(&file, text).expect("a config");
    scene.cli(&["config", "apply", file.to_str().expect("UTF-8")]);
    assert!(scene.cli(&["config", "show"]).starts_with("fragments = \"pass\"\n"));
    // What was lowered before does not count any more, nor for rules that come later.
    for rule in ["udp dport 5302 drop", "udp dport 5303 drop"] {
        let before = (seen(&scene), scene.stats());
        for family in Family::BOTH {
            assert!(!arrives(&scene, family, 5301), "{mode}: {}: the first fragment is missing", family.name());
        }
        let after = scene.stats();
        assert!(seen(&scene) - before.0 >= 4, "{mode}: later fragments got through");
        assert_eq!(after.reason("unreadable"), before.1.reason("unreadable"), "{mode}: {after:?}");
        scene.rule("forward", rule);
    }
    scene.close();
}

/// Rules of nft that drop by port leave the fragments of other datagrams alone, and so does what they are imported as.
#[test]
fn imported_rules_let_other_datagrams_through() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    let tables = scene.lab.dir().join("tables.nft");
    let rules = "table inet t {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tudp dport \
                 5301 drop\n\t}\n}\n";
    std::fs::write(&tables, rules).expect("a file");
    let config = scene.lab.dir().join("imported.toml");
    std::fs::write(&config, scene.cli(&["import", "nft", tables.to_str().expect("UTF-8")])).expect("a file");
    scene.cli(&["config", "apply", config.to_str().expect("UTF-8")]);
    assert_eq!(scene.stats().ports.iter().filter(|port| port.state == "up").count(), 2, "the ports stay");
    for family in Family::BOTH {
        assert!(arrives(&scene, family, 5302), "{}: another port", family.name());
        assert!(!arrives(&scene, family, 5301), "{}: the port", family.name());
    }
    scene.close();
}

#[test]
fn pass_in_native() {
    pass_when_configured("native");
}

#[test]
fn pass_in_tc() {
    pass_when_configured("tc");
}

#[test]
fn in_native() {
    does_not_slip_past("native");
}

#[test]
fn in_tc() {
    does_not_slip_past("tc");
}
