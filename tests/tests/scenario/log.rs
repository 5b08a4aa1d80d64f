//! Lines of log that rules ask for.

use std::net::IpAddr;

use dataplane_tests::lab::{
    CLIENT, ROUTER_CLIENT, ROUTER_SERVER, SERVER,
    traffic::{self, Family},
};

use crate::scene::{PROMPT, Scene, within};

/// Lines of the daemon's log with these words in them.
fn lines(scene: &Scene, words: &str) -> Vec<String> {
    scene.daemon.log().lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
}

fn logs(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    let rule = scene.rule("forward", "udp dport 5301 log prefix \"x: \" drop");
    for (family, source, destination) in [(Family::V4, CLIENT.v4, SERVER.v4), (Family::V6, CLIENT.v6, SERVER.v6)] {
        let before = lines(&scene, "x: ").len();
        assert_eq!(traffic::datagrams(&scene.lab, family, 5301, 5).expect("datagrams"), 0, "{mode}: dropped");
        within(PROMPT, || {
            let count = lines(&scene, "x: ").len() - before;
            anyhow::ensure!(count == 5, "{mode}: {count} lines for 5 packets:\n{}", scene.daemon.log());
            Ok(())
        });
        let [source, destination] = [source, destination].map(|text| text.parse::<IpAddr>().expect("an address"));
        let line = lines(&scene, "x: ").pop().expect("a line");
        for words in [
            format!("x: IN={} OUT={} MAC=", ROUTER_CLIENT.port, ROUTER_SERVER.port),
            format!("SRC={source} DST={destination} "),
            "PROTO=UDP SPT=".to_owned(),
            "DPT=5301 LEN=12".to_owned(),
            "chain=forward".to_owned(),
            format!("handle={}", rule.handle),
        ] {
            assert!(line.contains(&words), "{mode}: `{words}` is not in\n{line}");
        }
    }

    // A log that goes on to the next rule, and one more there: both tell.
    scene.cli(&["rule", "flush", "forward"]);
    scene.rule("forward", "udp dport 5302 log prefix \"first: \" continue");
    scene.rule("forward", "udp dport 5302 log prefix \"second: \" accept");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5302, 3).expect("datagrams"), 3, "{mode}: accepted");
    within(PROMPT, || {
        let counts = ["first: ", "second: "].map(|words| lines(&scene, words).len());
        anyhow::ensure!(counts == [3, 3], "{mode}: {counts:?}");
        Ok(())
    });

    // More than the limit: some lines, and how many there would have been.
    scene.cli(&["rule", "flush", "forward"]);
    scene.rule("forward", "udp dport 5303 log prefix \"many: \" drop");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5303, 100).expect("datagrams"), 0, "{mode}: dropped");
    within(PROMPT * 5, || {
        let left_out: u64 = lines(&scene, "lines were left out")
            .iter()
            .filter_map(|line| line.split_once(" lines were left out")?.0.rsplit(' ').next()?.parse::<u64>().ok())
            .sum();
        let count = lines(&scene, "many: ").len() as u64;
        anyhow::ensure!(
            (20..100).contains(&count) && count + left_out == 100,
            "{mode}: {count} lines, {left_out} left out"
        );
        Ok(())
    });
    scene.close();
}

#[test]
fn packets_are_logged_in_native() {
    logs("native");
}

#[test]
fn packets_are_logged_in_tc() {
    logs("tc");
}
