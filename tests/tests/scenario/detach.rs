//! `detach` takes everything off, and the kernel forwards on.

use aya::programs::{SchedClassifier, TcAttachType};
use dataplane_tests::lab::{ROUTER_CLIENT, ROUTER_SERVER, kernel_at_least, stream::stream, traffic::Family};

use crate::scene::{PORTS, Scene};

/// Programs on the devices of the router, as the kernel tells: device and hook.
fn programs(scene: &Scene) -> Vec<String> {
    let mut found = Vec::new();
    for port in PORTS {
        let xdp = scene.router().run(&format!("ip -d link show {port}")).expect("the device").contains("prog/xdp");
        found.extend(xdp.then(|| format!("{port} xdp")));
        for (side, name) in [(TcAttachType::Ingress, "ingress"), (TcAttachType::Egress, "egress")] {
            // Before 6.6 they are filters of clsact.
            let count = if kernel_at_least(6, 6) {
                let query = || Ok(SchedClassifier::query_tcx(port, side)?.1.len());
                scene.router().inside(query).expect("the kernel tells its programs")
            } else {
                let shown = scene.router().run(&format!("tc filter show dev {port} {name}")).expect("tc");
                shown.matches("direct-action").count()
            };
            found.extend((0..count).map(|_| format!("{port} {name}")));
        }
    }
    found
}

fn takes_off(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    // Each chain in use, so that each program is attached.
    scene.rule("output", "udp dport 5301 drop");
    scene.rule("forward", "udp dport 5302 drop");
    let attached = programs(&scene);
    assert_eq!(attached.len(), if mode == "tc" { 4 } else { 6 }, "{attached:?}");
    let flow = stream(&scene.lab, Family::V4, 5400, 2000).expect("a stream");
    let before = scene.stats();
    scene.cli(&["detach", ROUTER_CLIENT.port]);
    // What came in through the other port is still held to chain forward where it leaves.
    let guard = format!("{} egress", ROUTER_CLIENT.port);
    let left = programs(&scene);
    assert!(left.iter().all(|line| line.starts_with(ROUTER_SERVER.port) || *line == guard), "{left:?}");
    scene.refused(&["detach", ROUTER_CLIENT.port], 3, &[ROUTER_CLIENT.port]);
    scene.cli(&["detach", "--all"]);
    assert_eq!(programs(&scene), Vec::<String>::new());
    let after = scene.stats();
    assert!(after.ports.is_empty() && after.totals.rx >= before.totals.rx, "{after:?} after {before:?}");
    let kernel = scene.kernel_forwarded();
    scene.ping().expect("the kernel forwards");
    assert!(scene.kernel_forwarded() - kernel >= 12);
    assert_eq!(scene.stats().totals, after.totals, "nothing is counted any more");
    let tally = flow.finish().expect("a tally");
    assert_eq!((tally.lost, tally.repeated), (0, 0), "{tally:?}");
    scene.attach(&PORTS, mode);
    scene.ping().expect("pings are answered");
    scene.close();
}

#[test]
fn from_native() {
    takes_off("native");
}

#[test]
fn from_tc() {
    takes_off("tc");
}

#[test]
fn nothing_is_left_without_a_detach_either() {
    let Some(mut scene) = Scene::attached(&[], "native") else { return };
    scene.daemon.kill9().expect("it dies");
    scene.ping().expect("pings are answered");
    scene.daemon.restart().expect("it starts");
    scene.cli(&["detach", "--all"]);
    assert_eq!(programs(&scene), Vec::<String>::new());
    scene.daemon.terminate().expect("it ends");
    let left: Vec<_> = walk(&scene.daemon.bpffs());
    assert!(left.iter().all(|name| !name.contains("xdp") && !name.contains("ingress")), "links are left: {left:?}");
    scene.ping().expect("the kernel forwards");
    scene.daemon.restart().expect("it starts");
    assert!(scene.stats().ports.is_empty());
    scene.close();
}

/// Names of the pins below a folder.
fn walk(dir: &std::path::Path) -> Vec<String> {
    let entries = dir.read_dir().into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() { walk(&path) } else { vec![path.display().to_string()] }
        })
        .collect()
}

#[test]
fn all_is_taken_off_without_a_daemon() {
    let Some(mut scene) = Scene::attached(&[], "native") else { return };
    scene.rule("forward", "udp dport 5302 drop");
    let all = ["detach", "--all", "--bpffs"];
    let bpffs = scene.daemon.bpffs().display().to_string();
    scene.daemon.kill9().expect("it dies");
    assert!(!programs(&scene).is_empty(), "the data plane outlives it");
    // Another directory has nothing to take off.
    scene.refused(
        &[&all[..], &["/nonexistent"]].concat(),
        4,
        &["no daemon answers", "Nothing is pinned in /nonexistent"],
    );
    assert!(!programs(&scene).is_empty());
    scene.cli(&[&all[..], &[&bpffs]].concat());
    assert_eq!(programs(&scene), Vec::<String>::new());
    let kernel = scene.kernel_forwarded();
    scene.ping().expect("the kernel forwards");
    assert!(scene.kernel_forwarded() - kernel >= 12);
    // The directory beside the socket is found without its name; nothing is left in it.
    scene.refused(&["detach", "--all"], 4, &["no daemon answers", &bpffs]);
    scene.daemon.restart().expect("it starts");
    scene.ping().expect("pings are answered");
    scene.close();
}
