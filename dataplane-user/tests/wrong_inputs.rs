//! A hundred wrong inputs: each is refused with the exit code of its kind, the place, and what to do.

mod fake;

use std::{fs, process::Output};

use dataplane_user::control::{
    protocol::{Data, Reply},
    row::Difference,
};
use fake::{Daemon, directory, text};

/// Rules in chain forward: the rule, the column in it, and what the message says.
const RULES: &[(&str, usize, &str)] = &[
    ("tcp dport 23 deny", 14, "did you mean `drop`?"),
    ("tcp dport 23 allow", 14, "did you mean `accept`?"),
    ("tcp dport 23 drp", 14, "did you mean `drop`?"),
    ("tcp dport 23 acept", 14, "did you mean `accept`?"),
    ("DROP", 1, "words are in lower case: `drop`"),
    ("TCP dport 23 drop", 1, "words are in lower case: `tcp`"),
    ("tcp dport {80,443 accept", 19, "expected `,`, `-` or `}`"),
    ("tcp dport 80,443 accept", 13, "several values stand in braces"),
    ("tcp dport 80 443 accept", 14, "several values stand in braces"),
    ("ip saddr 192.0.2.1 192.0.2.2 drop", 20, "several values stand in braces"),
    ("icmp type echo-request,echo-reply drop", 23, "several values stand in braces"),
    ("tcp dport 70000 drop", 11, "a port (0 to 65535, or the name of a service)"),
    ("tcp dport -1 drop", 11, "a port (0 to 65535, or the name of a service)"),
    ("tcp dport nosuchservice drop", 11, "or the name of a service"),
    ("tcp dport 90-80 drop", 11, "write it as 80-90"),
    ("ip saddr 192.0.2.300 drop", 10, "an IPv4 address"),
    ("ip saddr 2001:db8::1 drop", 10, "`ip6 saddr` and `ip6 daddr` match IPv6"),
    ("ip6 saddr 192.0.2.1 drop", 11, "`ip saddr` and `ip daddr` match IPv4"),
    ("ip saddr 192.0.2.0/33 drop", 10, "at most 32 bits"),
    ("ip6 saddr 2001:db8::/129 drop", 11, "at most 128 bits"),
    ("ip saddr @nosuch drop", 1, "add a table [sets.nosuch]"),
    ("ip sadr 192.0.2.1 drop", 4, "did you mean `saddr`?"),
    ("ip daddr drop", 10, "an IPv4 address"),
    ("tcp drop", 5, "expected `dport`, `flags` or `sport`"),
    ("tcp dprt 80 drop", 5, "did you mean `dport`?"),
    ("udp dport", 10, "the rule ends here"),
    ("masquerade all", 12, "`to`"),
    ("jump other", 1, "write the rules of that chain in its place"),
    ("goto other", 1, "write the rules of that chain in its place"),
    ("meta nftrace set 1", 1, "remove it"),
    ("meta cgroup 0 drop", 1, "remove it"),
    ("queue num 1", 1, "write `drop`"),
    ("icmp type ping drop", 11, "echo-request"),
    ("tcp flags sin drop", 11, "did you mean"),
    ("ether saddr 00:11:22 drop", 13, "a link address"),
    ("vlan id 5000 drop", 9, "0 to 4095"),
    ("limit rate 10 accept", 15, "expected `/`"),
    ("limit rate 10/fortnight accept", 15, "`second`"),
    ("limit rate 10/secund accept", 15, "did you mean `second`?"),
    ("log prefix web drop", 12, "write \"web\" in quotes"),
    ("drop comment web", 14, "write \"web\" in quotes"),
    ("drop comment", 13, "in quotes"),
    ("drop drop", 6, "the end of the rule"),
    ("drop comment \"a\" accept", 18, "the end of the rule"),
    ("ip protocol tcp udp dport 53 accept", 17, "make it two rules"),
    ("ip saddr 192.0.2.1 ip6 saddr ::1 drop", 20, "make it two rules"),
    ("sctp dport 1 tcp dport 2 drop", 14, "make it two rules"),
    ("ip saddr = 192.0.2.1 drop", 10, "leave `=` out"),
    ("src 192.0.2.1 drop", 1, "write `ip saddr ADDRESS`"),
    ("host 192.0.2.1", 1, "write `ip saddr ADDRESS`"),
    ("port 80 drop", 1, "write `tcp dport N`"),
    ("-s 192.0.2.1 -j DROP", 1, "`dataplane import iptables`"),
    ("-p tcp --dport 80 -j ACCEPT", 1, "`dataplane import iptables`"),
    ("add rule forward drop", 1, "`dataplane rule add CHAIN`"),
    ("reject with tcp-rst", 13, "`reject with tcp reset`"),
    ("reject with icmp type", 22, "`port-unreachable`"),
    ("ip ttl > 300 drop", 10, "a number from 0 to 255"),
    ("meta length foo drop", 13, "a length (0 to 65535)"),
    ("ip dscp 99 drop", 9, "a DSCP (0 to 63, or its name)"),
    ("tcp dport 80 and tcp sport 1 drop", 14, "without a word between them"),
    ("icmpv6 type echo drop", 13, "an ICMPv6 type (0 to 255, or its name)"),
    ("ct state establishd accept", 10, "did you mean `established`?"),
    ("udp dport { 53 53 } accept", 16, "several values stand in braces"),
    ("meta mark 0xzz drop", 11, "a mark (a number of 32 bits)"),
    ("snat to 192.0.2.1", 1, "put the rule into chain postrouting"),
    ("dnat to 192.0.2.1", 1, "put the rule into chain prerouting"),
    ("ip6 nexthdr nosuch drop", 13, "a protocol (0 to 255, or its name)"),
    ("ip dscp set 64", 13, "a DSCP (0 to 63, or its name)"),
    ("tcp option maxseg size set 99999", 28, "1 to 65535 bytes"),
];

/// Configs: the text, the place, and what the message says.
const CONFIGS: &[(&str, &str, &str)] = &[
    ("nope = 1", "1:1", "take ports, fragments"),
    ("assert = [\"must pass icmp 192.0.2.1 > 192.0.2.2\"]", "1:11", "an assertion is `must forward PACKET`"),
    (
        "assert = [\"must forward icmp 192.0.2.1 > 192.0.2.2\"]\n[chains.forward]\npolicy = \"drop\"",
        "1:11",
        "does not hold: the verdict is drop, by the policy of chain forward",
    ),
    ("[ports\n", "1:7", "expected `]`"),
    ("[port]\neth0 = {}", "1:2", "take ports"),
    ("ports = 3", "1:1", "must be a table"),
    ("[ports]\neth0 = \"native\"", "2:1", "must be a table"),
    ("[ports]\neth0 = { mode = \"xdp\" }", "2:17", "use auto, native, generic or tc"),
    ("[ports]\neth0 = { modes = \"tc\" }", "2:10", "take mode, until_ready or peer"),
    ("[ports]\neth0 = { until_ready = \"yes\" }", "2:24", "use `pass` or `drop`"),
    ("[ports]\neth0 = {}\neth0 = {}", "3:1", "duplicate key"),
    ("[chains.foward]\npolicy = \"drop\"", "1:9", "use prerouting, input, forward, output or postrouting"),
    ("[chains.forward]\npolicy = \"reject\"", "2:10", "use `accept` or `drop`"),
    ("[chains.forward]\nrules = \"drop\"", "2:9", "must be a list in brackets"),
    ("[chains.forward]\nrules = [1]", "2:10", "must be a string in quotes"),
    ("[sets.a]\nelements = [\"192.0.2.1\"]", "1:7", "`type` is missing; take ipv4_addr"),
    ("[sets.a]\ntype = \"ipv4\"", "2:9", "`ipv4_addr`"),
    ("[sets.a]\ntype = \"ipv4_addr\"\nelements = [\"192.0.2\"]", "3:14", "an IPv4 address"),
    ("[sets.a]\ntype = \"ipv4_addr\"\nelements = \"192.0.2.1\"", "3:12", "must be a list in brackets"),
    ("[sets.a]\ntype = \"ipv4_addr\"\nfile = \"x\"\nelements = []", "1:7", "take either `elements` or `file`"),
    ("[sets.a]\ntype = \"inet_service\"\nelements = [\"htp\"]", "3:14", "the name of a service"),
    ("[sets.9a]\ntype = \"ipv4_addr\"", "1:7", "a letter, then letters"),
    ("fragments = \"drop\"", "1:13", "use `drop-unreadable` or `pass`"),
    ("[heartbeat]\nafter = 1", "2:9", "from 3 to 31536000"),
    ("[metrics]\nlisten = \"9464\"", "2:10", "such as \"127.0.0.1:9464\""),
    ("[flows]\nnetfilter = \"off\"", "2:13", "use `follow` or `bypass`"),
    ("[flows]\nignore = [\"counters\"]", "2:11", "counter"),
    ("[flows]\nmax = 0", "2:7", "a number from 1 to"),
    ("[fib]\nipv4_routes = -1", "2:15", "a number from 0 to"),
    ("[chains.forward]\nrule = []", "2:1", "take policy or rules"),
    ("[chains.forward]\npolicy = accept", "2:10", "must be quoted"),
    ("[ports]\neth0 = { peer = \"yes\" }", "2:17", "use `auto` or `never`"),
    ("[sflow]\ncollector = \"192.0.2.1\"", "2:13", "such as \"192.0.2.1:6343\""),
    ("[sets.a]\ntype = \"ipv4_addr\"\ntimeout = \"1m\"", "3:1", "write `dynamic = true` beside it"),
    ("[sets.a]\ntype = \"ipv4_addr\"\ndynamic = true\ntimeout = \"1y\"", "4:11", "30s, 10m or 1h30m"),
    ("[sets.a]\ntype = \"ipv4_addr\"\ndynamic = true\nelements = []", "3:1", "take `elements` and `file` out"),
    ("[sets.a]\ntype = \"ipv4_addr\"\ndynamic = \"yes\"", "3:11", "must be true or false"),
    ("[sflow]\nrate = 0", "2:8", "a number from 1 to 16777215"),
    ("[flows]\nlease = 0", "2:9", "a number from 1 to 3600"),
];

/// Command lines: the words, the exit code, and what the message says.
const COMMANDS: &[(&str, i32, &str)] = &[
    ("attach", 2, "<IFACE>"),
    ("attach a/b", 2, "`ip link` lists them"),
    ("attach eth0 --mode xdp", 2, "auto, native, generic, tc"),
    ("detach eth0 --all", 2, "cannot be used with"),
    ("frobnicate", 2, "frobnicate"),
    ("rotue list", 2, "'route'"),
    ("rule add fwd drop", 2, "prerouting, input, forward, output"),
    ("rule add forward #", 2, "an example: tcp dport 23 drop"),
    ("rule del forward handle x", 2, "`dataplane rule list`"),
    ("rule del forward", 2, "handle N"),
    ("rule insert forward before drop", 2, "`dataplane rule list`"),
    ("chain policy forward reject", 2, "accept, drop"),
    ("route list dev", 2, "the grammar is"),
    ("route list eth0", 2, "such as 198.18.0.0/24"),
    ("route list 198.18.0.1/15", 2, "bits set after the first 15"),
    ("route list proto bgpp", 2, "take a number from 0 to 255"),
    ("route list table mains", 2, "take main, default, local or a number"),
    ("route get 198.18.1.300", 2, "such as 198.18.1.2 or 2001:db8::1"),
    ("route get 198.18.1.2 oif eth0", 2, "the grammar is"),
    ("route get 198.18.1.2 from", 2, "needs a value"),
    ("-4 -6 route", 2, "cannot be used with"),
    ("config apply FILE --confirm 60x", 2, "such as 60, 60s"),
    ("config apply FILE --confirm 0", 2, "from 1 to 86400"),
    ("config apply /nonexistent.toml", 3, "cannot read /nonexistent.toml"),
    ("stats --watch --interval 0", 2, "such as 1, 0.5 or 2m"),
    ("stats --interval 2", 2, "--watch"),
    ("top", 2, "`dataplane stats --watch`"),
    ("trace --count x", 2, "a whole number"),
    ("trace --sample x", 2, "a whole number"),
    ("explain --iface eth0 --hex zz", 2, "--hex zz"),
    ("explain --iface eth0 --pcap /nonexistent.pcap", 5, "/nonexistent.pcap"),
    ("import nft /nonexistent.nft", 3, "cannot read /nonexistent.nft"),
    ("import nft FILE", 5, "`nft list ruleset`"),
    ("import iptables FILE", 5, "`iptables-save`"),
    ("lab shell nosuch", 3, "`dataplane lab up nosuch`"),
    ("lab traffic nosuch", 3, "`dataplane lab up nosuch`"),
    ("lab bench nosuch --rules 0", 3, "`dataplane lab up nosuch`"),
    ("bench --size 59", 2, "60 to 1514 bytes"),
    ("bench --family 5", 2, "4, 6, both"),
    ("bench --rate 1G", 2, "such as 50000, 250k or 1.5M"),
    ("bench --flows 0", 2, "from 1 to 60000"),
    ("bench --prefixes 5000", 2, "from 1 to 4096"),
    ("bench --cpus 0", 2, "from 1 to 256"),
    ("bench --time 0", 2, "such as 1, 0.5 or 2m"),
    ("bench --from eth0", 2, "--gateway"),
    ("bench --to eth0", 2, "--from"),
    ("bench --from a/b --gateway 192.0.2.1", 2, "`ip link` lists them"),
    ("run --config /nonexistent.toml", 3, "cannot read /nonexistent.toml"),
    ("run --user nosuchuser", 1, "`adduser"),
    ("completions tcsh", 2, "bash"),
    ("metrics --plane", 2, "--plain"),
];

fn said(output: &Output) -> &str {
    text(&output.stderr)
}

#[test]
fn a_hundred_of_them() {
    // A hundred that have a place, and the command lines.
    assert!(RULES.len() + CONFIGS.len() >= 100 && COMMANDS.len() >= 50);
    let directory = directory();
    let file = directory.path().join("some.toml");
    let name = file.to_str().expect("UTF-8");
    let difference = || Reply::from(Data::Difference(Difference::default()));
    let daemon = Daemon::start(move |_| Ok(difference()));
    let mut wrong = Vec::new();
    let mut judge = |what: &str, output: &Output, code: i32, parts: &[&str]| {
        let message = said(output);
        let bad = parts.iter().any(|part| !message.contains(part)) || output.status.code() != Some(code);
        if bad || message.contains("similar subcommands exist: 'r'") {
            wrong.push(format!("{what}\n  wanted {code} and {parts:?}\n  found {:?}: {message}", output.status.code()));
        }
    };
    let configs = RULES.iter().map(|(rule, column, message)| {
        (format!("[chains.forward]\nrules = ['''{rule}''']\n"), format!("2:{}", column + 12), *message)
    });
    let others = CONFIGS.iter().map(|(config, place, message)| ((*config).to_owned(), (*place).to_owned(), *message));
    for (config, place, message) in configs.chain(others) {
        fs::write(&file, &config).expect("a file");
        let output = daemon.dataplane(&["config", "check", name]);
        judge(&config, &output, 5, &[&format!("{name}:{place}: "), message]);
    }
    fs::write(&file, "[ports]\n").expect("a file");
    for (command, code, message) in COMMANDS {
        let words: Vec<_> = command.split(' ').map(|word| if word == "FILE" { name } else { word }).collect();
        judge(command, &daemon.dataplane(&words), *code, &[message]);
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}
