//! Rules of netfilter that must see each packet of a connection keep all connections in the kernel, and are named.

use std::fs;

use anyhow::ensure;
use dataplane_tests::lab::Need;
use serde_json::Value;

use crate::scene::{PROMPT, Scene, within};

/// What `port list` says of connections, port by port.
fn words(scene: &Scene) -> Vec<String> {
    let rows: Vec<Value> = scene.daemon.read(&["port", "list"]).expect("ports");
    rows.iter().map(|row| row["flows"].as_str().unwrap_or("nothing").to_owned()).collect()
}

/// What the doctor says under these checks.
fn findings(scene: &Scene, check: &str) -> Vec<(String, String, String)> {
    let output = scene.daemon.attempt(&["doctor", "-j"]).expect("the doctor runs");
    let rows: Vec<Value> = serde_json::from_str(&output.stdout).expect("findings");
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows = rows.iter().filter(|row| row["check"].as_str().is_some_and(|one| one.starts_with(check)));
    rows.map(|row| (text(row, "status"), text(row, "found"), text(row, "fix"))).collect()
}

/// Puts rules in place of all others, in one commit.
fn rules(scene: &Scene, text: &str) {
    let file = scene.lab.dir().join("rules.nft");
    fs::write(&file, format!("flush ruleset\n{text}\n")).expect("a file");
    scene.router().run(&format!("nft -f {}", file.display())).unwrap_or_else(|error| panic!("{text}: {error:#}"));
}

/// Waits until all ports say of connections what they must.
fn says(scene: &Scene, what: &str, fits: impl Fn(&str) -> bool) {
    within(4 * PROMPT, || {
        let words = words(scene);
        ensure!(words.len() == 2 && words.iter().all(|word| fits(word)), "{what}: {words:?}");
        Ok(())
    });
}

/// A base chain of a table `inet t` with one rule, and whatever goes before it.
fn one(hook: &str, rule: &str) -> String {
    let (before, rule) = rule.split_once(" ## ").unwrap_or(("", rule));
    format!(
        "table inet t {{\n{before}\nchain base {{ type filter hook {hook} priority 0; policy accept;\n\
         ip protocol udp accept\n{rule}\n}}\n}}"
    )
}

/// A hook, a rule (with what it needs in front of ` ## `), and the kind that it is of.
const NFT: &[(&str, &str, &str)] = &[
    ("forward", "limit rate 5/second accept", "limit"),
    ("forward", "limit l { rate 5/second; } ## limit name l accept", "limit"),
    ("prerouting", "quota over 1 mbytes drop", "quota"),
    ("forward", "quota q { 1 mbytes; } ## quota name q", "quota"),
    ("forward", "set s { type ipv4_addr; flags dynamic; } ## add @s { ip saddr ct count over 9 } drop", "dynset"),
    ("forward", "ct count over 100 drop", "connlimit"),
    ("postrouting", "log prefix \"x\"", "log"),
    ("forward", "log group 3", "log"),
    ("forward", "set s { type ipv4_addr; flags dynamic,timeout; timeout 1m; } ## update @s { ip saddr }", "dynset"),
    ("forward", "set s { type ipv6_addr; flags dynamic; } ## add @s { ip6 saddr limit rate 5/second }", "dynset"),
    ("prerouting", "meta mark set 7", "mark"),
    ("prerouting", "meta mark set ct mark", "mark"),
    ("forward", "ct mark set 7", "ct"),
    ("forward", "ip dscp set cs1", "payload"),
    ("forward", "ip6 hoplimit set 9", "payload"),
    ("forward", "tcp dport set 9", "payload"),
    ("postrouting", "meta priority set 1:1", "priority"),
    ("prerouting", "meta nftrace set 1", "trace"),
    ("forward", "numgen random mod 2 0 drop", "random"),
    ("forward", "meta hour \"10:00\"-\"11:00\" drop", "time"),
    ("prerouting", "tcp dport 9 notrack", "notrack"),
    ("prerouting", "meta l4proto tcp tproxy to :9", "tproxy"),
    ("forward", "tcp dport 9 synproxy mss 1460 wscale 7", "synproxy"),
    ("forward", "meta length 1000-1500 drop", "content"),
    ("forward", "ip ttl 5 drop", "content"),
    ("forward", "ct bytes over 100000 drop", "content"),
    ("forward", "ct state established,related log", "log"),
    ("forward", "ct state vmap { new : accept, established : continue } log", "log"),
    ("forward", "chain c { log; } ## tcp dport { 1-9 } jump c", "log"),
    ("forward", "chain c { log; } ## tcp dport vmap { 1 : goto c, 2 : drop }", "log"),
    (
        "forward",
        "chain c { log; } ## map m { type inet_service : verdict; elements = { 1 : jump c } } ## tcp dport vmap @m",
        "log",
    ),
];

#[test]
fn rules_that_forbid_are_named() {
    let Some(scene) = Scene::attached(&[Need::Tool("nft")], "tc") else { return };
    says(&scene, "no rules", |word| word == "none");
    let mut tried = 0;
    for (hook, rule, kind) in NFT {
        // What stands in front of the last mark goes before the chain.
        let (before, rule) = rule.rsplit_once(" ## ").unwrap_or(("", rule));
        let before = before.replace(" ## ", "\n");
        let text = one(hook, &format!("{before} ## {rule}"));
        let file = scene.lab.dir().join("try.nft");
        fs::write(&file, format!("flush ruleset\n{text}\n")).expect("a file");
        let accepted = scene.router().attempt(&format!("nft -c -f {}", file.display())).expect("nft runs");
        // An older nft or kernel may lack one of these.
        if !accepted.status.success() {
            println!("not known here: {rule}: {}", accepted.stderr.trim());
            continue;
        }
        tried += 1;
        rules(&scene, &text);
        let wanted = format!("has {kind}");
        says(&scene, rule, |word| {
            word.starts_with("rule inet t ") && word.contains(" handle ") && word.ends_with(&wanted)
                || word.contains(&format!("{wanted} ("))
        });
        let flows = findings(&scene, "flows");
        let (status, found, fix) = &flows[0];
        assert!(
            status == "warn" && found.contains(&wanted) && fix.contains(&format!("ignore = [\"{kind}\"]")),
            "{flows:?}"
        );
    }
    assert!(tried > NFT.len() - 6, "{tried} of {} rules were tried", NFT.len());
    let log = scene.daemon.log();
    assert!(log.contains("no connection is carried at the driver: rule inet t base handle"), "{log}");
    // Attaching says so, too.
    let loud = scene.daemon.attempt(&["attach", crate::scene::PORTS[0], "--mode", "tc"]).expect("the verb runs");
    assert!(loud.stderr.contains("no connection is carried at the driver: rule inet t"), "{}", loud.said());
    scene.close();
}

/// What the operator ignores does not forbid, except what goes to a program.
#[test]
fn what_is_ignored_does_not_forbid() {
    let config = |ignore: &str| {
        format!("[ports]\nclient0 = {{ mode = \"tc\" }}\nserver0 = {{ mode = \"tc\" }}\n[flows]\nignore = [{ignore}]\n")
    };
    let Some(scene) = Scene::configured(&[Need::Tool("nft")], &config("")) else { return };
    rules(&scene, &one("forward", "log limit rate 5/second"));
    says(&scene, "nothing is ignored", |word| word.starts_with("rule inet t base handle"));
    let apply = |ignore: &str| {
        let file = scene.lab.dir().join("ignore.toml");
        fs::write(&file, config(ignore)).expect("a file");
        scene.daemon.attempt(&["config", "apply", &file.display().to_string()]).expect("the verb runs")
    };
    assert!(apply("\"log\"").status.success());
    says(&scene, "log is ignored", |word| word.ends_with("has limit"));
    let both = apply("\"log\", \"limit\"");
    assert!(both.status.success() && !both.stderr.contains("no connection"), "{}", both.said());
    says(&scene, "both are ignored", |word| word == "on");
    let flows = findings(&scene, "flows");
    assert!(flows[0].0 == "ok" && flows[0].1.contains("ignored: rule inet t base handle"), "{flows:?}");
    let refused = apply("\"queue\"");
    assert!(!refused.status.success() && refused.stderr.contains("cannot be ignored"), "{}", refused.said());
    assert!(
        scene.cli(&["config", "show"]).contains("\"limit\",")
            || scene.cli(&["config", "show"]).contains("[\"limit\", \"log\"]")
    );
    scene.close();
}

/// A home router: one accepts what is established first, and then looks closely.
const HOME: &str = r#"
table inet filter {
  set blocked { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } }
  set knocking { type ipv4_addr; flags dynamic,timeout; timeout 1m; }
  chain input { type filter hook input priority 0; policy drop;
    ct state established,related accept
    limit rate 5/second log prefix "in "
 ; }
  chain forward { type filter hook forward priority 0; policy drop;
    tcp flags syn tcp option maxseg size set rt mtu
    ct state vmap { established : accept, related : accept, invalid : drop }
    ip saddr @blocked counter drop
    iifname "client0" accept
    tcp dport 22 ct state new add @knocking { ip saddr limit rate over 3/minute } drop
    ct status dnat accept
    limit rate 5/second log prefix "no "
 ; }
}
table inet nat {
  chain pre { type nat hook prerouting priority dstnat; iifname "server0" tcp dport 8080 dnat ip to 198.18.0.2:80; }
  chain post { type nat hook postrouting priority srcnat; oifname "server0" masquerade; }
}
"#;

/// In the shape of what Docker's iptables-nft writes.
const DOCKER: &str = r#"
table ip nat {
  chain DOCKER { iifname "docker0" counter return
    iifname != "docker0" tcp dport 8080 counter dnat to 198.18.0.2:80; }
  chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local counter jump DOCKER; }
  chain POSTROUTING { type nat hook postrouting priority srcnat;
    oifname != "docker0" ip saddr 198.18.0.0/24 counter masquerade; }
}
table ip filter {
  chain DOCKER-USER { counter return; }
  chain DOCKER { iifname != "docker0" oifname "docker0" ip daddr 198.18.0.2 tcp dport 80 counter accept
    iifname != "docker0" oifname "docker0" counter drop; }
  chain DOCKER-ISOLATION-STAGE-1 { iifname "docker0" oifname != "docker0" counter jump DOCKER-ISOLATION-STAGE-2
    counter return; }
  chain DOCKER-ISOLATION-STAGE-2 { oifname "docker0" counter drop
    counter return; }
  chain FORWARD { type filter hook forward priority filter; policy accept;
    counter jump DOCKER-USER
    counter jump DOCKER-ISOLATION-STAGE-1
    oifname "docker0" ct state related,established counter accept
    oifname "docker0" counter jump DOCKER
    iifname "docker0" oifname != "docker0" counter accept
    iifname "docker0" oifname "docker0" counter accept
 ; }
}
table ip raw {
  chain PREROUTING { type filter hook prerouting priority raw;
    ip daddr 198.18.0.2 iifname != "docker0" iifname != "client0" counter drop; }
}
table ip6 filter {
  chain FORWARD { type filter hook forward priority filter; policy accept; counter; }
}
"#;

/// In the shape of what fw4 of `OpenWrt` writes.
const FW4: &str = r#"
table inet fw4 {
  chain forward { type filter hook forward priority filter; policy drop;
    ct state vmap { established : accept, related : accept } comment "!fw4: Handle forwarded flows"
    iifname "client0" jump forward_lan
    iifname "server0" jump forward_wan
    jump handle_reject
 ; }
  chain forward_lan { jump accept_to_wan
    jump accept_to_lan; }
  chain forward_wan { icmpv6 type { destination-unreachable, time-exceeded } limit rate 1000/second counter accept
    meta l4proto esp counter jump accept_to_lan
    ct status dnat accept
    jump reject_to_wan; }
  chain accept_to_lan { oifname "client0" counter accept; }
  chain accept_to_wan { meta nfproto ipv4 oifname "server0" ct state invalid counter drop
    oifname "server0" counter accept; }
  chain reject_to_wan { oifname "server0" counter jump handle_reject; }
  chain handle_reject { meta l4proto tcp reject with tcp reset
    reject with icmpx port-unreachable; }
  chain prerouting { type filter hook prerouting priority filter; policy accept; iifname "client0" jump helper_lan; }
  chain helper_lan { }
  chain raw_prerouting { type filter hook prerouting priority raw; policy accept; }
  chain mangle_prerouting { type filter hook prerouting priority mangle; policy accept; }
  chain mangle_postrouting { type filter hook postrouting priority mangle; policy accept;
    oifname "server0" tcp flags & (fin | syn | rst) == syn tcp option maxseg size set rt mtu; }
  chain mangle_forward { type filter hook forward priority mangle; policy accept;
    iifname "server0" tcp flags & (fin | syn | rst) == syn tcp option maxseg size set rt mtu; }
  chain srcnat { type nat hook postrouting priority srcnat; policy accept; oifname "server0" jump srcnat_wan; }
  chain srcnat_wan { meta nfproto ipv4 masquerade; }
}
"#;

/// A server behind a strict set: null scans, fragments, routing headers and ICMP are none of a connection's packets.
const STRICT: &str = r"
table ip6 strict {
  chain prerouting { type filter hook prerouting priority -150; policy accept;
    rt type 0 drop
    tcp flags & (fin|syn|rst|psh|ack|urg) == 0x0 drop
    tcp flags & (fin|syn) == fin|syn drop
    tcp flags & (syn|ack) == syn ct state != new drop
    icmpv6 type echo-request limit rate 5/second accept
    ct state invalid log drop
    ct state new limit rate 9/second accept
 ; }
}
table ip strict {
  chain forward { type filter hook forward priority 0; policy accept;
    ip frag-off & 0x1fff != 0 drop
    ip protocol icmp limit rate 5/second accept
    ct state new,untracked queue num 1
 ; }
}
";

#[test]
fn real_rule_sets_forbid_nothing() {
    let Some(scene) = Scene::attached(&[Need::Tool("nft")], "tc") else { return };
    let has_queue =
        scene.router().attempt("nft add table inet q; nft add chain inet q c; nft add rule inet q c queue num 1");
    let strict = if has_queue.is_ok_and(|it| it.status.success()) {
        STRICT.to_owned()
    } else {
        STRICT.replace("queue num 1", "log")
    };
    for (what, text) in [("home", HOME), ("docker", DOCKER), ("fw4", FW4), ("strict", strict.as_str())] {
        rules(&scene, text);
        says(&scene, what, |word| word == "on");
        let flows = findings(&scene, "flows");
        assert!(flows.iter().all(|(status, ..)| status == "ok"), "{what}: {flows:?}");
        // One rule in front of what is accepted is enough.
        let file = scene.lab.dir().join("more.nft");
        let table = "table inet more { chain forward { type filter hook forward priority 9; log prefix \"x\"; }; }\n";
        fs::write(&file, table).expect("a file");
        scene.router().run(&format!("nft -f {}", file.display())).expect("a rule");
        says(&scene, what, |word| word.starts_with("rule inet more forward handle") && word.ends_with("has log"));
        scene.router().run("nft delete table inet more").expect("a table less");
        says(&scene, what, |word| word == "on");
    }
    scene.close();
}

/// A map that leads elsewhere from one element on: nothing but an element has changed.
#[test]
fn elements_of_maps_are_followed() {
    let Some(scene) = Scene::attached(&[Need::Tool("nft")], "tc") else { return };
    rules(
        &scene,
        "table inet t {\nmap m { type inet_service : verdict; elements = { 1 : drop }; }\nchain c { log; }\n\
         chain base { type filter hook forward priority 0; tcp dport vmap @m; }\n}",
    );
    says(&scene, "a drop", |word| word == "on");
    scene.router().run("nft add element inet t m { 2 : goto c }").expect("an element");
    says(&scene, "a chain with a log", |word| word.starts_with("rule inet t c handle") && word.ends_with("has log"));
    scene.router().run("nft delete element inet t m { 2 }").expect("an element less");
    says(&scene, "the element is gone", |word| word == "on");
    scene.close();
}

/// Options of iptables, and the kind that they are of; none: they forbid nothing.
const IPTABLES: &[(&str, Option<&str>)] = &[
    ("FORWARD -j NFQUEUE --queue-num 1", Some("queue")),
    ("FORWARD -j LOG", Some("log")),
    ("FORWARD -j NFLOG --nflog-group 5", Some("log")),
    ("FORWARD -t mangle -j MARK --set-mark 1", Some("mark")),
    ("PREROUTING -t mangle -j CONNMARK --restore-mark", Some("mark")),
    ("FORWARD -t mangle -j CONNMARK --set-mark 1", Some("ct")),
    ("FORWARD -t mangle -j DSCP --set-dscp 1", Some("payload")),
    ("POSTROUTING -t mangle -j CLASSIFY --set-class 1:1", Some("priority")),
    ("FORWARD -m limit --limit 5/s -j ACCEPT", Some("limit")),
    ("FORWARD -m hashlimit --hashlimit-upto 5/s --hashlimit-name a -j ACCEPT", Some("limit")),
    ("FORWARD -m quota --quota 1000 -j ACCEPT", Some("quota")),
    ("FORWARD -m connlimit --connlimit-above 5 -j DROP", Some("connlimit")),
    ("FORWARD -m recent --set", Some("dynset")),
    ("FORWARD -m statistic --mode random --probability 0.5 -j DROP", Some("random")),
    ("FORWARD -m time --timestart 10:00 -j DROP", Some("time")),
    ("FORWARD -m string --string a --algo bm -j DROP", Some("content")),
    ("FORWARD -m length --length 100 -j DROP", Some("content")),
    ("FORWARD -m u32 --u32 0=1 -j DROP", Some("content")),
    ("PREROUTING -t raw -p tcp -j CT --notrack", Some("notrack")),
    ("FORWARD -j IDLETIMER --timeout 5 --label a", Some("extension")),
    ("FORWARD -m conntrack --ctstate NEW,INVALID -j NFQUEUE --queue-num 1", None),
    ("FORWARD -m state --state NEW -j LOG", None),
    ("FORWARD -m conntrack ! --ctstate ESTABLISHED,RELATED -j LOG", None),
    ("FORWARD -p tcp --syn -m limit --limit 5/s -j ACCEPT", None),
    ("FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu", None),
    ("FORWARD -p tcp -m multiport --dports 1,2 -m comment --comment x -j ACCEPT", None),
    ("FORWARD -p esp -m limit --limit 5/s -j ACCEPT", None),
];

/// Rules one by one, of either command; `legacy`: a rule has a number, not a handle.
fn iptables(command: &'static str, legacy: bool) {
    let Some(scene) = Scene::attached(&[Need::Tool("nft"), Need::Tool(command)], "tc") else { return };
    let (mut tried, run) = (0, |words: &str| scene.router().attempt(&format!("{command} {words}")).expect("it runs"));
    // Something forbids, or nothing does, also between two rows: else programs would be loaded for each.
    run("-t security -A FORWARD -p esp -j ACCEPT");
    run("-t security -A FORWARD -j IDLETIMER --timeout 9 --label between");
    let mut forbids = true;
    for (rule, kind) in IPTABLES {
        if std::mem::replace(&mut forbids, kind.is_some()) && kind.is_none() {
            run("-t security -D FORWARD -j IDLETIMER --timeout 9 --label between");
        }
        let (chain, rest) = rule.split_once(' ').expect("a chain");
        let table = rest.strip_prefix("-t ").map_or("filter", |rest| rest.split(' ').next().expect("a table"));
        let added = run(&format!("-t {table} -A {chain} {}", rest.trim_start_matches(&format!("-t {table} "))));
        if !added.status.success() {
            println!("not known here: {rule}: {}", added.stderr.trim());
            continue;
        }
        tried += 1;
        let place = if legacy { format!("{chain} number 1 has") } else { format!("{chain} handle ") };
        match kind {
            Some(kind) => says(&scene, rule, |word| word.contains(&place) && word.contains(&format!(" has {kind}"))),
            None => says(&scene, rule, |word| word == "on"),
        }
        if legacy {
            let found = findings(&scene, "flows: iptables-legacy");
            assert!(found.len() == 1 && found[0].1.contains("only after the lease of 5 s"), "{found:?}");
        }
        assert!(run(&format!("-t {table} -F {chain}")).status.success());
    }
    assert!(tried > IPTABLES.len() / 2, "{tried} of {} rules were tried", IPTABLES.len());
    run("-t security -F FORWARD");
    says(&scene, "no rules", |word| word == "none");
    scene.close();
}

#[test]
fn iptables_on_nftables() {
    iptables("iptables-nft", false);
    iptables("ip6tables-nft", false);
}

#[test]
fn iptables_legacy() {
    iptables("iptables-legacy", true);
    iptables("ip6tables-legacy", true);
}
