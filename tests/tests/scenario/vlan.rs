//! Tagged frames are the kernel's, after chain prerouting. They are sent frame by frame: not every kernel has VLAN devices.

use anyhow::{Context as _, ensure};
use dataplane_tests::lab::{CLIENT, Need, ROUTER_CLIENT, SERVER, Stats, traffic::Family};

use crate::scene::{PROMPT, Scene, within};

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
link.settimeout(1)
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
        within(PROMPT * 5, || {
            let said = listener.said();
            let seen = said.lines().find_map(|line| line.strip_prefix("seen ")).context("it still listens")?;
            ensure!(seen == COUNT.to_string(), "{mode}: {seen} of {COUNT} frames reached the kernel");
            Ok(())
        });
        let after = scene.stats();
        assert_eq!(grown(&before, &after, "vlan"), COUNT, "{mode}: {}: {after:?}", family.name());
        assert_eq!(after.totals.forwarded, before.totals.forwarded, "{mode}");

        let source = if family == Family::V4 { "ip saddr 198.18.0.2 drop" } else { "ip6 saddr 2001:db8::/64 drop" };
        for rule in ["vlan id 7 drop", source, "udp dport 5301 drop"] {
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
