//! Rules that tell: the sender of what they reject, the operator of what they log.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use dataplane_tests::lab::{
    End, ROUTER_CLIENT, SERVER,
    traffic::{self, Family},
};

use crate::scene::{Scene, within};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

fn to(family: Family, end: &End, port: u16) -> SocketAddr {
    let address: IpAddr = family.address(end).parse().expect("an address");
    (address, port).into()
}

/// What a host is told that connects.
fn connected(scene: &Scene, to: SocketAddr) -> Result<(), ErrorKind> {
    let connect = || Ok(TcpStream::connect_timeout(&to, PATIENCE).map(drop).map_err(|error| error.kind()));
    scene.client().inside(connect).expect("the namespace")
}

/// What a host is told that sends a datagram.
fn sent(scene: &Scene, to: SocketAddr) -> Result<(), ErrorKind> {
    let send = || {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"anybody there?")?;
        Ok(socket.recv(&mut [0; 16]).map(drop).map_err(|error| error.kind()))
    };
    scene.client().inside(send).expect("the namespace")
}

fn rejects(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    for (chain, end) in [("forward", &SERVER), ("input", &ROUTER_CLIENT)] {
        scene.rule(chain, "tcp dport 5381 reject with tcp reset");
        scene.rule(chain, "udp dport 5381 reject");
        scene.rule(chain, "tcp dport 5382 drop");
        for family in Family::BOTH {
            let refused = Err(ErrorKind::ConnectionRefused);
            assert_eq!(connected(&scene, to(family, end, 5381)), refused, "{mode}: {chain}: {family:?}: TCP");
            assert_eq!(sent(&scene, to(family, end, 5381)), refused, "{mode}: {chain}: {family:?}: UDP");
            let silence = connected(&scene, to(family, end, 5382));
            assert_eq!(silence, Err(ErrorKind::TimedOut), "{mode}: {chain}: {family:?}: dropped");
        }
        scene.cli(&["rule", "flush", chain]);
    }
    scene.close();
}

#[test]
fn senders_get_an_error_in_native() {
    rejects("native");
}

#[test]
fn senders_get_an_error_in_tc() {
    rejects("tc");
}

/// Lines of the daemon's log with a prefix.
fn lines(scene: &Scene, prefix: &str) -> Vec<String> {
    scene.daemon.log().lines().filter(|line| line.contains(prefix)).map(str::to_owned).collect()
}

fn logs(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    let logged = scene.rule("forward", "udp dport 5391 log prefix \"seen: \" accept");
    for family in Family::BOTH {
        assert_eq!(traffic::datagrams(&scene.lab, family, 5391, 3).expect("datagrams"), 3, "{mode}: {family:?}");
    }
    within(PATIENCE, || {
        let found = lines(&scene, "seen: ");
        anyhow::ensure!(found.len() == 6, "{mode}: {found:?}");
        let describes = |line: &String| line.contains("DPT=5391") && line.contains("PROTO=UDP") && line.contains("IN=");
        anyhow::ensure!(found.iter().all(describes), "{mode}: {found:?}");
        Ok(())
    });
    assert!(scene.rules().iter().any(|rule| rule.handle == logged.handle && rule.packets == 6), "{mode}");
    // A flood is told of in part, and that this is so.
    scene.rule("forward", "udp dport 5392 log prefix \"flood: \" continue");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5392, 400).expect("datagrams"), 400, "{mode}");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5392, 1).expect("a datagram"), 1, "{mode}");
    within(PATIENCE, || {
        let found = lines(&scene, "flood: ").len();
        anyhow::ensure!((20..60).contains(&found), "{mode}: {found} lines");
        anyhow::ensure!(!lines(&scene, "left out").is_empty(), "{mode}: nothing says that lines are missing");
        Ok(())
    });
    scene.close();
}

#[test]
fn rejects_are_logged_in_native() {
    logs("native");
}

#[test]
fn rejects_are_logged_in_tc() {
    logs("tc");
}
