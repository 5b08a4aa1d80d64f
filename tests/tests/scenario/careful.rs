//! Changes that may cut off their own session, and changes that wait for confirmation.

use std::{fs, time::Duration};

use anyhow::ensure;
use dataplane_tests::lab::{
    Need, Output,
    traffic::{self, Family},
};
use serde_json::Value;

use crate::{
    macvlan::can_have_macvlan,
    passage::run,
    scene::{PROMPT, Scene, assert_refused, within},
};

/// An ssh session of the client with the router.
const SSH: &str = "SSH_CONNECTION=198.18.0.2 5000 198.18.0.1 22";

/// Runs a verb as a user would who is logged in over ssh.
fn over_ssh(scene: &Scene, words: &[&str]) -> Output {
    over(SSH, scene, words)
}

fn over(session: &str, scene: &Scene, words: &[&str]) -> Output {
    let program = dataplane_tests::lab::binary().expect("the binary");
    let socket = format!("DATAPLANE_SOCKET={}", scene.daemon.socket().display());
    let mut command = scene.router().command("env");
    command.args([session, &socket]).arg(program).args(words);
    scene.router().output(&mut command, Duration::from_secs(30)).expect("it runs")
}

#[test]
fn no_change_cuts_off_its_own_session_unasked() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    let shown = scene.cli(&["config", "show"]);
    let refused: &[&[&str]] = &[
        &["rule", "add", "input", "drop"],
        &["rule", "insert", "input", "tcp dport 22 drop"],
        &["rule", "insert", "prerouting", "ip saddr 198.18.0.0/24 drop"],
        &["chain", "policy", "input", "drop"],
    ];
    for words in refused {
        assert_refused(&over_ssh(&scene, words), 5, &["your own session", "--confirm 60", "--force"]);
        assert_eq!(scene.cli(&["config", "show"]), shown, "{words:?}");
    }
    // To look at rules changes nothing.
    let listed = over_ssh(&scene, &["rule", "list"]);
    assert!(listed.status.success(), "{}", listed.said());
    // What cannot cut it off is not asked about.
    for words in
        [&["rule", "add", "input", "tcp dport 22 accept"][..], &["rule", "add", "forward", "udp dport 5301 drop"]]
    {
        assert!(over_ssh(&scene, words).status.success(), "{words:?}");
    }
    assert!(over_ssh(&scene, &["chain", "policy", "input", "drop"]).status.success(), "a rule lets it in");
    // Without that rule it would be.
    let handle = scene.rules().iter().find(|rule| rule.rule.contains("22")).expect("the rule").handle.to_string();
    for words in [
        &["rule", "del", "input", &handle][..],
        &["rule", "flush", "input"],
        &["rule", "replace", "input", &handle, "tcp dport 23 accept"],
    ] {
        assert_refused(&over_ssh(&scene, words), 5, &["your own session", "the policy of chain input"]);
    }
    assert!(over_ssh(&scene, &["rule", "flush", "input", "--force"]).status.success());
    assert!(scene.rules().iter().all(|rule| rule.chain != "input"));
    // A config is rolled back to only with the same care.
    scene.cli(&["chain", "policy", "input", "accept"]);
    let [shut, open] = ["drop", "accept"].map(|policy| {
        let path = scene.lab.dir().join(format!("{policy}.toml"));
        let text = format!("[ports]\nclient0 = {{ mode = \"tc\" }}\n[chains.input]\npolicy = \"{policy}\"\n");
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    });
    assert_refused(&over_ssh(&scene, &["config", "apply", &shut]), 5, &["your own session"]);
    scene.cli(&["config", "apply", &shut]);
    scene.cli(&["config", "apply", &open]);
    assert_refused(&over_ssh(&scene, &["config", "rollback"]), 5, &["your own session"]);
    scene.close();
}

#[test]
fn a_rule_that_is_not_confirmed_is_taken_back() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    let kept = scene.rule("forward", "udp dport 5302 accept");
    let shown = scene.cli(&["config", "show"]);
    let output =
        scene.daemon.attempt(&["rule", "add", "forward", "udp dport 5301 drop", "--confirm", "3s"]).expect("it runs");
    assert!(output.stderr.contains("rolled back in 3 s"), "{}", output.stderr);
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5301, 5).expect("datagrams"), 0);
    // Others see that something waits, and what they change goes back with it.
    scene.refused(&["rule", "flush", "forward", "--confirm", "9"], 5, &["waits for confirmation"]);
    let output = scene.daemon.attempt(&["rule", "add", "input", "udp dport 9 drop"]).expect("it runs");
    assert!(output.status.success() && output.stderr.contains("rolled back with it"), "{}", output.stderr);
    let status: Value = scene.daemon.read(&["status"]).expect("a status");
    assert!(status["pending"]["by"].as_str().is_some_and(|by| by.starts_with("rule add")), "{status}");
    within(PROMPT * 20, || {
        ensure!(scene.cli(&["config", "show"]) == shown, "it is still in force");
        Ok(())
    });
    assert_eq!(scene.rules().iter().map(|rule| rule.handle).collect::<Vec<_>>(), [kept.handle]);
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5301, 5).expect("datagrams"), 5);
    // What was refused waits for nothing; what was confirmed stays.
    scene.refused(&["rule", "add", "forward", "nonsense", "--confirm", "9"], 5, &["nonsense"]);
    scene.refused(&["config", "confirm"], 3, &["no config waits"]);
    scene.cli(&["set", "create", "bad", "ipv4_addr"]);
    scene.cli(&["set", "add", "bad", "192.0.2.1", "--confirm", "1m"]);
    scene.cli(&["config", "confirm"]);
    assert!(scene.cli(&["set", "list", "bad"]).contains("192.0.2.1"));
    scene.close();
}

#[test]
fn rules_sets_and_policies_from_the_command_line() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    let first = scene.rule("forward", "udp dport 1 drop").handle.to_string();
    let last = scene.rule("forward", "udp dport 9 drop").handle.to_string();
    scene.cli(&["rule", "insert", "forward", "before", "handle", &last, "udp dport 5 drop"]);
    scene.cli(&["rule", "insert", "forward", "after", "handle", &first, "udp dport 3 drop"]);
    scene.cli(&["rule", "replace", "forward", "handle", &last, "udp dport 5301 drop"]);
    scene.refused(&["rule", "insert", "forward", "before", "handle", "999", "drop"], 3, &["no rule with handle 999"]);
    scene.refused(&["rule", "replace", "forward", "handle", &last, "drop"], 3, &["no rule with handle"]);
    let rules: Vec<_> = scene.rules().into_iter().map(|rule| rule.rule).collect();
    assert_eq!(rules, ["udp dport 1 drop", "udp dport 3 drop", "udp dport 5 drop", "udp dport 5301 drop"]);
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5301, 5).expect("datagrams"), 0);
    scene.cli(&["set", "create", "good", "ipv4_addr"]);
    scene.refused(&["set", "create", "good", "ipv4_addr"], 5, &["there is a set good already"]);
    scene.refused(&["set", "create", "other", "ipv4"], 5, &["`ipv4_addr`"]);
    scene.rule("forward", "ip saddr @good accept");
    scene.refused(&["set", "destroy", "good"], 5, &["matches the set"]);
    scene.cli(&["chain", "policy", "forward", "drop"]);
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5302, 5).expect("datagrams"), 0);
    scene.cli(&["set", "add", "good", "198.18.0.2"]);
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5302, 5).expect("datagrams"), 5);
    let chains: Vec<Value> = scene.daemon.read(&["chain", "list"]).expect("chains");
    let forward = chains.iter().find(|row| row["chain"] == "forward").expect("the chain");
    assert_eq!((&forward["policy"], &forward["rules"]), (&"drop".into(), &5.into()));
    // Links that are not there are worth a word.
    let output = scene.daemon.attempt(&["rule", "add", "forward", "iif nope0 drop"]).expect("it runs");
    assert!(output.status.success() && output.stderr.contains("no interface nope0"), "{}", output.stderr);
    let path = scene.lab.dir().join("new.toml");
    fs::write(&path, "[ports]\nclient0 = { mode = \"tc\" }\netho9 = {}\n").expect("a file");
    let output = scene.daemon.attempt(&["config", "apply", path.to_str().expect("a path")]).expect("it runs");
    assert!(output.status.success() && output.stderr.contains("no interface etho9"), "{}", output.stderr);
    scene.close();
}

/// What comes in through a macvlan device is judged at the port below, by rules that see the device.
#[test]
fn a_session_through_a_device_on_a_port_is_not_cut_off_either() {
    let Some(scene) = Scene::attached(&[Need::Kernel("macvlan", can_have_macvlan)], "tc") else { return };
    run(
        scene.router(),
        &[
            "ip link add link client0 name office type macvlan mode private",
            "ip link add link server0 name other type macvlan mode source",
            "ip addr add 192.0.2.1/25 dev office",
            "ip addr add 192.0.2.129/25 dev other",
            "ip link set office up",
            "ip link set other up",
        ],
    );
    let ssh = "SSH_CONNECTION=192.0.2.7 5000 192.0.2.1 22";
    for rule in ["iif \"office\" drop", "iifname \"off*\" tcp dport 22 drop", "ip saddr 192.0.2.7 drop"] {
        within(PROMPT * 20, || {
            let output = over(ssh, &scene, &["rule", "add", "input", rule]);
            scene.cli(&["rule", "flush", "input"]);
            ensure!(output.status.code() == Some(5), "{rule}: {}", output.said());
            assert_refused(&output, 5, &["your own session", rule]);
            Ok(())
        });
    }
    for rule in ["iif client0 drop", "iif server0 drop"] {
        assert!(over(ssh, &scene, &["rule", "add", "input", rule]).status.success(), "{rule} does not match it");
    }
    // The device takes all frames of its port: no rule judges them.
    let ssh = "SSH_CONNECTION=192.0.2.200 5000 192.0.2.129 22";
    assert!(
        over(ssh, &scene, &["rule", "add", "input", "drop"]).status.success(),
        "no port judges what comes in there"
    );
    scene.close();
}

#[test]
fn ports_and_sets_that_are_not_confirmed_come_back() {
    let Some(scene) = Scene::idle(&[]) else { return };
    let path = scene.lab.dir().join("globs.toml");
    fs::write(&path, "[ports]\n\"*0\" = { mode = \"tc\" }\n").expect("a file");
    scene.cli(&["config", "apply", path.to_str().expect("a path")]);
    let ports = || -> Vec<String> {
        let rows: Vec<Value> = scene.daemon.read(&["port", "list"]).expect("ports");
        let mut names: Vec<_> = rows.iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect();
        names.sort();
        names
    };
    let back = |want: &[&str]| {
        within(PROMPT * 20, || {
            ensure!(ports() == want, "{:?}", ports());
            Ok(())
        });
    };
    back(&["client0", "server0"]);
    // One that was switched off before stays so.
    scene.cli(&["detach", "server0"]);
    for words in [&["detach", "client0"][..], &["detach", "--all"], &["port", "detach", "client0"]] {
        let output = scene.daemon.attempt(&[words, &["--confirm", "1s"]].concat()).expect("it runs");
        assert!(output.status.success() && output.stderr.contains("rolled back in 1 s"), "{}", output.said());
        assert_eq!(ports(), [""; 0], "{words:?}");
        back(&["client0"]);
    }
    scene.cli(&["set", "create", "kept", "ipv4_addr"]);
    scene.cli(&["set", "destroy", "kept", "--confirm", "1s"]);
    within(PROMPT * 20, || {
        let output = scene.daemon.attempt(&["set", "list", "kept"])?;
        ensure!(output.status.success(), "{}", output.said());
        Ok(())
    });
    scene.cli(&["set", "create", "gone", "ipv4_addr", "--confirm", "1s"]);
    within(PROMPT * 20, || {
        let output = scene.daemon.attempt(&["set", "list", "gone"])?;
        ensure!(output.status.code() == Some(3), "{}", output.said());
        Ok(())
    });
    scene.close();
}
