//! DHCP: its clients, relays and servers read raw sockets, which get a packet before IP looks at it, at its rules, and at whose
//! address it is for.

use std::{
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use dataplane_common::wire::Mac;
use dataplane_tests::{
    fixture::packet::{Packet, between},
    lab::{CLIENT, Namespace, Need, ROUTER_CLIENT, SERVER, traffic::Family},
};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketType, recv, socket};

use crate::{
    scene::{PORTS, PROMPT, Scene, can_have, within},
    wire::{count, from_client, holds, wire},
};

/// Chain input drops, but for what keeps neighbours known.
const GUARDED: &str = r#"
[chains.input]
policy = "drop"
rules = ['icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept']
"#;

/// Where the address leads that this machine does not have yet: to the server, as if that were another provider.
const ELSEWHERE: [(Family, &str, &str); 2] =
    [(Family::V4, "198.51.100.0/24", "198.51.100.77"), (Family::V6, "2001:db8:5::/64", "2001:db8:5::77")];

/// UDP ports of server and client.
const fn ports(family: Family) -> [u16; 2] {
    match family {
        Family::V4 => [67, 68],
        Family::V6 => [547, 546],
    }
}

/// A raw socket for all packets of one IP version that the router gets, as DHCP clients have it.
struct Reader(OwnedFd);

impl Reader {
    fn open(router: &Namespace, family: Family) -> Self {
        let kind: u16 = if family == Family::V4 { 0x0800 } else { 0x86dd };
        let protocol = Protocol::from_raw(u32::from(kind.to_be()).try_into().expect("a number"));
        let open = || Ok(socket(AddressFamily::PACKET, SocketType::RAW, Some(protocol))?);
        Self(router.inside(open).expect("a raw socket"))
    }

    /// Whether a packet has come, after a moment.
    fn got(&self, packet: &Packet) -> bool {
        let (known, start) = (known(packet), Instant::now());
        let mut bytes = [0; 2048];
        while start.elapsed() < Duration::from_millis(200) {
            match recv(&self.0, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((length, _)) if holds(&bytes[..length], &known) => return true,
                Ok(_) => {}
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
        false
    }
}

/// The UDP header that a packet is known by.
fn known(packet: &Packet) -> Vec<u8> {
    let bare = packet.bare();
    let at = if bare[0] >> 4 == 4 { 20 } else { 40 };
    bare[at..at + 8].to_vec()
}

/// An offer of an address that this machine does not have, and where it goes.
fn offers(mode: &str) {
    let Some(scene) = Scene::idle(&[]) else { return };
    scene.take_frames();
    for (family, prefix, _) in ELSEWHERE {
        let line = format!("ip {} route add {prefix} via {}", family.option(), family.address(&SERVER));
        scene.router().run(&line).expect("a route");
    }
    scene.attach(&PORTS, mode);
    let (client, mut server) = (wire(scene.client(), CLIENT.port), wire(scene.server(), SERVER.port));
    for (family, _, address) in ELSEWHERE {
        let offer = from_client(family, address).udp(ports(family)[0], ports(family)[1], 240);
        within(PROMPT, || {
            let now = scene.decision(address);
            ensure!(now.decision == "forward", "{now:?}");
            Ok(())
        });
        client.send(&offer.frame()).expect("a frame");
        let arrived = count(&mut server, |frame| holds(frame, &known(&offer)));
        assert_eq!(arrived, 1, "{mode}: an offer over {} where nobody reads raw sockets", family.name());
    }
    let readers = Family::BOTH.map(|family| Reader::open(scene.router(), family));
    for ((family, _, address), reader) in ELSEWHERE.into_iter().zip(&readers) {
        let [from, to] = ports(family);
        let offer = from_client(family, address).udp(from, to, 241);
        within(PROMPT * 5, || {
            client.send(&offer.frame())?;
            ensure!(reader.got(&offer), "{mode}: an offer over {} does not come to its client", family.name());
            Ok(())
        });
        assert!(scene.stats().reason("dhcp") > 0, "{mode}: {:?}", scene.stats());
        // Relays talk through this machine, which is none of its clients' business.
        let before = (scene.stats().totals.forwarded, scene.kernel_forwarded());
        let relayed = from_client(family, family.address(&SERVER)).udp(from, from, 242);
        client.send(&relayed.frame()).expect("a frame");
        // More than one where the server says that nothing listens, and quotes it.
        assert!(count(&mut server, |frame| holds(frame, &known(&relayed))) > 0, "{mode}: a relayed request");
        let after = (scene.stats().totals.forwarded, scene.kernel_forwarded());
        assert!(after.0 > before.0 && after.1 == before.1, "{mode}: a relayed request: {before:?}, {after:?}");
        // Not forwarded, and its client gets it all the same.
        scene.rule("forward", "meta l4proto udp drop");
        let offer = from_client(family, address).udp(from, to, 243);
        client.send(&offer.frame()).expect("a frame");
        assert!(reader.got(&offer), "{mode}: an offer over {} that chain forward drops", family.name());
        assert_eq!(count(&mut server, |frame| holds(frame, &known(&offer))), 0, "{mode}: it passes chain forward");
        let other = from_client(family, address).udp(from, 53, 244);
        client.send(&other.frame()).expect("a frame");
        assert!(!reader.got(&other), "{mode}: a datagram to port 53 that chain forward drops is read");
        scene.cli(&["rule", "flush", "forward"]);
    }
    scene.close();
}

#[test]
fn offers_come_to_clients_in_native() {
    offers("native");
}

#[test]
fn offers_come_to_clients_in_generic() {
    offers("generic");
}

#[test]
fn offers_come_to_clients_in_tc() {
    offers("tc");
}

/// What chain input drops comes to raw sockets, and to no other.
fn guarded(mode: &str) {
    let Some(scene) = Scene::configured(&[], GUARDED) else { return };
    scene.attach(&PORTS, mode);
    let client = wire(scene.client(), CLIENT.port);
    for family in Family::BOTH {
        let (router, reader) = (family.address(&ROUTER_CLIENT), Reader::open(scene.router(), family));
        let name = family.name();
        for (number, port) in ports(family).into_iter().enumerate() {
            let bind = || {
                Ok(match family {
                    Family::V4 => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?,
                    Family::V6 => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?,
                })
            };
            let listener = scene.router().inside(bind).expect("a socket");
            listener.set_nonblocking(true).expect("a socket that does not wait");
            let packet = from_client(family, router).udp(4000, port, 300 + number);
            let before = scene.stats().reason("filter_input");
            client.send(&packet.frame()).expect("a frame");
            assert!(reader.got(&packet), "{mode}: a datagram to port {port} over {name} is not read");
            assert!(listener.recv(&mut [0; 512]).is_err(), "{mode}: a datagram to port {port} passes chain input");
            // More than one where a host says who it is at that moment.
            assert!(scene.stats().reason("filter_input") > before, "{mode}: port {port} over {name}");
        }
        let other = from_client(family, router).udp(4000, 53, 302);
        client.send(&other.frame()).expect("a frame");
        assert!(!reader.got(&other), "{mode}: a datagram to port 53 over {name} is read");
    }
    let reader = Reader::open(scene.router(), Family::V4);
    let everyone = between(CLIENT.v4, "255.255.255.255").to(Mac([0xff; 6])).udp(67, 68, 303);
    client.send(&everyone.frame()).expect("a frame");
    assert!(reader.got(&everyone), "{mode}: an offer to everyone is not read");
    scene.close();
}

#[test]
fn raw_sockets_come_before_chain_input_in_native() {
    guarded("native");
}

#[test]
fn raw_sockets_come_before_chain_input_in_generic() {
    guarded("generic");
}

#[test]
fn raw_sockets_come_before_chain_input_in_tc() {
    guarded("tc");
}

/// A port becomes a bridge's while no daemon runs: what chain input drops does not come to the bridge's other ports, though
/// raw sockets would read it.
fn bridged(mode: &str) {
    const DROPS: &str = "[chains.input]\nrules = ['udp dport { 67, 68, 546, 547 } drop']\n";
    let needs = [Need::Kernel("bridges", || can_have(&["bridge"]))];
    let Some(mut scene) = Scene::configured(&needs, DROPS) else { return };
    scene.attach(&PORTS, mode);
    let client = wire(scene.client(), CLIENT.port);
    let group = Mac([0x33, 0x33, 0, 1, 0, 2]);
    let to_all = [
        (between(CLIENT.v4, "255.255.255.255").to(Mac([0xff; 6])), 67),
        (between(CLIENT.v6, "ff02::1:2").to(group), 546),
    ];
    scene.daemon.kill9().expect("it dies");
    for line in [
        "ip link add br7 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        "ip link add behind0 type veth peer name behind1",
        &format!("ip link set {} master br7", ROUTER_CLIENT.port),
        "ip link set behind0 master br7",
        "ip link set br7 up",
        "ip link set behind0 up",
        "ip link set behind1 up",
    ] {
        scene.router().run(line).expect("a bridge");
    }
    let mut behind = wire(scene.router(), "behind1");
    for (packet, from) in to_all {
        within(PROMPT * 3, || {
            let passes = packet.clone().udp(from, 5000, 400);
            client.send(&passes.frame())?;
            ensure!(count(&mut behind, |frame| holds(frame, &known(&passes))) > 0, "{mode}: {passes:?} is not flooded");
            Ok(())
        });
        for port in [68, 547] {
            let dropped = packet.clone().udp(from, port, 401);
            for _ in 0..50 {
                client.send(&dropped.frame()).expect("a frame");
            }
            let came = count(&mut behind, |frame| holds(frame, &known(&dropped)));
            assert_eq!(came, 0, "{mode}: of 50 datagrams to port {port} that chain input drops, behind the bridge");
        }
    }
    scene.router().run("ip link del behind0").expect("a device less");
    scene.router().run("ip link del br7").expect("a bridge less");
    scene.daemon.restart().expect("it starts");
    scene.close();
}

#[test]
fn what_is_dropped_stays_off_a_bridge_in_native() {
    bridged("native");
}

#[test]
fn what_is_dropped_stays_off_a_bridge_in_generic() {
    bridged("generic");
}

#[test]
fn what_is_dropped_stays_off_a_bridge_in_tc() {
    bridged("tc");
}
