//! Rules that must see each packet: they do from the moment that they are there, also of a connection that was carried until
//! then.

use std::{thread, time::Duration};

use anyhow::ensure;
use dataplane_tests::lab::{Need, Output, traffic::Family};
use serde_json::Value;

use crate::{
    scene::{PROMPT, Scene, within},
    session::{HOME, Tcp, becomes_fast, router},
};

/// Where the server listens.
const PORT: u16 = 5601;

/// Sets, maps and chains in front of a home router's chain.
const BEFORE: &str = "table inet home {
 set ends { type ipv4_addr . inet_service; elements = { 198.18.0.9 . 9 }; }
 set senders { type ipv6_addr . ether_addr; elements = { 2001:db8::9 . 02:00:00:00:00:99 }; }
 set states { type ct_state; elements = { untracked }; }
 set protocols { type inet_proto; elements = { esp }; }
 map ways { type inet_service : verdict; elements = { 9 : drop }; }
 map others { type inet_service : verdict; elements = { 9 : drop }; }
 chain watch { log group 9
 }
 chain elsewhere { type filter hook input priority 5; policy accept; tcp dport vmap @others
 }
 chain early { type filter hook forward priority -5; policy accept; tcp dport vmap @ways
  ct state @states log group 9
  meta l4proto @protocols log group 9
 }
}
";

/// What is done to the rules, how `flows` then ends (none: nothing forbids), and what undoes it.
const ROWS: &[(&str, Option<&str>, &str)] = &[
    ("nft add rule inet home early ip saddr . tcp dport { 198.18.0.2 . 5601 } log group 9", Some("has log"), ""),
    ("nft add rule inet home early ip saddr . tcp dport @ends drop", None, ""),
    ("nft add rule inet home early meta l4proto . tcp dport { tcp . 5601 } meta mark set 7", Some("has mark"), ""),
    ("nft add rule inet home early ip6 saddr . ether saddr @senders drop", Some("has content"), ""),
    ("nft add rule inet home early ether saddr 02:00:00:00:00:99 drop", Some("has content"), ""),
    ("nft add rule inet home early tcp option maxseg size 536 drop", Some("has content"), ""),
    ("nft add rule inet home early ip frag-off & 0x4000 == 0 drop", Some("has content"), ""),
    ("nft add rule inet home early ip ttl 9 drop", Some("has content"), ""),
    (
        "nft add element inet home ways { 5601 : goto watch }",
        Some("has log"),
        "nft delete element inet home ways { 5601 }",
    ),
    (
        "nft add element inet home states { established }",
        Some("has log"),
        "nft delete element inet home states { established }",
    ),
    ("nft add element inet home protocols { tcp }", Some("has log"), "nft delete element inet home protocols { tcp }"),
    ("nft add element inet home others { 5601 : accept }", None, "nft delete element inet home others { 5601 }"),
    ("ip6tables-legacy -A FORWARD -g watch", Some("has log"), "ip6tables-legacy -F FORWARD"),
    ("iptables-legacy -A FORWARD -g watch", Some("has log"), "iptables-legacy -F FORWARD"),
];

/// What `port list` says of connections.
fn word(scene: &Scene) -> String {
    let rows: Vec<Value> = scene.daemon.read(&["port", "list"]).expect("ports");
    rows[0]["flows"].as_str().unwrap_or_default().to_owned()
}

/// Both connections talk so many times. Packets that were carried meanwhile, and that the kernel had.
fn talk(scene: &Scene, sessions: &mut [Tcp; 2], times: u32) -> (u64, u64) {
    let (carried, kernel) = (scene.stats().totals.forwarded, scene.kernel_forwarded());
    for session in sessions {
        session.talk(times).expect("both are heard");
    }
    (scene.stats().totals.forwarded - carried, scene.kernel_forwarded() - kernel)
}

fn run(scene: &Scene, line: &str) -> Output {
    scene.router().attempt(line).expect("it runs")
}

/// From now on the kernel has each packet, and the rule is named.
fn goes_to_the_kernel(scene: &Scene, sessions: &mut [Tcp; 2], line: &str, kind: &str) {
    thread::sleep(Duration::from_millis(5));
    let (mut carried, mut kernel) = (0, 0);
    within(PROMPT * 4, || {
        let seen = talk(scene, sessions, 5);
        (carried, kernel) = (carried + seen.0, kernel + seen.1);
        let word = word(scene);
        ensure!(word.starts_with("rule ") && word.contains(kind) && kernel > 60, "{line}: {word}");
        Ok(())
    });
    println!("{line}: {}, {kernel} packets by the kernel", word(scene));
    assert_eq!(carried, 0, "{line}: packets passed the rule by; the kernel had {kernel}");
}

/// Every second row, beginning with one of the first two: each runs in one of the two modes.
fn each_packet_is_seen(mode: &str, first: usize) {
    let Some(scene) = router(mode, &format!("{BEFORE}{HOME}")) else { return };
    scene.take_frames();
    let mut sessions = Family::BOTH.map(|family| Tcp::open(&scene, family, PORT));
    for (line, forbids, undo) in ROWS.iter().skip(first).step_by(2) {
        let tool = line.split(' ').next().expect("a tool");
        if let Some(unmet) = Need::Tool(tool).unmet() {
            println!("SKIPPED: {line}: {unmet}");
            continue;
        }
        let by_legacy = tool != "nft";
        if by_legacy {
            run(&scene, &format!("{tool} -N watch"));
            run(&scene, &format!("{tool} -A watch -j LOG"));
        }
        within(PROMPT * 4, || {
            ensure!(word(&scene) == "on", "before {line}: {}", word(&scene));
            Ok(())
        });
        for session in &mut sessions {
            becomes_fast(&scene, session);
        }
        let (carried, kernel) = talk(&scene, &mut sessions, 20);
        assert!(carried >= 70 && kernel <= 8, "before {line}: {carried} carried, {kernel} by the kernel");
        let done = run(&scene, line);
        if !done.status.success() {
            assert!(done.stderr.contains("not supported"), "{line}: {}", done.said());
            println!("SKIPPED: not known here: {line}: {}", done.stderr.trim());
            continue;
        }
        if let Some(kind) = forbids {
            // Changes of these are not announced: they are seen within the second.
            if by_legacy {
                within(PROMPT * 4, || {
                    ensure!(word(&scene) != "on", "{line}");
                    Ok(())
                });
            }
            goes_to_the_kernel(&scene, &mut sessions, line, kind);
        } else {
            for session in &mut sessions {
                becomes_fast(&scene, session);
            }
            assert_eq!(word(&scene), "on", "{line}");
        }
        let undone = if undo.is_empty() { "" } else { undo };
        for line in [undone, "nft flush chain inet home early"].into_iter().filter(|line| !line.is_empty()) {
            assert!(run(&scene, line).status.success(), "{line}");
        }
        for rule in ["tcp dport vmap @ways", "ct state @states log group 9", "meta l4proto @protocols log group 9"] {
            run(&scene, &format!("nft add rule inet home early {rule}"));
        }
    }
    scene.close();
}

#[test]
fn rules_see_each_packet_of_a_connection_that_was_carried_native() {
    each_packet_is_seen("native", 0);
}

#[test]
fn rules_see_each_packet_of_a_connection_that_was_carried_tc() {
    each_packet_is_seen("tc", 1);
}
