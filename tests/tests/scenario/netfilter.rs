//! Rules of netfilter that forwarded packets would meet are named, and followed unless the config says otherwise.

use std::{cell::RefCell, thread, time::Duration};

use anyhow::ensure;
use dataplane_tests::{
    bench::program::drop_at_egress,
    lab::{
        CLIENT, Need, Output, ROUTER_CLIENT, ROUTER_SERVER, SERVER,
        traffic::{self, Family},
    },
};
use serde_json::Value;

use crate::{
    macvlan::{can_have_macvlan, route_through_macvlan},
    scene::{PORTS, PROMPT, Scene, within},
};

/// Where the datagrams of these scenarios go.
const PORT: u16 = 5301;

/// What comes without a word from the kernel is looked for each second.
const SECONDS: Duration = Duration::from_secs(4);

/// What `port list` says about netfilter, port by port.
fn words(scene: &Scene) -> Vec<String> {
    let rows: Vec<Value> = scene.daemon.read(&["port", "list"]).expect("ports");
    rows.iter().map(|row| row["netfilter"].as_str().unwrap_or("nothing").to_owned()).collect()
}

/// Waits for all ports to say this, as soon as it must be.
fn says(scene: &Scene, word: &str) {
    let took = within(PROMPT, || {
        let words = words(scene);
        ensure!(words.iter().all(|one| one == word), "wanted {word}: {words:?}");
        Ok(())
    });
    println!("`port list` says {word} after {took:?}");
}

fn run(scene: &Scene, lines: &[&str]) {
    for line in lines {
        scene.router().run(line).expect("a rule of netfilter");
    }
}

/// What arrives of ten datagrams of each family, and how many of all these the port has forwarded itself.
fn passed(scene: &Scene) -> ([u32; 2], u64) {
    let before = scene.stats().totals.forwarded;
    let arrived = Family::BOTH.map(|family| traffic::datagrams(&scene.lab, family, PORT, 10).expect("datagrams"));
    (arrived, scene.stats().totals.forwarded - before)
}

#[test]
fn attach_names_the_chains() {
    let Some(scene) = Scene::idle(&[Need::Tool("nft")]) else { return };
    let quiet = scene.daemon.attempt(&["attach", ROUTER_CLIENT.port, "--mode", "tc"]).expect("the verb runs");
    assert!(quiet.status.success() && !quiet.stderr.contains("netfilter"), "{}", quiet.said());
    run(
        &scene,
        &[
            "nft add table inet strict",
            "nft add chain inet strict crossing { type filter hook forward priority 0 ; policy accept ; }",
            "nft add rule inet strict crossing udp dport 5301 drop",
        ],
    );
    says(&scene, "follow");
    let attach = || {
        let loud = scene.daemon.attempt(&["attach", ROUTER_SERVER.port, "--mode", "tc", "-j"]).expect("the verb runs");
        assert!(loud.status.success(), "{}", loud.said());
        // Prose is not data.
        serde_json::from_str::<Value>(&loud.stdout).expect("stdout is JSON");
        loud.stderr
    };
    let loud = attach();
    for word in ["netfilter", "inet strict crossing", "rule add"] {
        assert!(loud.contains(word), "stderr does not say `{word}`: {loud}");
    }
    // No rule of ours translates addresses.
    run(
        &scene,
        &[
            "nft add chain inet strict leaving { type nat hook postrouting priority 100 ; }",
            "nft add rule inet strict leaving oifname eth7 masquerade",
        ],
    );
    within(PROMPT, || {
        let loud = attach();
        ensure!(loud.contains("inet strict leaving") && !loud.contains("rule add"), "{loud}");
        Ok(())
    });
    scene.close();
}

/// Docker starts later than the router.
fn nat_that_comes_later(mode: &str) {
    let Some(scene) = Scene::attached(&[Need::Tool("nft")], mode) else { return };
    says(&scene, "none");
    scene.ping().expect("pings are answered");
    assert_eq!(passed(&scene), ([10; 2], 20));
    // Nobody but the router's own networks is answered.
    for family in ["", "-6 "] {
        scene.server().run(&format!("ip {family}route del default")).expect("a route less");
    }
    let mut lines = vec!["nft add table inet docker".to_owned()];
    lines.push("nft add chain inet docker leaving { type nat hook postrouting priority 100 ; }".to_owned());
    lines.push(format!("nft add rule inet docker leaving oifname {} masquerade", ROUTER_SERVER.port));
    run(&scene, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    says(&scene, "follow");
    let log = scene.daemon.log();
    assert!(log.contains("inet docker leaving") && !log.contains("rule add"), "{log}");
    let doctor = scene.cli(&["doctor"]);
    assert!(doctor.contains("inet docker leaving") && !doctor.contains("rule add"), "{doctor}");
    let before = scene.stats();
    scene.ping().expect("the server answers the router, which translates");
    let after = scene.stats();
    assert_eq!(after.totals.forwarded, before.totals.forwarded, "nothing passes by netfilter");
    assert!(after.reason("netfilter") > before.reason("netfilter"));
    assert_eq!(after.reason("mirror_off"), before.reason("mirror_off"), "the mirror knows all routes");
    let rows: Vec<Value> = scene.daemon.read(&["port", "list"]).expect("ports");
    assert!(rows.iter().all(|row| row["routes"]["ipv4"] == "stack" && row["routes"]["ipv6"] == "stack"), "{rows:?}");
    let packet = format!("udp {}:1 > {}:9", CLIENT.v4, SERVER.v4);
    let explained = scene.cli(&["explain", "--iface", ROUTER_CLIENT.port, &packet]);
    assert!(explained.contains("kernel: netfilter"), "{explained}");
    // Nothing is left of it.
    run(&scene, &["nft delete table inet docker"]);
    for family in [("", ROUTER_SERVER.v4), ("-6 ", ROUTER_SERVER.v6)] {
        scene.server().run(&format!("ip {}route add default via {}", family.0, family.1)).expect("a route");
    }
    says(&scene, "none");
    assert_eq!(passed(&scene), ([10; 2], 20));
    scene.close();
}

#[test]
fn nat_that_comes_later_native() {
    nat_that_comes_later("native");
}

#[test]
fn nat_that_comes_later_tc() {
    nat_that_comes_later("tc");
}

#[test]
fn rules_decide_and_only_where_there_are_some() {
    let Some(scene) = Scene::attached(&[Need::Tool("nft")], "native") else { return };
    // What a forwarded packet does not meet, and what says nothing.
    run(
        &scene,
        &[
            "nft add table inet t",
            "nft add chain inet t in { type filter hook input priority 0 ; policy drop ; }",
            "nft add chain inet t out { type filter hook output priority 0 ; policy accept ; }",
            "nft add rule inet t out counter",
            "nft add rule inet t in counter accept",
            "nft add chain inet t crossing { type filter hook forward priority 0 ; policy accept ; }",
            "nft add chain inet t other",
            "nft add rule inet t other drop",
        ],
    );
    thread::sleep(Duration::from_millis(300));
    says(&scene, "none");
    assert_eq!(passed(&scene), ([10; 2], 20));
    // One family.
    run(
        &scene,
        &[
            "nft add table ip v4",
            "nft add chain ip v4 crossing { type filter hook forward priority 0 ; policy accept ; }",
            "nft add rule ip v4 crossing udp dport 5301 drop",
        ],
    );
    says(&scene, "follow");
    assert_eq!(passed(&scene), ([0, 10], 10));
    run(&scene, &["nft add table ip v4 { flags dormant ; }"]);
    says(&scene, "none");
    assert_eq!(passed(&scene), ([10, 10], 20));
    run(&scene, &["nft delete table ip v4"]);
    // A policy is enough.
    run(&scene, &["nft add chain inet t crossing { policy drop ; }"]);
    says(&scene, "follow");
    assert_eq!(passed(&scene), ([0, 0], 0));
    // Our own chains come first.
    scene.rule("forward", "udp dport 5301 drop");
    let before = scene.stats().reason("filter_forward");
    assert_eq!(passed(&scene), ([0, 0], 0));
    assert_eq!(scene.stats().reason("filter_forward") - before, 20);
    scene.close();
}

#[test]
fn the_config_may_bypass_them() {
    let config = |word: &str| {
        format!(
            "[ports]\nclient0 = {{ mode = \"native\" }}\nserver0 = {{ mode = \"tc\" }}\n[flows]\nnetfilter = \"{word}\"\n"
        )
    };
    let Some(scene) = Scene::configured(&[Need::Tool("nft")], &config("bypass")) else { return };
    says(&scene, "none");
    run(
        &scene,
        &[
            "nft add table inet t",
            "nft add chain inet t crossing { type filter hook forward priority 0 ; policy drop ; }",
        ],
    );
    says(&scene, "bypass");
    assert_eq!(passed(&scene), ([10; 2], 20));
    assert!(scene.cli(&["config", "show"]).contains("netfilter = \"bypass\""));
    let file = scene.lab.dir().join("follow.toml");
    std::fs::write(&file, config("follow")).expect("a file");
    let file = file.display().to_string();
    let diff = scene.daemon.attempt(&["config", "diff", &file]).expect("the verb runs");
    assert!(diff.stdout.contains("-netfilter = \"bypass\""), "{}", diff.said());
    let applied = scene.daemon.attempt(&["config", "apply", &file]).expect("the verb runs");
    assert!(applied.status.success() && applied.stderr.contains("inet t crossing"), "{}", applied.said());
    says(&scene, "follow");
    assert_eq!(passed(&scene), ([0, 0], 0));
    scene.close();
}

/// A chain at a device's ingress is met by what comes in there, one at its egress by what goes out.
fn follows_chains_of_devices(mode: &str) {
    let Some(scene) = Scene::attached(&[Need::Tool("nft")], mode) else { return };
    scene.take_frames();
    let on = |hook: &str, port: &str| {
        format!(
            "nft add chain netdev t {hook} {{ type filter hook {hook} device {port} priority 0 ; policy accept ; }}"
        )
    };
    let rule = |hook: &str| format!("nft add rule netdev t {hook} udp dport 5301 drop");
    run(&scene, &["nft add table netdev t", &on("ingress", ROUTER_CLIENT.port), &rule("ingress")]);
    within(PROMPT, || {
        let words = words(&scene);
        ensure!(words == ["follow", "none"], "{words:?}");
        Ok(())
    });
    assert_eq!(passed(&scene), ([0, 0], 0));
    run(&scene, &["nft delete table netdev t"]);
    says(&scene, "none");
    assert_eq!(passed(&scene), ([10; 2], 20));
    run(&scene, &["nft add table netdev t", &on("egress", ROUTER_SERVER.port), &rule("egress")]);
    within(PROMPT, || {
        let (arrived, _) = passed(&scene);
        ensure!(arrived == [0, 0], "{arrived:?}");
        Ok(())
    });
    run(&scene, &["nft delete table netdev t"]);
    within(PROMPT, || {
        let passed = passed(&scene);
        ensure!(passed == ([10; 2], 20), "{passed:?}");
        Ok(())
    });
    scene.close();
}

#[test]
fn chains_of_devices_in_native() {
    follows_chains_of_devices("native");
}

#[test]
fn chains_of_devices_in_tc() {
    follows_chains_of_devices("tc");
}

/// Packets that a discipline of the way out has seen.
fn queued(scene: &Scene, port: &str, kind: &str) -> u64 {
    let text = scene.router().run(&format!("tc -s -j qdisc show dev {port}")).expect("disciplines");
    let rows: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let row = rows.iter().find(|row| row["kind"] == kind).expect("the discipline");
    row["packets"].as_u64().expect("a count")
}

#[test]
fn a_shaped_way_out_is_served_by_tc() {
    let Some(scene) = Scene::attached(&[Need::Tool("tc")], "native") else { return };
    scene.take_frames();
    assert_eq!(passed(&scene), ([10; 2], 20));
    let port = ROUTER_SERVER.port;
    scene.router().run(&format!("tc qdisc add dev {port} root tbf rate 1gbit burst 100k latency 50ms")).expect("tbf");
    within(PROMPT, || {
        let before = queued(&scene, port, "tbf");
        let passed = passed(&scene);
        let seen = queued(&scene, port, "tbf") - before;
        ensure!(passed == ([10; 2], 20) && seen >= 20, "{passed:?}, and {seen} in the discipline");
        Ok(())
    });
    let doctor = scene.cli(&["doctor"]);
    assert!(doctor.contains("tbf") && doctor.contains(port), "{doctor}");
    let attach = scene.daemon.attempt(&["attach", PORTS[0], "--mode", "native"]).expect("the verb runs");
    assert!(attach.stderr.contains("tbf") && attach.stderr.contains(port), "{}", attach.said());
    scene.router().run(&format!("tc qdisc del dev {port} root")).expect("no tbf");
    thread::sleep(Duration::from_millis(100));
    assert_eq!(passed(&scene), ([10; 2], 20));
    scene.ping().expect("pings are answered");
    assert_eq!(scene.pinged(SERVER.v4), 3);
    scene.close();
}

/// What others have at tc egress sees all that leaves, by whatever way it was forwarded: here it drops all.
fn is_seen_at_tc_egress(
    (mode, needs): (&str, &[Need]),
    word: &str,
    way_out: impl FnOnce(&Scene) -> &'static str,
    set: impl FnOnce(&Scene, &str),
    take_away: impl FnOnce(&Scene, &str),
) {
    let Some(scene) = Scene::attached(needs, mode) else { return };
    let port = way_out(&scene);
    if mode == "native" {
        scene.take_frames();
        // Else XDP leaves to tc what has no checksum yet.
        scene.client().run("ethtool -K eth0 tx off").expect("whole checksums");
    }
    within(SECONDS, || {
        let passed = passed(&scene);
        ensure!(passed == ([10; 2], 20), "{passed:?}");
        Ok(())
    });
    set(&scene, port);
    // Programs are looked for each second.
    within(SECONDS, || {
        let (arrived, doctor) = (passed(&scene).0, scene.cli(&["doctor"]));
        ensure!(arrived == [0; 2], "{arrived:?} passed by");
        ensure!(doctor.contains(word) && doctor.contains(port), "{doctor}");
        Ok(())
    });
    assert_eq!(passed(&scene).0, [0; 2]);
    take_away(&scene, port);
    within(SECONDS, || {
        let passed = passed(&scene).0;
        ensure!(passed == [10; 2], "{passed:?}");
        Ok(())
    });
    scene.close();
}

#[test]
fn classifiers_at_the_way_out_see_what_leaves() {
    for mode in ["native", "generic", "auto"] {
        let set = |scene: &Scene, port: &str| {
            scene.router().run(&format!("tc qdisc add dev {port} clsact")).expect("a place for them");
            let words = ["filter", "add", "dev", port, "egress", "bpf", "direct-action", "bytecode", "1,6 0 0 2"];
            let added = scene.router().output(scene.router().command("tc").args(words), PROMPT * 10);
            added.and_then(Output::checked).expect("a classifier");
        };
        let take_away = |scene: &Scene, port: &str| {
            scene.router().run(&format!("tc qdisc del dev {port} clsact")).expect("none");
        };
        is_seen_at_tc_egress((mode, &[Need::Tool("tc")]), "filter bpf", |_| ROUTER_SERVER.port, set, take_away);
    }
}

/// A program at TCX egress; what leaves through a device on another one passes by it at tc as well.
fn programs_are_seen(modes: [&str; 2], needs: &[Need], way_out: impl Fn(&Scene) -> &'static str) {
    for mode in modes {
        let program = RefCell::new(None);
        let set = |scene: &Scene, port: &str| {
            *program.borrow_mut() = Some(scene.router().inside(|| drop_at_egress(port)).expect("a program"));
        };
        let take_away = |_: &Scene, _: &str| drop(program.take());
        is_seen_at_tc_egress((mode, needs), "a program at tc egress", &way_out, set, take_away);
    }
}

#[test]
fn programs_at_the_way_out_see_what_leaves() {
    programs_are_seen(["native", "auto"], &[], |_| ROUTER_SERVER.port);
}

#[test]
fn programs_at_a_device_on_the_way_out_see_what_leaves() {
    programs_are_seen(["native", "tc"], &[Need::Kernel("macvlan", can_have_macvlan)], route_through_macvlan);
}
