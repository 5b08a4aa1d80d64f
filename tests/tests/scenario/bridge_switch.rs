//! Frames between members of one bridge are sent by the programs, as the kernel's bridge would send them.

use anyhow::ensure;
use dataplane_tests::lab::{Namespace, Need, Stats};

use crate::{
    passage::run,
    scene::{PROMPT, Scene, can_have, within},
};

/// Of the members.
const MODES: [&str; 3] = ["native", "generic", "tc"];
/// The server, on the network of the bridge.
const FAR: [&str; 2] = ["198.18.2.2", "2001:db8:2::2"];
/// How many pings are sent of each family.
const PINGS: u64 = 10;

/// Both ports of the router are members of a bridge, and the hosts have addresses on one network.
fn switched() -> Option<Scene> {
    let needs = [Need::Tool("bridge"), Need::Tool("nft"), Need::Kernel("bridges", || can_have(&["bridge"]))];
    let scene = Scene::idle(&needs)?;
    scene.take_frames();
    run(
        scene.router(),
        &[
            "ip link add br7 type bridge stp_state 0 forward_delay 0",
            "ip link set client0 master br7",
            "ip link set server0 master br7",
            "ip addr flush dev client0",
            "ip addr flush dev server0",
            "ip link set br7 up",
        ],
    );
    for (host, number) in [(scene.client(), 1), (scene.server(), 2)] {
        run(
            host,
            &[
                &format!("ip addr add 198.18.2.{number}/24 dev eth0"),
                &format!("ip addr add 2001:db8:2::{number}/64 dev eth0 nodad"),
            ],
        );
    }
    // What they have to find out.
    within(PROMPT * 10, || {
        ensure!(pinged(scene.client(), 1) == 2, "the hosts do not reach each other");
        Ok(())
    });
    Some(scene)
}

/// How many of so many pings of each family are answered.
fn pinged(host: &Namespace, each: u64) -> u64 {
    let answered = |address: &&str| {
        let line = format!("ping -n -c {each} -i 0.01 -W 0.3 {address}");
        host.attempt(&line).expect("ping runs").stdout.matches("bytes from").count() as u64
    };
    FAR.iter().map(answered).sum()
}

/// Both answer and question are counted where they come in.
fn bridged(stats: &Stats) -> u64 {
    stats.reason("bridged")
}

/// Waits until frames are switched by the programs, but for some that the bridge is to see.
fn is_ours(scene: &Scene, what: &str) {
    within(PROMPT * 10, || {
        let before = bridged(&scene.stats());
        let answered = pinged(scene.client(), PINGS);
        ensure!(answered == 2 * PINGS, "{what}: {answered} of {} answered", 2 * PINGS);
        let ours = bridged(&scene.stats()) - before;
        ensure!(ours >= 4 * PINGS - 4, "{what}: {ours} of {} frames", 4 * PINGS);
        Ok(())
    });
}

/// Waits until the kernel's bridge has them, which lets through so many pings.
fn is_kernels(scene: &Scene, what: &str, through: u64) {
    within(PROMPT * 5, || {
        let before = bridged(&scene.stats());
        let answered = pinged(scene.client(), PINGS);
        let ours = bridged(&scene.stats()) - before;
        ensure!(ours == 0, "{what}: {ours} frames were still switched");
        ensure!(answered == through, "{what}: {answered} answered, not {through}");
        Ok(())
    });
}

/// With all that shows it; and no chain sees them.
#[test]
fn frames_between_members_are_switched() {
    for mode in MODES {
        let Some(scene) = switched() else { return };
        scene.attach(&["br7"], mode);
        is_ours(&scene, mode);
        assert!(scene.cli(&["port", "list", "-j"]).matches("\"switching\":\"on\"").count() == 2, "{mode}");
        let found = scene.daemon.attempt(&["doctor"]).expect("the doctor runs").stdout;
        assert!(found.contains("frames between its members are switched at the driver"), "{mode}: {found}");
        scene.rule("forward", "drop");
        scene.rule("prerouting", "meta length > 200 drop");
        is_ours(&scene, &format!("{mode}, with rules"));
        scene.close();
    }
}

/// Hosts that are forgotten, members that go and come back, and a daemon that is killed.
#[test]
fn what_the_kernel_learns_is_followed() {
    for mode in MODES {
        let Some(mut scene) = switched() else { return };
        scene.attach(&["br7"], mode);
        is_ours(&scene, mode);
        let flush = "ip link set server0 type bridge_slave fdb_flush";
        run(scene.router(), &[flush]);
        assert_eq!(pinged(scene.client(), PINGS), 2 * PINGS, "{mode}: what the bridge floods arrives");
        is_ours(&scene, &format!("{mode}, after a flush"));
        run(scene.router(), &["ip link set server0 down"]);
        is_kernels(&scene, &format!("{mode}, a member that is down"), 0);
        run(scene.router(), &["ip link set server0 up"]);
        is_ours(&scene, &format!("{mode}, up again"));
        run(scene.router(), &["ip link set server0 nomaster"]);
        is_kernels(&scene, &format!("{mode}, no member any more"), 0);
        run(scene.router(), &["ip link set server0 master br7"]);
        is_ours(&scene, &format!("{mode}, a member again"));
        scene.daemon.kill9().expect("killed");
        assert_eq!(pinged(scene.client(), PINGS), 2 * PINGS, "{mode}: without a daemon");
        scene.daemon.restart().expect("the daemon comes back");
        is_ours(&scene, &format!("{mode}, after a restart"));
        scene.close();
    }
}

/// Rules that netfilter would apply to bridged packets.
#[test]
fn rules_that_see_bridged_packets_hold() {
    for mode in MODES {
        let Some(scene) = switched() else { return };
        scene.attach(&["br7"], mode);
        let router = scene.router();
        let calls = |value| {
            for name in ["iptables", "ip6tables"] {
                let name = format!("net.bridge.bridge-nf-call-{name}");
                // A kernel without `br_netfilter` has no such thing.
                let _absent = router.sysctl(&name, value);
            }
        };
        let rules = [
            "nft add table inet t",
            "nft add chain inet t c { type filter hook forward priority 0; policy accept; }",
            "nft add rule inet t c ip daddr 198.18.2.2 drop",
        ];
        calls("0");
        run(router, &rules);
        is_ours(&scene, &format!("{mode}, rules that do not see bridged packets"));
        if std::path::Path::new("/proc/sys/net/bridge").exists() {
            calls("1");
            is_kernels(&scene, &format!("{mode}, rules that see them"), PINGS);
            run(router, &["nft delete table inet t"]);
            is_ours(&scene, &format!("{mode}, no rules"));
        }
        for rule in
            ["nft add table bridge t", "nft add chain bridge t c { type filter hook forward priority 0; policy drop; }"]
        {
            run(router, &[rule]);
        }
        is_kernels(&scene, &format!("{mode}, a chain of bridges"), 0);
        run(router, &["nft delete table bridge t"]);
        is_ours(&scene, &format!("{mode}, without it"));
        scene.close();
    }
}

/// What the kernel's bridge has to decide is its own, and what it drops is dropped, at once.
#[test]
fn what_more_than_the_table_decides_is_the_bridges() {
    for mode in MODES {
        let Some(scene) = switched() else { return };
        scene.attach(&["br7"], mode);
        let router = scene.router();
        for (what, on, off, through) in [
            ("a capture", "ip link set br7 promisc on", "ip link set br7 promisc off", 2 * PINGS),
            (
                "isolation of both",
                "bridge link set dev client0 isolated on; bridge link set dev server0 isolated on",
                "bridge link set dev client0 isolated off",
                0,
            ),
            (
                "a locked member",
                "bridge link set dev client0 locked on",
                "bridge link set dev client0 locked off",
                2 * PINGS,
            ),
            ("a blocked member", "bridge link set dev server0 state 0", "bridge link set dev server0 state 3", 0),
            (
                "neigh_suppress",
                "bridge link set dev server0 neigh_suppress on",
                "bridge link set dev server0 neigh_suppress off",
                2 * PINGS,
            ),
            (
                "no ageing",
                "ip link set br7 type bridge ageing_time 0",
                "ip link set br7 type bridge ageing_time 30000",
                2 * PINGS,
            ),
        ] {
            is_ours(&scene, &format!("{mode}, before {what}"));
            run(router, &on.split("; ").collect::<Vec<_>>());
            is_kernels(&scene, &format!("{mode}, {what}"), through);
            run(router, &[off]);
        }
        is_ours(&scene, &format!("{mode}, at the end"));
        scene.close();
    }
}
