//! `stats` shows what the kernel counts at links, with what XDP redirected, and nothing twice.

use anyhow::Context as _;
use dataplane_tests::lab::{
    CLIENT, Need,
    traffic::{self, Family},
};
use serde_json::Value;

use crate::scene::{PORTS, Scene};

/// Datagrams of a round.
const MANY: u32 = 500;
/// Frames beside them, neighbour discovery and the like.
const FEW: u64 = 40;

/// Received and transmitted at both ports, as `stats` and as the kernel has them.
fn links(scene: &Scene) -> [[u64; 2]; 2] {
    let kernel = || {
        PORTS.map(|port| {
            let told = scene.router().run(&format!("ip -s -j link show {port}")).expect("a link");
            let link: Value = serde_json::from_str(&told).expect("JSON");
            ["rx", "tx"].map(|way| link[0]["stats64"][way]["packets"].as_u64().expect("a count"))
        })
    };
    let low = kernel();
    let stats: Value = scene.daemon.read(&["stats"]).expect("stats");
    let high = kernel();
    let row = |port: &str| {
        let rows = stats["links"].as_array().context("links")?;
        let row = rows.iter().find(|row| row["name"] == port).context("the port's")?;
        Ok(["rx_packets", "tx_packets"].map(|key| row[key].as_u64().expect("a count")))
    };
    let ours = PORTS.map(|port| row(port).unwrap_or_else(|error: anyhow::Error| panic!("{error}: {stats}")));
    for (port, counts) in ours.iter().enumerate() {
        for (way, count) in counts.iter().enumerate() {
            let kernels = low[port][way]..=high[port][way];
            assert!(kernels.contains(count), "{} {way}: {count}, the kernel has {kernels:?}", PORTS[port]);
        }
    }
    ours
}

/// A veth counts each frame once, in every mode, whatever becomes of it: XDP or not, redirected or dropped.
#[test]
fn what_xdp_redirects_is_received_and_transmitted() {
    let Some(scene) = Scene::idle(&[Need::Tool("ethtool")]) else { return };
    scene.take_frames();
    // With checksums of their own, so it is XDP that forwards.
    scene.client().run(&format!("ethtool -K {} tx off", CLIENT.port)).expect("offloads off");
    let rule = scene.rule("forward", "udp dport 5302 drop");
    for mode in ["native", "generic", "tc"] {
        scene.attach(&PORTS, mode);
        scene.ping().expect("pings are answered");
        for family in Family::BOTH {
            for (port, arrive) in [(5301, MANY), (5302, 0)] {
                let before = links(&scene);
                let kernel = scene.kernel_forwarded();
                assert_eq!(traffic::datagrams(&scene.lab, family, port, MANY).expect("datagrams"), arrive, "{mode}");
                let after = links(&scene);
                let rx = after[0][0] - before[0][0];
                let tx = after[1][1] - before[1][1];
                let (sent, arrived) = (u64::from(MANY), u64::from(arrive));
                assert!((sent..sent + FEW).contains(&rx), "{mode}: received {rx} of {sent}");
                assert!((arrived..arrived + FEW).contains(&tx), "{mode}: transmitted {tx} of {arrived}");
                assert!(scene.kernel_forwarded() - kernel < FEW, "{mode}: not by us");
            }
        }
    }
    let text = scene.cli(&["stats"]);
    assert!(text.contains("RX-OK  RX-BYTES  RX-ERR  RX-DRP"), "{text}");
    assert_eq!(scene.rules()[0].packets, rule.packets + 6 * u64::from(MANY));
    scene.close();
}
