//! What changes around a connection that is carried: uplinks, addresses, MTU, neighbours, rules that are not announced.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use dataplane_tests::lab::{CLIENT, Need, SERVER, traffic::Family};
use serde_json::Value;

use crate::{
    carried::each,
    scene::{PORTS, PROMPT, Scene, within},
    session::{HOME, Tcp, Udp, becomes_fast, count, follows, load},
};

/// Where the server listens.
const PORT: u16 = 5701;

/// Packets that the server got with a source address, by rules of its own.
fn watched(scene: &Scene, name: &str) -> u64 {
    let text = scene.server().run(&format!("nft list counter inet seen {name}")).expect("a counter");
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|word| word.parse().ok()).expect("packets")
}

/// Counts what comes to the server from an address, as counter `name`.
fn watch(scene: &Scene, name: &str, source: &str) {
    let version = if source.contains(':') { "ip6" } else { "ip" };
    for line in [
        "add table inet seen".to_owned(),
        "add chain inet seen watch { type filter hook prerouting priority -400; }".to_owned(),
        format!("add counter inet seen {name}"),
        format!("add rule inet seen watch iifname eth0 {version} saddr {source} counter name {name}"),
    ] {
        scene.server().run(&format!("nft {line}")).unwrap_or_else(|error| panic!("{line}: {error:#}"));
    }
}

#[test]
fn a_rule_of_iptables_legacy_acts_within_the_lease() {
    for mode in ["native", "tc"] {
        let config = "[flows]\nlease = 1\n";
        let Some(scene) = Scene::configured(&[Need::Tool("nft"), Need::Tool("iptables-legacy")], config) else {
            return;
        };
        load(&scene, HOME);
        scene.attach(&PORTS, mode);
        scene.take_frames();
        follows(&scene);
        for (family, tool) in [(Family::V4, "iptables-legacy"), (Family::V6, "ip6tables-legacy")] {
            // The table is there already: what comes is a rule in it, of which the kernel says nothing.
            scene.router().run(&format!("{tool} -A FORWARD -p tcp --dport 9 -j DROP")).expect("a rule");
            thread::sleep(Duration::from_millis(1500));
            let mut tcp = Tcp::open(&scene, family, PORT);
            becomes_fast(&scene, &mut tcp);
            scene.router().run(&format!("{tool} -I FORWARD -p tcp --dport {PORT} -j DROP")).expect("a rule");
            let start = Instant::now();
            tcp.server.set_read_timeout(Some(Duration::from_millis(400))).expect("a limit");
            tcp.client.set_write_timeout(Some(Duration::from_millis(400))).expect("a limit");
            while tcp.exchange(8).is_ok() {
                assert!(start.elapsed() < Duration::from_millis(2500), "{mode}: it passes the rule by after the lease");
                thread::sleep(Duration::from_millis(10));
            }
            println!("{mode}, {}: stopped after {:?}", family.name(), start.elapsed());
            let doctor = scene.daemon.attempt(&["doctor", "-j"]).expect("the doctor runs").stdout;
            assert!(doctor.contains("flows: iptables-legacy"), "{doctor}");
            scene.router().run(&format!("{tool} -F FORWARD")).expect("no rules");
        }
        scene.close();
    }
}

#[test]
fn no_packet_has_an_address_that_is_gone() {
    each(
        |scene, family, mode| {
            let (old, new) =
                if family == Family::V4 { ("198.18.1.1", "198.18.1.7") } else { ("2001:db8:1::1", "2001:db8:1::7") };
            let mut udp = Udp::open(scene, family, PORT);
            becomes_fast(scene, &mut udp);
            let (option, length) = (family.option(), if family == Family::V4 { 24 } else { 64 });
            scene.router().sysctl("net.ipv4.conf.all.promote_secondaries", "1").expect("the other address stays");
            let nodad = if family == Family::V4 { "" } else { "nodad" };
            scene
                .router()
                .run(&format!("ip {option} addr add {new}/{length} dev server0 {nodad}"))
                .expect("an address");
            scene.router().run(&format!("ip {option} addr del {old}/{length} dev server0")).expect("an address less");
            thread::sleep(Duration::from_millis(20));
            watch(scene, &format!("old{}", family.name().to_lowercase()), old);
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(300) {
                udp.client.send(b"from where").expect("sent");
                thread::sleep(Duration::from_millis(5));
            }
            let late = watched(scene, &format!("old{}", family.name().to_lowercase()));
            assert_eq!(late, 0, "{mode}: packets from an address that is gone");
            // What goes on is a new connection from the new address.
            let row = becomes_fast(scene, &mut udp);
            assert_eq!(
                row["reply"]["daddr"],
                new.parse::<std::net::IpAddr>().expect("an address").to_string(),
                "{row}"
            );
        },
        HOME,
    );
}

#[test]
fn a_smaller_way_out_is_told_to_the_sender() {
    each(
        |scene, family, mode| {
            let mut udp = Udp::open(scene, family, PORT);
            becomes_fast(scene, &mut udp);
            let (prefix, option) = (
                format!("{}/{}", family.address(&SERVER), if family == Family::V4 { 32 } else { 128 }),
                family.option(),
            );
            for (what, on, off) in [
                ("link", "ip link set server0 mtu 1300".to_owned(), "ip link set server0 mtu 1500".to_owned()),
                (
                    "route",
                    format!("ip {option} route add {prefix} dev server0 mtu 1300"),
                    format!("ip {option} route del {prefix}"),
                ),
            ] {
                becomes_fast(scene, &mut udp);
                scene.router().run(&on).expect("a smaller MTU");
                let big = [7; 1400];
                // The daemon hears of it, too.
                thread::sleep(Duration::from_millis(100));
                within(PROMPT, || {
                    let sent = udp.client.send(&big);
                    ensure!(sent.is_err(), "{mode}, {what}: nothing was told of it");
                    Ok(())
                });
                // It is learnt by now, so that the sender itself makes fragments.
                udp.client.send(&big).expect("in fragments");
                let mut buffer = [0; 2000];
                let (length, _) = udp.server.recv_from(&mut buffer).expect("it arrives");
                assert_eq!(length, big.len(), "{mode}, {what}");
                scene.router().run(&off).expect("as before");
                scene.client().run(&format!("ip {option} route flush cache")).expect("forgotten");
            }
            becomes_fast(scene, &mut udp);
        },
        HOME,
    );
}

#[test]
fn a_neighbour_moves_and_its_connections_stay_fast() {
    each(
        |scene, family, mode| {
            let mut tcp = Tcp::open(scene, family, PORT);
            becomes_fast(scene, &mut tcp);
            let epochs = count(scene, "epochs");
            scene.client().run("ip link set dev eth0 address 02:00:00:00:00:77").expect("another address");
            let option = family.option();
            let who = family.address(&CLIENT);
            scene
                .router()
                .run(&format!("ip {option} neigh replace {who} lladdr 02:00:00:00:00:77 dev client0"))
                .expect("it is known");
            within(PROMPT, || {
                let rows: Vec<Value> = scene.daemon.read(&["neigh", "list"])?;
                ensure!(rows.iter().any(|row| row["lladdr"] == "02:00:00:00:00:77"), "{rows:?}");
                Ok(())
            });
            let (carried, kernel) = (scene.stats().totals.forwarded, scene.kernel_forwarded());
            tcp.talk(20).expect("both are heard");
            assert!(
                scene.stats().totals.forwarded - carried >= 35,
                "{mode}: the kernel had {}",
                scene.kernel_forwarded() - kernel
            );
            assert_eq!(count(scene, "epochs"), epochs, "{mode}");
            scene.client().run(&format!("ip link set dev eth0 address {}", CLIENT.mac)).expect("as before");
            scene
                .router()
                .run(&format!("ip {option} neigh replace {who} lladdr {} dev client0", CLIENT.mac))
                .expect("as before");
        },
        HOME,
    );
}
