//! Sockets that get what is sent to a prefix and a range of ports, without being bound to it.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{ROUTER_CLIENT, traffic::Family};
use serde::Deserialize;

use crate::scene::{PROMPT, Scene, within};

/// 256 addresses of each family.
const PREFIXES: [&str; 2] = ["192.0.2.0/24", "2001:db8:77::/120"];
/// Ports of the entry.
const PORTS: u16 = 1000;
const PATIENCE: Duration = Duration::from_secs(2);

/// A row of `steer list`.
#[derive(Debug, Deserialize)]
struct Row {
    matches: String,
    process: Option<String>,
    steered: u64,
}

fn rows(scene: &Scene) -> Vec<Row> {
    scene.daemon.read(&["steer", "list"]).expect("entries")
}

/// Runs `steer` with these words.
fn steer(scene: &Scene, verb: &str, words: &str) {
    let words: Vec<_> = ["steer", verb].into_iter().chain(words.split(' ')).collect();
    scene.cli(&words);
}

/// Address `host` of a family's prefix.
fn address(family: Family, host: u16) -> IpAddr {
    let text = match family {
        Family::V4 => format!("192.0.2.{}", host % 256),
        Family::V6 => format!("2001:db8:77::{:x}", host % 256),
    };
    text.parse().expect("an address")
}

/// The router takes the prefixes, and the client knows the way.
fn route(scene: &Scene) {
    for (prefix, (via, all)) in PREFIXES.iter().zip([(ROUTER_CLIENT.v4, "-4"), (ROUTER_CLIENT.v6, "-6")]) {
        scene.router().run(&format!("ip {all} route add local {prefix} dev lo")).expect("a local route");
        scene.client().run(&format!("ip {all} route add {prefix} via {via}")).expect("a route");
    }
    scene.router().run("ip link set lo up").expect("lo");
}

fn listener(scene: &Scene, at: &str) -> TcpListener {
    scene.router().inside(|| Ok(TcpListener::bind(at)?)).expect("a listener")
}

fn connect(scene: &Scene, to: SocketAddr) -> anyhow::Result<TcpStream> {
    scene.client().inside(|| TcpStream::connect_timeout(&to, PATIENCE).context("no connection"))
}

/// A connection to `to`, which this listener must get, with the address that was asked for.
fn gets(scene: &Scene, listener: &TcpListener, to: SocketAddr) -> anyhow::Result<()> {
    let stream = connect(scene, to)?;
    listener.set_nonblocking(true)?;
    let taken = std::iter::repeat_with(|| listener.accept()).take(1000).find_map(|accepted| {
        if accepted.is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        accepted.ok()
    });
    let (own, from) = taken.context("another socket got it")?;
    let plain = |end: SocketAddr| (end.ip().to_canonical(), end.port());
    let (from, at, asker) = (plain(from), plain(own.local_addr()?), plain(stream.local_addr()?));
    ensure!(from == asker && at == plain(to), "{from:?} at {at:?}, not {asker:?} at {to}");
    Ok(())
}

fn refuses(scene: &Scene, to: SocketAddr) {
    let found = connect(scene, to).expect_err("no socket takes it");
    assert!(format!("{found:#}").contains("refused"), "{to}: {found:#}");
}

fn pins(scene: &Scene) -> PathBuf {
    scene.daemon.bpffs().join("steer")
}

/// Programs for the lookup of sockets that are attached on the machine.
fn attached(scene: &Scene) -> usize {
    scene.router().run("bpftool link").expect("bpftool").matches("attach_type sk_lookup").count()
}

#[test]
fn a_listener_has_a_prefix() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    route(&scene);
    let before = attached(&scene);
    // Bound to an address of its own: the prefix belongs to no socket.
    let web = listener(&scene, "[::]:4000");
    for prefix in PREFIXES {
        steer(&scene, "add", &format!("tcp {prefix} port 1-{PORTS} to listen :4000"));
    }
    scene.refused(&["steer", "add", "tcp", PREFIXES[0], "port", "1-1000", "to", "listen", ":4000"], 5, &["replace"]);
    scene.refused(
        &["steer", "add", "udp", PREFIXES[0], "port", "53", "to", "listen", ":4000"],
        3,
        &["no socket of udp"],
    );
    scene.refused(&["steer", "add", "tcp", "192.0.2.1/24", "port", "53", "to", "fd", "3"], 2, &["192.0.2.0/24"]);
    for family in Family::BOTH {
        for (host, port) in [(0, 1), (9, 22), (255, PORTS)] {
            gets(&scene, &web, SocketAddr::new(address(family, host), port)).expect("the listener");
        }
        refuses(&scene, SocketAddr::new(address(family, 9), PORTS + 1));
    }
    let list = rows(&scene);
    assert_eq!(list.iter().map(|row| row.steered).collect::<Vec<_>>(), [3, 3], "{list:?}");
    assert_eq!(list[0].matches, "tcp 192.0.2.0/24 port 1-1000");
    let own = std::process::id().to_string();
    assert!(list[0].process.as_ref().is_some_and(|process| process.ends_with(&own)), "{list:?}");

    scene.cli(&["detach", "--all"]);
    assert!(!pins(&scene).exists() && rows(&scene).is_empty());
    within(PROMPT * 5, || {
        ensure!(attached(&scene) == before, "a program is attached");
        Ok(())
    });
    scene.close();
}
