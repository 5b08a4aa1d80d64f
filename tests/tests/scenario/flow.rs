//! Connections that netfilter lets through: when they are listed, when they are fast, and when they are not any more.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{CLIENT, Need, ROUTER_SERVER, SERVER, traffic::Family};
use serde_json::Value;

use crate::{
    scene::{PORTS, PROMPT, Scene, within},
    session::{HOME, SOON, Tcp, becomes_fast, count, flows, follows, load, router},
};

/// Where the connections of these scenarios go.
const PORT: u16 = 5301;

/// The state of the connection from a port.
fn state(scene: &Scene, port: u16) -> String {
    let rows = flows(scene, &["sport", &port.to_string()]);
    rows.first().map_or("none", |row| row["state"].as_str().unwrap_or("no word")).to_owned()
}

fn listed_and_carried(mode: &str) {
    let Some(scene) = router(mode, HOME) else { return };
    for family in Family::BOTH {
        let mut tcp = Tcp::open(&scene, family, PORT);
        becomes_fast(&scene, &mut tcp);
        let rows = flows(&scene, &["sport", &tcp.port().to_string(), "proto", "tcp"]);
        assert_eq!(rows.len(), 1, "{rows:?}");
        let row = &rows[0];
        let is = |value: &Value, end| {
            let (found, expected): (IpAddr, IpAddr) = (
                value.as_str().unwrap_or_default().parse().expect("an address"),
                family.address(end).parse().expect("one"),
            );
            assert_eq!(found, expected, "{row}");
        };
        is(&row["original"]["saddr"], &CLIENT);
        is(&row["reply"]["daddr"], &ROUTER_SERVER);
        assert_eq!((&row["forth"]["iif"], &row["forth"]["oif"]), (&"client0".into(), &"server0".into()), "{row}");
        assert_eq!((&row["back"]["iif"], &row["back"]["oif"]), (&"server0".into(), &"client0".into()), "{row}");
        let (kernel, before) = (scene.kernel_forwarded(), row["packets"].as_u64().expect("packets"));
        tcp.talk(50).expect("both are heard");
        let after = flows(&scene, &["sport", &tcp.port().to_string()])[0]["packets"].as_u64().expect("packets");
        assert!(after - before >= 90, "{} packets were carried", after - before);
        assert!(scene.kernel_forwarded() - kernel <= 10, "the kernel had {}", scene.kernel_forwarded() - kernel);
        // Its end is the kernel's, and frees its rows.
        let port = tcp.port();
        drop(tcp);
        within(SOON, || {
            let state = state(&scene, port);
            ensure!(state == "none", "it is still {state}");
            Ok(())
        });
    }
    assert_eq!(count(&scene, "rows"), 0);
    scene.close();
}

#[test]
fn connections_are_listed_and_carried_native() {
    listed_and_carried("native");
}

#[test]
fn connections_are_listed_and_carried_tc() {
    listed_and_carried("tc");
}

/// Datagrams that are answered make a connection; datagrams that are not, do not.
#[test]
fn datagrams_are_connections_once_they_are_answered() {
    let Some(scene) = router("native", HOME) else { return };
    for family in Family::BOTH {
        let to = SocketAddr::new(family.address(&SERVER).parse().expect("an address"), PORT);
        let from = SocketAddr::new(family.address(&CLIENT).parse().expect("an address"), 0);
        let server = scene.server().inside(|| Ok(UdpSocket::bind(to)?)).expect("a socket");
        let client = scene.client().inside(|| Ok(UdpSocket::bind(from)?)).expect("a socket");
        server.set_read_timeout(Some(SOON)).expect("a limit");
        client.set_read_timeout(Some(SOON)).expect("a limit");
        client.connect(to).expect("a destination");
        let (port, mut buffer) = (client.local_addr().expect("an address").port(), [0; 16]);
        for _ in 0..3 {
            client.send(b"question").expect("sent");
            server.recv_from(&mut buffer).expect("a question");
        }
        thread::sleep(Duration::from_millis(200));
        assert_eq!(state(&scene, port), "none", "it was not answered");
        let why = flows(&scene, &["sport", &port.to_string(), "--why-not"]);
        assert_eq!(why[0]["reason"], "one-way", "{why:?}");
        within(SOON, || {
            client.send(b"question")?;
            let (_, sender) = server.recv_from(&mut buffer)?;
            server.send_to(b"response", sender)?;
            client.recv(&mut buffer)?;
            let state = state(&scene, port);
            ensure!(state == "fast", "it is {state}");
            Ok(())
        });
    }
    scene.close();
}

/// `flow del` has the kernel forget a connection: its rows go with it, and no other's.
#[test]
fn what_is_deleted_is_gone_from_the_kernel() {
    let Some(scene) = router("native", HOME) else { return };
    // A late acknowledgement would begin it anew.
    scene.router().sysctl("net.netfilter.nf_conntrack_tcp_loose", "0").expect("a sysctl");
    let mut one = Tcp::open(&scene, Family::V4, PORT);
    let mut other = Tcp::open(&scene, Family::V4, PORT + 1);
    becomes_fast(&scene, &mut one);
    becomes_fast(&scene, &mut other);
    let port = one.port().to_string();
    scene.refused(&["flow", "del", "dport", "9"], 3, &["no such connection"]);
    scene.refused(&["flow", "del", "colour", "red"], 2, &["colour", "saddr"]);
    let deleted: Value = scene.daemon.read(&["flow", "del", "proto", "tcp", "sport", &port]).expect("a count");
    assert_eq!(deleted["deleted"], 1);
    within(PROMPT, || {
        ensure!(flows(&scene, &["sport", &port]).is_empty(), "it is still there");
        Ok(())
    });
    assert!(flows(&scene, &["sport", &port, "--why-not"]).is_empty(), "the kernel still has it");
    assert_eq!(state(&scene, other.port()), "fast");
    other.talk(3).expect("the other one goes on");
    scene.close();
}

/// A commit of nft, and `flow flush`, send each connection through the kernel once.
#[test]
fn a_commit_disarms_and_the_next_packets_arm() {
    let Some(scene) = router("native", HOME) else { return };
    let mut tcp = Tcp::open(&scene, Family::V4, PORT);
    becomes_fast(&scene, &mut tcp);
    for act in ["nft add rule inet home crossing udp dport 9 drop", "flush"] {
        let (epochs, kernel) = (count(&scene, "epochs"), scene.kernel_forwarded());
        match act {
            "flush" => drop(scene.cli(&["flow", "flush"])),
            rule => drop(scene.router().run(rule).expect("a rule")),
        }
        within(PROMPT, || {
            let now = count(&scene, "epochs");
            ensure!(now > epochs, "still {now} after {act}");
            Ok(())
        });
        assert_eq!(state(&scene, tcp.port()), "listed", "after {act}");
        becomes_fast(&scene, &mut tcp);
        let through = scene.kernel_forwarded() - kernel;
        assert!((2..40).contains(&through), "{through} packets went through the kernel after {act}");
    }
    // One that forbids it: nothing more arrives.
    scene.router().run("nft insert rule inet home crossing tcp dport 5301 drop").expect("a rule");
    thread::sleep(Duration::from_millis(5));
    tcp.server.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
    tcp.client.write_all(b"question").expect("it is sent");
    assert!(tcp.server.read(&mut [0; 8]).is_err(), "a packet passed by the rule");
    scene.close();
}

/// Rules that must see each packet: from the moment that `nft` returned on, they do. The daemon takes longer to read them.
#[test]
fn nothing_is_carried_past_rules_that_are_not_judged_yet() {
    let Some(scene) = router("native", HOME) else { return };
    let mut tcp = Tcp::open(&scene, Family::V4, PORT);
    becomes_fast(&scene, &mut tcp);
    scene.router().run("nft insert rule inet home crossing tcp dport 5301 meta mark set 7 accept").expect("a rule");
    thread::sleep(Duration::from_millis(5));
    let forwarded = scene.stats().totals.forwarded;
    let start = std::time::Instant::now();
    let mut times = 0;
    while start.elapsed() < PROMPT * 2 {
        tcp.talk(1).expect("both are heard");
        times += 1;
    }
    assert_eq!(scene.stats().totals.forwarded, forwarded, "of {times} questions and answers");
    assert!(times > 20, "{times}");
    scene.close();
}

/// Connections that were made while no one listened announce nothing, also not their end: none of them is carried.
#[test]
fn connections_from_before_the_daemon_are_the_kernels() {
    let Some(mut scene) = Scene::idle(&[Need::Tool("nft")]) else { return };
    scene.daemon.terminate().expect("it ends");
    load(&scene, HOME);
    scene.router().sysctl("net.netfilter.nf_conntrack_events", "2").expect("the default");
    let mut old = Tcp::open(&scene, Family::V4, PORT);
    old.talk(2).expect("both are heard");
    scene.daemon.restart().expect("a daemon");
    scene.attach(&PORTS, "native");
    follows(&scene);
    let mut new = Tcp::open(&scene, Family::V4, PORT + 1);
    becomes_fast(&scene, &mut new);
    old.talk(20).expect("both are heard");
    assert!(["none", "asked", "young"].contains(&state(&scene, old.port()).as_str()), "{}", state(&scene, old.port()));
    within(SOON * 3, || {
        let why = flows(&scene, &["sport", &old.port().to_string(), "--why-not"]);
        let row = why.first().context("the kernel has it")?;
        ensure!(row["reason"] == "silent" && row["state"] == "kernel", "{row}");
        Ok(())
    });
    assert!(count(&scene, "silent") >= 1);
    scene.close();
}

/// What a helper reads is never carried.
#[test]
fn what_a_helper_reads_is_the_kernels() {
    let Some(scene) = Scene::idle(&[Need::Tool("nft")]) else { return };
    let helper = "  ct helper standard { type \"ftp\" protocol tcp; }\n  chain early {\n    type filter hook prerouting priority filter;\n    \
                  tcp dport 5301 ct helper set \"standard\"\n  }\n  chain crossing";
    load(&scene, &HOME.replacen(" chain crossing", helper, 1));
    scene.attach(&PORTS, "native");
    follows(&scene);
    let mut watched = Tcp::open(&scene, Family::V4, PORT);
    let mut plain = Tcp::open(&scene, Family::V4, PORT + 1);
    becomes_fast(&scene, &mut plain);
    watched.talk(20).expect("both are heard");
    assert_eq!(state(&scene, watched.port()), "none");
    let why = flows(&scene, &["sport", &watched.port().to_string(), "--why-not"]);
    assert_eq!(why[0]["reason"], "helper", "{why:?}");
    scene.close();
}

/// Announcements that were lost: nothing is fast until it has been through the kernel, and rows of what is gone go.
#[test]
fn lost_announcements_are_made_good() {
    let Some(scene) = Scene::configured(&[Need::Tool("nft")], "[flows]\nmax = 4096\n") else { return };
    load(&scene, HOME);
    scene.attach(&PORTS, "native");
    follows(&scene);
    let mut stay: Vec<_> = (0..3).map(|number| Tcp::open(&scene, Family::V4, PORT + 2 + number)).collect();
    let goes = Tcp::open(&scene, Family::V4, PORT + 1);
    for tcp in &mut stay {
        becomes_fast(&scene, tcp);
    }
    within(SOON, || {
        ensure!(state(&scene, goes.port()) != "none", "not listed");
        Ok(())
    });
    let (overruns, resyncs) = (count(&scene, "overruns"), count(&scene, "resyncs"));
    let pid = scene.daemon.pid().expect("a daemon").to_string();
    let signal = |name: &str| {
        let done = std::process::Command::new("kill").args([name, &pid]).status().expect("kill runs");
        assert!(done.success());
    };
    signal("-STOP");
    let gone = goes.port();
    drop(goes);
    answered_datagrams(&scene, 30_000);
    signal("-CONT");
    within(SOON * 4, || {
        let now = count(&scene, "overruns");
        ensure!(now > overruns, "{now} overruns");
        ensure!(count(&scene, "resyncs") > resyncs, "not listed again");
        ensure!(state(&scene, gone) == "none", "it is still listed");
        Ok(())
    });
    assert!(count(&scene, "rows") <= 2 * 4096, "{} rows", count(&scene, "rows"));
    assert!(count(&scene, "full") > 0, "the rest is the kernel's");
    // Rows are looked for in 16 places, of which half are in use now: one of them may find none, and says so.
    stay.retain(|tcp| {
        let why = flows(&scene, &["sport", &tcp.port().to_string(), "--why-not"]);
        let crowded_out = why.first().is_some_and(|row| row["reason"] == "full");
        !crowded_out
    });
    assert!(stay.len() >= 2, "only {} of three have rows", stay.len());
    for tcp in &mut stay {
        becomes_fast(&scene, tcp);
    }
    scene.close();
}

/// So many datagrams, each from a port of its own or to one, all answered.
fn answered_datagrams(scene: &Scene, count: u32) {
    const SERVERS: u16 = 10;
    let bind = |address: SocketAddr| move || Ok(UdpSocket::bind(address)?);
    let at = |end: &str, port| SocketAddr::new(end.parse().expect("an address"), port);
    let servers: Vec<_> = (0..SERVERS)
        .map(|number| scene.server().inside(bind(at(SERVER.v4, 6000 + number))).expect("a socket"))
        .collect();
    let mut buffer = [0; 16];
    for _ in 0..count / u32::from(SERVERS) {
        let client = scene.client().inside(bind(at(CLIENT.v4, 0))).expect("a socket");
        for (number, server) in servers.iter().enumerate() {
            client.send_to(b"q", at(SERVER.v4, 6000 + number as u16)).expect("sent");
            server.set_read_timeout(Some(SOON)).expect("a limit");
            let (_, sender) = server.recv_from(&mut buffer).expect("a question");
            server.send_to(b"r", sender).expect("answered");
        }
    }
}
