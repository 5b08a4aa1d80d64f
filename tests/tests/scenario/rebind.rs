//! Interfaces that go and come back, by name and by glob.

use std::time::{Duration, Instant};

use anyhow::ensure;
use dataplane_tests::lab::{ROUTER_SERVER, SERVER};

use crate::scene::{PROMPT, Scene, within};

/// How soon a device that came back must be a port again.
const REBOUND: Duration = Duration::from_secs(1);

fn ways_back(scene: &Scene) {
    scene.server().run(&format!("ip route replace default via {}", ROUTER_SERVER.v4)).expect("a route");
    scene.server().run(&format!("ip -6 route replace default via {}", ROUTER_SERVER.v6)).expect("a route");
}

fn state(scene: &Scene, port: &str) -> Option<(u32, String)> {
    scene.stats().port(port).map(|row| (row.ifindex, row.state.clone()))
}

fn comes_back(config: &str, named: bool) {
    let Some(scene) = Scene::configured(&[], config) else { return };
    scene.ping().expect("pings are answered");
    for round in 0..3 {
        let before = scene.stats();
        let (old, _) = state(&scene, ROUTER_SERVER.port).expect("the port");
        scene.router().run(&format!("ip link del {}", ROUTER_SERVER.port)).expect("a device less");
        within(PROMPT, || {
            let now = state(&scene, ROUTER_SERVER.port);
            let expected = if named { Some((0, "absent".to_owned())) } else { None };
            ensure!(now == expected, "after the device went: {now:?}");
            Ok(())
        });
        assert!(scene.stats().totals.rx >= before.totals.rx, "counters went back");

        let start = Instant::now();
        scene.lab.link(SERVER, ROUTER_SERVER).expect("a device anew");
        let made = start.elapsed();
        within(REBOUND, || match state(&scene, ROUTER_SERVER.port) {
            Some((new, state)) if new != old && new != 0 && state == "up" => Ok(()),
            other => anyhow::bail!("not a port again: {other:?}"),
        });
        let rebound = start.elapsed();
        println!("round {round}: device made in {made:?}, seen as a port {rebound:?} after the start of making it");
        assert!(rebound < REBOUND + made, "{rebound:?}");
        ways_back(&scene);
        scene.ping().expect("pings are answered");
        let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
        scene.ping().expect("pings are answered");
        assert!(scene.stats().totals.forwarded - before.totals.forwarded >= 12);
        assert_eq!(scene.kernel_forwarded(), kernel, "the kernel forwarded");
    }
    scene.close();
}

#[test]
fn by_name() {
    comes_back("[ports]\nclient0 = { mode = \"native\" }\nserver0 = { mode = \"native\" }\n", true);
}

#[test]
fn by_glob() {
    comes_back("[ports]\n\"client*\" = { mode = \"tc\" }\n\"serv*0\" = { mode = \"native\" }\n", false);
}

#[test]
fn renamed_away_and_back() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    scene.router().sysctl("net.ipv6.conf.all.keep_addr_on_down", "1").expect("a sysctl");
    let rename = |from: &str, to: &str| {
        for words in [format!("set {from} down"), format!("set {from} name {to}"), format!("set {to} up")] {
            scene.router().run(&format!("ip link {words}")).expect("renamed");
        }
    };
    rename(ROUTER_SERVER.port, "other0");
    within(PROMPT, || {
        let now = (state(&scene, ROUTER_SERVER.port), state(&scene, "other0"));
        ensure!(now == (Some((0, "absent".to_owned())), None), "{now:?}");
        let link = scene.router().run("ip -d link show other0")?;
        ensure!(!link.contains("prog/xdp"), "{link}");
        Ok(())
    });
    scene.ping().expect("the kernel forwards to a device that is no port");
    rename("other0", ROUTER_SERVER.port);
    within(PROMPT, || {
        let now = state(&scene, ROUTER_SERVER.port);
        ensure!(now.as_ref().is_some_and(|(index, state)| *index != 0 && state == "up"), "{now:?}");
        Ok(())
    });
    scene.ping().expect("pings are answered");
    let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
    scene.ping().expect("pings are answered");
    assert!(scene.stats().totals.forwarded - before.totals.forwarded >= 12);
    assert_eq!(scene.kernel_forwarded(), kernel, "the kernel forwarded");
    scene.close();
}

#[test]
fn down_and_up() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    scene.router().sysctl("net.ipv6.conf.all.keep_addr_on_down", "1").expect("a sysctl");
    scene.router().run(&format!("ip link set {} down", ROUTER_SERVER.port)).expect("down");
    within(PROMPT, || {
        let now = state(&scene, ROUTER_SERVER.port);
        ensure!(now.as_ref().is_some_and(|(_, state)| state == "down"), "{now:?}");
        for address in [SERVER.v4, SERVER.v6] {
            let decision = scene.decision(address);
            ensure!(decision.decision != "forward", "{decision:?}");
        }
        Ok(())
    });
    assert_eq!(scene.pinged(SERVER.v4), 0);
    scene.router().run(&format!("ip link set {} up", ROUTER_SERVER.port)).expect("up");
    within(PROMPT, || {
        let now = state(&scene, ROUTER_SERVER.port);
        ensure!(now.as_ref().is_some_and(|(_, state)| state == "up"), "{now:?}");
        Ok(())
    });
    scene.ping().expect("pings are answered");
    let before = scene.stats();
    scene.ping().expect("pings are answered");
    assert!(scene.stats().totals.forwarded - before.totals.forwarded >= 12);
    scene.close();
}
