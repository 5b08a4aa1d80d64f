//! VLANs. Devices are interfaces of their own, and the router forwards between them; tagged frames without one are the
//! kernel's, after chain prerouting. The latter are sent frame by frame: not every kernel has VLAN devices.

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{CLIENT, End, Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER, Stats, traffic::Family};

use crate::scene::{PORTS, PROMPT, Scene, within};

/// How many frames are sent.
const COUNT: u64 = 20;

/// Puts frames with one 802.1Q tag on the client's link; each carries a datagram to the server.
const SEND: &str = r#"
import socket, struct, sys
port, target, source, family, from_, to, count = sys.argv[1:8]
mac = lambda text: bytes.fromhex(text.replace(":", ""))
udp = struct.pack("!HHHH", 1024, 5301, 12, 0) + b"tag!"
if family == "4":
    a, b = (socket.inet_pton(socket.AF_INET, x) for x in (from_, to))
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, a, b)
    s = sum(struct.unpack("!10H", head)); s = (s & 0xffff) + (s >> 16); s = (s & 0xffff) + (s >> 16)
    packet, kind = head[:10] + struct.pack("!H", s ^ 0xffff) + head[12:] + udp, 0x0800
else:
    a, b = (socket.inet_pton(socket.AF_INET6, x) for x in (from_, to))
    packet, kind = struct.pack("!IHBB16s16s", 6 << 28, len(udp), 17, 64, a, b) + udp, 0x86dd
frame = mac(target) + mac(source) + struct.pack("!HHH", 0x8100, 7, kind) + packet
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind((port, 0))
for _ in range(int(count)):
    link.send(frame)
"#;

/// Listens on the router's port for tagged frames, as the kernel sees them; how many came is told at the end.
const LISTEN: &str = r#"
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind((sys.argv[1], 3))
link.settimeout(10)
print("ready", flush=True)
seen = 0
try:
    while seen < int(sys.argv[2]):
        frame = link.recv(2000)
        seen += b"tag!" in frame
except TimeoutError:
    pass
print("seen", seen, flush=True)
"#;

fn send(scene: &Scene, family: Family) {
    let (version, client, server) =
        if family == Family::V4 { ("4", CLIENT.v4, SERVER.v4) } else { ("6", "2001:db8::2", "2001:db8:1::2") };
    let mut command = scene.client().command("python3");
    command.args(["-c", SEND, CLIENT.port, ROUTER_CLIENT.mac, CLIENT.mac, version, client, server]);
    command.arg(COUNT.to_string());
    let limit = std::time::Duration::from_secs(20);
    scene.client().output(&mut command, limit).expect("python3 runs").checked().expect("frames are sent");
}

/// What the counters grew by, for some reasons.
fn grown(before: &Stats, after: &Stats, reason: &str) -> u64 {
    after.reason(reason) - before.reason(reason)
}

fn reaches_the_kernel(mode: &str) {
    let Some(scene) = Scene::attached(&[Need::Tool("python3")], mode) else { return };
    for family in Family::BOTH {
        let router = scene.router();
        let mut command = router.command("python3");
        command.args(["-u", "-c", LISTEN, ROUTER_CLIENT.port, &COUNT.to_string()]);
        let log = scene.lab.dir().join(format!("listen-{}", family.name()));
        let listener = router.spawn(&mut command, &log).expect("a listener");
        within(PROMPT * 10, || {
            ensure!(listener.said().contains("ready"), "no listener: {}", listener.said());
            Ok(())
        });
        let before = scene.stats();
        send(&scene, family);
        within(PROMPT * 20, || {
            let said = listener.said();
            let seen = said.lines().find_map(|line| line.strip_prefix("seen ")).context("it still listens")?;
            ensure!(seen == COUNT.to_string(), "{mode}: {seen} of {COUNT} frames reached the kernel");
            Ok(())
        });
        let after = scene.stats();
        assert_eq!(grown(&before, &after, "vlan"), COUNT, "{mode}: {}: {after:?}", family.name());
        assert_eq!(after.totals.forwarded, before.totals.forwarded, "{mode}");

        // Not what the client says to the router itself, whenever it likes.
        let pair = if family == Family::V4 {
            "ip saddr 198.18.0.2 ip daddr 198.18.1.0/24 drop"
        } else {
            "ip6 saddr 2001:db8::/64 ip6 daddr 2001:db8:1::/64 drop"
        };
        for rule in ["vlan id 7 drop", pair, "udp dport 5301 drop"] {
            scene.rule("prerouting", rule);
            let before = scene.stats();
            send(&scene, family);
            let after = scene.stats();
            assert_eq!(grown(&before, &after, "filter_prerouting"), COUNT, "{mode}: {rule}: {after:?}");
            assert_eq!(grown(&before, &after, "vlan"), 0, "{mode}: {rule}");
            scene.cli(&["rule", "flush", "prerouting"]);
        }
    }
    scene.ping().expect("pings are answered");
    scene.close();
}

#[test]
fn in_native() {
    reaches_the_kernel("native");
}

#[test]
fn in_tc() {
    reaches_the_kernel("tc");
}

#[test]
fn in_generic() {
    reaches_the_kernel("generic");
}

/// Whether the kernel has VLAN devices: one is made where nobody sees it.
fn has_devices() -> bool {
    const MAKE: &str =
        "ip link add probe0 type veth peer name probe1 && ip link add link probe0 name probe2 type vlan id 5";
    let mut command = std::process::Command::new("unshare");
    command.args(["--net", "sh", "-c", MAKE]).output().is_ok_and(|output| output.status.success())
}

/// Puts the link between a host and the router into VLANs, the outermost first: a protocol and an identifier each. The
/// addresses of both ends move to the innermost devices; the router's is named here.
fn into_vlans(scene: &Scene, host: End, router: End, tags: &[(&str, u16)]) -> String {
    let mut names = Vec::new();
    for end in [host, router] {
        let (namespace, mut below) = (scene.lab.namespace(end.namespace), end.port.to_owned());
        let run = |line: &str| namespace.run(line).expect("a VLAN device");
        // Without a link-local address the kernel asks for no neighbour of IPv6.
        run(&format!("ip addr flush dev {below} scope global"));
        for (protocol, id) in tags {
            let device = format!("{below}.{id}");
            run(&format!("ip link add link {below} name {device} type vlan protocol {protocol} id {id}"));
            run(&format!("ip link set {device} up"));
            below = device;
        }
        run(&format!("ip addr add {}/24 dev {below}", end.v4));
        run(&format!("ip addr add {}/64 dev {below} nodad", end.v6));
        names.push(below);
    }
    let namespace = scene.lab.namespace(host.namespace);
    namespace.run(&format!("ip route replace default via {}", router.v4)).expect("a route");
    namespace.run(&format!("ip -6 route replace default via {}", router.v6)).expect("a route");
    within(PROMPT * 10, || scene.ping());
    names.pop().expect("the router's device")
}

/// What the port to the client forwards of forty datagrams.
fn forwards_datagrams(scene: &Scene) -> u64 {
    let forwarded = || scene.stats().port(ROUTER_CLIENT.port).expect("the port").counts.forwarded;
    let before = forwarded();
    scene.carries();
    forwarded() - before
}

#[test]
fn devices_are_routed_between() {
    const Q: &str = "802.1q";
    const STACKED: [(&str, u16); 2] = [("802.1ad", 300), (Q, 7)];
    // What the client's link is put into, then the server's.
    let ways: [(&[_], &[_]); 4] =
        [(&[(Q, 100)], &[]), (&[(Q, 100)], &[(Q, 200)]), (&STACKED, &[(Q, 200)]), (&[], &STACKED)];
    for mode in ["tc", "native", "generic"] {
        for (client, server) in ways {
            let Some(scene) = Scene::idle(&[Need::Kernel("VLAN devices", has_devices)]) else { return };
            scene.take_frames();
            let device = into_vlans(&scene, CLIENT, ROUTER_CLIENT, client);
            into_vlans(&scene, SERVER, ROUTER_SERVER, server);
            scene.attach(&PORTS, mode);
            scene.ping().expect("pings are answered");
            let forwarded = forwards_datagrams(&scene);
            assert!(forwarded >= 40, "{mode}: {client:?} to {server:?}: {forwarded} of 40 datagrams");
            assert_eq!(scene.pinged(ROUTER_CLIENT.v4), 3, "{mode}: the router itself answers");

            let before = scene.stats();
            scene.rule("forward", &format!("iifname \"{device}\" icmp type echo-request drop"));
            assert_eq!(scene.pinged(SERVER.v4), 0, "{mode}: a rule about {device}");
            assert_eq!(grown(&before, &scene.stats(), "filter_forward"), 3, "{mode}: {device}");
            scene.cli(&["rule", "flush", "forward"]);

            if let [(_, outer), ..] = client {
                scene.rule("prerouting", &format!("vlan id {outer} icmp type echo-request drop"));
                assert_eq!(scene.pinged(SERVER.v4), 0, "{mode}: a rule about tag {outer}");
                scene.cli(&["rule", "flush", "prerouting"]);
            }
            scene.ping().expect("pings are answered");
            scene.close();
        }
    }
}
