//! Policies of `IPsec`: what they may cover is the kernel's, which encrypts or stops it; all else stays at the driver.

use anyhow::ensure;
use dataplane_tests::lab::{CLIENT, Need, SERVER, traffic::Family};

use crate::scene::{PROMPT, Scene, within};

/// A policy of the router that stops what goes from the client to an address.
fn policy(scene: &Scene, verb: &str, family: Family, direction: &str, to: &str) {
    let (host, action) = if matches!(family, Family::V4) { (32, " action block") } else { (128, " action block") };
    let action = if verb == "add" { action } else { "" };
    let from = family.address(&CLIENT);
    let line = format!("ip xfrm policy {verb} src {from}/{host} dst {to}/{host} dir {direction}{action}");
    scene.router().run(&line).expect("a policy");
}

/// The kernel has policies.
pub fn able() -> Need {
    Need::Kernel("IPsec policies", || {
        let mut command = std::process::Command::new("unshare");
        command.args(["--net", "ip", "xfrm", "policy", "list"]);
        command.output().is_ok_and(|output| output.status.success())
    })
}

fn blocked(scene: &Scene, address: &str, blocked: bool) {
    within(PROMPT, || {
        let pinged = scene.pinged(address);
        ensure!(pinged == if blocked { 0 } else { 3 }, "{pinged} of 3 pings to {address} are answered");
        Ok(())
    });
}

fn follows_policies(mode: &str) {
    let Some(scene) = Scene::attached(&[able()], mode) else { return };
    for (family, second) in [(Family::V4, "198.18.1.3"), (Family::V6, "2001:db8:1::3")] {
        let length = if matches!(family, Family::V4) { 24 } else { 64 };
        scene.server().run(&format!("ip addr add {second}/{length} dev {} nodad", SERVER.port)).expect("an address");
        within(PROMPT * 5, || scene.router().run(&format!("ping -n -c 1 -W 1 {second}")).map(drop));
        for direction in ["fwd", "out"] {
            blocked(&scene, second, false);
            policy(&scene, "add", family, direction, second);
            blocked(&scene, second, true);
            // The others: not one of them is the kernel's.
            let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
            assert_eq!(scene.pinged(family.address(&SERVER)), 3, "{mode} {direction}");
            let after = scene.stats();
            assert_eq!(
                scene.kernel_forwarded(),
                kernel,
                "{mode} {direction}: the kernel forwarded what no policy covers"
            );
            assert!(after.totals.forwarded - before.totals.forwarded >= 6, "{mode} {direction}: {after:?}");
            let before = after.reason("ipsec");
            assert_eq!(scene.pinged(second), 0, "{mode} {direction}");
            assert!(scene.stats().reason("ipsec") - before >= 3, "{mode} {direction}: the reason counts");
            policy(&scene, "del", family, direction, second);
            blocked(&scene, second, false);
        }
    }
    said(&scene);
    by_default(&scene);
    scene.close();
}

/// What ports, doctor and attach say.
fn said(scene: &Scene) {
    policy(scene, "add", Family::V4, "fwd", "198.18.1.3");
    let rows = || -> serde_json::Value { serde_json::from_str(&scene.cli(&["-j", "port", "list"])).expect("JSON") };
    within(PROMPT, || {
        ensure!(rows()[0]["ipsec"] == true, "{}", rows());
        Ok(())
    });
    let doctor = scene.daemon.attempt(&["doctor"]).expect("doctor runs").stdout;
    assert!(doctor.contains("IPsec policies") && doctor.contains("ip xfrm policy"), "{doctor}");
    let mode = rows()[0]["mode"].as_str().expect("a mode").to_owned();
    let attached = scene.daemon.attempt(&["attach", crate::scene::PORTS[0], "--mode", &mode]).expect("attach runs");
    assert!(attached.stderr.contains("IPsec policies"), "{}", attached.said());
    let packet = format!("udp {}:1024 > 198.18.1.3:9", CLIENT.v4);
    let explained: serde_json::Value =
        scene.daemon.read(&["explain", "--iface", crate::scene::PORTS[0], &packet]).expect("an explanation");
    assert_eq!(explained["reason"], "ipsec", "{explained}");
    policy(scene, "del", Family::V4, "fwd", "198.18.1.3");
    within(PROMPT, || {
        ensure!(rows()[0]["ipsec"] == false, "{}", rows());
        Ok(())
    });
}

/// Where all is stopped that no policy covers, all is the kernel's.
fn by_default(scene: &Scene) {
    let old = scene.router().attempt("ip xfrm policy setdefault fwd block").expect("ip runs");
    if !old.status.success() {
        println!("this ip or kernel has no default policies");
        return;
    }
    blocked(scene, SERVER.v4, true);
    blocked(scene, SERVER.v6, true);
    scene.router().run("ip xfrm policy setdefault fwd accept").expect("a default");
    blocked(scene, SERVER.v4, false);
    blocked(scene, SERVER.v6, false);
}

#[test]
fn policies_are_followed_in_native() {
    follows_policies("native");
}

#[test]
fn policies_are_followed_in_generic() {
    follows_policies("generic");
}

#[test]
fn policies_are_followed_in_tc() {
    follows_policies("tc");
}

/// A hundred policies are more than there is room for: these are the kernel's, and of others as few as can be.
#[test]
fn many_policies_are_followed() {
    let Some(scene) = Scene::attached(&[able()], "native") else { return };
    scene.server().run("ip addr add 203.0.113.77/32 dev lo").expect("an address");
    scene.router().run(&format!("ip route add 203.0.113.0/24 via {}", SERVER.v4)).expect("a route");
    within(PROMPT, || {
        ensure!(scene.pinged("203.0.113.77") == 3);
        Ok(())
    });
    for host in 1..=100 {
        policy(&scene, "add", Family::V4, "fwd", &format!("203.0.113.{host}"));
    }
    blocked(&scene, "203.0.113.77", true);
    let kernel = scene.kernel_forwarded();
    assert_eq!(scene.pinged(SERVER.v4), 3);
    assert_eq!(scene.kernel_forwarded(), kernel, "the kernel forwarded what no policy covers");
    scene.close();
}
