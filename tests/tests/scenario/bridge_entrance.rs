//! What comes in through a bridge is routed at its members, past the kernel's stack and the bridge, which learns all the same.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{ROUTER_CLIENT, SERVER, Stats, traffic::Family};

use crate::{
    bridge::{bridged, roam, server_behind_a_bridge},
    passage::run,
    scene::{PORTS, PROMPT, Scene, within},
    session::{HOME, Tcp, becomes_fast, follows, load},
};

/// The members of the bridge that the server is behind.
const MEMBERS: [&str; 2] = [PORTS[1], "other0"];
/// How often the router's kernel may forward while all is ours: not at all.
const NONE: u64 = 0;

/// What a port of that name has forwarded.
fn forwarded(stats: &Stats, port: &str) -> u64 {
    stats.port(port).map_or(0, |port| port.counts.forwarded)
}

/// Waits until answers of the server are routed at this member, or behind the bridge where there is none.
fn comes_in_through(scene: &Scene, what: &str, member: Option<&str>) {
    let port = member.unwrap_or("br7");
    within(PROMPT * 10, || {
        let (kernel, before) = (scene.kernel_forwarded(), scene.stats());
        scene.ping()?;
        let (kernel, after) = (scene.kernel_forwarded() - kernel, scene.stats());
        ensure!(kernel == NONE, "{what}: the kernel forwarded {kernel} packets");
        // Six answers, of which the bridge may see one to refresh what it knows.
        let ours = forwarded(&after, port) - forwarded(&before, port);
        ensure!((5..=6).contains(&ours), "{what}: {port} forwarded {ours} of 6 answers");
        Ok(())
    });
}

/// The ports, with their modes.
fn ports(scene: &Scene) -> Vec<(String, String)> {
    let mut ports: Vec<_> = scene.stats().ports.into_iter().map(|port| (port.name, port.mode)).collect();
    ports.sort();
    ports
}

fn are_ports(scene: &Scene, expected: &[(&str, &str)]) {
    within(PROMPT * 3, || {
        let found = ports(scene);
        let same = found.iter().map(|(name, mode)| (name.as_str(), mode.as_str())).eq(expected.iter().copied());
        ensure!(same, "wanted the ports {expected:?}, and found {found:?}");
        Ok(())
    });
}

#[test]
fn what_comes_in_through_a_bridge_is_routed_at_the_member() {
    for mode in ["native", "tc"] {
        let Some(scene) = server_behind_a_bridge() else { return };
        scene.client().run("ethtool -K eth0 gro on").expect("GRO on");
        scene.attach(&["br7", PORTS[0]], mode);
        are_ports(&scene, &[("br7", "tc"), (PORTS[0], mode), (MEMBERS[1], mode), (MEMBERS[0], mode)]);
        comes_in_through(&scene, &format!("{mode}, as it is"), Some(MEMBERS[0]));
        let router = scene.router();
        run(router, &["ip link set br7 promisc on"]);
        comes_in_through(&scene, &format!("{mode}, with a capture"), None);
        run(router, &["ip link set br7 promisc off"]);
        comes_in_through(&scene, &format!("{mode}, without one again"), Some(MEMBERS[0]));
        roam(&scene, "eth0", "eth1");
        comes_in_through(&scene, &format!("{mode}, behind the other member"), Some(MEMBERS[1]));
        // Without STP the kernel sets any other state right.
        run(router, &["bridge link set dev other0 state 0"]);
        within(PROMPT * 3, || {
            let answered = scene.client().attempt(&format!("ping -n -c 1 -W 0.2 {}", SERVER.v4))?;
            ensure!(!answered.status.success(), "{mode}: a blocked member lets frames through");
            Ok(())
        });
        run(router, &["bridge link set dev other0 state 3"]);
        comes_in_through(&scene, &format!("{mode}, not blocked any more"), Some(MEMBERS[1]));
        scene.close();
    }
}

/// The bridge forgets no host whose frames it does not see.
#[test]
fn a_host_that_sends_is_not_forgotten() {
    for mode in ["native", "tc"] {
        let Some(scene) = server_behind_a_bridge() else { return };
        scene.client().run("ethtool -K eth0 gro on").expect("GRO on");
        run(scene.router(), &["ip link set br7 type bridge ageing_time 200"]);
        scene.attach(&["br7", PORTS[0]], mode);
        comes_in_through(&scene, mode, Some(MEMBERS[0]));
        let (before, end) = (scene.stats(), Instant::now() + Duration::from_secs(3));
        let mut answered = 0;
        while Instant::now() < end {
            answered += scene.pinged(SERVER.v4);
            let known = scene.router().attempt(&format!("bridge fdb get {} br br7", SERVER.mac)).expect("bridge runs");
            assert!(known.stdout.contains(MEMBERS[0]), "{mode}: the bridge has forgotten the host{}", known.said());
        }
        let after = scene.stats();
        let refreshed = after.reason("bridge_refresh") - before.reason("bridge_refresh");
        let ours = forwarded(&after, MEMBERS[0]) - forwarded(&before, MEMBERS[0]);
        assert!((4..=10).contains(&refreshed), "{mode}: {refreshed} refreshes in 3 seconds, one each half");
        assert!(ours + refreshed >= answered as u64 && ours > refreshed, "{mode}: {ours} of {answered}");
        scene.close();
    }
}

/// Rules know the bridge, and count each packet once, whether the member judges it or the bridge.
#[test]
fn packets_of_a_bridge_are_judged_once() {
    for mode in ["native", "tc"] {
        let Some(scene) = server_behind_a_bridge() else { return };
        scene.client().run("ethtool -K eth0 gro on").expect("GRO on");
        scene.attach(&["br7", PORTS[0]], mode);
        comes_in_through(&scene, mode, Some(MEMBERS[0]));
        for chain in ["prerouting", "input"] {
            scene.rule(chain, "iifname br7 icmp type echo-request accept");
            scene.rule(chain, "iifname server0 icmp type echo-request drop");
        }
        let answered = scene.server().attempt("ping -n -c 20 -i 0.01 -W 1 198.18.1.1").expect("ping runs");
        assert!(answered.status.success(), "{mode}{}", answered.said());
        for rule in scene.rules() {
            let expected = if rule.rule.contains("br7") { 20 } else { 0 };
            assert_eq!(rule.packets, expected, "{mode}: {rule:?}");
        }
        let to_client = || {
            let line = format!("ping -n -c 5 -i 0.01 -W 0.3 {}", Family::V4.address(&dataplane_tests::lab::CLIENT));
            scene.server().attempt(&line).expect("ping runs").stdout.matches("bytes from").count()
        };
        assert_eq!(to_client(), 5, "{mode}: through the bridge");
        let rule = scene.rule("forward", "iifname br7 icmp type echo-request drop");
        assert_eq!(to_client(), 0, "{mode}: chain forward drops it");
        let found = scene.rules().into_iter().find(|row| row.handle == rule.handle).expect("the rule");
        assert_eq!(found.packets, 5, "{mode}");
        scene.close();
    }
}

/// Members are ports as long as they are members.
#[test]
fn members_come_and_go_with_their_bridge() {
    let Some(mut scene) = server_behind_a_bridge() else { return };
    scene.attach(&["br7", PORTS[0]], "tc");
    let whole = [("br7", "tc"), (PORTS[0], "tc"), (MEMBERS[1], "tc"), (MEMBERS[0], "tc")];
    are_ports(&scene, &whole);
    run(scene.router(), &["ip link set other0 nomaster"]);
    are_ports(&scene, &[whole[0], whole[1], whole[3]]);
    comes_in_through(&scene, "with a member less", Some(MEMBERS[0]));
    run(scene.router(), &["ip link set other0 master br7"]);
    are_ports(&scene, &whole);
    scene.cli(&["detach", "other0"]);
    are_ports(&scene, &[whole[0], whole[1], whole[3]]);
    comes_in_through(&scene, "with a member that is no port", None);
    scene.cli(&["attach", "br7", "--mode", "native"]);
    are_ports(&scene, &[("br7", "tc"), (PORTS[0], "tc"), (MEMBERS[1], "native"), (MEMBERS[0], "native")]);
    comes_in_through(&scene, "in another mode", Some(MEMBERS[0]));
    scene.daemon.restart().expect("the daemon comes back");
    are_ports(&scene, &[("br7", "tc"), (PORTS[0], "tc"), (MEMBERS[1], "native"), (MEMBERS[0], "native")]);
    comes_in_through(&scene, "after a restart", Some(MEMBERS[0]));
    scene.cli(&["detach", "br7"]);
    are_ports(&scene, &[(PORTS[0], "tc")]);
    scene.cli(&["attach", "br7"]);
    are_ports(&scene, &whole);
    scene.cli(&["detach", "--all"]);
    are_ports(&scene, &[]);
    scene.close();
}

/// From one bridge to another.
#[test]
fn what_comes_in_through_a_bridge_leaves_through_a_member_of_another() {
    let Some(scene) = bridged() else { return };
    scene.take_frames();
    run(
        scene.router(),
        &[
            "ip link add br8 type bridge stp_state 0 forward_delay 0",
            "ip link set server0 master br8",
            "ip addr flush dev server0",
            "ip link set br8 up",
            "ip addr add 198.18.1.1/24 dev br8",
            "ip addr add 2001:db8:1::1/64 dev br8 nodad",
        ],
    );
    within(PROMPT * 10, || scene.ping());
    scene.attach(&["br7", "br8"], "native");
    within(PROMPT * 10, || {
        let (kernel, before) = (scene.kernel_forwarded(), scene.stats());
        scene.ping()?;
        let (kernel, after) = (scene.kernel_forwarded() - kernel, scene.stats());
        ensure!(kernel == NONE, "the kernel forwarded {kernel} packets");
        for member in [ROUTER_CLIENT.port, PORTS[1]] {
            let ours = forwarded(&after, member) - forwarded(&before, member);
            ensure!((5..=6).contains(&ours), "{member} forwarded {ours} of 6");
        }
        after.port("br7").context("the bridge is a port").map(drop)
    });
    scene.close();
}

/// The layout of a home router: what netfilter has let through goes on at the member, with the addresses that it gave.
#[test]
fn connections_through_a_bridge_are_carried_at_its_member() {
    let Some(scene) = server_behind_a_bridge() else { return };
    load(&scene, &HOME.replace("server0", "br7"));
    scene.attach(&["br7", PORTS[0]], "native");
    follows(&scene);
    for family in Family::BOTH {
        let mut tcp = Tcp::open(&scene, family, 5201);
        becomes_fast(&scene, &mut tcp);
        let (kernel, before) = (scene.kernel_forwarded(), scene.stats());
        tcp.exchange(1_000_000).expect("bytes both ways");
        let (kernel, after) = (scene.kernel_forwarded() - kernel, scene.stats());
        let carried = forwarded(&after, PORTS[1]) - forwarded(&before, PORTS[1]);
        assert!(carried > 20 && kernel * 10 < carried, "{carried} carried at the member, {kernel} by the kernel");
    }
    scene.close();
}
