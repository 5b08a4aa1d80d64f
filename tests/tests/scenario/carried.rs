//! Connections that netfilter lets through are carried past it, and nothing else is.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use dataplane_tests::lab::{CLIENT, ROUTER_CLIENT, ROUTER_SERVER, SERVER, stream, traffic::Family};
use serde_json::Value;

use crate::{
    scene::{PROMPT, Scene, within},
    session::{HOME, Tcp, address, becomes_fast, count, flows, pass, router},
};

/// Where the server listens.
const PORT: u16 = 5401;
/// Both tiers.
const MODES: [&str; 2] = ["native", "tc"];

/// A router with rules, in a mode.
fn behind(mode: &str, rules: &str) -> Option<Scene> {
    let scene = router(mode, rules)?;
    scene.take_frames();
    // Ends of connections are not waited for, and none begins in its middle.
    for (name, value) in [("tcp_timeout_time_wait", "1"), ("tcp_timeout_close", "1"), ("tcp_loose", "0")] {
        scene.router().sysctl(&format!("net.netfilter.nf_conntrack_{name}"), value).expect("a timeout");
    }
    Some(scene)
}

/// An address in an answer.
fn said(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

/// In both modes and both families.
pub fn each(test: impl Fn(&Scene, Family, &str), rules: &str) {
    for mode in MODES {
        let Some(scene) = behind(mode, rules) else { return };
        for family in Family::BOTH {
            println!("{mode}, {}", family.name());
            test(&scene, family, mode);
        }
        scene.close();
    }
}

#[test]
fn a_masqueraded_connection_is_carried_and_closes_as_without_us() {
    each(
        |scene, family, mode| {
            let mut session = Tcp::open(scene, family, PORT);
            let row = becomes_fast(scene, &mut session);
            assert_eq!(row["state"], "fast", "{row}");
            assert_eq!(said(&row["reply"]["daddr"]), Some(address(family, &ROUTER_SERVER)), "{row}");
            assert_eq!(row["forth"]["iif"], ROUTER_CLIENT.port, "{row}");
            assert_eq!(row["forth"]["oif"], ROUTER_SERVER.port, "{row}");
            let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
            session.exchange(20_000_000).expect("bytes both ways");
            let (after, by_kernel) = (scene.stats(), scene.kernel_forwarded() - kernel);
            let carried = after.totals.forwarded - before.totals.forwarded;
            println!("{carried} packets carried, {by_kernel} by the kernel");
            // A lease may end meanwhile.
            assert!(carried > 500 && by_kernel * 100 < carried, "{mode}: {carried} carried, {by_kernel} by the kernel");
            ends_cleanly(scene, session);
            let errors = scene.server().run("cat /proc/net/snmp").expect("counters");
            let tcp: Vec<_> = errors.lines().filter(|line| line.starts_with("Tcp:")).collect();
            let place = tcp[0].split_whitespace().position(|name| name == "InCsumErrors").expect("a counter");
            assert_eq!(tcp[1].split_whitespace().nth(place), Some("0"), "checksum errors");
        },
        HOME,
    );
}

/// Both ends close, and both see it; the kernel's entry is then no longer established.
fn ends_cleanly(scene: &Scene, mut session: Tcp) {
    let port = session.port();
    session.client.shutdown(std::net::Shutdown::Write).expect("closed for writing");
    assert_eq!(session.server.read(&mut [0; 8]).expect("the server sees the end"), 0);
    // Half closed: the other half goes on.
    pass(&mut session.server, &mut session.client, 1_000_000).expect("the other half");
    drop(session.server);
    assert_eq!(session.client.read(&mut [0; 8]).expect("the client sees the end"), 0);
    drop(session.client);
    within(PROMPT, || {
        let rows: Vec<Value> = scene.daemon.read(&["flow", "list"])?;
        let row = rows.iter().find(|row| row["original"]["sport"] == port);
        ensure!(row.is_none_or(|row| row["state"] == "kernel"), "{row:?}");
        Ok(())
    });
}

#[test]
fn a_rule_stops_a_running_connection() {
    each(
        |scene, family, _| {
            let mut session = Tcp::open(scene, family, PORT);
            becomes_fast(scene, &mut session);
            // Nothing else changes, and it goes on.
            scene.router().run("nft add rule inet home crossing udp dport 9 drop").expect("another rule");
            session.exchange(1_000_000).expect("bytes both ways");
            becomes_fast(scene, &mut session);
            let before = count(scene, "epochs");
            // Programs are loaded for a dry run: that concerns no connection.
            scene.cli(&["explain", "--iface", ROUTER_CLIENT.port, "udp 198.18.0.2:1 > 198.18.1.2:9"]);
            assert_eq!(count(scene, "epochs"), before, "a reader sent all connections to the kernel");
            scene.router().run("nft insert rule inet home crossing tcp dport 5401 drop").expect("a rule that drops");
            thread::sleep(Duration::from_millis(5));
            session.client.write_all(b"too late").expect("it is queued");
            session.server.set_read_timeout(Some(Duration::from_millis(700))).expect("a patience");
            let late = session.server.read(&mut [0; 64]);
            assert!(late.is_err(), "{late:?} bytes arrived after the rule");
            assert!(count(scene, "epochs") > before);
            // Without the rule it is as it was.
            scene.router().run("nft flush chain inet home crossing").expect("no rules");
            let rules = "ct state established,related accept";
            scene.router().run(&format!("nft add rule inet home crossing {rules}")).expect("a rule");
            scene.router().run("nft add rule inet home crossing iifname client0 accept").expect("a rule");
            session.server.set_read_timeout(Some(Duration::from_secs(10))).expect("a patience");
            let mut queued = [0; 8];
            session.server.read_exact(&mut queued).expect("what was queued");
            assert_eq!(&queued, b"too late");
            becomes_fast(scene, &mut session);
        },
        HOME,
    );
}

#[test]
fn a_deleted_entry_ends_its_flow() {
    each(
        |scene, family, _| {
            let mut session = Tcp::open(scene, family, PORT);
            becomes_fast(scene, &mut session);
            let port = session.port();
            // Without the entry an answer is for the router itself, which resets it: as without us.
            scene.cli(&["flow", "del", "sport", &port.to_string()]);
            thread::sleep(Duration::from_millis(5));
            let before = scene.stats().totals.forwarded;
            session.server.set_read_timeout(Some(Duration::from_millis(300))).expect("a patience");
            session.server.write_all(b"an answer").expect("it is queued");
            session.client.set_read_timeout(Some(Duration::from_millis(300))).expect("a patience");
            let late = session.client.read(&mut [0; 64]);
            assert!(!matches!(late, Ok(1..)), "{late:?} bytes of a connection that is not there");
            assert_eq!(scene.stats().totals.forwarded, before, "no packet of it is carried");
        },
        HOME,
    );
}

#[test]
fn a_reset_ends_it_and_the_same_ports_begin_anew() {
    each(
        |scene, family, _| {
            for round in 0..3 {
                let mut session = Tcp::open(scene, family, PORT);
                becomes_fast(scene, &mut session);
                // Closed with bytes unread: a reset.
                session.server.write_all(&[7; 100]).expect("bytes");
                thread::sleep(Duration::from_millis(20));
                drop(session.client);
                let end = session.server.read(&mut [0; 8]);
                assert!(end.is_err() || matches!(end, Ok(0)), "round {round}: {end:?}");
            }
        },
        HOME,
    );
}

/// The client reaches the server by the router's address, and hides as well.
const PUBLISHED: &str = "table inet published {
 chain crossing {
  type filter hook forward priority filter; policy drop;
  ct state established,related accept
  ct status dnat accept
 }
 chain entering {
  type nat hook prerouting priority dstnat;
  tcp dport 80 dnat ip to 198.18.1.2:5401
  tcp dport 80 dnat ip6 to [2001:db8:1::2]:5401
 }
 chain leaving {
  type nat hook postrouting priority srcnat;
  oifname \"server0\" masquerade
 }
}
";

#[test]
fn both_ends_are_translated_at_once() {
    each(
        |scene, family, _| {
            let target = SocketAddr::new(address(family, &ROUTER_CLIENT), 80);
            let mut session = Tcp::through(scene, target, SocketAddr::new(address(family, &SERVER), PORT));
            let row = becomes_fast(scene, &mut session);
            assert_eq!(said(&row["original"]["daddr"]), Some(address(family, &ROUTER_CLIENT)), "{row}");
            assert_eq!(said(&row["reply"]["saddr"]), Some(address(family, &SERVER)), "{row}");
            assert_eq!(said(&row["reply"]["daddr"]), Some(address(family, &ROUTER_SERVER)), "{row}");
            session.exchange(5_000_000).expect("bytes both ways");
            becomes_fast(scene, &mut session);
            ends_cleanly(scene, session);
        },
        PUBLISHED,
    );
}

#[test]
fn datagrams_are_carried_for_as_long_as_they_come() {
    for mode in MODES {
        let Some(scene) = behind(mode, HOME) else { return };
        for name in ["udp_timeout", "udp_timeout_stream"] {
            scene.router().sysctl(&format!("net.netfilter.nf_conntrack_{name}"), "2").expect("a timeout");
        }
        for family in Family::BOTH {
            let (client, server) = (address(family, &CLIENT), address(family, &SERVER));
            let bind = |address| move || Ok(UdpSocket::bind(SocketAddr::new(address, PORT))?);
            let sink = scene.server().inside(bind(server)).expect("a socket");
            let source = scene.client().inside(bind(client)).expect("a socket");
            for socket in [&sink, &source] {
                socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a patience");
            }
            source.connect((server, PORT)).expect("a peer");
            let mut buffer = [0; 64];
            let (start, mut peers) = (Instant::now(), std::collections::BTreeSet::new());
            let mut number = 0_u32;
            let mut carried = false;
            // Longer than three timeouts and a lease.
            while start.elapsed() < Duration::from_secs(8) {
                source.send(&number.to_be_bytes()).expect("a datagram");
                let (length, from) = sink.recv_from(&mut buffer).expect("it arrives");
                assert_eq!(buffer[..length], number.to_be_bytes());
                peers.insert(from);
                sink.send_to(&buffer[..length], from).expect("an answer");
                assert_eq!(source.recv(&mut buffer).expect("the answer arrives"), length);
                number += 1;
                if number.is_multiple_of(100) {
                    let rows: Vec<Value> = scene.daemon.read(&["flow", "list"]).expect("connections");
                    carried |= rows.iter().any(|row| row["proto"] == "udp" && row["state"] == "fast");
                }
                thread::sleep(Duration::from_millis(2));
            }
            assert!(carried, "{mode}, {}: it was never carried", family.name());
            assert_eq!(peers.len(), 1, "{mode}: the translated port changed: {peers:?}");
        }
        scene.close();
    }
}

/// More than the first rows of a table hold, which differ in nothing but a port.
#[test]
fn many_connections_between_two_hosts_are_carried() {
    const FLOWS: u16 = 1500;
    let Some(scene) = behind("native", HOME) else { return };
    for family in Family::BOTH {
        let (client, server) = (address(family, &CLIENT), address(family, &SERVER));
        let bind = |address, port| move || Ok(UdpSocket::bind(SocketAddr::new(address, port))?);
        let sink = scene.server().inside(bind(server, PORT)).expect("a socket");
        sink.set_read_timeout(Some(PROMPT)).expect("a limit");
        let sources: Vec<_> = (0..FLOWS)
            .map(|number| {
                let socket = scene.client().inside(bind(client, 20_000 + number)).expect("a socket");
                socket.set_read_timeout(Some(PROMPT)).expect("a limit");
                socket.connect((server, PORT)).expect("a peer");
                socket
            })
            .collect();
        let mut buffer = [0; 64];
        let round = |buffer: &mut [u8]| {
            for (number, source) in sources.iter().enumerate() {
                let content = (number as u16).to_be_bytes();
                source.send(&content).expect("a datagram");
                let (length, from) = sink.recv_from(buffer).expect("it arrives");
                assert_eq!(buffer[..length], content);
                sink.send_to(&buffer[..length], from).expect("an answer");
                let length = source.recv(buffer).expect("the answer arrives");
                assert_eq!(buffer[..length], content, "another's answer");
            }
        };
        let took = within(Duration::from_secs(20), || {
            round(&mut buffer);
            let rows = flows(&scene, &["state", "fast", "dport", &PORT.to_string(), "saddr", &client.to_string()]);
            ensure!(rows.len() >= usize::from(FLOWS) * 99 / 100, "{} of {FLOWS} are carried", rows.len());
            Ok(())
        });
        println!("{}: {FLOWS} connections are carried after {took:?}", family.name());
    }
    scene.close();
}

#[test]
fn no_datagram_is_lost_when_the_daemon_is_killed_and_comes_back() {
    for mode in MODES {
        let Some(mut scene) = behind(mode, HOME) else { return };
        for family in Family::BOTH {
            let running = stream::stream(&scene.lab, family, PORT, 3000).expect("a stream");
            thread::sleep(Duration::from_millis(700));
            scene.daemon.kill9().expect("killed");
            thread::sleep(Duration::from_secs(1));
            scene.daemon.launch().expect("started");
            thread::sleep(Duration::from_secs(1));
            let tally = running.finish().expect("a tally");
            println!("{mode}, {}: {tally:?}", family.name());
            assert_eq!((tally.lost, tally.repeated), (0, 0), "{mode}, {}: {tally:?}", family.name());
        }
        scene.close();
    }
}

#[test]
fn a_route_that_moves_takes_its_connections_along() {
    each(
        |scene, family, _| {
            let mut session = Tcp::open(scene, family, PORT);
            becomes_fast(scene, &mut session);
            // The way is shut for a moment, and found again.
            let (prefix, option) =
                if family == Family::V4 { ("198.18.1.2/32", "-4") } else { ("2001:db8:1::2/128", "-6") };
            scene.router().run(&format!("ip {option} route add {prefix} dev server0 mtu 1400")).expect("a route");
            within(PROMPT, || {
                let row: Value = scene.daemon.read(&["route", "get", family.address(&SERVER)])?;
                ensure!(row["prefix"] == prefix, "{row}");
                Ok(())
            });
            session.exchange(2_000_000).expect("bytes both ways");
            becomes_fast(scene, &mut session);
            scene.router().run(&format!("ip {option} route del {prefix}")).expect("no route");
            session.exchange(2_000_000).expect("bytes both ways");
        },
        HOME,
    );
}
