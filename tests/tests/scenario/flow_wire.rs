//! Packets beside those that are carried: errors, fragments, other ports, the way back into the same network.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use dataplane_tests::lab::{CLIENT, ROUTER_CLIENT, ROUTER_SERVER, SERVER};

use crate::{
    carried::each,
    scene::{PROMPT, within},
    session::{HOME, SOON, Tcp, Udp, address, becomes_fast},
};

/// Where the server listens.
const PORT: u16 = 5801;

#[test]
fn an_error_of_the_far_end_reaches_the_sender() {
    each(
        |scene, family, mode| {
            let mut udp = Udp::open(scene, family, PORT);
            becomes_fast(scene, &mut udp);
            let Udp { client, server } = udp;
            drop(server);
            within(PROMPT, || {
                client.send(b"to nobody")?;
                let refused = client.recv(&mut [0; 8]).expect_err("nothing answers");
                ensure!(refused.kind() == std::io::ErrorKind::ConnectionRefused, "{mode}: {refused}");
                Ok(())
            });
        },
        HOME,
    );
}

/// Into the LAN again, by the router's address outside.
const HAIRPIN: &str = "table inet hair {
 chain crossing {
  type filter hook forward priority filter; policy drop;
  ct state established,related accept
  ct status dnat accept
 }
 chain entering {
  type nat hook prerouting priority dstnat;
  ip daddr 198.18.1.1 tcp dport 80 dnat to 198.18.0.2:5801
  ip6 daddr 2001:db8:1::1 tcp dport 80 dnat to [2001:db8:0::2]:5801
 }
 chain leaving {
  type nat hook postrouting priority srcnat;
  oifname \"client0\" masquerade
 }
}
";

#[test]
fn a_connection_back_into_its_network_is_heard() {
    each(
        |scene, family, mode| {
            let outside = SocketAddr::new(address(family, &ROUTER_SERVER), 80);
            let host = SocketAddr::new(address(family, &CLIENT), PORT);
            let mut tcp = Tcp::within(scene.client(), scene.client(), outside, host);
            assert_eq!(tcp.server.peer_addr().expect("a peer").ip(), address(family, &ROUTER_CLIENT), "{mode}");
            tcp.talk(20).expect("both are heard");
            thread::sleep(Duration::from_millis(200));
            let kernel = scene.kernel_forwarded();
            tcp.exchange(200_000).expect("both are heard");
            tcp.talk(20).expect("both are heard");
            assert!(scene.kernel_forwarded() - kernel >= 40, "{mode}: the kernel has what leaves as it came");
        },
        HAIRPIN,
    );
}

#[test]
fn fragments_go_between_whole_datagrams_of_a_carried_connection() {
    each(
        |scene, family, mode| {
            let mut udp = Udp::open(scene, family, PORT);
            becomes_fast(scene, &mut udp);
            let (mut buffer, mut peers) = ([0; 4096], std::collections::BTreeSet::new());
            let carried = scene.stats().totals.forwarded;
            for size in (0..60_usize).map(|number| if number.is_multiple_of(3) { 3000 + number } else { 100 + number })
            {
                let content: Vec<u8> = (0..size).map(|at| (at * 7 + size) as u8).collect();
                udp.client.send(&content).expect("sent");
                let (length, peer) = udp.server.recv_from(&mut buffer).expect("it arrives");
                assert!(buffer[..length] == content, "{mode}: {size} bytes are others now");
                peers.insert(peer);
                udp.server.send_to(&content, peer).expect("sent");
                assert_eq!(udp.client.recv(&mut buffer).expect("it arrives"), size, "{mode}");
                assert!(buffer[..size] == content, "{mode}: {size} bytes are others now");
            }
            assert!(scene.stats().totals.forwarded - carried >= 70, "{mode}: whole ones were not carried");
            assert_eq!(peers.len(), 1, "{mode}: {peers:?}");
            becomes_fast(scene, &mut udp);
            // The client goes on from another port (QUIC): that is another connection, and the old one is not mistaken for it.
            let bind = SocketAddr::new(address(family, &CLIENT), 0);
            let moved = scene.client().inside(|| Ok(UdpSocket::bind(bind)?)).expect("a socket");
            moved.connect(SocketAddr::new(address(family, &SERVER), PORT)).expect("a destination");
            moved.set_read_timeout(Some(SOON)).expect("a limit");
            let before = udp.server;
            let mut udp = Udp { client: moved, server: before };
            let row = becomes_fast(scene, &mut udp);
            assert_eq!(row["original"]["sport"], udp.client.local_addr().expect("an address").port(), "{row}");
        },
        HOME,
    );
}

/// In the shape of a tunnel (WireGuard): bulk, then silence but for keepalives, then bulk again.
#[test]
fn a_tunnel_keeps_its_port_through_silence() {
    each(
        |scene, family, mode| {
            for name in ["udp_timeout", "udp_timeout_stream"] {
                scene.router().sysctl(&format!("net.netfilter.nf_conntrack_{name}"), "2").expect("a timeout");
            }
            let mut udp = Udp::open(scene, family, PORT);
            let row = becomes_fast(scene, &mut udp);
            let (mut buffer, start) = ([0; 64], Instant::now());
            while start.elapsed() < Duration::from_millis(2800) {
                udp.client.send(b"keepalive").expect("sent");
                udp.server.recv_from(&mut buffer).expect("it arrives");
                thread::sleep(Duration::from_millis(700));
            }
            let after = becomes_fast(scene, &mut udp);
            assert_eq!((&after["original"], &after["reply"]), (&row["original"], &row["reply"]), "{mode}");
        },
        HOME,
    );
}
