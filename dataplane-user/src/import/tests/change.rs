//! Rules that change something, and what goes with them.

use super::*;

#[test]
fn targets_of_iptables_that_change() {
    for (options, want) in [
        ("-p tcp -j TCPMSS --clamp-mss-to-pmtu", "there is no route yet"),
        ("-p tcp -j TCPMSS --set-mss 1200", "ip protocol tcp tcp option maxseg size set 1200 continue"),
        ("-j MARK --set-xmark 0x1/0xffffffff", "meta nfproto ipv4 meta mark set 1 continue"),
        (
            "-j MARK --set-xmark 0x40000/0xff0000",
            "meta nfproto ipv4 meta mark set meta mark & 0xff00ffff ^ 0x40000 continue",
        ),
        ("-j MARK --or-mark 0x10", "meta nfproto ipv4 meta mark set meta mark | 0x10 continue"),
        (
            "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xffffffff",
            "meta nfproto ipv4 ct mark set meta mark & 0xff continue",
        ),
        ("-j CONNMARK --restore-mark", "meta nfproto ipv4 meta mark set ct mark continue"),
        ("-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff", "cannot be said"),
        ("-m mark --mark 0x1/0xff -j ACCEPT", "meta nfproto ipv4 meta mark & 0xff == 1 accept"),
        ("-m mark ! --mark 0x1 -j DROP", "meta nfproto ipv4 meta mark != 1 drop"),
        ("-j DSCP --set-dscp 0x2e", "meta nfproto ipv4 ip dscp set ef continue"),
        ("-j TTL --ttl-set 64", "meta nfproto ipv4 ip ttl set 64 continue"),
        ("-j TTL --ttl-dec 1", "this cannot be translated"),
        ("-p tcp -m socket -j ACCEPT", "only whether they are transparent"),
        ("-p tcp -m socket --transparent --nowildcard -j ACCEPT", "ip protocol tcp socket transparent 1 accept"),
        ("-p tcp -j TPROXY --on-port 3129", "put the rule into chain prerouting"),
    ] {
        assert_option(options, want);
    }
}

/// What a rule changes, the condition of a jump or of a map must not ask again.
#[test]
fn what_changes_on_the_way_is_not_asked_again() {
    for (lines, chains) in [
        ("meta mark 1 jump a", "chain a { meta mark set 2; accept; }"),
        ("meta mark 1 meta mark set 2 jump a", "chain a { accept; }"),
        ("ct mark vmap { 1 : jump a, 2 : drop }", "chain a { ct mark set 2; }"),
        ("jump a", "chain a { meta mark 1 return; meta mark set 2; drop; }"),
    ] {
        let error = refused(Language::Nft, &format!("table inet t {{\n{chains}\n{BASE}{lines}\n}} }}\n"));
        assert!(error.contains("hold behind") || error.contains("asked again behind"), "{lines}: {error}");
    }
    // The last one may, and others fields.
    for (lines, chains, want) in [
        ("meta mark 1 jump a", "chain a { accept; }", vec!["meta mark 1 accept"]),
        ("meta mark 1 jump a", "chain a { meta mark set 2; }", vec!["meta mark 1 meta mark set 2 continue"]),
        (
            "meta mark 1 jump a",
            "chain a { ct mark set 2; accept; }",
            vec!["meta mark 1 ct mark set 2 continue", "meta mark 1 accept"],
        ),
    ] {
        assert_eq!(nft(&format!("{chains}\n{BASE}{lines}\n}}")), want, "{lines}");
    }
}

/// Lines of log need no exact number: what decides is the same.
#[test]
fn limits_around_lines_of_log_are_taken() {
    let logs = "chain l { ct state invalid limit rate 3/minute return; limit rate 3/minute log prefix \"a\"; log; }";
    assert_eq!(
        nft(&format!("{logs}\n{BASE}tcp dport 1 limit rate 9/minute jump l\ndrop\n}}")),
        [
            "tcp dport 1 limit rate 3/minute burst 5 packets log prefix \"a\" continue",
            "tcp dport 1 limit rate 9/minute burst 5 packets log continue",
            "drop"
        ]
    );
}

#[test]
fn helpers_are_taken() {
    let objects =
        "ct helper f { type \"ftp\" protocol tcp; l3proto inet; }\nct helper s { type \"sip\" protocol tcp; }";
    assert_eq!(
        nft(&format!("{objects}\n{BASE}tcp dport 21 ct helper set \"f\"\n}}")),
        ["tcp dport 21 ct helper set \"ftp\" continue"]
    );
    for name in ["s", "none"] {
        let text = format!("table inet t {{\n{objects}\n{BASE}tcp dport 21 ct helper set \"{name}\"\n}} }}\n");
        assert!(refused(Language::Nft, &text).contains("is no helper known here"), "{name}");
    }
}

/// What counts is asked once, however many rules the jump leads to.
#[test]
fn a_condition_of_a_jump_is_asked_once() {
    let decides = "chain l { log; ip ttl 1 drop; reject; }";
    assert_eq!(
        nft(&format!("{decides}\n{BASE}tcp dport 1 limit rate over 9/minute jump l\naccept\n}}")),
        [
            "tcp dport 1 limit rate over 9/minute burst 5 packets meta mark set meta mark | 0x10000000 continue",
            "tcp dport 1 meta mark & 0x10000000 == 268435456 log continue",
            "tcp dport 1 meta mark & 0x10000000 == 268435456 ip ttl 1 drop",
            "tcp dport 1 meta mark & 0x10000000 == 268435456 reject",
            "accept"
        ]
    );
    let seen = "set s { type ipv4_addr; flags dynamic; }";
    for (chain, jump) in [
        // Some packets come back.
        ("chain l { log; ip ttl 1 drop; }", "limit rate 9/minute jump l"),
        ("chain l { log; accept; }", "limit rate 9/minute jump l"),
        ("chain l { meta mark 0x1 drop; drop; }", "add @s { ip saddr ct count over 3 } jump l"),
    ] {
        let text = format!("table inet t {{\n{seen}\n{chain}\n{BASE}{jump}\n}} }}\n");
        assert!(refused(Language::Nft, &text).contains("before a jump"), "{chain}");
    }
}

#[test]
fn sets_that_rules_fill_are_taken() {
    let text = "table ip a {\nset s { type ipv4_addr; size 9; flags dynamic,timeout; timeout 1m; elements = { 192.0.2.1 expires 3s }; }\n\
                chain c { type filter hook input priority 0; policy accept; update @s { ip saddr } drop; ip saddr @s drop; } }\n\
                table ip6 a {\nset s { type ipv6_addr; flags dynamic; }\n\
                chain c { type filter hook input priority 0; policy accept; meter s size 9 { ip6 saddr limit rate over 1/second } drop; } }\n";
    let imported = import(Language::Nft, Extent::Whole, text, "t").unwrap_or_else(|error| panic!("{error}"));
    let rules: Vec<_> = imported.config.chain(ChainName::Input).rules.iter().map(ToString::to_string).collect();
    let wanted = [
        "meta nfproto ipv4 update @s { ip saddr } drop",
        "ip saddr @s drop",
        "meta nfproto ipv6 add @s-ip6 { ip6 saddr limit rate over 1/second } drop",
    ];
    assert_eq!(rules, wanted);
    assert!(imported.config.to_toml().contains("dynamic = true\ntimeout = \"1m\"\nsize = 9\n"));
    assert!(imported.notes.iter().any(|note| note.contains("left out: rules put them there")), "{:?}", imported.notes);
    let unknown = format!("table inet t {{\n{BASE}add @none {{ ip saddr }} drop\n}} }}\n");
    assert!(refused(Language::Nft, &unknown).contains("there is no set @none"));
}

#[test]
fn maps_of_addresses_are_written_out() {
    let translated = |rule: &str, map: &str| {
        let chain = "chain c { type nat hook prerouting priority dstnat; policy accept;";
        let text = format!("table inet t {{\n{map}\n{chain} {rule}; }} }}\n");
        let config = import(Language::Nft, Extent::Whole, &text, "t").unwrap_or_else(|error| panic!("{error}")).config;
        config.chain(ChainName::Prerouting).rules.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let named = "map m { type inet_service : ipv6_addr . inet_service; elements = { 80 : 2001:db8::1 . 8080 }; }";
    for (rule, map, want) in [
        (
            "iifname \"wan\" dnat ip to tcp dport map { 80 : 198.18.1.10, 25-26 : 198.18.1.20 }",
            "",
            vec![
                "iifname \"wan\" tcp dport 25-26 dnat to 198.18.1.20",
                "iifname \"wan\" tcp dport 80 dnat to 198.18.1.10",
            ],
        ),
        ("dnat ip6 to tcp dport map @m", named, vec!["tcp dport 80 dnat to [2001:db8::1]:8080"]),
        (
            "dnat ip addr . port to udp dport map { 53 : 198.18.1.2 . 5353 }",
            "",
            vec!["udp dport 53 dnat to 198.18.1.2:5353"],
        ),
    ] {
        let mut found = translated(rule, map);
        found.sort();
        assert_eq!(found, want, "{rule}");
    }
}

/// The same of a rule that accepts: the packets behind the first do not meet it in nft.
#[test]
fn what_a_chain_that_translates_accepts_is_changed_once() {
    let text = "table ip t { chain c { type nat hook postrouting priority srcnat; policy accept; \
        oifname \"a\" meta mark set 1 accept; oifname \"b\" accept; masquerade; } }\n";
    let config = import(Language::Nft, Extent::Whole, text, "t").expect("a config").config;
    let rules: Vec<_> = config.chain(ChainName::Postrouting).rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        [
            "meta nfproto ipv4 ct state related,new oifname \"a\" meta mark set 1 accept",
            "meta nfproto ipv4 oifname \"b\" accept",
            "meta nfproto ipv4 masquerade"
        ]
    );
}

/// A chain that translates sees only first packets, so what it does besides is for those.
#[test]
fn marks_of_a_chain_that_translates_are_for_first_packets() {
    let text = "table ip t { chain c { type nat hook postrouting priority srcnat; policy accept; meta mark set 1; masquerade; } }\n";
    let config = import(Language::Nft, Extent::Whole, text, "t").expect("a config").config;
    let rules: Vec<_> = config.chain(ChainName::Postrouting).rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        ["meta nfproto ipv4 ct state related,new meta mark set 1 continue", "meta nfproto ipv4 masquerade"]
    );
}

/// `-j TPROXY` drops what gets no socket (`tproxy_tg4`); its mark, and nft's, are for what gets one.
#[test]
fn proxies_keep_their_marks() {
    let rules = |language: Language, text: &str| {
        let config = import(language, Extent::Whole, text, "t").unwrap_or_else(|error| panic!("{error}")).config;
        config.chain(ChainName::Prerouting).rules.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let saved = "# Generated by iptables-save\n*mangle\n:PREROUTING ACCEPT [0:0]\n:DIVERT - [0:0]\n\
        -A PREROUTING -p tcp -m socket --transparent --nowildcard -j DIVERT\n\
        -A PREROUTING -p tcp -m tcp --dport 80 -j TPROXY --on-port 3129 --on-ip 0.0.0.0 --tproxy-mark 0x1/0x1\n\
        -A DIVERT -j MARK --set-xmark 0x1/0xffffffff\n-A DIVERT -j ACCEPT\nCOMMIT\n";
    assert_eq!(
        rules(Language::Iptables, saved),
        [
            "ip protocol tcp socket transparent 1 meta mark set 1 continue",
            "ip protocol tcp socket transparent 1 accept",
            "ip protocol tcp tcp dport 80 meta mark set meta mark | 0x1 tproxy ip to :3129 or drop",
        ]
    );
    let chain = "type filter hook prerouting priority mangle; policy accept;";
    let rule = "tcp dport 80 tproxy to :3129 meta mark set 1 accept";
    let text = format!("table inet t {{ chain c {{ {chain} {rule}; }} }}\n");
    assert_eq!(rules(Language::Nft, &text), ["tcp dport 80 meta mark set 1 tproxy to :3129"]);
    assert_eq!(
        crate::rule::parse(rule).map(|rule| rule.to_string()).as_deref(),
        Ok("tcp dport 80 meta mark set 1 tproxy to :3129")
    );
}

#[test]
fn flow_tables_are_left_out() {
    let rules = "chain c { type filter hook forward priority 0; policy accept; meta l4proto tcp flow add @ft; tcp dport 1 drop; }";
    let text =
        format!("table inet t {{ flowtable ft {{ hook ingress priority 0; devices = {{ eth0 }}; }}\n{rules} }}\n");
    let imported = import(Language::Nft, Extent::Whole, &text, "t").expect("a config");
    assert_eq!(imported.config.chain(ChainName::Forward).rules.len(), 1);
    assert_eq!(imported.notes.len(), 2, "{:?}", imported.notes);
}
