//! Sockets of the router: which of them get a packet, and whether the filter lets packets in to them.

use std::{
    collections::BTreeMap,
    net::{TcpListener, TcpStream, UdpSocket},
};

use dataplane_tests::lab::{CLIENT, Need, ROUTER_CLIENT, ROUTER_SERVER, traffic::Family};
use serde::Deserialize;
use serde_json::Value;

use crate::{scene::Scene, trace::Watcher};

/// A row of `socket list`.
#[derive(Debug, Deserialize)]
struct Socket {
    proto: String,
    address: String,
    port: Option<u16>,
    families: Vec<String>,
    sockets: u64,
    filter: BTreeMap<String, Option<String>>,
    processes: Vec<Process>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Process {
    pid: u32,
    name: String,
}

impl Socket {
    fn filter(&self) -> [Option<&str>; 2] {
        [ROUTER_CLIENT.port, ROUTER_SERVER.port].map(|port| self.filter[port].as_deref())
    }
}

fn listed(scene: &Scene, words: &[&str]) -> Socket {
    let words = [&["socket", "list"], words].concat();
    let mut rows: Vec<Socket> = scene.daemon.read(&words).expect("sockets");
    assert_eq!(rows.len(), 1, "{words:?}: {rows:?}");
    rows.remove(0)
}

/// The process that ss names for a listener of TCP.
fn by_ss(scene: &Scene, port: u16) -> Process {
    let said = scene.router().run(&format!("ss -Htlnp sport = :{port}")).expect("ss");
    // users:(("name",pid=7,fd=3))
    let (name, rest) = said.split_once("((\"").and_then(|(_, rest)| rest.split_once('"')).expect(&said);
    let pid = rest.split_once("pid=").and_then(|(_, rest)| rest.split_once(',')).expect(&said).0;
    Process { pid: pid.parse().expect("a number"), name: name.to_owned() }
}

/// What `explain` says of a packet from the client to an address of the router: the whole row, and its `recipient`.
fn explained(scene: &Scene, words: &str) -> (Value, Value) {
    let row: Value = scene.daemon.read(&["explain", "--iface", ROUTER_CLIENT.port, words]).expect("an explanation");
    let recipient = row["recipient"].clone();
    (row, recipient)
}

fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[test]
fn listeners_processes_and_the_filter() {
    let Some(scene) = Scene::attached(&[Need::Tool("ss")], "native") else { return };
    let open = || {
        let address = format!("{}:81", ROUTER_CLIENT.v4);
        Ok((TcpListener::bind("[::]:80")?, TcpListener::bind(address)?, UdpSocket::bind("0.0.0.0:53")?))
    };
    let (web, _bound, names) = scene.router().inside(open).expect("sockets");
    let process = by_ss(&scene, 80);
    assert_eq!(process.pid, std::process::id());

    let both = listed(&scene, &["tcp", "port", "80"]);
    assert_eq!((both.address.as_str(), both.sockets), ("::", 1));
    assert_eq!(both.families, ["ipv4", "ipv6"]);
    assert_eq!(both.filter(), [Some("yes"); 2]);
    assert_eq!(both.processes, [process]);
    let udp = listed(&scene, &["port", "53"]);
    assert_eq!((udp.proto.as_str(), udp.port), ("udp", Some(53)));

    // Rules: one that drops all, one for a port, one for some senders.
    scene.rule("input", "tcp dport 81 drop");
    scene.rule("input", &format!("iifname {} udp dport 53 drop", ROUTER_SERVER.port));
    scene.rule("prerouting", "ip saddr 192.0.2.0/24 tcp dport 80 drop");
    assert_eq!(listed(&scene, &["port", "81", "filter", "no"]).filter(), [Some("no"); 2]);
    assert_eq!(listed(&scene, &["port", "53"]).filter(), [Some("yes"), Some("no")]);
    assert_eq!(listed(&scene, &["port", "80"]).filter(), [Some("some"); 2]);

    for family in Family::BOTH {
        let (from, to) = match family {
            Family::V4 => (CLIENT.v4, ROUTER_CLIENT.v4),
            Family::V6 => (CLIENT.v6, ROUTER_CLIENT.v6),
        };
        gets(&scene, &format!("tcp {} > {} flags syn", at(from, 1024), at(to, 80)), "socket", &by_ss(&scene, 80));
        let (_, closed) = explained(&scene, &format!("tcp {} > {} flags syn", at(from, 1024), at(to, 82)));
        assert_eq!((&closed["socket"], closed["answer"].as_str()), (&Value::Null, Some("rst")), "{closed}");
        let (_, closed) = explained(&scene, &format!("udp {} > {}", at(from, 1024), at(to, 54)));
        assert_eq!(closed["answer"], "port_unreachable", "{closed}");
        // A socket of IPv4 takes no IPv6.
        let (_, answer) = explained(&scene, &format!("udp {} > {}", at(from, 1024), at(to, 53)));
        let want = if matches!(family, Family::V4) { "socket" } else { "port_unreachable" };
        assert_eq!(answer["answer"], want, "{answer}");
    }
    // Nothing gets what is dropped.
    let (dropped, recipient) =
        explained(&scene, &format!("tcp {}:1024 > {}:81 flags syn", CLIENT.v4, ROUTER_CLIENT.v4));
    assert_eq!((dropped["reason"].as_str(), &recipient), (Some("filter_input"), &Value::Null), "{dropped}");
    connected(&scene, &web);
    traced(&scene, &names);
    drop((web, names));
    scene.close();
}

fn gets(scene: &Scene, words: &str, answer: &str, process: &Process) {
    let (row, recipient) = explained(scene, words);
    assert_eq!((row["reason"].as_str(), recipient["answer"].as_str()), (Some("local"), Some(answer)), "{words}: {row}");
    let found = &recipient["socket"]["processes"][0];
    assert_eq!(
        (found["pid"].as_u64(), found["name"].as_str()),
        (Some(process.pid.into()), Some(process.name.as_str()))
    );
}

/// A packet of an open connection is for its own socket, and not for the listener.
fn connected(scene: &Scene, web: &TcpListener) {
    let connect = || Ok(TcpStream::connect((ROUTER_CLIENT.v4, 80))?);
    let client = scene.client().inside(connect).expect("a connection");
    let (_open, from) = web.accept().expect("it is accepted");
    assert_eq!(client.local_addr().expect("an address").port(), from.port());
    let to = at(ROUTER_CLIENT.v4, 80);
    let (_, own) = explained(scene, &format!("tcp {}:{} > {to} flags ack", CLIENT.v4, from.port()));
    assert_eq!(own["socket"]["state"], "established", "{own}");
    let (_, other) = explained(scene, &format!("tcp {}:{} > {to} flags ack", CLIENT.v4, from.port() ^ 1));
    assert_eq!((other["socket"]["state"].as_str(), other["answer"].as_str()), (Some("listen"), Some("rst")), "{other}");
}

/// Live packets are shown with the socket that got them.
fn traced(scene: &Scene, names: &UdpSocket) {
    let watcher = Watcher::new(scene, &["udp", "dport", "53"]);
    let send = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        Ok(socket.send_to(b"a name", (ROUTER_CLIENT.v4, 53))?)
    };
    scene.client().inside(send).expect("a datagram");
    names.recv(&mut [0; 16]).expect("it arrives");
    let rows = watcher.end();
    let socket = &rows.first().expect("a packet")["recipient"]["socket"];
    assert_eq!(socket["port"], 53, "{rows:?}");
    assert_eq!(socket["processes"][0]["pid"], std::process::id(), "{rows:?}");
}
