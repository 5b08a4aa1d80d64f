//! Own rules with state and translation: the kernel decides them in a table that the daemon writes, and connections that they
//! let through are carried at the driver.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::ensure;
use dataplane_tests::lab::{
    Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER,
    traffic::{self, Family},
};
use serde_json::Value;

use crate::{
    scene::{PORTS, PROMPT, Scene, within},
    session::{SOON, Tcp, address, becomes_fast, follows},
};

/// Where the server listens.
const PORT: u16 = 5501;
/// The table.
const TABLE: &str = "table inet dataplane";

/// A home router in own rules: the client may begin, what is established goes on, and the client hides.
const HOME: &str = "
[ports]
client0 = { mode = 'MODE' }
server0 = { mode = 'MODE' }

[chains.forward]
policy = 'drop'
rules = [
  'ct state established,related accept',
  'ct state invalid drop',
  'iifname \"client0\" tcp dport 5501-5509 accept',
  'iifname \"client0\" meta l4proto { icmp, ipv6-icmp } accept',
  'ct status dnat accept',
]

[chains.prerouting]
rules = [
  'udp dport 5590 drop',
  'ip daddr 198.18.0.1 tcp dport 8080 dnat to 198.18.1.2:5501',
]

[chains.postrouting]
rules = ['oifname \"server0\" masquerade']
";

fn home(mode: &str) -> Option<Scene> {
    let scene = Scene::idle(&[Need::Tool("nft")])?;
    apply(&scene, &HOME.replace("MODE", mode));
    follows(&scene);
    Some(scene)
}

fn apply(scene: &Scene, config: &str) {
    let file = scene.lab.dir().join("own.toml");
    std::fs::write(&file, config).expect("a config");
    scene.cli(&["config", "apply", file.to_str().expect("a path")]);
}

/// The table as nft shows it; empty where there is none.
fn table(scene: &Scene) -> String {
    scene.router().attempt(&format!("nft list {TABLE}")).expect("nft runs").stdout
}

fn masquerades(mode: &str) {
    let Some(scene) = home(mode) else { return };
    for family in Family::BOTH {
        let mut tcp = Tcp::open(&scene, family, PORT);
        let row = becomes_fast(&scene, &mut tcp);
        assert_eq!(
            row["reply"]["daddr"].as_str().map(str::parse),
            Some(Ok(address(family, &ROUTER_SERVER))),
            "the client hides: {row}"
        );
        let (before, kernel) = (scene.stats(), scene.kernel_forwarded());
        tcp.exchange(2_000_000).expect("bytes both ways");
        let (carried, by_kernel) =
            (scene.stats().totals.forwarded - before.totals.forwarded, scene.kernel_forwarded() - kernel);
        assert!(carried > 50 && by_kernel * 20 < carried, "{carried} carried, {by_kernel} by the kernel");
        // What no rule accepts does not pass, and is counted.
        let lost = dropped(&scene);
        assert_eq!(traffic::datagrams(&scene.lab, family, 5580, 10).expect("datagrams"), 0);
        assert!(dropped(&scene) >= lost + 10, "{} of {lost}", dropped(&scene));
    }
    let rules = scene.rules();
    let rule = |text: &str| rules.iter().find(|rule| rule.rule.starts_with(text)).unwrap_or_else(|| panic!("{text}"));
    assert!(rule("ct state established").packets > 0 && rule("iifname \"client0\" tcp").packets >= 2, "{rules:?}");
    assert!(rule("oifname \"server0\" masquerade").packets >= 2, "{rules:?}");
    scene.close();
}

/// Packets that the kernel dropped by own rules.
fn dropped(scene: &Scene) -> u64 {
    let stats: Value = scene.daemon.read(&["stats"]).expect("stats");
    stats["kernel_rules"]["dropped_packets"].as_u64().unwrap_or_else(|| panic!("no drops in {stats}"))
}

#[test]
fn a_client_hides_behind_own_rules_native() {
    masquerades("native");
}

#[test]
fn a_client_hides_behind_own_rules_tc() {
    masquerades("tc");
}

#[test]
fn a_port_is_given_to_a_server_inside() {
    let Some(scene) = home("native") else { return };
    let target = SocketAddr::new(address(Family::V4, &ROUTER_CLIENT), 8080);
    let server = SocketAddr::new(address(Family::V4, &SERVER), PORT);
    let mut tcp = Tcp::through(&scene, target, server);
    let row = becomes_fast(&scene, &mut tcp);
    assert_eq!(row["original"]["dport"], 8080, "{row}");
    tcp.exchange(1_000_000).expect("bytes both ways");
    // What the driver drops ahead of the kernel never gets there.
    let before = scene.stats().reason("filter_prerouting");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5590, 10).expect("datagrams"), 0);
    assert_eq!(scene.stats().reason("filter_prerouting") - before, 10);
    let rules = scene.rules();
    let early = rules.iter().find(|rule| rule.rule == "udp dport 5590 drop").expect("the rule");
    assert_eq!(early.packets, 10, "{early:?}");
    scene.close();
}

/// What writes into the first packets alone keeps no connection from the driver, and what writes into all does.
#[test]
fn segments_shrink_and_connections_are_carried() {
    let Some(scene) = home("native") else { return };
    let clamp = "tcp flags & (fin | syn | rst) == syn tcp option maxseg size set 1000";
    scene.cli(&["rule", "insert", "postrouting", clamp]);
    follows(&scene);
    for family in Family::BOTH {
        let mut tcp = Tcp::open(&scene, family, PORT);
        becomes_fast(&scene, &mut tcp);
        for namespace in [scene.client(), scene.server()] {
            let shown = namespace.run("ss -tinH state established").expect("ss runs");
            assert!(shown.contains("mss:988"), "{shown}");
        }
        tcp.exchange(500_000).expect("bytes both ways");
    }
    let count = scene.rules().iter().find(|rule| rule.rule.starts_with("tcp flags")).map(|rule| rule.packets);
    assert!(count.is_some_and(|count| (4..=8).contains(&count)), "SYN and its answer, twice: {count:?}");
    scene.cli(&["rule", "insert", "forward", "meta mark set 0x10"]);
    let mut tcp = Tcp::open(&scene, Family::V4, PORT);
    within(SOON, || {
        tcp.talk(3)?;
        let kernel = scene.kernel_forwarded();
        tcp.talk(20)?;
        let seen = scene.kernel_forwarded() - kernel;
        ensure!(seen >= 40, "{seen} by the kernel");
        let doctor = scene.daemon.attempt(&["doctor"])?.said();
        ensure!(doctor.contains("mark"), "{doctor}");
        Ok(())
    });
    scene.close();
}

/// `nft flush ruleset` takes no rule of ours away: no packet gets through that they drop.
#[test]
fn a_flush_of_all_rules_lets_nothing_through() {
    let Some(scene) = home("native") else { return };
    let sender = scene.client().inside(|| Ok(std::net::UdpSocket::bind("198.18.0.2:0")?)).expect("a socket");
    let receiver = scene.server().inside(|| Ok(std::net::UdpSocket::bind("198.18.1.2:5580")?)).expect("a socket");
    receiver.set_read_timeout(Some(Duration::from_millis(300))).expect("a limit");
    sender.connect("198.18.1.2:5580").expect("a destination");
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            for _ in 0..4000 {
                sender.send(b"must not arrive").expect("sent");
                thread::sleep(Duration::from_micros(50));
            }
        });
        for _ in 0..20 {
            scene.router().run("nft flush ruleset").expect("nft runs");
            within(Duration::from_millis(50), || {
                let text = table(&scene);
                ensure!(text.contains("masquerade"), "{text}");
                Ok(())
            });
        }
        flood.join().expect("all sent");
    });
    let arrived = receiver.recv(&mut [0; 64]);
    assert!(arrived.is_err(), "{arrived:?} bytes arrived");
    scene.close();
}

#[test]
fn the_table_outlives_the_daemon_and_goes_with_the_ports() {
    let Some(mut scene) = home("native") else { return };
    let mut tcp = Tcp::open(&scene, Family::V4, PORT);
    becomes_fast(&scene, &mut tcp);
    let counted = |scene: &Scene| {
        let rules = scene.rules();
        rules.iter().find(|rule| rule.rule.starts_with("iifname \"client0\" tcp")).map_or(0, |rule| rule.packets)
    };
    let before = counted(&scene);
    assert!(before >= 1);
    scene.daemon.kill9().expect("killed");
    assert!(table(&scene).contains("masquerade"), "the rules hold without a daemon");
    tcp.talk(3).expect("the connection goes on");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5580, 5).expect("datagrams"), 0);
    scene.daemon.restart().expect("it starts");
    follows(&scene);
    tcp.talk(3).expect("the connection goes on");
    becomes_fast(&scene, &mut tcp);
    assert!(counted(&scene) >= before, "rules go on counting");
    drop(tcp);
    scene.cli(&["detach", "--all"]);
    assert_eq!(table(&scene), "", "nothing is left");
    scene.attach(&PORTS, "native");
    assert!(table(&scene).contains("masquerade"), "it is back with the ports");
    // Without a rule that needs the kernel, the driver decides again.
    scene.cli(&["rule", "flush", "postrouting"]);
    scene.cli(&["rule", "flush", "prerouting"]);
    scene.cli(&["rule", "flush", "forward"]);
    assert_eq!(table(&scene), "");
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5580, 5).expect("datagrams"), 0);
    assert!(scene.stats().reason("filter_forward") >= 5, "the policy holds at the driver");
    scene.close();
}

/// What cannot stand where it is, or cannot be written, changes nothing.
#[test]
fn a_rule_that_is_refused_changes_nothing() {
    let Some(scene) = home("native") else { return };
    let before = (table(&scene), scene.rules().len());
    for (chain, rule, said) in [
        ("forward", "oifname \"server0\" masquerade", "chain postrouting"),
        ("prerouting", "oifname \"server0\" masquerade", "chain postrouting"),
        ("postrouting", "tcp dport 80 dnat to 198.18.1.2", "chain prerouting"),
        ("postrouting", "tcp dport 80 drop", "drops nothing"),
        ("prerouting", "ip daddr 198.18.0.1 dnat to 198.18.1.2:80", "names ports"),
        ("forward", "vlan id 7 drop", "name that instead"),
        ("forward", "ct state nwe accept", "`new`"),
    ] {
        scene.refused(&["rule", "add", chain, rule], 5, &[said]);
    }
    let strip = |text: &str| {
        text.split_whitespace().filter(|word| !word.bytes().all(|byte| byte.is_ascii_digit())).collect::<String>()
    };
    assert_eq!(strip(&table(&scene)), strip(&before.0));
    assert_eq!(scene.rules().len(), before.1);
    // A rule that stands comes into force in the kernel, and goes.
    let rule = scene.rule("forward", "iifname \"client0\" udp dport 5580 accept");
    for family in Family::BOTH {
        assert_eq!(traffic::datagrams(&scene.lab, family, 5580, 5).expect("datagrams"), 5);
    }
    scene.cli(&["rule", "del", "forward", "handle", &rule.handle.to_string()]);
    within(PROMPT, || {
        ensure!(traffic::datagrams(&scene.lab, Family::V4, 5580, 5)? == 0, "they arrive");
        Ok(())
    });
    within(SOON, || {
        let doctor = scene.daemon.attempt(&["doctor"])?.said();
        ensure!(doctor.contains("own table"), "{doctor}");
        Ok(())
    });
    scene.close();
}

/// Each kind of match and action, beside a rule that needs the kernel, and what nft shows of it.
const KINDS: [(&str, &str, &str); 41] = [
    ("forward", "tcp flags & (syn | ack) == syn accept", "tcp flags"),
    ("forward", "tcp dport { 22, 80-90, 443 } accept", "tcp dport { 22, 80-90, 443 }"),
    ("forward", "ip saddr != { 192.0.2.0/25, 198.51.100.7 } drop", "ip saddr != {"),
    ("forward", "ip6 daddr { 2001:db8::/64, 2001:db8:2::1 } accept", "ip6 daddr {"),
    ("forward", "ip saddr . tcp dport { 192.0.2.1 . 80, 198.51.100.0/24 . 443 } accept", "ip saddr . tcp dport {"),
    ("forward", "iifname . ip6 saddr { \"eth*\" . 2001:db8::/32 } accept", "iifname . ip6 saddr {"),
    ("forward", "ip saddr @lan accept", "ip saddr @lan"),
    ("forward", "ip dscp { ef, cs1 } accept", "ip dscp {"),
    ("forward", "ip6 dscp af11 accept", "ip6 dscp af11"),
    ("forward", "ip ttl 6-64 accept", "ip ttl 5-63"),
    ("forward", "meta length 100-200 accept", "meta length 100-200"),
    ("forward", "ip frag-off & 0x1fff != 0 drop", "ip frag-off & 8191 != 0"),
    ("forward", "icmp type { echo-request, echo-reply } accept", "icmp type {"),
    ("forward", "icmpv6 type packet-too-big icmpv6 code 0 accept", "icmpv6 type packet-too-big"),
    ("forward", "ether saddr 02:00:00:00:00:01 accept", "ether saddr 02:00:00:00:00:01"),
    ("forward", "meta pkttype { host, multicast } accept", "meta pkttype"),
    ("forward", "iifname { \"eth*\", \"wg0\" } oifname != \"lan\" accept", "oifname != \"lan\""),
    ("forward", "ct mark & 0xff00 == 0x100 accept", "ct mark & 0x0000ff00 == 0x00000100"),
    ("forward", "ct original ip daddr 192.0.2.1 ct reply proto-src 80 accept", "ct original ip daddr 192.0.2.1"),
    ("forward", "ct direction reply ct status dnat,snat accept", "ct direction reply"),
    ("forward", "limit rate over 10 mbytes/second burst 1 mbytes log prefix \"a\" level info drop", "limit rate over"),
    ("input", "tcp dport 113 reject with tcp reset", "reject with tcp reset"),
    ("input", "ip protocol udp reject with icmp admin-prohibited", "admin-prohibited"),
    ("prerouting", "fib saddr . iif oif missing drop", "fib saddr . iif oif"),
    ("prerouting", "fib daddr type local tcp dport 8081 redirect to :80", "redirect to :80"),
    ("output", "tcp dport 8082 dnat to [2001:db8::1]:80 random", "dnat ip6 to [2001:db8::1]:80 random"),
    ("prerouting", "iifname \"client0\" meta mark set 0x10", "meta mark set 0x00000010"),
    ("prerouting", "meta mark != 0 ct mark set meta mark", "ct mark set meta mark"),
    ("prerouting", "meta mark set ct mark & 0xff accept", "meta mark set ct mark & 0x000000ff"),
    ("prerouting", "meta mark & 0xff 1 meta mark set meta mark | 0x100", "meta mark set meta mark | 0x00000100"),
    ("forward", "tcp flags syn tcp option maxseg size set rt mtu", "tcp option maxseg size set rt mtu"),
    ("postrouting", "tcp flags syn tcp option maxseg size set 1200", "tcp option maxseg size set 1200"),
    ("postrouting", "udp dport 5060 ip dscp set ef", "ip dscp set ef"),
    ("forward", "ip6 dscp set cs1 ip6 hoplimit set 64", "ip6 dscp set cs1"),
    ("output", "ip ttl set 64", "ip ttl set 64"),
    ("output", "meta skuid { 0, 1000-1010 } accept", "1000-1010"),
    ("output", "meta skgid 7 drop", "meta skgid 7"),
    ("prerouting", "tcp dport 21 ct helper set \"ftp\"", "ct helper set \"ftp\""),
    ("forward", "rt type 0 drop", "rt type 0"),
    ("forward", "tcp dport 5599 ct count over 3 drop", "ct count over 3"),
    (
        "postrouting",
        "meta l4proto { tcp, udp } oifname \"wan9\" snat to 192.0.2.1-192.0.2.4:1024-2047 persistent",
        "192.0.2.1-192.0.2.4:1024-2047",
    ),
];

#[test]
fn the_kernel_takes_each_kind_of_rule() {
    let Some(scene) = Scene::idle(&[Need::Tool("nft")]) else { return };
    let set = "[sets.lan]\ntype = 'ipv4_addr'\nelements = ['192.0.2.0/24', '198.51.100.1']\n";
    apply(
        &scene,
        &format!("[ports]\nclient0 = {{}}\nserver0 = {{}}\n{set}\n[chains.forward]\nrules = ['ct state new accept']\n"),
    );
    for (chain, rule, shown) in KINDS {
        scene.rule(chain, rule);
        let text = table(&scene);
        assert!(text.contains(shown), "{rule}: no {shown} in\n{text}");
    }
    scene.close();
}

/// Rule sets of others, as `import` writes them.
#[test]
fn imported_rule_sets_come_into_force() {
    let Some(scene) = Scene::idle(&[Need::Tool("nft")]) else { return };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../dataplane-user/tests/import");
    let mut tables = 0;
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let config = std::fs::read_to_string(&path).expect("a config");
        apply(&scene, &config);
        let needs = [" ct ", "'ct ", "\"ct ", " dnat ", " masquerade", " snat ", "fib ", " tproxy ", "@ssh_banned"]
            .iter()
            .any(|word| config.contains(word));
        assert_eq!(!table(&scene).is_empty(), needs, "{}", path.display());
        tables += usize::from(needs);
    }
    assert!(tables >= 12, "only {tables} have state");
    scene.cli(&["detach", "--all"]);
    assert_eq!(table(&scene), "");
    scene.close();
}
