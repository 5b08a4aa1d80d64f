//! Rows: what a piece of another language comes to.

mod change;

use super::{Extent, Language, import};
use crate::rule::ChainName;

/// The rules of chain input; the policy first when it is `drop`.
fn input(language: Language, text: &str) -> Vec<String> {
    let imported = import(language, Extent::Whole, text, "t").unwrap_or_else(|error| panic!("{text}\n{error}"));
    let chain = imported.config.chain(ChainName::Input);
    let policy = (chain.policy == crate::rule::Policy::Drop).then(|| "drop".to_owned());
    policy.into_iter().chain(chain.rules.iter().map(ToString::to_string)).collect()
}

/// The chains of a table of family inet, with chain input in front.
fn nft(body: &str) -> Vec<String> {
    input(Language::Nft, &format!("table inet t {{\n{body}\n}}\n"))
}

const BASE: &str = "chain input {\ntype filter hook input priority filter; policy accept;\n";

fn refused(language: Language, text: &str) -> String {
    import(language, Extent::Whole, text, "t").map(|imported| imported.config.to_toml()).expect_err(text).to_string()
}

#[test]
fn jumps_are_written_out() {
    for (lines, chains, want) in [
        ("jump a", "chain a { tcp dport 1 drop; }", vec!["tcp dport 1 drop"]),
        ("tcp dport 1 jump a\ndrop", "chain a { ip ttl 1 accept; }", vec!["tcp dport 1 ip ttl 1 accept", "drop"]),
        ("udp dport 1 jump a", "chain a { tcp dport 1 drop; ip ttl 1 drop; }", vec!["udp dport 1 ip ttl 1 drop"]),
        ("jump a\ndrop", "chain a { return; accept; }", vec!["drop"]),
        ("jump a", "chain a { iif x return; drop; }", vec!["iif != \"x\" drop"]),
        (
            "jump a",
            "chain a { ip saddr 192.0.2.1 return; accept; }",
            vec!["meta nfproto ipv6 accept", "ip saddr != 192.0.2.1 accept"],
        ),
        ("jump a", "chain a { tcp dport 1 return; drop; }", vec!["meta l4proto != tcp drop", "tcp dport != 1 drop"]),
        (
            "jump a",
            "chain a { limit rate 5/second burst 9 packets return; drop; }",
            vec!["limit rate over 5/second burst 9 packets drop"],
        ),
        // The base chain's policy is what comes behind it.
        ("tcp dport 1 return\ndrop", "", vec!["tcp dport 1 accept", "drop"]),
        ("goto a\ndrop", "chain a { tcp dport 1 accept; }", vec!["tcp dport 1 accept", "accept", "drop"]),
        (
            "iif x goto a\ndrop",
            "chain a { tcp dport 1 drop; accept; }",
            vec!["iif \"x\" tcp dport 1 drop", "iif \"x\" accept", "drop"],
        ),
        (
            "jump a\ndrop",
            "chain a { iif x goto b; accept; }\nchain b { tcp dport 1 drop; }",
            vec!["iif \"x\" tcp dport 1 drop", "iif != \"x\" accept", "drop"],
        ),
        ("log prefix \"a\" jump a", "chain a { drop; }", vec!["log prefix \"a\" continue", "drop"]),
        ("jump a\njump a", "chain a { jump b; }\nchain b { tcp dport 1 drop; }", vec!["tcp dport 1 drop"; 2]),
    ] {
        assert_eq!(nft(&format!("{chains}\n{BASE}{lines}\n}}")), want, "{lines} / {chains}");
    }
}

#[test]
fn maps_and_concatenations_are_written_out() {
    for (lines, chains, want) in [
        ("tcp dport vmap { 1 : accept, 2-3 : drop }", "", vec!["tcp dport 1 accept", "tcp dport 2-3 drop"]),
        (
            "iifname . tcp dport vmap { \"a\" . 1 : accept, \"b*\" . 2 : jump a }",
            "chain a { ip ttl 1 drop; }",
            vec!["iifname \"a\" tcp dport 1 accept", "iifname \"b*\" tcp dport 2 ip ttl 1 drop"],
        ),
        (
            "ip6 saddr vmap @m",
            "map m { type ipv6_addr : verdict; elements = { 2001:db8::1 : drop, ::/0 : accept }; }",
            vec!["ip6 saddr 2001:db8::1 drop", "ip6 saddr ::/0 accept"],
        ),
        (
            "ip saddr . tcp dport { 192.0.2.1 . 1, 192.0.2.0/24 . 2-3 } counter drop comment \"c\"",
            "",
            vec![
                "ip saddr 192.0.2.1 tcp dport 1 drop comment \"c\"",
                "ip saddr 192.0.2.0/24 tcp dport 2-3 drop comment \"c\"",
            ],
        ),
        ("ip saddr . ip daddr 192.0.2.1 . 192.0.2.2 drop", "", vec!["ip saddr 192.0.2.1 ip daddr 192.0.2.2 drop"]),
        ("ether saddr vmap { 02:00:00:00:00:01 : accept }", "", vec!["ether saddr 02:00:00:00:00:01 accept"]),
    ] {
        assert_eq!(nft(&format!("{chains}\n{BASE}{lines}\n}}")), want, "{lines}");
    }
}

#[test]
fn tables_of_one_family_keep_to_it() {
    let text = |family: &str, policy: &str, rule: &str| {
        format!("table {family} t {{ chain c {{ type filter hook input priority 0; policy {policy}; {rule}; }} }}\n")
    };
    for (files, want) in [
        (
            text("ip", "drop", "tcp dport 1 accept"),
            vec!["meta nfproto ipv4 tcp dport 1 accept", "meta nfproto ipv4 drop"],
        ),
        (text("ip6", "accept", "ip6 saddr ::1 drop"), vec!["ip6 saddr ::1 drop"]),
        (
            text("ip", "drop", "accept") + &text("ip6", "drop", "drop"),
            vec!["drop", "meta nfproto ipv4 accept", "meta nfproto ipv6 drop"],
        ),
        // Two that see the same packets: what only drops goes first.
        (
            text("inet", "drop", "tcp dport 1 accept") + &text("ip", "accept", "ip ttl 1 drop"),
            vec!["drop", "ip ttl 1 drop", "tcp dport 1 accept"],
        ),
    ] {
        assert_eq!(input(Language::Nft, &files), want, "{files}");
    }
    let two = text("inet", "accept", "tcp dport 1 accept") + &text("ip", "drop", "ip ttl 1 accept");
    let error = refused(Language::Nft, &two);
    assert!(error.contains("`accept` ends one of them only"), "{error}");
    let told = text("inet", "drop", "log").replace("priority 0", "priority -5") + &text("ip", "accept", "drop");
    let error = refused(Language::Nft, &told);
    assert!(error.contains("their order matters"), "{error}");
}

/// Holds a rule of iptables in chain INPUT to ours, or to a part of what is said about it.
fn assert_option(options: &str, want: &str) {
    let text = format!("# Generated by iptables-save\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {options}\nCOMMIT\n");
    match import(Language::Iptables, Extent::Whole, &text, "t") {
        Ok(imported) => {
            let rules: Vec<_> = imported.config.chain(ChainName::Input).rules.iter().map(ToString::to_string).collect();
            assert_eq!(rules, [want], "{options}");
        }
        Err(error) => assert!(error.to_string().contains(want), "{options}: {error}"),
    }
}

#[test]
fn extensions_of_iptables_that_count_for_each_address() {
    for (options, want) in [
        (
            "-p tcp -m connlimit --connlimit-upto 3 --connlimit-mask 24 --connlimit-daddr -j ACCEPT",
            "ip protocol tcp add @connlimit-76 { ip daddr & 255.255.255.0 ct count 3 } accept",
        ),
        ("-m connlimit --connlimit-mask 24 -j ACCEPT", "take `--connlimit-above` or"),
        (
            "-p udp -m hashlimit --hashlimit-upto 10/min --hashlimit-mode srcip,dstport --hashlimit-name a -j ACCEPT",
            "ip protocol udp update @a { ip saddr . udp dport limit rate 10/minute burst 5 packets } accept",
        ),
        ("-m hashlimit --hashlimit-above 512kb/s --hashlimit-name a -j DROP", "a rate is a number and a time"),
        ("-m recent --set --name 1st --rdest -j DROP", "meta nfproto ipv4 update @s1st { ip daddr } drop"),
        ("-m recent --rcheck --name a --rsource -j DROP", "ip saddr @a drop"),
        ("-m recent --update --seconds 9 -j DROP", "ip saddr @DEFAULT update @DEFAULT { ip saddr } drop"),
        ("-m recent --remove -j DROP", "ip saddr @DEFAULT delete @DEFAULT { ip saddr } drop"),
        (
            "-m recent --update --seconds 60 --hitcount 4 -j DROP",
            "meta nfproto ipv4 update @DEFAULT-hits { ip saddr limit rate over 3/minute burst 3 packets } drop",
        ),
        ("-m recent --update --hitcount 4 -j DROP", "without `--seconds`"),
        ("-m recent --rcheck --rttl -j DROP", "take `--rttl` out"),
        ("-m recent --rcheck --mask 255.255.0.0 -j DROP", "take `--mask` out"),
        ("-m recent --set -m tcp -p tcp -j DROP", "stands behind what counts packets"),
    ] {
        assert_option(options, want);
    }
}

#[test]
fn options_of_iptables() {
    for (options, want) in [
        ("-s 192.0.2.0/24 ! -d 192.0.2.1/32 -j DROP", "ip saddr 192.0.2.0/24 ip daddr != 192.0.2.1 drop"),
        ("-s 192.0.2.0/255.255.255.0 -j ACCEPT", "ip saddr 192.0.2.0/24 accept"),
        ("-i eth+ ! -o wg0", "a packet has no way out"),
        ("-i eth+ -j DROP", "meta nfproto ipv4 iifname \"eth*\" drop"),
        ("-i + -j DROP", "meta nfproto ipv4 drop"),
        (
            "-p tcp -m tcp --sport 1024: --dport 22 --syn -j ACCEPT",
            "ip protocol tcp tcp sport 1024-65535 tcp dport 22 tcp flags & (fin | syn | rst | ack) == syn accept",
        ),
        ("! -p tcp -j DROP", "ip protocol != tcp drop"),
        ("-p udp -m multiport ! --dports 53,100:200 -j DROP", "ip protocol udp udp dport != { 53, 100-200 } drop"),
        ("-f -j DROP", "ip frag-off & 8191 != 0 drop"),
        ("! -f -j ACCEPT", "ip frag-off & 8191 == 0 accept"),
        ("-m ttl --ttl-gt 5 -j DROP", "ip ttl 6-255 drop"),
        ("-m dscp --dscp-class AF11 -j DROP", "ip dscp af11 drop"),
        ("-m length ! --length 100:200 -j DROP", "meta nfproto ipv4 meta length != 100-200 drop"),
        ("-m limit --limit 5/min -j ACCEPT", "meta nfproto ipv4 limit rate 5/minute burst 5 packets accept"),
        ("-j LOG --log-prefix \"a b\" --log-level 4", "meta nfproto ipv4 log prefix \"a b\" level warn continue"),
        ("-j NFLOG --nflog-group 3 --nflog-prefix x", "meta nfproto ipv4 log prefix \"x\" group 3 continue"),
        ("-p tcp -j REJECT --reject-with tcp-reset", "ip protocol tcp reject with tcp reset"),
        ("-j REJECT", "meta nfproto ipv4 reject"),
        ("-p icmp -m icmp --icmp-type 8 -j DROP", "icmp type echo-request drop"),
        ("-p icmp -m icmp --icmp-type 3/4 -j DROP", "icmp type destination-unreachable icmp code 4 drop"),
        ("-p icmp -m icmp --icmp-type 3/x -j DROP", "TYPE/CODE"),
        ("-m pkttype --pkt-type broadcast -j DROP", "meta nfproto ipv4 meta pkttype broadcast drop"),
        ("-m pkttype ! --pkt-type unicast -j DROP", "meta nfproto ipv4 meta pkttype != host drop"),
        ("-p ipv4 -j DROP", "ip protocol ipencap drop"),
        ("-p ah -j DROP", "ip protocol ah drop"),
        ("-p mobility-header -j DROP", "ip protocol 135 drop"),
        (
            "-j LOG --log-tcp-sequence --log-prefix x --log-tcp-options --log-ip-options --log-uid --log-macdecode",
            "meta nfproto ipv4 log prefix \"x\" continue",
        ),
        ("-j NFLOG --nflog-group 3 --nflog-size 64 --nflog-threshold 5", "meta nfproto ipv4 log group 3 continue"),
        ("-m rpfilter --invert -j DROP", "for IPv6 there is no such setting"),
        ("-m limit --limit 1/s -m tcp --dport 22 -j DROP", "needs a protocol with ports"),
        ("-p tcp -m limit --limit 1/s -m tcp --dport 22 -j DROP", "stands behind what counts packets"),
        ("-m conntrack --ctstate NEW -j DROP", "meta nfproto ipv4 ct state new drop"),
        ("-m state ! --state INVALID -j ACCEPT", "meta nfproto ipv4 ct state != invalid accept"),
        ("-m conntrack --ctstate DNAT -j ACCEPT", "meta nfproto ipv4 ct status dnat accept"),
        (
            "-m conntrack --ctstatus ASSURED --ctdir REPLY -j ACCEPT",
            "meta nfproto ipv4 ct status assured ct direction reply accept",
        ),
        ("-m conntrack --ctorigdst 192.0.2.1 -j ACCEPT", "ct original ip daddr 192.0.2.1 accept"),
        ("-m connmark --mark 0x1/0xff -j ACCEPT", "meta nfproto ipv4 ct mark & 0xff == 1 accept"),
        ("-m addrtype --dst-type LOCAL -j ACCEPT", "meta nfproto ipv4 fib daddr type local accept"),
        ("-m conntrack --ctproto 6 -j ACCEPT", "`--ctproto` cannot be translated"),
        ("-j MASQUERADE", "cannot stand in chain input"),
        ("-m set --match-set bad src -j DROP", "put what `ipset save` prints in front of the rules"),
        ("-j NOWHERE", "there is no chain NOWHERE"),
        ("-m comment --comment \"two words\" -j ACCEPT", "meta nfproto ipv4 accept comment \"two words\""),
        ("", "meta nfproto ipv4 continue"),
    ] {
        assert_option(options, want);
    }
}

#[test]
fn what_costs_nothing_is_taken() {
    for (lines, chains, want) in [
        ("log prefix \"a flags\" flags all drop", "", vec!["log prefix \"a flags\" drop"]),
        ("log flags tcp sequence,options flags ip options flags skuid flags ether", "", vec!["log continue"]),
        ("log group 2 snaplen 64 queue-threshold 5 accept", "", vec!["log group 2 accept"]),
        ("ip version 4 drop", "", vec!["meta nfproto ipv4 drop"]),
        (
            "ip saddr { 192.0.2.1 comment \"a } # b\", 192.0.2.2 } drop comment \"c\"",
            "",
            vec!["ip saddr { 192.0.2.1, 192.0.2.2 } drop comment \"c\""],
        ),
        (
            "tcp dport vmap { 22 comment \"ssh\" : accept, 23 : drop }",
            "",
            vec!["tcp dport 22 accept", "tcp dport 23 drop"],
        ),
        ("ip6 version 6 tcp dport 1 drop", "", vec!["meta nfproto ipv6 tcp dport 1 drop"]),
        ("meta l4proto eigrp drop", "", vec!["meta l4proto 88 drop"]),
        (
            "icmp type destination-unreachable icmp code frag-needed accept",
            "",
            vec!["icmp type destination-unreachable icmp code 4 accept"],
        ),
        (
            "icmpv6 type . icmpv6 code { packet-too-big . 0, parameter-problem . no-route } accept",
            "",
            vec![
                "icmpv6 type packet-too-big icmpv6 code 0 accept",
                "icmpv6 type parameter-problem icmpv6 code 0 accept",
            ],
        ),
        ("meta pkttype { broadcast, multicast } drop", "", vec!["meta pkttype { broadcast, multicast } drop"]),
        (
            "ip daddr . meta l4proto . th dport vmap @m",
            "map m { type ipv4_addr . inet_proto . inet_service : verdict; comment \"c\"; elements = { 192.0.2.1 . tcp . 1 \
             comment \"a/b:c\" : drop, 192.0.2.1 . udp . 1 counter packets 1 bytes 2 comment \"d\" : accept }; }",
            vec![
                "ip daddr 192.0.2.1 meta l4proto tcp th dport 1 drop",
                "ip daddr 192.0.2.1 meta l4proto udp th dport 1 accept",
            ],
        ),
    ] {
        assert_eq!(nft(&format!("{chains}\n{BASE}{lines}\n}}")), want, "{lines}");
    }
}

#[test]
fn what_is_worth_knowing_is_noted() {
    let notes = |text: &str| import(Language::Nft, Extent::Whole, text, "t").expect(text).notes;
    let table = |body: &str| notes(&format!("table inet t {{\n{body}\n{BASE}jump a\njump a\n}}\n}}\n"));
    let twice = table("chain a { limit rate 5/second burst 9 packets accept; }");
    assert_eq!(
        twice,
        [
            "t:2:11: `limit rate 5/second burst 9 packets` becomes 2 limits with a bucket each, because this comes to 2 rules: \
          together they let 2 times as much pass"
        ]
    );
    let empty = table("set s { type ipv4_addr; }\nchain a { ip saddr @s drop; }");
    assert!(empty.len() == 1 && empty[0].starts_with("t:2:1: `s` has no elements"), "{empty:?}");
    let flags = table("chain a { log prefix \"x\" flags tcp options; }");
    assert!(flags.len() == 1 && flags[0].starts_with("t:2:11: `flags` of `log` is not kept"), "{flags:?}");
}

#[test]
fn sets_of_two_tables_may_have_one_name() {
    let table = |family: &str, kind: &str, element: &str| {
        let field = if family == "ip" { "ip" } else { "ip6" };
        format!(
            "table {family} t {{ set bad {{ type {kind}; elements = {{ {element} }}; }}\nchain c {{ type filter hook input \
             priority 0; policy accept; {field} saddr @bad drop; {field} daddr != @bad accept; }} }}\n"
        )
    };
    let two = table("ip", "ipv4_addr", "192.0.2.1") + &table("ip6", "ipv6_addr", "2001:db8::1");
    let want =
        ["ip saddr @bad drop", "ip daddr != @bad accept", "ip6 saddr @bad-ip6 drop", "ip6 daddr != @bad-ip6 accept"];
    assert_eq!(input(Language::Nft, &two), want);
    let imported = import(Language::Nft, Extent::Whole, &two, "t").expect("a config");
    let elements = |name: &str| imported.config.elements(&crate::rule::SetName::new(name).expect(name)).map(<[_]>::len);
    assert_eq!((elements("bad"), elements("bad-ip6")), (Some(1), Some(1)));
    assert!(imported.notes[0].contains("becomes @bad-ip6"), "{:?}", imported.notes);
}

#[test]
fn around_the_chains() {
    let toml = |rules: &str, chains: &str| {
        let text = format!("table inet t {{\n{chains}\n{BASE}{rules}\n}} }}\n");
        import(Language::Nft, Extent::Whole, &text, "t").expect(rules).config.to_toml()
    };
    let ports = "[ports]\n\"*\" = { mode = \"auto\" }\n";
    assert!(toml("tcp dport 1 drop", "").starts_with(&format!("fragments = \"pass\"\n\n{ports}")));
    assert!(toml("icmp type echo-request reject", "").starts_with("fragments = \"pass\"\n"));
    // What only lets pass does not depend on it.
    assert!(toml("tcp dport 1 accept", "").starts_with(ports));
    // That all else is dropped can only be said by rules that drop what has no ports.
    assert!(toml("jump a", "chain a { tcp dport 1 return; drop; }").starts_with(ports));
    assert_eq!(toml("", ""), "");
}

#[test]
fn ah_and_mobility_headers_are_protocols() {
    for rule in ["meta l4proto ah drop", "meta l4proto != { tcp, 135 } drop", "meta l4proto 50-52 accept"] {
        assert_eq!(nft(&format!("{BASE}{rule}\n}}")), [rule]);
    }
    let sets = "set p { type inet_proto; elements = { tcp, ah }; }";
    let config = import(
        Language::Nft,
        Extent::Whole,
        &format!("table inet t {{ {sets}\n{BASE}meta l4proto @p drop\n}} }}\n"),
        "t",
    );
    let config = config.expect("a set of protocols").config.to_toml();
    assert!(config.contains("meta l4proto ") && config.contains("ah"), "{config}");
    assert_eq!(nft(&format!("{BASE}ip protocol ah drop\n}}")), ["ip protocol ah drop"]);
    // What `ip6 nexthdr` names is held to what is behind other headers.
    assert_eq!(nft(&format!("{BASE}ip6 nexthdr ah drop\n}}")), ["ip6 nexthdr ah drop"]);
    let saved = "# Generated by ip6tables-save\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p 135 -j DROP\nCOMMIT\n";
    let config = import(Language::Iptables, Extent::Whole, saved, "t").expect("mobility headers").config.to_toml();
    assert!(config.contains("\"meta nfproto ipv6 meta l4proto 135 drop\""), "{config}");
}

#[test]
fn the_family_of_a_save_must_be_known() {
    let text = |rule: &str| format!("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {rule}\nCOMMIT\n");
    assert_eq!(input(Language::Iptables, &text("-s 192.0.2.1/32 -j DROP")), ["ip saddr 192.0.2.1 drop"]);
    assert_eq!(input(Language::Iptables, &text("-s 2001:db8::1/128 -j DROP")), ["ip6 saddr 2001:db8::1 drop"]);
    let error = refused(Language::Iptables, &text("-j DROP"));
    assert!(error.contains("t:1:1: whether this is for IPv4 or IPv6 cannot be told"), "{error}");
}

#[test]
fn what_is_too_much_is_an_error() {
    let braces = "table t { ".repeat(5000) + &" }".repeat(5000);
    assert!(refused(Language::Nft, &braces).contains("not so deep"));
    let chain = |number: u32| format!("chain c{number} {{ jump c{} ; }}", number + 1);
    let chains = (0..500).map(chain).collect::<Vec<_>>().join("\n");
    let deep = format!("table inet t {{ {chains} chain c500 {{ accept; }}\n{BASE}jump c0\n}} }}");
    assert!(refused(Language::Nft, &deep).contains("more than 64 chains"));
    let ports: Vec<_> = (1..320).map(|port| format!("{port} . 1")).collect();
    let list = format!("tcp dport . ip ttl {{ {} }} ", ports.join(", "));
    let wide = format!("table inet t {{ {BASE}{}accept\n}} }}", list.repeat(3));
    assert!(refused(Language::Nft, &wide).contains("come to more than a config can be"));
}

#[test]
fn nothing_makes_it_panic() {
    let pieces = [
        "table", "inet", "t", "{", "}", "chain", ";", "\n", "\"", "#", "ct state", "vmap", "@", ":", ",", "1",
        "*filter", "-A", "!", "-m", "é", "\\",
    ];
    let mut seed = 7_u64;
    for _ in 0..800 {
        let mut text = String::new();
        for _ in 0..12 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
            text.push_str(if seed >> 62 == 0 { "" } else { " " });
        }
        for language in [Language::Nft, Language::Iptables] {
            let _ = import(language, Extent::Whole, &text, "t");
        }
    }
    let _ =
        import(Language::Nft, Extent::Whole, "{\"nftables\": [{\"rule\": {\"expr\": [1, {}, {\"match\": 3}]}}]}", "t");
}
