//! What senders of rejected packets are told, in both families.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use dataplane_tests::lab::{ROUTER_CLIENT, SERVER};

use crate::scene::Scene;

/// A sender that is told nothing finds out after a second at the earliest.
const AT_ONCE: Duration = Duration::from_millis(900);
/// How long a connection may take that nobody refuses.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the client gets for a connection to a port.
fn connect(scene: &Scene, address: &str, port: u16) -> (Result<(), ErrorKind>, Duration) {
    let to = SocketAddr::new(address.parse().expect("an address"), port);
    let connect = || {
        let start = Instant::now();
        let outcome = TcpStream::connect_timeout(&to, PATIENCE).map(drop).map_err(|error| error.kind());
        Ok((outcome, start.elapsed()))
    };
    scene.client().inside(connect).expect("a socket")
}

/// What the client gets for a datagram to a port.
fn datagram(scene: &Scene, address: &str, port: u16) -> Result<(), ErrorKind> {
    let to = SocketAddr::new(address.parse().expect("an address"), port);
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let send = || {
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(AT_ONCE))?;
        socket.send(b"who is there")?;
        Ok(socket.recv(&mut [0; 16]).map(drop).map_err(|error| error.kind()))
    };
    scene.client().inside(send).expect("a socket")
}

fn refused(scene: &Scene, chain: &str, hosts: [&str; 2], port: u16, what: &str) {
    for host in hosts {
        let (outcome, took) = connect(scene, host, port);
        assert_eq!(outcome, Err(ErrorKind::ConnectionRefused), "{what}: {chain}: {host}\n{}", scene.daemon.log());
        assert!(took < AT_ONCE, "{what}: {chain}: {host} answered after {took:?}");
    }
}

fn rejects(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    let listen = || Ok(TcpListener::bind("[::]:81")?);
    let _listening = [scene.server().inside(listen), scene.router().inside(listen)];
    for (chain, hosts) in [
        ("forward", [SERVER.v4, SERVER.v6]),
        ("prerouting", [SERVER.v4, SERVER.v6]),
        ("input", [ROUTER_CLIENT.v4, ROUTER_CLIENT.v6]),
    ] {
        for host in hosts {
            assert_eq!(connect(&scene, host, 81).0, Ok(()), "{mode}: {chain}: {host} listens");
        }
        scene.rule(chain, "tcp dport 81 reject with tcp reset");
        scene.rule(chain, "udp dport 9 reject");
        let before = scene.stats();
        refused(&scene, chain, hosts, 81, mode);
        for host in hosts {
            assert_eq!(datagram(&scene, host, 9), Err(ErrorKind::ConnectionRefused), "{mode}: {chain}: {host}");
        }
        let after = scene.stats();
        assert_eq!(
            after.reason(&format!("filter_{chain}")) - before.reason(&format!("filter_{chain}")),
            4,
            "{mode}: {chain}"
        );
        scene.cli(&["rule", "flush", chain]);

        // A port unreachable refuses a connection, too; nothing does without an answer.
        scene.rule(chain, "tcp dport 81 reject");
        refused(&scene, chain, hosts, 81, mode);
        scene.cli(&["rule", "flush", chain]);
        scene.rule(chain, "udp dport 9 drop");
        for host in hosts {
            assert_eq!(
                datagram(&scene, host, 9),
                Err(ErrorKind::WouldBlock),
                "{mode}: {chain}: {host} is told nothing"
            );
        }
        scene.cli(&["rule", "flush", chain]);
    }
    // Pings are rejected by the router in its own name.
    scene.rule("forward", "icmp type echo-request reject with icmp admin-prohibited");
    scene.rule("forward", "icmpv6 type echo-request reject with icmpv6 admin-prohibited");
    for (host, router, said) in
        [(SERVER.v4, ROUTER_CLIENT.v4, "Packet filtered"), (SERVER.v6, ROUTER_CLIENT.v6, "Administratively prohibited")]
    {
        let output = scene.client().attempt(&format!("ping -n -c 1 -W 1 {host}")).expect("ping runs");
        let router: IpAddr = router.parse().expect("an address");
        let told = output.stdout.lines().any(|line| line.contains(&router.to_string()) && line.contains(said));
        assert!(told, "{mode}: {host}{}", output.said());
    }
    let finding = scene.daemon.attempt(&["doctor"]).expect("doctor runs").stdout;
    assert!(finding.contains("senders of rejected packets are answered"), "{finding}");
    scene.close();
}

#[test]
fn rejected_senders_get_an_error_in_native() {
    rejects("native");
}

#[test]
fn rejected_senders_get_an_error_in_tc() {
    rejects("tc");
}
