//! What the daemon may do: as a user of its own with three capabilities, and as root that gave up the rest.

use std::{fs, os::unix::fs::chown};

use dataplane_tests::lab::{
    self, Need,
    traffic::{self, Family},
};

use crate::scene::{PORTS, Scene};

/// Nobody, on Debian and others.
const NOBODY: u32 = 65534;
/// `CAP_NET_ADMIN`, `CAP_PERFMON`, `CAP_BPF`.
const THREE: u64 = 1 << 12 | 1 << 38 | 1 << 39;
/// `CAP_NET_RAW`.
const RAW: u64 = 1 << 13;

/// A number, or word, of `/proc/PID/status`.
fn status(scene: &Scene, key: &str) -> String {
    let pid = scene.daemon.pid().expect("a daemon");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in\n{status}")).split_whitespace().next().expect("a value").to_owned()
}

/// Asserts who the daemon is, and that it has these capabilities and can get no others.
fn is(scene: &Scene, uid: u32, capabilities: u64) {
    assert_eq!(status(scene, "Uid"), uid.to_string());
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&status(scene, set), 16), Ok(capabilities), "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status(scene, set), 16), Ok(0), "{set}");
    }
    assert_eq!(status(scene, "NoNewPrivs"), "1");
}

/// Attaches, filters, forwards, follows the kernel, and gives the ports back.
fn works(scene: &Scene) {
    scene.attach(&PORTS, "native");
    scene.rule("forward", "udp dport 5301 drop");
    for family in Family::BOTH {
        assert_eq!(traffic::datagrams(&scene.lab, family, 5301, 10).expect("datagrams"), 0);
        assert_eq!(traffic::datagrams(&scene.lab, family, 5302, 10).expect("datagrams"), 10);
    }
    scene.ping().expect("pings are answered");
    let stats = scene.stats();
    assert!(stats.reason("forwarded") > 0 && stats.reason("filter_forward") >= 20, "{stats:?}");
    scene.cli(&["rule", "flush", "forward"]);
    scene.cli(&["detach", "--all"]);
}

/// The daemon's folders, and a program that nobody can reach, for nobody.
fn hand_over(scene: &mut Scene) {
    scene.daemon.terminate().expect("it ends");
    let copy = scene.lab.dir().join("dataplane-nobody");
    fs::copy(lab::binary().expect("the program"), &copy).expect("a copy of the program");
    scene.daemon.upgrade(&copy);
    let directory = scene.daemon.state().parent().expect("its folder").to_owned();
    for path in [directory, scene.daemon.state(), scene.daemon.bpffs()] {
        chown(&path, Some(NOBODY), Some(NOBODY)).expect("given away");
    }
    for entry in fs::read_dir(scene.daemon.state()).expect("the state") {
        chown(entry.expect("a file").path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    }
    // Pins of root are not for nobody; the kernel's own files there stay.
    for entry in fs::read_dir(scene.daemon.bpffs()).expect("the pins") {
        let entry = entry.expect("a pin");
        if entry.file_type().expect("its type").is_dir() {
            fs::remove_dir_all(entry.path()).expect("removed");
        }
    }
}

#[test]
fn a_user_of_its_own_with_three_capabilities() {
    let Some(mut scene) = Scene::idle(&[Need::Tool("setpriv")]) else { return };
    hand_over(&mut scene);
    let wrapper = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all,+bpf,+net_admin,+perfmon",
        "--inh-caps=-all,+bpf,+net_admin,+perfmon",
        "--ambient-caps=-all,+bpf,+net_admin,+perfmon",
        "--no-new-privs",
    ];
    scene.daemon.wrap(&wrapper, &[]);
    scene.daemon.restart().expect("it starts");
    is(&scene, NOBODY, THREE);
    works(&scene);
    // `reject` takes one more; without it the packets are dropped all the same, and the doctor says so.
    scene.attach(&PORTS, "tc");
    scene.rule("forward", "udp dport 5303 reject");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5303, 10).expect("datagrams"), 0);
    let doctor = scene.daemon.attempt(&["doctor"]).expect("the doctor").said();
    assert!(doctor.contains("CAP_NET_RAW"), "{doctor}");
    scene.close();
}

#[test]
fn root_gives_up_what_it_does_not_need() {
    let Some(scene) = Scene::idle(&[]) else { return };
    is(&scene, 0, THREE | RAW);
    works(&scene);
    scene.close();
}

#[test]
fn root_becomes_another_user() {
    let Some(mut scene) = Scene::idle(&[]) else { return };
    hand_over(&mut scene);
    scene.daemon.wrap(&[], &["--user", "nobody"]);
    scene.daemon.restart().expect("it starts");
    is(&scene, NOBODY, THREE | RAW);
    works(&scene);
    scene.close();
}
