//! What rules take for the protocol and the ports of a packet is what nft takes, wherever the headers lie.

use dataplane_tests::{
    fixture::packet::Packet,
    lab::{CLIENT, SERVER, traffic::Family},
};
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketAddrV6, SocketType, connect, send, socket};

use crate::{
    scene::Scene,
    wire::{count, crossing, holds, wire},
};

/// What the payloads of a test are known by.
const KNOWN: &[u8] = b"as it was sent";

/// Options of `length` bytes in front of `next`.
fn options(next: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[0] = next;
    bytes[1] = u8::try_from(length / 8 - 1).expect("a short header");
    // PadN over the rest, as long as one can be.
    bytes[2] = 1;
    bytes[3] = u8::try_from(length - 4).unwrap_or(u8::MAX);
    bytes
}

/// Sends TCP to a port behind 216 bytes of options, of which all but the first eight lie in pages of the buffer.
fn scattered(scene: &Scene, port: u16, size: usize) {
    let send_it = || {
        let protocol = Some(Protocol::from_raw(60.try_into().expect("a number")));
        let socket = socket(AddressFamily::INET6, SocketType::RAW, protocol)?;
        connect(&socket, &SocketAddrV6::new(SERVER.v6.parse()?, 0, 0, 0))?;
        let mut tcp = vec![0x10, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0xbe, 0xef, 0, 0];
        tcp[2..4].copy_from_slice(&port.to_be_bytes());
        tcp.extend(KNOWN);
        tcp.resize(20 + size.max(KNOWN.len()), 0);
        let packet = [options(60, 208), options(6, 8), tcp].concat();
        send(&socket, &packet[..8], SendFlags::MORE)?;
        send(&socket, &packet[8..], SendFlags::empty())?;
        Ok(())
    };
    scene.client().inside(send_it).expect("a packet");
}

fn headers_beyond_the_first_buffer(mode: &str) {
    let Some(scene) = Scene::idle(&[]) else { return };
    for (namespace, link) in [("client", CLIENT.port), ("server", SERVER.port)]
        .into_iter()
        .chain(crate::scene::PORTS.map(|port| ("router", port)))
    {
        scene.lab.namespace(namespace).run(&format!("ip link set {link} mtu 9000")).expect("a long MTU");
    }
    scene.attach(&crate::scene::PORTS, mode);
    let mut server = wire(scene.server(), SERVER.port);
    let mut arrives = |port, size| {
        scattered(&scene, port, size);
        count(&mut server, |frame| holds(frame, KNOWN)) == 1
    };
    let before = (scene.stats().totals.forwarded, scene.kernel_forwarded());
    assert!(arrives(23, 0) && arrives(80, 0), "{mode}: without a rule");
    scene.rule("forward", "tcp dport 23 drop");
    assert!(!arrives(23, 0), "{mode}: TCP behind options passes a rule that drops it");
    assert!(!arrives(23, 7000), "{mode}: long TCP behind options passes a rule that drops it");
    assert!(arrives(80, 0), "{mode}: TCP behind options that no rule drops");
    assert!(arrives(80, 7000), "{mode}: long TCP behind options that no rule drops");
    let stats = scene.stats();
    assert_eq!(stats.reason("filter_forward"), 2, "{mode}: {stats:?}");
    assert_eq!(stats.reason("truncated"), 0, "{mode}: {stats:?}");
    assert!(stats.totals.forwarded - before.0 >= 4, "{mode}: {stats:?}");
    assert_eq!(scene.kernel_forwarded(), before.1, "{mode}: the kernel forwarded");
    scene.close();
}

#[test]
fn extension_headers_in_other_buffers_in_tc() {
    headers_beyond_the_first_buffer("tc");
}

#[test]
fn extension_headers_in_other_buffers_in_auto() {
    headers_beyond_the_first_buffer("auto");
}

#[test]
fn extension_headers_in_other_buffers_in_native() {
    headers_beyond_the_first_buffer("native");
}

/// A first fragment with some bytes of TCP to port 80, a SYN.
fn beginning(family: Family, bytes: usize) -> Packet {
    let tcp = [0x10, 0, 0, 80, 0x5a, 0x5a, 0x5a, 0x5a, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0xbe, 0xef, 0, 0];
    let packet = crossing(family).carrying(6, tcp[..bytes].to_vec());
    match family {
        Family::V4 => packet.fragment(0x2000),
        Family::V6 => packet.extension(44, &[0, 0, 1, 0, 0, 0x12, 0x34]),
    }
}

fn split_headers(mode: &str) {
    let Some(scene) = Scene::configured(&[], "fragments = \"pass\"\n") else { return };
    scene.attach(&crate::scene::PORTS, mode);
    let (client, mut server) = (wire(scene.client(), CLIENT.port), wire(scene.server(), SERVER.port));
    for (rule, bytes, passes) in [
        ("tcp dport 80 drop", 8, false),
        ("tcp dport 80 drop", 16, false),
        ("tcp dport { 22, 80 } drop", 8, false),
        ("tcp dport 443 drop", 8, true),
        ("tcp flags & (syn | ack) == syn drop", 16, false),
        ("tcp flags & (syn | ack) == syn drop", 8, true),
        ("tcp flags & (syn | ack) == 0x0 drop", 8, true),
    ] {
        scene.rule("forward", rule);
        for family in Family::BOTH {
            client.send(&beginning(family, bytes).frame()).expect("a frame");
            let known = &beginning(family, bytes).bare()[if family == Family::V4 { 20 } else { 48 }..];
            let arrived = count(&mut server, |frame| holds(frame, known)) != 0;
            assert_eq!(arrived, passes, "{mode}: {} bytes of TCP over {}, {rule}", bytes, family.name());
        }
        scene.cli(&["rule", "flush", "forward"]);
    }
    scene.close();
}

#[test]
fn split_headers_in_native() {
    split_headers("native");
}

#[test]
fn split_headers_in_tc() {
    split_headers("tc");
}

/// Authentication in front of TCP to port 22, and a mobility header.
fn protocols(mode: &str) {
    let Some(scene) = Scene::attached(&[], mode) else { return };
    let (client, mut server) = (wire(scene.client(), CLIENT.port), wire(scene.server(), SERVER.port));
    let header = [4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let authenticated = crossing(Family::V6).tcp(4000, 22, 2).extension(51, &header);
    let mobile = crossing(Family::V6).carrying(135, vec![59, 0, 5, 0, 0, 0, 0, 0]);
    let mobile = mobile.extension(60, &[0, 1, 4, 0, 0, 0, 0]);
    let accepts = "tcp dport 22 accept";
    for (what, packet, rules, passes) in [
        ("AH, no rule", &authenticated, ["udp dport 9 drop"].as_slice(), true),
        ("AH by its number", &authenticated, &["meta l4proto 51 drop"], false),
        ("TCP behind AH, which nft does not see", &authenticated, &["meta l4proto tcp drop"], true),
        ("TCP behind AH, which nft does not accept", &authenticated, &[accepts, "drop"], false),
        ("mobility, no rule", &mobile, &["udp dport 9 drop"], true),
        ("mobility by its number", &mobile, &["meta l4proto 135 drop"], false),
    ] {
        for rule in rules {
            scene.rule("forward", rule);
        }
        client.send(&packet.frame()).expect("a frame");
        let known = &packet.bare()[48..];
        assert_eq!(count(&mut server, |frame| holds(frame, known)) != 0, passes, "{mode}: {what}");
        scene.cli(&["rule", "flush", "forward"]);
    }
    scene.close();
}

#[test]
fn protocols_of_ipv6_in_native() {
    protocols("native");
}

#[test]
fn protocols_of_ipv6_in_tc() {
    protocols("tc");
}
