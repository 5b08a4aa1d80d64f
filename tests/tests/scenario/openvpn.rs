//! A real `OpenVPN` on the router, which leads all that the client sends into its tunnel (`redirect-gateway`).

use anyhow::ensure;
use dataplane_tests::lab::{Need, ROUTER_SERVER, Running, SERVER};

use crate::{
    scene::{PORTS, PROMPT, Scene, within},
    tun::exchange,
};

/// The tunnel's device at both ends.
const DEVICE: &str = "vpn0";
/// An address behind the far end.
const BEHIND: &str = "203.0.113.1";

/// `OpenVPN` at one end of the tunnel.
fn openvpn(scene: &Scene, at_router: bool) -> Running {
    let namespace = if at_router { scene.router() } else { scene.server() };
    let key = scene.lab.dir().join("static.key");
    if !key.exists() {
        namespace.run(&format!("openvpn --genkey secret {}", key.display())).expect("a key");
    }
    let mut command = namespace.command("openvpn");
    command.args(["--dev", DEVICE, "--dev-type", "tun", "--disable-dco"]);
    command.args(["--cipher", "AES-256-CBC", "--verb", "3", "--secret"]).arg(key);
    if at_router {
        command.args(["--remote", SERVER.v4, "--redirect-gateway", "def1", "--ifconfig", "192.0.2.1", "192.0.2.2"]);
    } else {
        command.args(["--float", "--ifconfig", "192.0.2.2", "192.0.2.1", "--route", "198.18.0.0", "255.255.255.0"]);
    }
    let log = scene.lab.dir().join(format!("openvpn-{}.log", namespace.short()));
    namespace.spawn(&mut command, &log).expect("OpenVPN")
}

fn redirected(mode: &str) {
    let Some(scene) = Scene::idle(&["openvpn"].map(Need::Tool)) else { return };
    scene.router().run(&format!("ip route add default via {}", SERVER.v4)).expect("a way out");
    scene.server().run(&format!("ip addr add {BEHIND}/32 dev lo")).expect("an address");
    let ends = [false, true].map(|at_router| openvpn(&scene, at_router));
    within(PROMPT * 20, || {
        let routes = scene.router().run("ip route show 128.0.0.0/1")?;
        ensure!(routes.contains(DEVICE), "no redirect: {routes}{}", ends[1].said());
        ensure!(scene.pinged(BEHIND) == 3, "nothing gets through: {}", ends[1].said());
        Ok(())
    });
    scene.attach(&[PORTS[0], ROUTER_SERVER.port], mode);
    scene.attach(&[DEVICE], "auto");
    scene.take_frames();
    assert_eq!(scene.pinged(BEHIND), 3, "{mode}");
    let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
    exchange(&scene, BEHIND, 1_000_000).expect("TCP through OpenVPN");
    let after = scene.stats();
    assert_eq!(scene.kernel_forwarded(), kernel, "{mode}: the kernel forwarded: {after:?}");
    assert_eq!(after.reason("no_egress"), 0, "{mode}: {after:?}");
    assert!(after.totals.forwarded - before.totals.forwarded > 200, "{mode}: {after:?}");
    drop(ends);
    scene.close();
}

#[test]
fn openvpn_takes_all_in_native() {
    redirected("native");
}

#[test]
fn openvpn_takes_all_in_tc() {
    redirected("tc");
}
