//! Nobody follows the kernel any more: the data plane goes on for a while, then leaves routed packets to the kernel.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use dataplane_tests::lab::{
    SERVER,
    traffic::{self, Family},
};

use crate::scene::{Scene, within};

/// Seconds of the config.
const AFTER: u64 = 3;
const CONFIG: &str = r#"
[ports]
client0 = { mode = "native" }
server0 = { mode = "native" }
[heartbeat]
after = 3
[chains.forward]
policy = "accept"
rules = ["udp dport 5301 drop"]
"#;

/// Without a daemon: the kernel forwards after a while, and a neighbour with a new link address gets its packets again. The
/// rules hold all the time.
fn alone(scene: &mut Scene) {
    scene.carries_but_the_dropped();
    let before = scene.kernel_forwarded();
    let start = Instant::now();
    scene.daemon.kill9().expect("it dies");
    scene.carries_but_the_dropped();
    let trusted = start.elapsed() < Duration::from_secs(AFTER - 1);
    let forwarded = scene.kernel_forwarded() - before;
    assert!(!trusted || forwarded == 0, "the kernel forwarded {forwarded} packets while the daemon was not missed");
    // The server gets another link address; what the data plane knows of it is wrong from now on.
    scene.server().run(&format!("ip link set {} address 02:00:00:00:01:77", SERVER.port)).expect("an address");
    scene.router().run(&format!("ip neigh flush dev {}", dataplane_tests::lab::ROUTER_SERVER.port)).expect("forgotten");
    thread::sleep(Duration::from_secs(AFTER).saturating_sub(start.elapsed()));
    let took = within(Duration::from_secs(4), || {
        let arrived = traffic::datagrams(&scene.lab, Family::V4, 5302, 10)?;
        ensure!(arrived == 10, "{arrived} of 10 datagrams");
        Ok(())
    });
    println!("the kernel forwards {:?} after the daemon's end ({took:?} after the limit)", start.elapsed());
    assert!(scene.kernel_forwarded() > before);
    scene.carries_but_the_dropped();
}

impl Scene {
    fn carries_but_the_dropped(&self) {
        assert_eq!(traffic::datagrams(&self.lab, Family::V4, 5301, 10).expect("datagrams"), 0, "the rule");
        assert_eq!(traffic::datagrams(&self.lab, Family::V4, 5302, 10).expect("datagrams"), 10);
    }
}

#[test]
fn a_daemon_that_is_gone_is_not_trusted_for_ever() {
    let Some(mut scene) = Scene::configured(&[], CONFIG) else { return };
    assert_eq!(scene.daemon.stats().expect("stats").heartbeat, 3);
    let doctor = scene.daemon.attempt(&["doctor"]).expect("the doctor").said();
    assert!(doctor.contains("3 s after the daemon's end"), "{doctor}");
    alone(&mut scene);
    scene.daemon.restart().expect("it starts");
    let stats = scene.stats();
    assert!(stats.reason("no_controller") > 0, "{stats:?}");
    // From here on the data plane decides again.
    let before = scene.kernel_forwarded();
    scene.carries_but_the_dropped();
    assert_eq!(scene.kernel_forwarded(), before);
    assert_eq!(scene.stats().reason("no_controller"), stats.reason("no_controller"));
    scene.close();
}

#[test]
fn a_clock_of_another_time_namespace_changes_nothing() {
    let Some(mut scene) = Scene::configured(&[dataplane_tests::lab::Need::Tool("unshare")], CONFIG) else { return };
    for offset in ["100000", "-1000"] {
        scene.daemon.kill9().expect("it dies");
        scene.daemon.wrap(&["unshare", "--time", "--monotonic", offset, "--fork", "--kill-child"], &[]);
        scene.daemon.restart().expect("it starts");
        let before = scene.kernel_forwarded();
        thread::sleep(Duration::from_secs(2));
        scene.carries_but_the_dropped();
        assert_eq!(scene.kernel_forwarded(), before, "{offset}: the data plane decides");
    }
    alone(&mut scene);
    scene.daemon.wrap(&[], &[]);
    scene.daemon.restart().expect("it starts");
    scene.close();
}
