//! `route get`, `explain` and the wire say the same of a packet, for each reason that has one.

use std::process::Command;

use anyhow::ensure;
use dataplane_tests::lab::{CLIENT, Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER, traffic::Family};
use dataplane_user::frame;
use serde_json::Value;

use crate::scene::{PROMPT, Scene, within};

/// Frames of a row on the wire.
const FRAMES: u64 = 5;

/// A packet, what the router is told before and after, and the reason that counts it.
struct Row {
    from: &'static str,
    to: &'static str,
    before: &'static [&'static str],
    after: &'static [&'static str],
    reason: &'static str,
}

const fn row(from: &'static str, to: &'static str, reason: &'static str) -> Row {
    Row { from, to, before: &[], after: &[], reason }
}

const fn with(
    before: &'static [&'static str],
    after: &'static [&'static str],
    Row { from, to, reason, .. }: Row,
) -> Row {
    Row { from, to, before, after, reason }
}

const ROWS: &[Row] = &[
    row(CLIENT.v4, SERVER.v4, "forwarded"),
    row(CLIENT.v6, SERVER.v6, "forwarded"),
    row(CLIENT.v4, ROUTER_SERVER.v4, "local"),
    row(CLIENT.v6, ROUTER_SERVER.v6, "local"),
    row("127.0.0.1", SERVER.v4, "martian_source"),
    row("::1", SERVER.v6, "martian_source"),
    row(ROUTER_SERVER.v4, SERVER.v4, "martian_source"),
    row("224.0.0.1", SERVER.v4, "martian_source"),
    row("ff02::1", SERVER.v6, "martian_source"),
    row(CLIENT.v4, "127.0.0.1", "martian_destination"),
    row(CLIENT.v6, "::1", "martian_destination"),
    with(
        &["sysctl -qw net.ipv4.conf.client0.rp_filter=1"],
        &["sysctl -qw net.ipv4.conf.client0.rp_filter=0"],
        row("203.0.113.9", SERVER.v4, "reverse_path"),
    ),
    row(CLIENT.v4, "198.51.100.9", "no_route"),
    row(CLIENT.v6, "2001:db8:99::9", "no_route"),
    with(&["ip route add blackhole 198.51.100.9"], &[], row(CLIENT.v4, "198.51.100.9", "blackhole")),
    with(&["ip -6 route add blackhole 2001:db8:99::9"], &[], row(CLIENT.v6, "2001:db8:99::9", "blackhole")),
    with(&["ip route add unreachable 198.51.100.10"], &[], row(CLIENT.v4, "198.51.100.10", "unreachable")),
    with(&["ip -6 route add unreachable 2001:db8:99::10"], &[], row(CLIENT.v6, "2001:db8:99::10", "unreachable")),
    with(&["ip route add prohibit 198.51.100.11"], &[], row(CLIENT.v4, "198.51.100.11", "prohibit")),
    with(&["ip -6 route add prohibit 2001:db8:99::11"], &[], row(CLIENT.v6, "2001:db8:99::11", "prohibit")),
    row(CLIENT.v4, "198.18.0.255", "broadcast"),
    row(CLIENT.v4, "224.0.0.9", "multicast"),
    row(CLIENT.v6, "ff02::9", "multicast"),
    row(CLIENT.v4, "198.18.1.77", "neighbour_unresolved"),
    row(CLIENT.v6, "2001:db8:1::77", "neighbour_unresolved"),
    row(CLIENT.v4, "203.0.113.70", "forwarded"),
    row(CLIENT.v6, "2001:db8:70::1", "forwarded"),
    // A device of which the kernel wants link addresses, and has none.
    with(&["ip link set tun9 arp on"], &[], row(CLIENT.v4, "203.0.113.70", "no_egress")),
    row(CLIENT.v6, "2001:db8:70::1", "no_egress"),
    with(
        &["sysctl -qw net.ipv4.conf.client0.forwarding=0"],
        &["sysctl -qw net.ipv4.conf.client0.forwarding=1"],
        row(CLIENT.v4, SERVER.v4, "forwarding_off"),
    ),
    with(
        &["sysctl -qw net.ipv6.conf.all.forwarding=0"],
        &["sysctl -qw net.ipv6.conf.all.forwarding=1"],
        row(CLIENT.v6, SERVER.v6, "forwarding_off"),
    ),
    with(
        &[
            "nft add table inet t",
            "nft add chain inet t c { type filter hook forward priority 0 ; policy accept ; }",
            "nft add rule inet t c counter",
        ],
        &[],
        row(CLIENT.v4, SERVER.v4, "netfilter"),
    ),
    with(&[], &["nft delete table inet t"], row(CLIENT.v6, SERVER.v6, "netfilter")),
];

/// What a verb says of a packet: its verdict and its reason.
fn said(scene: &Scene, words: &[&str]) -> (String, String) {
    let text = scene.cli(&[&["-j"], words].concat());
    let said: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"));
    let word = |key: &str| said[key].as_str().unwrap_or_else(|| panic!("{words:?} has no {key}: {text}")).to_owned();
    (word("verdict"), word("reason"))
}

/// Sends a frame from the client, as it is.
fn send(scene: &Scene, frame: &str) {
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\ns.bind(('{}', 0))\n\
         for _ in range({FRAMES}): s.send(bytes.fromhex('{frame}'))",
        CLIENT.port
    );
    let mut python = scene.client().command("python3");
    scene.client().output(python.args(["-c", &script]), PROMPT).expect("frames");
}

fn agree(mode: &str) {
    let needs = [Need::Tool("python3"), Need::Tool("nft"), Need::Kernel("tun devices", has_tun)];
    let Some(scene) = Scene::attached(&needs, mode) else { return };
    scene.ping().expect("neighbours are known");
    // Held open, so that it has a carrier.
    let script = "import fcntl, struct, time\nt = open('/dev/net/tun', 'r+b', buffering=0)\n\
                  fcntl.ioctl(t, 0x400454ca, struct.pack('16sH', b'tun9', 0x1001))\ntime.sleep(600)";
    let mut python = scene.router().command("python3");
    let log = scene.lab.dir().join("tun.log");
    let tun = scene.router().spawn(python.args(["-c", script]), &log).expect("a tun device");
    within(PROMPT * 5, || scene.router().run("ip link set tun9 up").map(drop));
    for line in ["ip route add 203.0.113.64/26 dev tun9", "ip -6 route add 2001:db8:70::/64 dev tun9"] {
        scene.router().run(line).expect("a route");
    }
    let mac = frame::from_hex(ROUTER_CLIENT.mac).ok().and_then(|bytes| bytes.try_into().ok()).expect("six bytes");
    for Row { from, to, before, after, reason } in ROWS {
        before.iter().for_each(|line| drop(scene.router().run(line).expect("the router changes")));
        let get = ["route", "get", to, "from", from, "iif", ROUTER_CLIENT.port];
        within(PROMPT * 2, || {
            let now = said(&scene, &get);
            ensure!(now.1 == *reason, "{mode}: `route get` of {from} > {to} says {now:?} and not {reason}");
            Ok(())
        });
        let (got, row) = (said(&scene, &get), format!("{mode}: {from} > {to}"));
        let at = |address: &str, port: u16| {
            if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
        };
        let packet = format!("udp {} > {}", at(from, 4000), at(to, 9));
        let frame = frame::build(&packet, Some(mac)).expect("a frame");
        let frame = frame.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let explained = said(&scene, &["explain", "--iface", ROUTER_CLIENT.port, "--hex", &frame]);
        assert_eq!(got, explained, "{row}: `route get` and `explain`");
        let counted = scene.stats();
        send(&scene, &frame);
        within(PROMPT, || {
            let now = scene.stats().reason(reason) - counted.reason(reason);
            ensure!(now >= FRAMES, "{row}: {reason} counts {now} of {FRAMES}");
            Ok(())
        });
        after.iter().for_each(|line| drop(scene.router().run(line).expect("the router changes back")));
    }
    // Without a way in: through a port that it does not leave by.
    for family in Family::BOTH {
        within(PROMPT * 2, || {
            let got = said(&scene, &["route", "get", family.address(&SERVER)]);
            ensure!(got == ("forward".to_owned(), "forwarded".to_owned()), "{mode}: {got:?}");
            Ok(())
        });
        let got = said(&scene, &["route", "get", family.address(&ROUTER_CLIENT)]);
        assert_eq!(got, ("deliver".to_owned(), "local".to_owned()), "{mode}");
    }
    // Chains have no say in the answer.
    scene.rule("forward", "drop");
    assert_eq!(said(&scene, &["route", "get", SERVER.v4]).1, "forwarded", "{mode}");
    drop(tun);
    scene.close();
}

#[test]
fn route_get_explain_and_the_wire_agree_native() {
    agree("native");
}

#[test]
fn route_get_explain_and_the_wire_agree_tc() {
    agree("tc");
}

#[test]
fn without_ports_it_is_for_the_kernel_to_say() {
    let Some(scene) = Scene::idle(&[]) else { return };
    scene.refused(&["route", "get", SERVER.v4], 3, &["no port", "ip route get"]);
    scene.attach(&[ROUTER_CLIENT.port], "tc");
    scene.refused(
        &["route", "get", SERVER.v4, "iif", ROUTER_SERVER.port],
        3,
        &[ROUTER_SERVER.port, "dataplane attach"],
    );
    scene.close();
}

/// Whether the kernel has tun devices.
fn has_tun() -> bool {
    let words = "ip tuntap add dev probe9 mode tun";
    let output = Command::new("unshare").args(["--net", "sh", "-c", words]).output();
    output.is_ok_and(|output| output.status.success())
}
