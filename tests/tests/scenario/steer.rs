//! Sockets that get what is sent to a prefix and a range of ports, without being bound to it.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{CLIENT, Namespace, ROUTER_CLIENT, traffic::Family};
use serde::Deserialize;
use serde_json::Value;

use crate::scene::{PROMPT, Scene, within};

/// 256 addresses of each family.
const PREFIXES: [&str; 2] = ["192.0.2.0/24", "2001:db8:77::/120"];
/// Ports of the entry.
const PORTS: u16 = 1000;
/// Connections to different addresses and ports, in sum.
const CONNECTIONS: u16 = 10_000;
const PATIENCE: Duration = Duration::from_secs(2);

/// A row of `steer list`.
#[derive(Debug, Deserialize)]
struct Row {
    id: u32,
    matches: String,
    or_drop: bool,
    socket: Option<Value>,
    process: Option<String>,
    steered: u64,
    passed: u64,
    dropped: u64,
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
    let Some(mut scene) = Scene::attached(&[], "native") else { return };
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

    named(&scene);
    overlaps(&scene, &web);
    datagrams(&scene);
    // The daemon dies and comes again, under connections.
    let client = scene.client().clone();
    thread::scope(|scope| {
        let burst = scope.spawn(|| many(&client, &web));
        scene.daemon.kill9().expect("it dies");
        thread::sleep(Duration::from_millis(200));
        scene.daemon.restart().expect("it starts");
        burst.join().expect("no panic").expect("each connection at its address");
    });
    let list = rows(&scene);
    assert!(list.iter().map(|row| row.steered).sum::<u64>() >= u64::from(CONNECTIONS), "{list:?}");
    assert_eq!(attached(&scene), before + 1, "one program, whatever daemon attached it");

    replaced(&scene, web);
    scene.cli(&["detach", "--all"]);
    assert!(!pins(&scene).exists() && rows(&scene).is_empty());
    within(PROMPT * 5, || {
        ensure!(attached(&scene) == before, "a program is attached");
        Ok(())
    });
    scene.close();
}

/// `explain`, doctor and metrics know the entry.
fn named(scene: &Scene) {
    for (family, id) in [(Family::V4, 1), (Family::V6, 2)] {
        let (from, to) = match family {
            Family::V4 => (CLIENT.v4.to_owned(), address(family, 9).to_string()),
            Family::V6 => (format!("[{}]", CLIENT.v6), format!("[{}]", address(family, 9))),
        };
        let recipient = explained(scene, &format!("tcp {from}:1024 > {to}:22 flags syn"));
        assert_eq!(
            (&recipient["steer"]["id"], &recipient["socket"]["port"]),
            (&id.into(), &4000.into()),
            "{recipient}"
        );
        assert_eq!(recipient["socket"]["processes"][0]["pid"], std::process::id(), "{recipient}");
        let beside = explained(scene, &format!("tcp {from}:1024 > {to}:1001 flags syn"));
        assert_eq!((&beside["steer"], &beside["answer"]), (&Value::Null, &"rst".into()), "{beside}");
    }
    assert_eq!(finding(scene, "steer").as_deref(), Some("ok"));
    let metrics = scene.cli(&["metrics"]);
    assert!(metrics.contains("dataplane_steer_lookups_total{entry=\"1\",outcome=\"steered\"} "), "{metrics}");
}

fn explained(scene: &Scene, words: &str) -> Value {
    let row: Value = scene.daemon.read(&["explain", "--iface", "client0", words]).expect("an explanation");
    row["recipient"].clone()
}

/// What the doctor says of a check.
fn finding(scene: &Scene, check: &str) -> Option<String> {
    let said = scene.daemon.attempt(&["doctor", "-j"]).expect("the doctor runs").stdout;
    let rows: Vec<Value> = serde_json::from_str(&said).expect("findings");
    let row = rows.iter().find(|row| row["check"] == check)?;
    row["status"].as_str().map(str::to_owned)
}

/// The longest prefix decides, then the narrowest range of ports.
fn overlaps(scene: &Scene, web: &TcpListener) {
    let (host, narrow) = (listener(scene, "0.0.0.0:4001"), listener(scene, "0.0.0.0:4002"));
    steer(scene, "add", "tcp 192.0.2.7 port 1-65535 to listen 0.0.0.0:4001");
    steer(scene, "add", "tcp 192.0.2.0/24 port 80 to listen :4002");
    for (host_number, port, who) in
        [(7, 80, &host), (7, 2000, &host), (8, 80, &narrow), (8, 81, web), (6, 1000, web), (7, 1, &host)]
    {
        gets(scene, who, SocketAddr::new(address(Family::V4, host_number), port)).expect("by prefix, then by ports");
    }
    for id in [3, 4] {
        scene.cli(&["steer", "del", &id.to_string()]);
    }
    gets(scene, web, SocketAddr::new(address(Family::V4, 7), 80)).expect("the wider entry again");
    scene.refused(&["steer", "del", "4"], 3, &["no entry 4"]);
}

/// Datagrams, which another socket would get.
fn datagrams(scene: &Scene) {
    let bind = |at: &'static str| scene.router().inside(move || Ok(UdpSocket::bind(at)?)).expect("a socket");
    let (steered, direct) = (bind("[::1]:4053"), bind("[::]:53"));
    for socket in [&steered, &direct] {
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    }
    let send = |family: Family, host: u16| {
        let any = if matches!(family, Family::V4) { "0.0.0.0:0" } else { "[::]:0" };
        let send = || Ok(UdpSocket::bind(any)?.send_to(b"a name", SocketAddr::new(address(family, host), 53))?);
        scene.client().inside(send).expect("sent");
    };
    steer(scene, "add", "udp 2001:db8:77::/121 port 53 to listen [::1]:4053");
    let mut bytes = [0; 16];
    for (family, host, who, other) in
        [(Family::V6, 5, &steered, &direct), (Family::V6, 200, &direct, &steered), (Family::V4, 5, &direct, &steered)]
    {
        send(family, host);
        assert_eq!(who.recv(&mut bytes).expect("it gets the datagram"), 6);
        other.set_nonblocking(true).expect("a socket");
        assert!(other.recv(&mut bytes).is_err(), "{} {host}", family.name());
        other.set_nonblocking(false).expect("a socket");
    }
    let row = rows(scene).pop().expect("the entry");
    assert_eq!((row.steered, row.passed, row.dropped), (1, 0, 0), "{row:?}");
    scene.cli(&["steer", "del", &row.id.to_string()]);
}

/// Connections to all addresses and many ports, each of which must be accepted at its own.
fn many(client: &Namespace, web: &TcpListener) -> anyhow::Result<()> {
    web.set_nonblocking(false)?;
    let web = web.try_clone()?;
    let taken = thread::spawn(move || -> anyhow::Result<Vec<SocketAddr>> {
        (0..CONNECTIONS).map(|_| Ok(web.accept()?.0.local_addr()?)).collect()
    });
    let asked = client.inside(|| {
        let mut asked = Vec::new();
        for number in 0..CONNECTIONS {
            let family = Family::BOTH[usize::from(number % 2)];
            let to = SocketAddr::new(address(family, number / 2), 1 + number % PORTS);
            drop(TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("{to}, connection {number}"))?);
            asked.push(to);
        }
        Ok(asked)
    })?;
    let taken = taken.join().expect("no panic")?;
    let plain = |end: &SocketAddr| (end.ip().to_canonical(), end.port());
    let wrong = asked.iter().zip(&taken).find(|(asked, taken)| plain(asked) != plain(taken));
    ensure!(wrong.is_none(), "{wrong:?}");
    Ok(())
}

/// The listener ends, and another takes its place.
fn replaced(scene: &Scene, web: TcpListener) {
    drop(web);
    let to = SocketAddr::new(address(Family::V4, 9), 80);
    refuses(scene, to);
    // Without its socket an entry is as if it were not there.
    let plain = listener(scene, "[::]:80");
    gets(scene, &plain, to).expect("the socket that is bound to the port");
    let again = listener(scene, "0.0.0.0:4000");
    steer(scene, "replace", "tcp 192.0.2.0/24 port 1-1000 to listen :4000 or drop");
    gets(scene, &again, to).expect("the new listener");
    let list = rows(scene);
    assert!(list[0].id == 1 && list[0].or_drop && list[0].passed == 2 && list[0].socket.is_some(), "{list:?}");
    drop(again);
    refuses(scene, to);
    let list = rows(scene);
    assert!(list[0].socket.is_none() && list[0].dropped == 1, "{list:?}");
    let recipient = explained(scene, &format!("tcp {}:1024 > {to} flags syn", CLIENT.v4));
    assert_eq!((&recipient["steer"]["closed"], &recipient["answer"]), (&true.into(), &"rst".into()), "{recipient}");
    assert_eq!(finding(scene, "steer: 1").as_deref(), Some("warn"));
    gets(scene, &plain, SocketAddr::new(ROUTER_CLIENT.v4.parse().expect("an address"), 80)).expect("no entry matches");
}

#[test]
fn entries_of_the_config() {
    let entry = "tcp 192.0.2.0/24 port 80-90 to listen :4000 or drop";
    let config = |steer: &str| format!("{steer}\n[ports]\nclient0 = {{ mode = 'tc' }}\n");
    let Some(mut scene) = Scene::configured(&[], &config(&format!("steer = ['{entry}']"))) else { return };
    route(&scene);
    let to = SocketAddr::new(address(Family::V4, 9), 85);
    // In force, and without a socket: also the one that is bound to the port gets nothing.
    let _plain = listener(&scene, "[::]:85");
    refuses(&scene, to);
    assert_eq!(finding(&scene, "steer: 1").as_deref(), Some("warn"));
    let web = listener(&scene, "127.0.0.1:4000");
    scene.cli(&["steer", "renew"]);
    gets(&scene, &web, to).expect("the listener");
    scene.refused(&["steer", "del", "1"], 5, &["of the config"]);
    assert!(scene.cli(&["config", "show"]).contains(entry));
    // The next daemon, and a config that says something else of the entry, leave its socket.
    scene.daemon.kill9().expect("it dies");
    scene.daemon.restart().expect("it starts");
    gets(&scene, &web, to).expect("the listener");
    let file = scene.lab.dir().join("steer.toml");
    let apply = |text: &str| {
        std::fs::write(&file, text).expect("a config");
        scene.cli(&["config", "apply", file.to_str().expect("a path")]);
    };
    apply(&config("steer = ['tcp 192.0.2.0/24 port 80-90 to listen :4000', 'udp ::/0 port 9 to systemd x']"));
    gets(&scene, &web, to).expect("the listener");
    let list = rows(&scene);
    assert_eq!(list.iter().map(|row| (row.id, row.or_drop)).collect::<Vec<_>>(), [(1, false), (2, false)], "{list:?}");
    apply(&config(""));
    assert!(rows(&scene).is_empty() && !pins(&scene).exists());
    drop(web);
    scene.close();
}
