//! Devices without link header: what goes into a tun device and what comes out of one is forwarded by the programs.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use dataplane_common::wire::Mac;
use dataplane_tests::{
    fixture::packet::{Packet, between},
    lab::{CLIENT, Need, Running, traffic::Family},
    oracle::port::Port,
};
use serde_json::Value;

use crate::{
    scene::{PORTS, PROMPT, Scene, within},
    wire::{ROUTER, wire},
};

/// The tunnel's program.
const TUNNEL: &str = include_str!("tun.py");
/// The device at both ends.
const DEVICE: &str = "vpn0";
/// The server's addresses behind the tunnel.
const BEHIND: [&str; 2] = ["198.51.100.1", "2001:db8:64::1"];
/// After so long without a packet no more are expected.
const SILENCE: Duration = Duration::from_millis(200);

fn behind(family: Family) -> &'static str {
    if family == Family::V4 { BEHIND[0] } else { BEHIND[1] }
}

/// A tunnel between the router and the server; the client's way to the server, and the server's to the client, lead through it.
fn tunnel(scene: &Scene, how: &str) -> Running {
    let router = scene.router();
    let mut program = router.command("python3");
    program.args(["-I", "-S", "-c", TUNNEL]).arg(scene.server().path()).args([DEVICE, how]);
    let running = router.spawn(&mut program, &scene.lab.dir().join("tunnel.log")).expect("a tunnel");
    within(PROMPT * 20, || {
        scene.server().run(&format!("ip link show {DEVICE}")).with_context(|| running.said())?;
        Ok(())
    });
    for (end, lines) in [
        (
            router,
            [
                "addr add 192.0.2.1/30",
                "-6 addr add 2001:db8:65::1/64",
                "route add 198.51.100.0/24",
                "-6 route add 2001:db8:64::/48",
            ],
        ),
        (
            scene.server(),
            [
                "addr add 198.51.100.1/32",
                "-6 addr add 2001:db8:64::1/128",
                "route add 198.18.0.0/24",
                "-6 route add 2001:db8:0::/64",
            ],
        ),
    ] {
        end.sysctl(&format!("net.ipv4.conf.{DEVICE}.rp_filter"), "0").expect("no rp_filter");
        end.run(&format!("ip link set {DEVICE} up")).expect("up");
        for line in lines {
            end.run(&format!("ip {line} dev {DEVICE}")).expect("addresses and routes");
        }
    }
    running
}

/// The picture with a tunnel, attached at the client's side in a mode.
fn scene(mode: &str, how: &str) -> Option<(Scene, Running)> {
    let scene = Scene::idle(&["python3", "nft", "ethtool"].map(Need::Tool))?;
    let tunnel = tunnel(&scene, how);
    if mode != "none" {
        scene.attach(&PORTS[..1], mode);
        scene.attach(&[DEVICE], "auto");
        scene.take_frames();
    }
    Some((scene, tunnel))
}

/// Pings from the client through the tunnel that are answered, of three.
fn pinged(scene: &Scene, family: Family) -> usize {
    scene.pinged(behind(family))
}

/// Sends so many bytes to an address of the server, which sends them back; they must be the same.
pub fn exchange(scene: &Scene, address: &str, bytes: usize) -> anyhow::Result<()> {
    let address: IpAddr = address.parse()?;
    let listener = scene.server().inside(move || Ok(TcpListener::bind((address, 0))?))?;
    let to = listener.local_addr()?;
    let back = thread::spawn(move || -> anyhow::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PROMPT * 10))?;
        let mut all = vec![0; bytes];
        stream.read_exact(&mut all)?;
        Ok(stream.write_all(&all)?)
    });
    let mut stream = scene.client().inside(move || Ok(TcpStream::connect_timeout(&to, PROMPT * 3)?))?;
    stream.set_read_timeout(Some(PROMPT * 10))?;
    let sent: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    stream.write_all(&sent)?;
    let mut got = vec![0; bytes];
    stream.read_exact(&mut got)?;
    back.join().map_err(|_| anyhow::anyhow!("the server's thread"))??;
    ensure!(got == sent, "other bytes came back");
    Ok(())
}

fn carried(mode: &str, how: &str) {
    let Some((scene, tunnel)) = scene(mode, how) else { return };
    let ports: Vec<Value> = scene.daemon.read(&["port", "list"]).expect("ports");
    let port = ports.iter().find(|port| port["name"] == DEVICE).expect("the tunnel is a port");
    assert_eq!((&port["mode"], &port["header"]), (&"tc".into(), &"none".into()), "{port}");
    for family in Family::BOTH {
        assert_eq!(pinged(&scene, family), 3, "{mode}, {how}: {}", family.name());
        let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
        exchange(&scene, behind(family), 2_000_000).expect("TCP through the tunnel");
        let after = scene.stats();
        let forwarded = after.totals.forwarded - before.totals.forwarded;
        assert!(forwarded > 60, "{mode}, {how}: {forwarded} forwarded over {}: {after:?}", family.name());
        assert_eq!(scene.kernel_forwarded(), kernel, "{mode}, {how}: the kernel forwarded over {}", family.name());
        assert_eq!(after.reason("no_egress"), 0, "{mode}, {how}: {after:?}");
    }
    drop(tunnel);
    scene.close();
}

#[test]
fn tcp_goes_through_a_tun_in_native() {
    carried("native", "plain");
}

#[test]
fn tcp_goes_through_a_tun_in_tc() {
    carried("tc", "plain");
}

#[test]
fn tcp_goes_through_a_tun_whose_packets_are_whole() {
    carried("tc", "whole");
}

/// A router that hides the client behind its own address in the tunnel.
const HIDES: &str = "table inet home {
 chain crossing {
  type filter hook forward priority filter; policy drop;
  ct state established,related accept
  iifname client0 accept
 }
 chain leaving {
  type nat hook postrouting priority srcnat;
  oifname vpn0 masquerade
 }
}
";

#[test]
fn connections_through_a_tun_are_carried() {
    let Some((scene, tunnel)) = scene("none", "whole") else { return };
    let rules = scene.lab.dir().join("home.nft");
    std::fs::write(&rules, HIDES).expect("a file");
    scene.router().run(&format!("nft -f {}", rules.display())).expect("rules");
    for route in ["route add 192.0.2.0/30", "-6 route add 2001:db8:65::/64"] {
        scene.server().run(&format!("ip {route} dev {DEVICE}")).expect("a way back");
    }
    scene.attach(&PORTS[..1], "tc");
    scene.attach(&[DEVICE], "auto");
    for family in Family::BOTH {
        // A connection is carried once the daemon has heard of it, which may take longer than a short one lives.
        within(PROMPT * 20, || {
            let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
            exchange(&scene, behind(family), 20_000_000)?;
            let forwarded = scene.stats().totals.forwarded - before.totals.forwarded;
            let kernel = scene.kernel_forwarded() - kernel;
            ensure!(forwarded > kernel, "{}: {forwarded} forwarded, the kernel {kernel}", family.name());
            Ok(())
        });
    }
    drop(tunnel);
    scene.close();
}

/// The packets of the comparison, with frames' padding, from one address to another.
fn packets(from: &str, to: &str) -> Vec<(Packet, usize)> {
    let v4 = from.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4());
    let packet = || between(from, to).udp(4000, 5300, 20);
    let mut all = vec![
        (packet(), 0),
        (packet().ttl(2), 0),
        (packet().ttl(1), 0),
        (packet(), 9),
        (packet().ttl(2), 40),
        (between(from, to).tcp(4000, 80, 2), 6),
        (between(from, to).echo(), 1),
        (between(from, to).carrying(89, vec![7; 33]), 0),
        (packet().length(200), 0),
        (packet().length(30), 0),
        (between(from, to).udp(4000, 5300, 1500), 0),
    ];
    if v4 {
        all.push((packet().patch(1, &[0xb9]), 3));
        all.push((packet().fragment(1 << 13), 2));
        all.push((packet().fragment(3), 2));
        all.push((packet().options(&[7, 4, 4, 0]), 0));
        all.push((packet().patch(10, &[0, 1]), 0));
    } else {
        all.push((packet().extension(60, &[0; 7]), 2));
        all.push((packet().extension(0, &[0, 1, 4, 0, 0, 0, 0]), 2));
    }
    all
}

/// What comes out within a moment; of IP, and not what hosts say of their own.
fn gather(port: &mut Port, at: usize) -> Vec<Vec<u8>> {
    let (mut last, mut all) = (Instant::now(), Vec::new());
    while last.elapsed() < SILENCE {
        match port.receive().expect("frames are read") {
            Some(frame) => {
                let ip = frame.get(at..).is_some_and(|packet| match packet.first().map(|byte| byte >> 4) {
                    Some(4) => packet.get(9) != Some(&1) || packet.get(20) == Some(&8),
                    // Nor what a device says of groups.
                    Some(6) => {
                        packet.get(8) == Some(&0x20) && (packet.get(6) != Some(&58) || packet.get(40) == Some(&128))
                    }
                    _ => false,
                });
                // A frame of Ethernet has a type of its own.
                if ip && (at == 0 || matches!(frame[12..14], [0x08, 0x00] | [0x86, 0xdd])) {
                    all.push(frame);
                    last = Instant::now();
                }
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    }
    all
}

/// What becomes of each packet: those from the client into the tunnel, and those out of it to the client.
fn crossings(scene: &Scene) -> Vec<(String, Vec<Vec<u8>>)> {
    let (mut client, mut server) = (wire(scene.client(), CLIENT.port), wire(scene.server(), DEVICE));
    let mut all = Vec::new();
    for family in Family::BOTH {
        let (near, far) = (family.address(&CLIENT), behind(family));
        for (number, (packet, padding)) in packets(near, far).into_iter().enumerate() {
            let frame = packet.to(ROUTER).by(Mac([2, 0, 0, 0, 0, 2])).padded(padding).frame();
            client.send(&frame).expect("sent");
            all.push((format!("{} packet {number} into the tunnel", family.name()), gather(&mut server, 0)));
        }
        for (number, (packet, padding)) in packets(far, near).into_iter().enumerate() {
            let mut bytes = packet.bare();
            bytes.resize(bytes.len() + padding, 0x5a);
            server.send(&bytes).expect("sent");
            all.push((format!("{} packet {number} out of the tunnel", family.name()), gather(&mut client, 14)));
        }
    }
    all
}

#[test]
fn a_tun_gets_and_gives_the_kernels_bytes() {
    let Some((scene, tunnel)) = scene("none", "plain") else { return };
    // Nothing of what the hosts say must be among what is compared.
    for (host, port) in [(scene.client(), CLIENT.port), (scene.server(), DEVICE)] {
        host.run(&format!("nft -f {}", silence(&scene))).expect("hosts that say nothing");
        host.run(&format!("ip link set {port} multicast off")).expect("no groups");
    }
    let kernel = crossings(&scene);
    scene.attach(&PORTS[..1], "tc");
    scene.attach(&[DEVICE], "auto");
    let (before, forwarded) = (scene.kernel_forwarded(), scene.stats().totals.forwarded);
    let ours = crossings(&scene);
    for ((what, kernel), (_, ours)) in kernel.iter().zip(&ours) {
        assert_eq!(kernel, ours, "{what}: the kernel sends\n{kernel:02x?}, we\n{ours:02x?}");
    }
    let sent = kernel.iter().filter(|(_, frames)| !frames.is_empty()).count();
    let forwarded = scene.stats().totals.forwarded - forwarded;
    assert!(sent >= 36 && forwarded >= 36, "{sent} packets were sent, {forwarded} forwarded by us");
    println!("{sent} packets, {forwarded} forwarded by us, {} by the kernel", scene.kernel_forwarded() - before);
    drop(tunnel);
    scene.close();
}

/// Rules with which a host answers nothing.
fn silence(scene: &Scene) -> String {
    let path = scene.lab.dir().join("silence.nft");
    let text = "table inet silence {\n chain output {\n  type filter hook output priority 0; policy drop;\n  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n }\n}\n";
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

#[test]
fn a_narrow_tun_is_answered_for() {
    let Some((scene, tunnel)) = scene("native", "plain") else { return };
    scene.router().run(&format!("ip link set {DEVICE} mtu 1300")).expect("a smaller MTU");
    for (family, header, answer) in [(Family::V4, 28, "Frag needed"), (Family::V6, 48, "Packet too big")] {
        let ping = |size: usize| {
            let line = format!("ping {} -n -c 1 -W 1 -M do -s {size} {}", family.option(), behind(family));
            scene.client().attempt(&line).expect("ping runs")
        };
        within(PROMPT, || {
            ensure!(ping(1300 - header).stdout.contains("1 received"), "what fits is not answered");
            Ok(())
        });
        // The first packets may come before the smaller MTU has been followed.
        within(PROMPT, || {
            let output = ping(1301 - header);
            let said = output.stdout + &output.stderr;
            ensure!(said.contains(answer), "{}: {said}", family.name());
            Ok(())
        });
        let line = format!("ping {} -n -c 1 -W 1 -t 1 {}", family.option(), behind(family));
        let output = scene.client().attempt(&line).expect("ping runs");
        assert!(output.stdout.contains("Time"), "TTL 1: {}", output.stdout);
    }
    let stats = scene.stats();
    assert!(stats.reason("too_big") >= 2 && stats.reason("ttl_expired") >= 2, "{stats:?}");
    drop(tunnel);
    scene.close();
}

#[test]
fn what_is_lost_at_a_tun_that_is_down_is_not_forwarded() {
    let Some((scene, tunnel)) = scene("tc", "plain") else { return };
    for family in Family::BOTH {
        assert_eq!(pinged(&scene, family), 3, "{}", family.name());
    }
    // Its program ends: the device goes.
    drop(tunnel);
    within(PROMPT, || {
        let before = scene.stats().totals.forwarded;
        for family in Family::BOTH {
            ensure!(pinged(&scene, family) == 0, "answered without a tunnel");
        }
        let after = scene.stats().totals.forwarded;
        ensure!(after == before, "{} count as forwarded", after - before);
        Ok(())
    });
    scene.close();
}
