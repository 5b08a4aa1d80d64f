//! Config files: the good are applied, the bad are refused at their place and change nothing.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use dataplane_tests::lab::traffic::{self, Family};

use crate::scene::{PORTS, PROMPT, Scene, assert_refused, within};

const GOOD: &str = r#"[ports]
client0 = { mode = "native" }
server0 = { mode = "tc" }

[chains.forward]
policy = "accept"
rules = [
  'ip saddr { 192.0.2.1, 198.51.100.0/24 } drop',
  'udp dport 5301 drop comment "noise"',
]
"#;

/// What is wrong, in which line and column, and a word of the message.
const BAD: &[(&str, &str, &str)] = &[
    ("[ports\n", "1:7", ""),
    ("[ports]\nclient0 = { mode = \"native\", speed = 1 }\n", "2:30", "speed"),
    ("[ports]\nclient0 = { mode = \"fast\" }\n", "2:20", "fast"),
    ("[chain.forward]\n", "1:2", "chain"),
    ("[chains.sideways]\npolicy = \"drop\"\n", "1:9", "sideways"),
    ("[chains.forward]\npolicy = \"maybe\"\n", "2:10", "maybe"),
    ("[chains.forward]\nrules = [\n  'tcp dport 80 accept',\n  'udp dport x drop',\n  'drop',\n]\n", "4:14", "x"),
    ("[chains.forward]\nrules = [\n  'ip saddr @nobody drop',\n]\n", "3:4", "nobody"),
    ("[sets.s]\ntype = \"ipv4_addr\"\nelements = [\n  \"192.0.2.1\",\n  \"192.0.2.999\",\n]\n", "5:4", "192.0.2.999"),
];

fn write(scene: &Scene, name: &str, text: &str) -> PathBuf {
    let path = scene.lab.dir().join(name);
    fs::write(&path, text).expect("a file");
    path
}

#[test]
fn the_bad_is_refused_at_its_place_and_changes_nothing() {
    let Some(scene) = Scene::configured(&[], GOOD) else { return };
    let shown = scene.cli(&["config", "show"]);
    for (index, (text, place, word)) in BAD.iter().enumerate() {
        let path = write(&scene, &format!("bad-{index}.toml"), text);
        let path = path.to_str().expect("a path of letters");
        let place = format!("{path}:{place}: ");
        for verb in ["check", "diff", "apply"] {
            scene.refused(&["config", verb, path], 5, &[&place, word]);
        }
        assert_eq!(scene.cli(&["config", "show"]), shown, "{text}");
    }
    scene.refused(&["config", "apply", "/dataplane-no-such.toml"], 3, &["/dataplane-no-such.toml"]);
    assert_eq!(scene.cli(&["config", "show"]), shown);
    scene.ping().expect("pings are answered");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5301, 5).expect("datagrams"), 0);
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5302, 5).expect("datagrams"), 5);
    scene.close();
}

#[test]
fn check_diff_and_apply_have_exit_codes() {
    let Some(scene) = Scene::idle(&[]) else { return };
    let path = write(&scene, "good.toml", GOOD);
    let path = path.to_str().expect("a path of letters");
    let code = |words: &[&str]| scene.daemon.attempt(words).expect("the verb runs").status.code();
    assert_eq!(code(&["config", "check", path]), Some(0));
    assert_eq!(code(&["config", "diff", path]), Some(6));
    assert!(scene.stats().ports.is_empty(), "diff attached something");
    assert_eq!(code(&["config", "apply", path]), Some(0));
    assert_eq!(code(&["config", "diff", path]), Some(0));
    let stats = scene.stats();
    for (port, mode) in PORTS.into_iter().zip(["native", "tc"]) {
        assert_eq!(stats.port(port).expect("the port").mode, mode);
    }
    assert_eq!(traffic::datagrams(&scene.lab, Family::V6, 5301, 5).expect("datagrams"), 0);
    // What is shown is a config, and the one in force.
    let shown = write(&scene, "shown.toml", &scene.cli(&["config", "show"]));
    assert_eq!(code(&["config", "diff", shown.to_str().expect("a path of letters")]), Some(0));

    // A rule that stays keeps its handle and counts on; what is no longer said goes.
    let noise = scene.rules().into_iter().find(|rule| rule.rule.contains("5301")).expect("the rule");
    assert_eq!(noise.packets, 5);
    let less = GOOD
        .replace("  'ip saddr { 192.0.2.1, 198.51.100.0/24 } drop',\n", "")
        .replace("server0 = { mode = \"tc\" }\n", "");
    let less = write(&scene, "less.toml", &less);
    assert_eq!(code(&["config", "apply", less.to_str().expect("a path of letters")]), Some(0));
    assert_eq!(scene.rules(), [noise]);
    assert!(scene.stats().port("server0").is_none());
    scene.ping().expect("pings are answered");
    scene.close();
}

#[test]
fn a_daemon_with_a_bad_config_does_not_start_and_leaves_the_data_plane() {
    let Some(mut scene) = Scene::attached(&[], "native") else { return };
    scene.rule("forward", "udp dport 5301 drop");
    let shown = scene.cli(&["config", "show"]);
    scene.daemon.terminate().expect("it ends");
    let unsupported = "[sets.s]\ntype = \"ipv4_addr\"\n[chains.forward]\nrules = [\n  'ip saddr @s drop',\n  'ip6 nexthdr 44 drop',\n]\n";
    for (text, place) in [(BAD[6].0, "4:14"), (unsupported, "6:3")] {
        refuses_to_start(&scene, text, place);
    }
    // Nobody is there, and the data plane goes on: forwards, and drops what it dropped.
    scene.refused(&["port", "list"], 4, &["dataplane run"]);
    let kernel = scene.kernel_forwarded();
    scene.ping().expect("pings are answered");
    assert_eq!(scene.kernel_forwarded(), kernel, "the kernel forwarded");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5301, 5).expect("datagrams"), 0);
    scene.daemon.restart().expect("it starts");
    assert_eq!(scene.cli(&["config", "show"]), shown);
    assert_eq!(scene.rules()[0].packets, 5);
    scene.close();
}

#[test]
fn a_config_without_ports_detaches_none_unasked() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    scene.rule("forward", "udp dport 5301 drop");
    let shown = scene.cli(&["config", "show"]);
    let rules = "[chains.forward]\nrules = [\"udp dport 5302 drop\"]\n";
    for (name, text, why) in [
        ("none.toml", rules.to_owned(), "it has no [ports]"),
        ("other.toml", format!("[ports]\nabsent0 = {{}}\n{rules}"), "no link that is there"),
    ] {
        let path = write(&scene, name, &text);
        let path = path.to_str().expect("a path of letters");
        scene.refused(&["config", "apply", path], 5, &["would detach every port", why, "[ports]\n", "--force"]);
        assert_eq!(scene.cli(&["config", "show"]), shown, "{name} changed something");
        assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5301, 5).expect("datagrams"), 0);
    }
    let path = write(&scene, "kept.toml", &format!("[ports]\n\"*\" = {{ mode = \"tc\" }}\n{rules}"));
    scene.cli(&["config", "apply", path.to_str().expect("a path of letters")]);
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5302, 5).expect("datagrams"), 0);
    let none = scene.lab.dir().join("none.toml");
    scene.cli(&["config", "apply", none.to_str().expect("a path of letters"), "--force"]);
    assert!(scene.stats().ports.is_empty(), "it was insisted on");
    // Where nothing is attached, nothing is detached.
    scene.cli(&["config", "apply", none.to_str().expect("a path of letters")]);
    scene.close();
}

#[test]
fn an_unconfirmed_config_is_rolled_back() {
    let Some(mut scene) = Scene::attached(&[], "native") else { return };
    let shown = scene.cli(&["config", "show"]);
    let shut = write(&scene, "shut.toml", &format!("{shown}\n[chains.forward]\npolicy = \"drop\"\n"));
    let apply = ["config", "apply", shut.to_str().expect("a path of letters"), "--confirm", "8"];
    scene.refused(&["config", "confirm"], 3, &["no config waits"]);
    // The session dies.
    scene.cli(&apply);
    assert!(scene.ping().is_err(), "the policy drops");
    scene.refused(&apply, 5, &["waits for confirmation"]);
    let taken_back = || {
        anyhow::ensure!(scene.cli(&["config", "show"]) == shown, "it is still in force");
        Ok(())
    };
    within(PROMPT * 20, taken_back);
    scene.ping().expect("pings are answered");
    // So does the daemon.
    scene.cli(&apply);
    scene.daemon.kill9().expect("it dies");
    std::thread::sleep(Duration::from_secs(9));
    scene.daemon.restart().expect("it starts");
    assert_eq!(scene.cli(&["config", "show"]), shown);
    scene.ping().expect("pings are answered");
    // Confirmed, it stays; and can be taken back all the same.
    scene.cli(&apply);
    scene.cli(&["config", "confirm"]);
    std::thread::sleep(Duration::from_secs(9));
    assert!(scene.ping().is_err(), "the policy drops");
    scene.cli(&["config", "rollback"]);
    assert_eq!(scene.cli(&["config", "show"]), shown);
    scene.ping().expect("pings are answered");
    scene.close();
}

/// Seconds until a config is taken back.
const CONFIRM: u64 = 2;

/// Half of the times the daemon dies with the session, and another follows at once. `DATAPLANE_CONFIRMS` asks for more rounds.
#[test]
fn a_config_is_taken_back_in_time() {
    let rounds = std::env::var("DATAPLANE_CONFIRMS").map_or(4, |text| text.parse().expect("a number of rounds"));
    let Some(mut scene) = Scene::attached(&[], "native") else { return };
    let shown = scene.cli(&["config", "show"]);
    let shut = write(&scene, "shut.toml", &format!("{shown}\n[chains.forward]\npolicy = \"drop\"\n"));
    let shut = shut.to_str().expect("a path of letters").to_owned();
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let start = Instant::now();
        scene.cli(&["config", "apply", &shut, "--confirm", &CONFIRM.to_string()]);
        if round % 2 == 1 {
            scene.daemon.kill9().expect("it dies");
            std::thread::sleep(Duration::from_millis(round * 97 % (CONFIRM * 1000)));
            scene.daemon.restart().expect("it starts");
        }
        while scene.cli(&["config", "show"]) != shown {
            assert!(start.elapsed() < Duration::from_secs(10 * CONFIRM), "round {round}: it is still in force");
            std::thread::sleep(Duration::from_millis(10));
        }
        slowest = slowest.max(start.elapsed());
        scene.ping().expect("pings are answered");
    }
    println!("{rounds} configs for {CONFIRM} s were taken back after {slowest:?} at most");
    scene.close();
}

fn refuses_to_start(scene: &Scene, text: &str, place: &str) {
    let path = write(scene, "bad.toml", text);
    let words = ["run", "--config", path.to_str().expect("a path of letters"), "--socket"].map(str::to_owned);
    let places = [scene.daemon.socket(), scene.daemon.state(), scene.daemon.bpffs()].map(|p| p.display().to_string());
    let [socket, state, bpffs] = places;
    let rest = [socket, "--state".to_owned(), state, "--bpffs".to_owned(), bpffs];
    let words: Vec<_> = words.iter().chain(&rest).map(String::as_str).collect();
    let output = scene.daemon.attempt(&words).expect("it ends at once");
    assert_refused(&output, 5, &[&format!("{}:{place}: ", path.display())]);
}
