//! Interfaces that go and come back, by name and by glob.

use std::time::{Duration, Instant};

use anyhow::ensure;
use dataplane_tests::lab::{
    ROUTER_SERVER, SERVER,
    traffic::{self, Family},
};

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

/// A port that is renamed stays one. Rules that mean the link (`oif`) go on, those that ask for names (`oifname`) follow the
/// names, as in nft.
#[test]
fn renamed_away_and_back() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    scene.router().sysctl("net.ipv6.conf.all.keep_addr_on_down", "1").expect("a sysctl");
    let rename = |from: &str, to: &str| {
        for words in [format!("set {from} down"), format!("set {from} name {to}"), format!("set {to} up")] {
            scene.router().run(&format!("ip link {words}")).expect("renamed");
        }
    };
    let (index, _) = state(&scene, ROUTER_SERVER.port).expect("the port");
    for rule in
        ["oif server0 udp dport 5301 drop", "oifname server0 udp dport 5302 drop", "oifname other0 udp dport 5303 drop"]
    {
        scene.rule("forward", rule);
    }
    let arrived =
        || [5301, 5302, 5303, 5304].map(|port| traffic::datagrams(&scene.lab, Family::V4, port, 5).expect("sent"));
    assert_eq!(arrived(), [0, 0, 5, 5]);
    for round in 0..2 {
        rename(ROUTER_SERVER.port, "other0");
        within(PROMPT, || {
            let now = (state(&scene, ROUTER_SERVER.port), state(&scene, "other0"));
            ensure!(now == (None, Some((index, "up".to_owned()))), "round {round}: {now:?}");
            let link = scene.router().run("ip -d link show other0")?;
            ensure!(link.contains("prog/xdp"), "{link}");
            Ok(())
        });
        ways_back(&scene);
        scene.ping().expect("pings are answered");
        assert_eq!(arrived(), [0, 5, 0, 5], "round {round}: under another name");
        assert_eq!(scene.cli(&["port", "list", "-j"]).matches("other0").count(), 1);
        rename("other0", ROUTER_SERVER.port);
        within(PROMPT, || {
            let now = state(&scene, ROUTER_SERVER.port);
            ensure!(now == Some((index, "up".to_owned())), "round {round}: {now:?}");
            Ok(())
        });
        scene.ping().expect("pings are answered");
        assert_eq!(arrived(), [0, 0, 5, 5], "round {round}: under its own name again");
    }
    let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
    scene.ping().expect("pings are answered");
    assert!(scene.stats().totals.forwarded - before.totals.forwarded >= 12);
    assert_eq!(scene.kernel_forwarded(), kernel, "the kernel forwarded");
    // Another link takes the name: it is what is meant then, and what had it is a port no more.
    rename(ROUTER_SERVER.port, "other0");
    within(PROMPT, || {
        ensure!(state(&scene, "other0").is_some(), "let go");
        Ok(())
    });
    scene.router().run("ip link add server0 type veth peer name server9").expect("another link");
    within(PROMPT, || {
        let now = (state(&scene, ROUTER_SERVER.port).map(|(now, _)| now != index), state(&scene, "other0"));
        ensure!(now == (Some(true), None), "{now:?}");
        Ok(())
    });
    // By its new name it can be let go, and had.
    scene.cli(&["attach", "other0"]);
    scene.cli(&["detach", "other0"]);
    assert!(state(&scene, "other0").is_none());
    scene.close();
}

#[test]
fn by_its_other_name() {
    let Some(scene) = Scene::idle(&[]) else { return };
    scene.router().run("ip link property add dev server0 altname uplink-of-the-lab").expect("another name");
    scene.router().run("ip link property add dev client0 altname lan").expect("another name");
    let config = scene.lab.dir().join("altnames.toml");
    let text = "[ports]\nuplink-of-the = {}\nlan = { mode = \"tc\" }\n[chains.forward]\nrules = [\n  'iif lan udp dport 5301 drop',\n  \
                'iifname \"lan\" udp dport 5302 drop',\n  'iifname \"la*\" udp dport 5303 drop',\n]\n";
    std::fs::write(&config, text.replace("uplink-of-the", "uplink-of-the-lab")).expect("a config");
    scene.cli(&["config", "apply", config.to_str().expect("a path of letters")]);
    let arrived = || [5301, 5302, 5303].map(|port| traffic::datagrams(&scene.lab, Family::V4, port, 5).expect("sent"));
    within(PROMPT, || {
        let now = ["client0", "server0"].map(|port| state(&scene, port).map(|(_, state)| state));
        ensure!(now == [Some("up".to_owned()), Some("up".to_owned())], "{now:?}");
        Ok(())
    });
    assert_eq!(scene.stats().ports.len(), 2, "none is absent");
    assert_eq!(arrived(), [0, 0, 5], "a pattern is about names of their own");
    scene.router().run("ip link property del dev client0 altname lan").expect("a name less");
    within(PROMPT, || {
        let now = state(&scene, "lan");
        ensure!(now == Some((0, "absent".to_owned())) && state(&scene, "client0").is_none(), "{now:?}");
        Ok(())
    });
    scene.router().run("ip link property add dev client0 altname lan").expect("another name");
    within(PROMPT, || {
        ensure!(state(&scene, "client0").is_some(), "not a port again");
        Ok(())
    });
    assert_eq!(arrived(), [0, 0, 5]);
    scene.cli(&["detach", "lan"]);
    assert!(state(&scene, "client0").is_none());
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
