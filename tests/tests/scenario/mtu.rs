//! A way out that is narrower than the way in: the kernel answers, and TCP finds the size that fits.

use std::time::Duration;

use dataplane_tests::lab::{
    Need, ROUTER_SERVER, SERVER,
    traffic::{self, Family},
};

use crate::scene::Scene;

/// Of the link to the server, as far as the router knows: the server itself offers more.
const NARROW: u32 = 1400;

fn fits(mode: &str) {
    let Some(scene) = Scene::attached(&[Need::Tool("iperf3"), Need::Tool("ss")], mode) else { return };
    scene.router().run(&format!("ip link set {} mtu {NARROW}", ROUTER_SERVER.port)).expect("a narrower link");
    let server = traffic::iperf_server(&scene.lab).expect("iperf3");
    for (family, header, answer) in [(Family::V4, 28, "Frag needed"), (Family::V6, 48, "Packet too big")] {
        // TCP first: the client knows nothing yet.
        let before = scene.stats();
        let rate = traffic::tcp(&scene.lab, family, Duration::from_secs(1)).expect("TCP");
        println!("{mode}: TCP over {} through {NARROW} bytes at {:.2} Gbit/s", family.name(), rate / 1e9);
        assert!(rate > 20e6, "{mode}: TCP over {} crawls: {rate} bit/s", family.name());
        let after = scene.stats();
        assert!(after.reason("too_big") > before.reason("too_big"), "{mode}: nothing was too big");
        assert!(after.totals.forwarded - before.totals.forwarded > 100, "{mode}: {after:?}");

        scene.client().run(&format!("ip {} route flush cache", family.option())).expect("what was learnt is forgotten");
        let address = family.address(&SERVER);
        let ping = |size: u32| {
            let line = format!("ping {} -n -c 1 -W 1 -M do -s {} {address}", family.option(), size - header);
            scene.client().attempt(&line).expect("ping runs")
        };
        assert!(ping(NARROW).status.success(), "{mode}: {} bytes fit over {}", NARROW, family.name());
        let before = scene.stats().reason("too_big");
        let refused = ping(NARROW + 1);
        assert!(!refused.status.success() && refused.stdout.contains(answer), "{mode}: {}", refused.said());
        assert!(refused.stdout.contains(&NARROW.to_string()), "{mode}: {}", refused.said());
        assert_eq!(scene.stats().reason("too_big"), before + 1, "{mode}");
    }
    drop(server);
    scene.close();
}

#[test]
fn in_native() {
    fits("native");
}

#[test]
fn in_tc() {
    fits("tc");
}

#[test]
fn in_generic() {
    fits("generic");
}
