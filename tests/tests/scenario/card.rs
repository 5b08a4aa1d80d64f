//! Drivers of real network cards, as qemu emulates them: the guest of `cargo xtask test vm` has two pairs, each on its wire.

use std::{fs, process::Command};

use dataplane_tests::lab::{CLIENT, End, Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER, traffic};

use crate::scene::Scene;

/// The link with this address among those of the machine.
fn with_address(mac: &str) -> Option<String> {
    let links = fs::read_dir("/sys/class/net").ok()?.flatten();
    links
        .filter(|link| fs::read_to_string(link.path().join("address")).is_ok_and(|text| text.trim() == mac))
        .find_map(|link| link.file_name().into_string().ok())
}

/// The card at an end of a wire; `xtask/src/vm/guest.rs` gives the addresses.
fn card(wire: u8, end: u8) -> Option<String> {
    with_address(&format!("02:00:00:ca:0{wire}:0{end}"))
}

fn there() -> bool {
    (0..2).all(|wire| (0..2).all(|end| card(wire, end).is_some()))
}

/// Puts a card in the place of the veth of an end.
fn take_place(scene: &Scene, end: &End, card: &str) {
    let namespace = scene.lab.namespace(end.namespace);
    let moved = Command::new("ip").args(["link", "set", card, "netns", namespace.full(), "name", end.port]).status();
    assert!(moved.expect("ip runs").success(), "{card} moves to {}", end.namespace);
    for line in [
        format!("ip link set {} address {} up", end.port, end.mac),
        format!("ip addr add {}/24 dev {}", end.v4, end.port),
        format!("ip addr add {}/64 dev {} nodad", end.v6, end.port),
    ] {
        namespace.run(&line).expect("an address");
    }
}

/// The router between two virtio cards and two e1000e cards, instead of veths.
fn wired() -> Option<Scene> {
    let scene = Scene::idle(&[Need::Kernel("emulated cards of `xtask test vm`", there)])?;
    for (wire, ours, theirs) in [(0, ROUTER_CLIENT, CLIENT), (1, ROUTER_SERVER, SERVER)] {
        scene.router().run(&format!("ip link del {}", ours.port)).expect("a veth less");
        for (end, place) in [(0, &ours), (1, &theirs)] {
            take_place(&scene, place, &card(wire, end).expect("a card"));
        }
        let host = scene.lab.namespace(theirs.namespace);
        host.run(&format!("ip route add default via {}", ours.v4)).expect("a route");
        host.run(&format!("ip -6 route add default via {}", ours.v6)).expect("a route");
    }
    crate::scene::within(std::time::Duration::from_secs(20), || scene.ping());
    Some(scene)
}

/// Gives the cards back their names and the machine: with its namespace a card would come back under the name it has there.
fn unwire(scene: Scene) {
    for (number, end) in [ROUTER_CLIENT, CLIENT, ROUTER_SERVER, SERVER].iter().enumerate() {
        let namespace = scene.lab.namespace(end.namespace);
        namespace.run(&format!("ip link set {} down", end.port)).expect("down");
        namespace.run(&format!("ip link set {} name card{number} netns 1", end.port)).expect("the card goes back");
        let macs = ["02:00:00:ca:00:00", "02:00:00:ca:00:01", "02:00:00:ca:01:00", "02:00:00:ca:01:01"];
        let back = Command::new("ip").args(["link", "set", &format!("card{number}"), "address", macs[number]]).status();
        assert!(back.expect("ip runs").success(), "its address comes back");
    }
    scene.close();
}

/// virtio has XDP in its driver, e1000e has not. Each pair of modes carries everything, and the counters tell of it.
#[test]
fn cards_carry_everything_in_the_modes_that_they_have() {
    let Some(scene) = wired() else { return };
    scene.router().run(&format!("ethtool -K {} lro off", ROUTER_CLIENT.port)).ok();
    for (virtio, other) in [("tc", "tc"), ("generic", "generic"), ("native", "tc"), ("auto", "auto")] {
        scene.attach(&[ROUTER_CLIENT.port], virtio);
        scene.attach(&[ROUTER_SERVER.port], other);
        let before = scene.stats();
        scene.ping().expect("pings are answered");
        scene.carries();
        let after = scene.stats();
        let forwarded = after.totals.forwarded - before.totals.forwarded;
        let shown = |port: &str| after.port(port).expect("the port").mode.clone();
        println!(
            "virtio_net {virtio} ({}), e1000e {other} ({}): {forwarded} forwarded",
            shown(ROUTER_CLIENT.port),
            shown(ROUTER_SERVER.port)
        );
        assert!(forwarded >= 52, "{virtio}/{other}: 12 pings and 40 datagrams: {after:?}");
        assert_eq!(after.totals.dropped, before.totals.dropped, "{virtio}/{other}: {after:?}");
    }
    scene.refused(&["attach", ROUTER_SERVER.port, "--mode", "native"], 1, &[ROUTER_SERVER.port, "tc"]);
    scene.rule("forward", "udp dport 5302 drop");
    for family in traffic::Family::BOTH {
        assert_eq!(traffic::datagrams(&scene.lab, family, 5302, 10).expect("datagrams"), 0, "{}", family.name());
    }
    unwire(scene);
}
