//! Every mode carries everything: ICMP, UDP and TCP of both families, offloads as the kernel made them.

use std::time::Duration;

use anyhow::ensure;
use dataplane_tests::lab::{
    CLIENT, Need, ROUTER_CLIENT, ROUTER_SERVER, Stats, tells_xdp_features,
    traffic::{self, Family},
};
use rustix::net::{AddressFamily, SocketType, eth, socket};

use crate::scene::{PROMPT, Scene, within};

/// How many datagrams are counted.
const DATAGRAMS: u32 = 200;

/// The counter of the driver for frames that XDP sent on.
fn redirected(scene: &Scene, port: &str) -> u64 {
    let text = scene.router().run(&format!("ethtool -S {port}")).expect("ethtool");
    let counters = text.lines().filter_map(|line| line.trim().split_once(": "));
    let redirects = counters.filter(|(name, _)| name.ends_with("_xdp_redirect"));
    redirects.map(|(_, value)| value.parse::<u64>().expect("a number")).sum()
}

/// Frames that a host put on its link, as the host counts.
fn sent(scene: &Scene) -> u64 {
    let text = scene.client().run(&format!("ip -s -j link show {}", CLIENT.port)).expect("counters of the link");
    let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    rows[0]["stats64"]["tx"]["packets"].as_u64().expect("a counter")
}

/// What the client has sent, what XDP has redirected from its link, and our counters, while it sent nothing: hosts of IPv6 say
/// things by themselves.
fn undisturbed(scene: &Scene) -> ((u64, u64), Stats) {
    loop {
        let before = sent(scene);
        let (redirected, stats) = (redirected(scene, ROUTER_CLIENT.port), scene.stats());
        if sent(scene) == before {
            return ((before, redirected), stats);
        }
    }
}

/// With `frames` the hosts' links take frames of XDP, without they do not: XDP leaves what it decided to tc.
fn crosses(client_mode: &str, server_mode: &str, frames: bool) {
    let needs = [Need::Tool("iperf3"), Need::Tool("ss"), Need::Tool("ethtool")];
    // Without its word, a veth with its peer elsewhere gets no frames of XDP.
    let told = frames.then_some(Need::Kernel("word of which devices XDP may send to", tells_xdp_features));
    let Some(scene) = Scene::idle(&needs.into_iter().chain(told).collect::<Vec<_>>()) else { return };
    if frames {
        scene.take_frames();
    }
    scene.attach(&[ROUTER_CLIENT.port], client_mode);
    scene.attach(&[ROUTER_SERVER.port], server_mode);
    let shown = |mode| if mode == "auto" { "tc" } else { mode };
    let (start, kernel) = (scene.stats(), scene.kernel_forwarded());
    for (port, mode) in [(ROUTER_CLIENT.port, client_mode), (ROUTER_SERVER.port, server_mode)] {
        assert_eq!(start.port(port).expect("the port").mode, shown(mode), "{port}");
    }

    // Few frames, counted one by one at both ends of the link.
    let (before, first) = undisturbed(&scene);
    scene.ping().expect("pings are answered");
    for family in Family::BOTH {
        let arrived = traffic::datagrams(&scene.lab, family, 5301, DATAGRAMS).expect("datagrams");
        assert_eq!(arrived, DATAGRAMS, "{} datagrams", family.name());
    }
    within(PROMPT, || {
        let (now, stats) = undisturbed(&scene);
        let frames = now.0 - before.0;
        let counted = |stats: &Stats| stats.port(ROUTER_CLIENT.port).expect("the port").counts.rx;
        let rx = counted(&stats) - counted(&first);
        ensure!(rx == frames, "the client sent {frames} frames, {rx} are counted");
        Ok(())
    });
    // Pings have their checksum, so XDP forwards them where it is and may.
    let by_xdp = redirected(&scene, ROUTER_CLIENT.port) - before.1;
    if client_mode == "native" && frames {
        assert!(by_xdp >= 6, "XDP of the driver forwarded {by_xdp} frames");
    } else {
        assert_eq!(by_xdp, 0, "no XDP at the driver in mode {client_mode}");
    }

    let server = traffic::iperf_server(&scene.lab).expect("iperf3");
    for family in Family::BOTH {
        let rate = traffic::tcp(&scene.lab, family, Duration::from_secs(1)).expect("TCP");
        println!("{client_mode}/{server_mode}: TCP over {} at {:.2} Gbit/s", family.name(), rate / 1e9);
        assert!(rate > 50e6, "TCP over {} crawls: {rate} bit/s", family.name());
    }
    drop(server);
    let end = scene.stats();
    assert!(end.totals.forwarded - start.totals.forwarded > u64::from(2 * DATAGRAMS) + 12);
    // The kernel forwarded nothing but what it was given.
    let (kernel, passed) = (scene.kernel_forwarded() - kernel, end.totals.passed - start.totals.passed);
    assert!(kernel <= passed, "the kernel forwarded {kernel} packets, and was left {passed}");
    assert_eq!(end.totals.dropped, start.totals.dropped, "{end:?}");
    scene.close();
}

#[test]
fn native() {
    crosses("native", "native", false);
}

#[test]
fn native_to_hosts_that_take_frames() {
    crosses("native", "native", true);
}

#[test]
fn tc() {
    crosses("tc", "tc", false);
}

#[test]
fn generic() {
    crosses("generic", "generic", false);
}

#[test]
fn auto() {
    crosses("auto", "auto", false);
}

#[test]
fn native_beside_tc() {
    crosses("native", "tc", true);
}

#[test]
fn tc_beside_native() {
    crosses("tc", "native", true);
}

/// Somebody who listens has a share in every packet; what the tiers tell each other must survive that.
#[test]
fn a_tap_does_not_make_packets_count_twice() {
    for mode in ["native", "generic", "tc"] {
        let Some(scene) = Scene::attached(&[], mode) else { return };
        // A plain packet socket takes clones of packets, as the ring of tcpdump does not.
        let listen = || Ok(socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL))?);
        let _tap = scene.router().inside(listen).expect("a tap");
        let rule = scene.rule("prerouting", "icmp type echo-request accept");
        let before = scene.stats();
        scene.ping().expect("pings are answered");
        assert_eq!(scene.pinged(ROUTER_CLIENT.v4), 3);
        let after = scene.stats();
        let local = after.reason("local") - before.reason("local");
        assert_eq!(local, 3, "{mode}: pings to the router");
        let rule = scene.rules().into_iter().find(|now| now.handle == rule.handle).expect("the rule");
        assert_eq!(rule.packets, 6, "{mode}");
        scene.close();
    }
}

#[test]
fn modes_change_under_a_stream_without_loss() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    let stream = dataplane_tests::lab::stream::stream(&scene.lab, Family::V4, 5400, 5000).expect("a stream");
    for mode in ["generic", "tc"] {
        scene.attach(&[ROUTER_CLIENT.port, ROUTER_SERVER.port], mode);
        std::thread::sleep(Duration::from_millis(100));
    }
    let tally = stream.finish().expect("a tally");
    println!("modes changed: {tally:?}");
    assert_eq!((tally.lost, tally.repeated), (0, 0), "{tally:?}");
    scene.close();
}
