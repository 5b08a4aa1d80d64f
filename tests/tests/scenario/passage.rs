//! What chain forward drops does not get through, whatever the mirror knows, and whether there is a daemon.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use dataplane_tests::lab::{CLIENT, Lab, Namespace, Need, ROUTER_CLIENT, SERVER};

use crate::scene::Scene;

/// Where the stream goes: a port that rules drop.
const PORT: u16 = 7;
/// Datagrams a second and family.
const RATE: u64 = 20_000;
/// How long the stream goes on after a change: what the mirror did not know in time has come through by then.
pub const AFTERMATH: Duration = Duration::from_millis(150);

/// Datagrams that must be dropped, of both families, small and as long as the link takes.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// The client sends to the server, whether or not it is told that nobody gets there.
    pub fn start(lab: &Lab) -> Self {
        Self::to(lab, &[SERVER.v4, SERVER.v6])
    }

    /// The same to other addresses.
    pub fn to(lab: &Lab, targets: &[&str]) -> Self {
        Self::to_port(lab, targets, PORT)
    }

    /// The same to another port.
    pub fn to_port(lab: &Lab, targets: &[&str], port: u16) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for to in targets {
            let from = if to.contains(':') { CLIENT.v6 } else { CLIENT.v4 };
            let address = |address: &str, port| SocketAddr::new(address.parse().expect("an address"), port);
            let (from, to) = (address(from, 0), address(to, port));
            let bind = || UdpSocket::bind(from).with_context(|| format!("can not bind {from}"));
            let socket = lab.namespace("client").inside(bind).expect("a socket");
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            threads.push(thread::spawn(move || {
                let start = Instant::now();
                let mut tests = 0;
                while !stop.load(Ordering::Relaxed) {
                    let due = u64::try_from(start.elapsed().as_micros()).expect("a short test") * RATE / 1_000_000;
                    for _ in 0..due.saturating_sub(tests).min(64) {
                        let length = if tests % 16 == 0 { 1400 } else { 8 };
                        tests += 1;
                        // What the kernel of the client says of it is no matter.
                        if socket.send_to(&[0; 1400][..length], to).is_ok() {
                            sent.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    tests = tests.max(due.saturating_sub(64));
                    thread::sleep(Duration::from_micros(200));
                }
            }));
        }
        Self { stop, sent, threads }
    }

    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("the sender ends"));
        self.sent.load(Ordering::Relaxed)
    }
}

/// Counts what arrives at a host for the port, on whatever link, whoever it is for.
pub fn count(host: &Namespace) {
    count_ports(host, &PORT.to_string());
}

/// The same for other ports, as nft writes them.
pub fn count_ports(host: &Namespace, ports: &str) {
    host.run("nft add table inet dp-seen").expect("a table");
    host.run("nft add chain inet dp-seen in { type filter hook prerouting priority -400; }").expect("a chain");
    host.run(&format!("nft add rule inet dp-seen in udp dport {ports} counter")).expect("a rule");
}

/// How many arrived so far.
pub fn arrived(host: &Namespace) -> u64 {
    let text = host.run("nft list table inet dp-seen").expect("a counter");
    let count = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no counter in\n{text}"))
}

/// What is done to the router while the stream goes on, each with what is done back. Words in one line are run one by one.
const CHANGES: [(&str, &[&str]); 8] = [
    (
        "routes go and come",
        &["ip route del 198.18.1.0/24 dev server0", "ip route add 198.18.1.0/24 dev server0 src 198.18.1.1"],
    ),
    (
        "IPv6 routes go and come",
        &["ip -6 route del 2001:db8:1::/64 dev server0", "ip -6 route add 2001:db8:1::/64 dev server0"],
    ),
    (
        "routes are unreachable for a while",
        &[
            "ip route add unreachable 198.18.1.2/32",
            "ip -6 route add prohibit 2001:db8:1::2/128",
            "ip route del unreachable 198.18.1.2/32",
            "ip -6 route del prohibit 2001:db8:1::2/128",
        ],
    ),
    (
        "forwarding goes off and on",
        &[
            "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0",
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        ],
    ),
    ("the way out becomes narrow and wide", &["ip link set server0 mtu 1300", "ip link set server0 mtu 1500"]),
    ("the way out flaps", &["ip link set server0 down", "ip link set server0 up"]),
    ("the way in flaps", &["ip link set client0 down", "ip link set client0 up"]),
    ("neighbours are forgotten", &["ip neigh flush dev server0", "ip -6 neigh flush dev server0"]),
];

/// Both families' routes and addresses of the way out, as they were: a link that was down has lost some.
const REPAIR: [&str; 5] = [
    "ip link set client0 up",
    "ip link set server0 up",
    "ip -6 addr replace 2001:db8:0::1/64 dev client0 nodad",
    "ip -6 addr replace 2001:db8:1::1/64 dev server0 nodad",
    "ip route replace 198.18.1.0/24 dev server0 src 198.18.1.1",
];

/// The way in gets another link address, and what it had again; the client knows at once.
fn readdress(scene: &Scene) {
    for mac in ["02:00:00:00:00:77", "02:00:00:00:00:01"] {
        run(scene.router(), &[&format!("ip link set client0 address {mac}")]);
        for gateway in [ROUTER_CLIENT.v4, ROUTER_CLIENT.v6] {
            run(scene.client(), &[&format!("ip neigh replace {gateway} lladdr {mac} dev eth0 nud permanent")]);
        }
    }
}

/// A second link to the server, and the routes to its addresses over that.
fn another_way(scene: &Scene) {
    let ends = (("router", "other0", "02:00:00:00:02:01"), ("server", "eth1", "02:00:00:00:02:02"));
    scene.lab.veth(ends.0, ends.1).expect("a second link");
    run(scene.server(), &["ip addr add 198.18.2.2/24 dev eth1", "ip -6 addr add 2001:db8:2::2/64 dev eth1 nodad"]);
    run(
        scene.router(),
        &[
            "ip addr add 198.18.2.1/24 dev other0",
            "ip -6 addr add 2001:db8:2::1/64 dev other0 nodad",
            "ip route add 198.18.1.2/32 via 198.18.2.2",
            "ip -6 route add 2001:db8:1::2/128 via 2001:db8:2::2",
        ],
    );
}

pub fn run(router: &Namespace, lines: &[&str]) {
    for line in lines {
        router.run(line).unwrap_or_else(|error| panic!("{line}: {error:#}"));
        thread::sleep(Duration::from_millis(30));
    }
}

/// Rules that drop the stream, and nothing that another test of the path sends.
const RULES: [(&str, &str); 3] = [
    ("whatever the way out", "policy = \"accept\"\nrules = ['udp dport 7 drop']"),
    ("for what may be the way out", "policy = \"accept\"\nrules = ['oifname != \"mgmt*\" udp dport 7 drop']"),
    (
        "by a policy behind what may be the way out",
        "policy = \"drop\"\nrules = ['oifname \"mgmt*\" accept', 'meta l4proto { 1, 58 } accept', 'udp dport 5301 accept']",
    ),
];

fn stays_dropped(mode: &str) {
    for (what, chain) in RULES {
        let config = format!("[ports]\n\"*0\" = {{ mode = \"{mode}\" }}\n[chains.forward]\n{chain}\n");
        let Some(mut scene) = Scene::configured(&[Need::Tool("nft"), Need::Tool("sysctl")], &config) else { return };
        count(scene.server());
        let flood = Flood::start(&scene.lab);
        let mut told = Vec::new();
        let mut seen = |scene: &Scene, when: &str| {
            thread::sleep(AFTERMATH);
            let arrived = arrived(scene.server()) - told.iter().map(|(_, arrived)| arrived).sum::<u64>();
            told.push((when.to_owned(), arrived));
        };
        for (change, lines) in CHANGES {
            run(scene.router(), lines);
            run(scene.router(), &REPAIR);
            seen(&scene, change);
        }
        readdress(&scene);
        seen(&scene, "the way in has another link address");
        // A daemon that lives, before one that does not.
        scene.carries();
        scene.daemon.kill9().expect("killed");
        for (change, lines) in CHANGES {
            run(scene.router(), lines);
            run(scene.router(), &REPAIR);
            seen(&scene, &format!("without a daemon, {change}"));
        }
        readdress(&scene);
        seen(&scene, "without a daemon, the way in has another link address");
        another_way(&scene);
        seen(&scene, "without a daemon, a way out that is younger");
        scene.daemon.restart().expect("started again");
        seen(&scene, "started again");
        let sent = flood.stop();
        let through: Vec<_> = told.iter().filter(|(_, arrived)| *arrived != 0).collect();
        assert!(sent > 1000, "the client sent {sent} only");
        assert!(through.is_empty(), "{mode}, {what}: of {sent} datagrams that a rule drops these arrived: {through:?}");
        scene.close();
    }
}

#[test]
fn dropped_stays_dropped_in_native() {
    stays_dropped("native");
}

#[test]
fn dropped_stays_dropped_in_tc() {
    stays_dropped("tc");
}

#[test]
fn dropped_stays_dropped_in_generic() {
    stays_dropped("generic");
}

/// The kernel forwards what goes up: over a link that is no port, or by another address. Rules about the way out hold there.
#[test]
fn the_way_out_is_looked_at_where_it_is_known() {
    for mode in ["native", "tc"] {
        let config = format!(
            "[ports]\nclient0 = {{ mode = \"{mode}\" }}\n[chains.forward]\npolicy = \"accept\"\n\
             rules = ['oifname \"server0\" udp dport 7 drop']\n"
        );
        let Some(scene) = Scene::configured(&[Need::Tool("nft")], &config) else { return };
        count(scene.server());
        // The way out is no port, and what leaves through it goes out under another address.
        scene.router().run("nft add table inet nat").expect("a table");
        scene.router().run("nft add chain inet nat post { type nat hook postrouting priority 100; }").expect("a chain");
        scene.router().run("nft add rule inet nat post oifname server0 masquerade").expect("a rule");
        // A second way out, which the rule does not name.
        let (router, server) = (scene.router(), scene.server());
        scene
            .lab
            .veth(("router", "other0", "02:00:00:00:02:01"), ("server", "eth1", "02:00:00:00:02:02"))
            .expect("a second link");
        for line in ["ip addr add 198.18.2.1/24 dev other0", "ip -6 addr add 2001:db8:2::1/64 dev other0 nodad"] {
            router.run(line).expect("an address");
        }
        for line in ["ip addr add 198.18.2.2/24 dev eth1", "ip -6 addr add 2001:db8:2::2/64 dev eth1 nodad"] {
            server.run(line).expect("an address");
        }
        scene.ping().expect("what the rule does not drop goes through");
        let flood = Flood::start(&scene.lab);
        thread::sleep(AFTERMATH);
        assert_eq!(arrived(scene.server()), 0, "{mode}: the rule names this way out");
        run(
            router,
            &["ip route add 198.18.1.2/32 via 198.18.2.2", "ip -6 route add 2001:db8:1::2/128 via 2001:db8:2::2"],
        );
        thread::sleep(AFTERMATH * 3);
        assert!(arrived(scene.server()) > 100, "{mode}: the rule does not name this way out");
        run(router, &["ip route del 198.18.1.2/32", "ip -6 route del 2001:db8:1::2/128"]);
        thread::sleep(AFTERMATH);
        let before = arrived(scene.server());
        thread::sleep(AFTERMATH);
        assert_eq!(arrived(scene.server()), before, "{mode}: the rule names this way out again");
        flood.stop();
        let stats = scene.stats();
        assert!(
            stats.reason("filter_egress") + stats.reason("filter_forward") > 100,
            "{mode}: what is dropped counts: {stats:?}"
        );
        scene.close();
    }
}

/// The kernel forwards what is for one of its own addresses, where it translates that, and to a directed broadcast, where a
/// setting allows it: such packets meet chain forward, too.
#[test]
fn what_is_delivered_and_then_forwarded_meets_chain_forward() {
    for mode in ["native", "tc"] {
        let config = format!(
            "[ports]\nclient0 = {{ mode = \"{mode}\" }}\n[chains.forward]\npolicy = \"accept\"\nrules = ['udp dport 7 drop']\n"
        );
        let Some(scene) = Scene::configured(&[Need::Tool("nft"), Need::Tool("sysctl")], &config) else { return };
        count(scene.server());
        let router = scene.router();
        for line in [
            "nft add table inet nat",
            "nft add chain inet nat pre { type nat hook prerouting priority -100; }",
            &format!("nft add rule inet nat pre ip daddr {} udp dport 7-8 dnat ip to {}", ROUTER_CLIENT.v4, SERVER.v4),
            &format!(
                "nft add rule inet nat pre ip6 daddr {} udp dport 7-8 dnat ip6 to {}",
                ROUTER_CLIENT.v6, SERVER.v6
            ),
            "sysctl -qw net.ipv4.conf.all.bc_forwarding=1 net.ipv4.conf.client0.bc_forwarding=1 net.ipv4.conf.server0.bc_forwarding=1",
        ] {
            router.run(line).expect("the kernel forwards");
        }
        let flood = Flood::to(&scene.lab, &[ROUTER_CLIENT.v4, ROUTER_CLIENT.v6, "198.18.1.255"]);
        thread::sleep(AFTERMATH * 3);
        let sent = flood.stop();
        assert!(sent > 1000, "the client sent {sent} only");
        assert_eq!(arrived(scene.server()), 0, "{mode}: of {sent} that the chain drops, so many arrived");
        let dropped = scene.stats().reason("filter_egress");
        assert!(dropped > 100, "{mode}: {dropped} counted at the way out");
        // Without the rule they do arrive: the kernel would have forwarded them.
        scene.cli(&["rule", "flush", "forward"]);
        let flood = Flood::to(&scene.lab, &[ROUTER_CLIENT.v4, ROUTER_CLIENT.v6, "198.18.1.255"]);
        thread::sleep(AFTERMATH * 3);
        flood.stop();
        assert!(arrived(scene.server()) > 100, "{mode}: nothing is forwarded without the rule either");
        scene.close();
    }
}
