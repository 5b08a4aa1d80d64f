//! `explain`: what is said of a packet before it is sent.

use std::fs;

use dataplane_tests::lab::{
    CLIENT, Need, ROUTER_CLIENT, ROUTER_SERVER, SERVER,
    traffic::{self, Family},
};
use serde::Deserialize;

use crate::scene::Scene;

/// The fields that scripts rely on.
#[derive(Debug, Deserialize)]
struct Explanation {
    verdict: String,
    reason: String,
    chain: Option<String>,
    handle: Option<u64>,
    prefix: Option<String>,
    dev: Option<String>,
    lladdr: Option<String>,
    frame: Option<String>,
    stages: Vec<Stage>,
}

#[derive(Debug, Deserialize)]
struct Stage {
    name: String,
    result: String,
}

fn explain(scene: &Scene, words: &[&str]) -> Explanation {
    let words: Vec<_> = ["explain", "--iface", ROUTER_CLIENT.port].iter().chain(words).copied().collect();
    scene.daemon.read(&words).unwrap_or_else(|error| panic!("{words:?}: {error:#}"))
}

fn said(explanation: &Explanation, stage: &str) -> String {
    let found = explanation.stages.iter().find(|one| one.name == stage);
    found.unwrap_or_else(|| panic!("no stage {stage}: {explanation:?}")).result.clone()
}

fn explains(mode: &str) {
    let Some(scene) = Scene::attached(&[Need::Tool("iperf3")], mode) else { return };
    let telnet = scene.rule("forward", "tcp dport 23 drop");
    let web = scene.rule("prerouting", "tcp dport 80 accept");
    scene.rule("forward", "udp dport 5302 limit rate 1/minute drop");
    scene.router().run("ip route add blackhole 203.0.113.0/24").expect("a route");
    // Neighbours are known from here on.
    scene.ping().expect("pings are answered");
    let before = scene.stats();
    for family in Family::BOTH {
        let (from, to, router) = match family {
            Family::V4 => (CLIENT.v4.to_owned(), SERVER.v4.to_owned(), ROUTER_CLIENT.v4.to_owned()),
            Family::V6 => (CLIENT.v6.to_owned(), SERVER.v6.to_owned(), ROUTER_CLIENT.v6.to_owned()),
        };
        let at = |address: &str, port: u16| match family {
            Family::V4 => format!("{address}:{port}"),
            Family::V6 => format!("[{address}]:{port}"),
        };
        let ask = |words: String| explain(&scene, &[&words]);

        let forwarded = ask(format!("udp {} > {}", at(&from, 1024), at(&to, 9)));
        assert_eq!((forwarded.verdict.as_str(), forwarded.reason.as_str()), ("forward", "forwarded"), "{forwarded:?}");
        assert_eq!(forwarded.dev.as_deref(), Some(ROUTER_SERVER.port));
        assert!(forwarded.prefix.is_some() && forwarded.lladdr.is_some());
        let frame = forwarded.frame.clone().expect("the outgoing frame");
        let lladdr = forwarded.lladdr.clone().expect("a neighbour").replace(':', "");
        assert!(frame.starts_with(&lladdr), "{frame} is not for {lladdr}");
        assert!(said(&forwarded, "frame").contains("ttl 64 -> 63"), "{forwarded:?}");

        let dropped = ask(format!("tcp {} > {}", at(&from, 1024), at(&to, 23)));
        assert_eq!((dropped.verdict.as_str(), dropped.reason.as_str()), ("drop", "filter_forward"), "{dropped:?}");
        assert_eq!((dropped.chain.as_deref(), dropped.handle), (Some("forward"), Some(telnet.handle)), "{dropped:?}");
        assert!(dropped.frame.is_none());

        let accepted = ask(format!("tcp {} > {}", at(&from, 1024), at(&to, 80)));
        assert_eq!(
            (accepted.chain.as_deref(), accepted.handle),
            (Some("prerouting"), Some(web.handle)),
            "{accepted:?}"
        );

        let server = traffic::iperf_server(&scene.lab).expect("iperf3");
        let local = ask(format!("tcp {} > {}", at(&from, 1024), at(&router, 5201)));
        assert_eq!((local.verdict.as_str(), local.reason.as_str()), ("deliver", "local"), "{local:?}");
        // The server listens elsewhere.
        assert!(said(&local, "kernel").contains("no socket listens"), "{local:?}");
        drop(server);

        let expired = ask(format!("udp {} > {} ttl 1", at(&from, 1024), at(&to, 9)));
        assert_eq!((expired.verdict.as_str(), expired.reason.as_str()), ("kernel", "ttl_expired"), "{expired:?}");
        // A bucket is full for each question.
        for _ in 0..2 {
            let limited = ask(format!("udp {} > {}", at(&from, 1024), at(&to, 5302)));
            assert_eq!(limited.reason, "filter_forward", "{limited:?}");
        }
    }
    let nowhere = explain(&scene, &[&format!("icmp {} > 203.0.113.1", CLIENT.v4)]);
    assert_eq!((nowhere.verdict.as_str(), nowhere.reason.as_str()), ("drop", "blackhole"), "{nowhere:?}");
    assert_eq!(nowhere.prefix.as_deref(), Some("203.0.113.0/24"));
    let runt = explain(&scene, &["--hex", "ff:ff:ff:ff:ff:ff 020000000001 0800 45"]);
    assert_eq!((runt.verdict.as_str(), runt.reason.as_str()), ("drop", "truncated"), "{runt:?}");

    // Nothing counted, and no bucket lost anything.
    let after = scene.stats();
    // Hosts of IPv6 have things to say all the time, but nothing that ends like this.
    for reason in ["forwarded", "filter_forward", "local", "ttl_expired", "blackhole", "truncated"] {
        assert_eq!(before.reason(reason), after.reason(reason), "{reason}");
    }
    assert!(scene.rules().iter().all(|rule| rule.packets == 0), "{:?}", scene.rules());
    scene.close();
}

#[test]
fn of_packets_in_native() {
    explains("native");
}

#[test]
fn of_packets_in_generic() {
    explains("generic");
}

#[test]
fn of_packets_in_tc() {
    explains("tc");
}

#[test]
fn frames_of_capture_files_are_explained() {
    let Some(scene) = Scene::attached(&[], "native") else { return };
    let file = scene.daemon.state().join("x.pcapng");
    let name = file.display().to_string();
    // What was captured is explained as it was judged.
    scene.rule("forward", "udp dport 5301 drop");
    let capture = std::thread::scope(|scope| {
        let capture =
            scope.spawn(|| scene.daemon.attempt(&["capture", "-w", &name, "--count", "4", "udp", "dport", "5301"]));
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5301, 4).expect("datagrams"), 0);
        capture.join().expect("no panic").expect("capture runs")
    });
    assert_eq!(capture.status.code(), Some(0), "{capture:?}");
    let words = ["explain", "--iface", ROUTER_CLIENT.port, "--pcap", &name];
    let all = scene.daemon.cli(&[&words[..], &["-j"]].concat()).expect("explanations");
    let all: Vec<Explanation> = all.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|one| one.reason == "filter_forward"), "{all:?}");
    let second = explain(&scene, &["--pcap", &format!("{name}:2")]);
    assert_eq!(second.reason, "filter_forward");
    for (words, code) in [
        (vec!["--pcap".to_owned(), format!("{name}:5")], 3),
        (vec!["--pcap".to_owned(), "/nonexistent".to_owned()], 5),
        (vec!["--hex".to_owned(), "0g".to_owned()], 2),
        (vec!["--hex".to_owned(), "0800".to_owned()], 1),
        (vec!["udp 198.18.0.2 > 198.18.1.2".to_owned()], 2),
    ] {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let output = scene.daemon.attempt(&[&["explain", "--iface", ROUTER_CLIENT.port], &words[..]].concat());
        assert_eq!(output.expect("it runs").status.code(), Some(code), "{words:?}");
    }
    let absent = scene.daemon.attempt(&["explain", "--iface", "absent", "icmp 198.18.0.2 > 198.18.1.2"]);
    assert_eq!(absent.expect("it runs").status.code(), Some(3));
    scene.close();
}

/// A config is judged before it is in force: as the one in force would be, and without a change to it.
#[test]
fn a_file_is_judged_by_its_own_rules() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    scene.ping().expect("pings are answered");
    scene.rule("forward", "udp dport 1 drop");
    let shown = scene.cli(&["config", "show"]);
    let path = scene.lab.dir().join("new.toml");
    let file = path.to_str().expect("a path");
    let rules = "[ports]\nclient0 = { mode = \"tc\" }\nserver0 = { mode = \"tc\" }\n\
                 [sets.bad]\ntype = \"ipv4_addr\"\nelements = [\"198.18.1.0/28\"]\n\
                 [chains.prerouting]\nrules = ['tcp dport 25 drop', 'ip dscp 3 drop']\n\
                 [chains.input]\nrules = ['iifname \"cl*\" tcp dport { 22, 23 } reject']\n\
                 [chains.forward]\npolicy = \"drop\"\nrules = ['iif client0 oif server0 ip daddr @bad tcp dport 80-90 accept', \
                 'ip6 hoplimit < 9 drop', 'meta l4proto { icmp, icmpv6 } accept', 'udp dport 9 limit rate 1/minute accept']\n";
    fs::write(&path, rules).expect("a file");
    let packets = [
        "tcp 198.18.0.2:1024 > 198.18.1.2:25",
        "tcp 198.18.0.2:1024 > 198.18.1.2:80",
        "tcp 198.18.0.2:1024 > 198.18.1.2:91",
        "tcp 198.18.0.2:1024 > 198.18.0.1:22",
        "tcp 198.18.0.2:1024 > 198.18.0.1:24",
        "udp 198.18.0.2:1024 > 198.18.1.2:9",
        "udp 198.18.0.2:1024 > 198.18.1.2:1",
        "icmp 198.18.0.2 > 198.18.1.2",
        "icmp 198.18.0.2 > 198.18.1.2 ttl 1",
        "icmp 198.18.0.2 > 192.0.2.77",
        "icmpv6 2001:db8::2 > 2001:db8:1::2",
        "icmpv6 2001:db8::2 > 2001:db8:1::2 ttl 8",
        "tcp [2001:db8::2]:1024 > [2001:db8:1::2]:80",
    ];
    let judged = packets.map(|packet| explain(&scene, &["--config", file, packet]));
    let before = explain(&scene, &[packets[6]]);
    assert_eq!((&*before.verdict, &*before.reason), ("drop", "filter_forward"));
    assert_eq!(scene.cli(&["config", "show"]), shown, "nothing is in force of it");
    let text = said(&judged[2], "forward");
    assert!(text.contains("drop, by the policy of chain forward"), "{text}");
    scene.cli(&["config", "apply", file]);
    for (packet, judged) in packets.iter().zip(judged) {
        let live = explain(&scene, &[packet]);
        assert_eq!((&judged.verdict, &judged.reason), (&live.verdict, &live.reason), "{packet}: {judged:?} {live:?}");
        assert_eq!((&judged.dev, &judged.lladdr), (&live.dev, &live.lladdr), "{packet}");
        assert_eq!(judged.frame, live.frame, "{packet}");
    }
    scene.close();
}

/// A config that contradicts its own assertions is not put in force; links count by all their names.
#[test]
fn a_config_that_breaks_an_assertion_is_refused() {
    let Some(scene) = Scene::attached(&[], "tc") else { return };
    let path = scene.lab.dir().join("new.toml");
    let file = path.to_str().expect("a path");
    let ports = "[ports]\nclient0 = { mode = \"tc\" }\nserver0 = { mode = \"tc\" }\n";
    let write = |assertion: &str, rules: &str| {
        let text = format!("assert = [\"{assertion}\"]\n{ports}[chains.forward]\nrules = [{rules}]\n");
        fs::write(&path, text).expect("a file");
    };
    let shown = scene.cli(&["config", "show"]);
    write("must forward 'tcp 198.18.0.2 > 198.18.1.2:443' iif client0", "'udp dport 1 drop', 'tcp dport 400-500 drop'");
    let words = ["must forward tcp 198.18.0.2 > 198.18.1.2:443", "verdict is drop", "rule 2: `tcp dport 400-500 drop`"];
    scene.refused(&["config", "check", file], 5, &words);
    scene.refused(&["config", "apply", file], 5, &words);
    scene.refused(&["config", "apply", file, "--confirm", "9"], 5, &words);
    assert_eq!(scene.cli(&["config", "show"]), shown);
    scene.router().run("ip link property add dev client0 altname office").expect("an altname");
    write("must not forward udp 198.18.0.2 > 198.18.1.2:53 iif client0", "'iif office drop'");
    crate::scene::within(crate::scene::PROMPT * 10, || {
        let output = scene.daemon.attempt(&["config", "apply", file])?;
        anyhow::ensure!(output.status.success(), "{}", output.said());
        Ok(())
    });
    assert!(scene.cli(&["config", "show"]).contains("must not forward udp 198.18.0.2 > 198.18.1.2:53 iif client0"));
    // Single changes are held to it, too.
    write("must forward 'tcp 198.18.0.2 > 198.18.1.2:443' iif client0", "'tcp dport 443 accept', 'udp dport 1 drop'");
    scene.cli(&["config", "apply", file]);
    let shown = scene.cli(&["config", "show"]);
    let words = ["must forward tcp 198.18.0.2 > 198.18.1.2:443", "verdict is drop", "`dataplane config apply` changes"];
    for change in [
        &["rule", "insert", "forward", "tcp dport 400-500 drop"][..],
        &["rule", "insert", "forward", "tcp dport 443 drop", "--confirm", "9"],
        &["chain", "policy", "prerouting", "drop"],
        &["rule", "add", "prerouting", "tcp dport 443 drop"],
    ] {
        scene.refused(change, 5, &words);
    }
    assert_eq!(scene.cli(&["config", "show"]), shown);
    // Behind what decides, a rule changes nothing.
    scene.cli(&["rule", "add", "forward", "tcp dport 443 drop"]);
    scene.close();
}
