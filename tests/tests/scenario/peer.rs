//! Users other than root: refused where they may not, with words that say why.

use std::{fs, os::unix::fs::chown, time::Duration};

use dataplane_tests::lab::{self, Need, Output, ROUTER_CLIENT};

use crate::scene::{Scene, assert_refused};

/// Nobody, on Debian and others.
const NOBODY: u32 = 65534;

fn as_nobody(scene: &Scene, words: &[&str]) -> Output {
    // Nobody can not reach the folder that the program was built in.
    let copy = scene.lab.dir().join("dataplane");
    if !copy.exists() {
        fs::copy(lab::binary().expect("the program"), &copy).expect("a copy of the program");
    }
    let mut command = scene.router().command("setpriv");
    let nobody = NOBODY.to_string();
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]).arg(copy).args(words);
    command.env("DATAPLANE_SOCKET", scene.daemon.socket());
    scene.router().output(&mut command, Duration::from_secs(20)).expect("the verb runs")
}

#[test]
fn user_nobody_changes_nothing() {
    let Some(scene) = Scene::attached(&[Need::Tool("setpriv")], "tc") else { return };
    scene.rule("forward", "udp dport 5301 drop");
    let (shown, socket) = (scene.cli(&["config", "show"]), scene.daemon.socket());
    let changes: &[&[&str]] = &[
        &["attach", ROUTER_CLIENT.port],
        &["detach", "--all"],
        &["rule", "add", "forward", "drop"],
        &["rule", "insert", "input", "drop"],
        &["rule", "del", "forward", "handle", "1"],
        &["rule", "flush", "forward"],
        &["config", "apply", "/dev/null"],
    ];
    // Outside of the socket's group: not even a connection.
    for words in changes.iter().chain(&[["port", "list"].as_slice(), &["stats"]]) {
        let output = as_nobody(&scene, words);
        assert_refused(&output, 4, &[&socket.display().to_string(), "ermission denied"]);
    }
    // In the group: may look, may not touch.
    chown(&socket, None, Some(NOBODY)).expect("the socket's group");
    for words in [["port", "list", "-j"].as_slice(), &["stats", "-j"], &["rule", "list", "-j"], &["config", "show"]] {
        let output = as_nobody(&scene, words);
        assert!(output.status.success() && !output.stdout.is_empty(), "{}", output.said());
    }
    for words in changes {
        assert_refused(&as_nobody(&scene, words), 1, &["root"]);
    }
    assert_eq!(scene.cli(&["config", "show"]), shown);
    scene.ping().expect("pings are answered");
    scene.close();
}
