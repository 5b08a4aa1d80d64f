//! What is somebody else's is named and left alone: another daemon's places, another program's device.

use dataplane_tests::lab::{Daemon, Need, ROUTER_CLIENT, ROUTER_SERVER, balanced};
use serde_json::Value;

use crate::scene::{PORTS, Scene, assert_refused};

#[test]
fn a_second_daemon_is_refused() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    let fresh = |name: &str| scene.lab.dir().join(name).display().to_string();
    let used = [scene.daemon.socket(), scene.daemon.state(), scene.daemon.bpffs()].map(|p| p.display().to_string());
    let (pid, shown) = (scene.daemon.pid(), scene.cli(&["config", "show"]));
    for shared in 0..3 {
        let options = ["--socket", "--state", "--bpffs"];
        let mut words = vec!["run".to_owned()];
        for (index, option) in options.iter().enumerate() {
            let place = if index == shared { used[index].clone() } else { fresh(&format!("second-{shared}-{index}")) };
            words.extend([(*option).to_owned(), place]);
        }
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let output = scene.daemon.attempt(&words).expect("it ends at once");
        assert_refused(&output, 1, &["another daemon", &used[shared], options[shared]]);
        assert_eq!(scene.daemon.pid(), pid);
        assert_eq!(scene.cli(&["config", "show"]), shown);
    }
    let kernel = scene.kernel_forwarded();
    scene.ping().expect("pings are answered");
    assert_eq!(scene.kernel_forwarded(), kernel, "the kernel forwarded");
    scene.close();
}

/// The XDP program of a device, as the kernel tells.
fn program(scene: &Scene, port: &str) -> u64 {
    let text = scene.router().run(&format!("ip -d -j link show {port}")).expect("the device");
    let rows: Value = serde_json::from_str(&text).expect("JSON");
    rows[0]["xdp"]["prog"]["id"].as_u64().unwrap_or(0)
}

/// `sees`: whether packets come as far as to another program at tc.
fn leaves_alone(scene: &Scene, daemon: &Daemon, id: u64, sees: bool) {
    let port = ROUTER_CLIENT.port;
    for mode in ["native", "generic"] {
        let output = daemon.attempt(&["attach", port, "--mode", mode]).expect("the verb runs");
        assert_refused(&output, 1, &[&format!("id {id}"), port]);
        assert_eq!(program(scene, port), id, "the program of somebody else was touched");
        assert!(daemon.stats().expect("stats").ports.is_empty(), "a refused change changed something");
        assert!(!daemon.cli(&["config", "show"]).expect("a config").contains(port));
    }
    // tc is free.
    daemon.cli(&["attach", port, "--mode", "tc"]).expect("attached");
    assert_eq!(program(scene, port), id);
    scene.ping().expect("pings are answered");
    let stats = daemon.stats().expect("stats");
    balanced(&stats).expect("balanced");
    assert!(!sees || stats.port(port).expect("the port").counts.rx > 0, "{stats:?}");
    daemon.cli(&["detach", port]).expect("detached");
    assert_eq!(program(scene, port), id);
}

#[test]
fn a_program_of_another_daemon_is_left_alone() {
    let Some(scene) = Scene::idle(&[Need::Tool("ethtool")]) else { return };
    // Packets are not handed to ends that take frames: the first daemon would load programs for that a moment later.
    scene.take_frames();
    scene.attach(&PORTS, "native");
    let other = scene.lab.daemon("router").expect("a daemon with its own places");
    // What the first one's tc program sends on, the second one's never sees.
    leaves_alone(&scene, &other, program(&scene, ROUTER_CLIENT.port), false);
    other.stop().expect("it stops");
    scene.ping().expect("pings are answered");
    scene.close();
}

#[test]
fn a_program_that_was_attached_by_hand_is_left_alone() {
    let Some(scene) = Scene::idle(&[Need::Tool("bpftool")]) else { return };
    // Any program will do: one of ours, put on another device by hand. It knows no such port and passes everything.
    scene.attach(&[ROUTER_SERVER.port], "native");
    let id = program(&scene, ROUTER_SERVER.port);
    let port = ROUTER_CLIENT.port;
    scene.router().run(&format!("bpftool net attach xdpdrv id {id} dev {port}")).expect("attached by hand");
    let other = scene.lab.daemon("router").expect("a daemon with its own places");
    leaves_alone(&scene, &other, id, true);
    other.stop().expect("it stops");
    scene.router().run(&format!("ip link set dev {port} xdp off")).expect("taken off by hand");
    scene.attach(&[port], "native");
    scene.ping().expect("pings are answered");
    scene.close();
}
