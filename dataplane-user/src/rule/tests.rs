use proptest::prelude::*;

use super::{RuleFault, arbitrary, parse};

/// What is written, and its canonical form.
const FORMS: &[(&str, &str)] = &[
    ("accept", "accept"),
    ("  counter packets 5 bytes 100 drop ", "drop"),
    ("counter", "continue"),
    ("ip saddr 10.1.2.3/8 drop", "ip saddr 10.0.0.0/8 drop"),
    ("ip saddr 10.0.0.0-10.255.255.255", "ip saddr 10.0.0.0/8 continue"),
    ("ip saddr 10.0.0.1-10.0.0.9 drop", "ip saddr 10.0.0.1-10.0.0.9 drop"),
    ("ip daddr != { 192.0.2.1, 10.0.0.0/8 , 192.0.2.1 } accept", "ip daddr != { 10.0.0.0/8, 192.0.2.1 } accept"),
    ("ip6 saddr 2001:DB8::/32 accept", "ip6 saddr 2001:db8::/32 accept"),
    ("ip6 saddr fe80::1-fe80::5 accept", "ip6 saddr fe80::1-fe80::5 accept"),
    ("ip6 daddr ::/0 accept", "ip6 daddr ::/0 accept"),
    ("ip protocol tcp accept", "ip protocol tcp accept"),
    ("ip protocol 6 accept", "ip protocol tcp accept"),
    ("meta l4proto { tcp, 17, ipv6-icmp } accept", "meta l4proto { tcp, udp, ipv6-icmp } accept"),
    ("ip6 nexthdr icmpv6 accept", "ip6 nexthdr ipv6-icmp accept"),
    ("tcp dport ssh accept", "tcp dport 22 accept"),
    ("tcp dport {http,https,8000-8080,} accept", "tcp dport { 80, 443, 8000-8080 } accept"),
    ("tcp dport ssh-http accept", "tcp dport 22-80 accept"),
    ("tcp dport == 22 counter accept", "tcp dport 22 accept"),
    ("udp sport > 1023 drop", "udp sport 1024-65535 drop"),
    ("udp sport <= 1023 drop", "udp sport 0-1023 drop"),
    ("meta length >= 1500 drop", "meta length 1500-65535 drop"),
    ("ip ttl < 5 drop", "ip ttl 0-4 drop"),
    ("sctp dport 0x50 drop", "sctp dport 80 drop"),
    ("udplite sport 1 drop", "udplite sport 1 drop"),
    ("meta l4proto { tcp, udp } th dport 53 accept", "meta l4proto { tcp, udp } th dport 53 accept"),
    ("tcp flags syn drop", "tcp flags syn drop"),
    ("tcp flags syn,ack drop", "tcp flags syn,ack drop"),
    ("tcp flags syn | ack drop", "tcp flags syn,ack drop"),
    ("tcp flags & (syn|ack) != 0 drop", "tcp flags syn,ack drop"),
    ("tcp flags == syn drop", "tcp flags == syn drop"),
    ("tcp flags != syn,ack drop", "tcp flags != syn | ack drop"),
    ("tcp flags ! syn drop", "tcp flags ! syn drop"),
    ("tcp flags & syn == 0x0 drop", "tcp flags ! syn drop"),
    ("tcp flags & (fin|syn|rst|ack) == syn drop", "tcp flags & (fin | syn | rst | ack) == syn drop"),
    ("tcp flags syn / fin,syn,rst,ack drop", "tcp flags & (fin | syn | rst | ack) == syn drop"),
    ("tcp flags != syn / fin,syn,rst,ack drop", "tcp flags & (fin | syn | rst | ack) != syn drop"),
    ("tcp flags { syn, syn | ack } drop", "tcp flags == { syn, syn | ack } drop"),
    ("tcp flags == 0 drop", "tcp flags == 0x0 drop"),
    ("icmp type { 8, 0, echo-request } accept", "icmp type { echo-reply, echo-request } accept"),
    ("icmp type 0-8 accept", "icmp type 0-8 accept"),
    ("icmp code frag-needed accept", "icmp code 4 accept"),
    ("icmpv6 code != { no-route, 3-4 } drop", "icmpv6 code != { 0, 3-4 } drop"),
    ("meta pkttype { multicast, unicast } drop", "meta pkttype { host, multicast } drop"),
    ("ip version 4 drop", "meta nfproto ipv4 drop"),
    ("ip6 version != 4 drop", "meta nfproto ipv6 drop"),
    ("log prefix \"x\" flags tcp sequence,options flags ip options snaplen 9 drop", "log prefix \"x\" drop"),
    ("meta l4proto { ipv4, esp, eigrp } drop", "meta l4proto { ipencap, esp, 88 } drop"),
    ("icmp type != echo-request drop", "icmp type != echo-request drop"),
    (
        "icmpv6 type { nd-neighbor-solicit, 136 } accept",
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
    ),
    ("ip dscp 46 accept", "ip dscp ef accept"),
    ("ip6 dscp { cs1, af11 } accept", "ip6 dscp { cs1, af11 } accept"),
    ("ip dscp cs1-cs3 accept", "ip dscp 8-24 accept"),
    ("ip6 hoplimit 255 accept", "ip6 hoplimit 255 accept"),
    ("ip frag-off & 0x1fff != 0 drop", "ip frag-off & 8191 != 0 drop"),
    ("ip frag-off & 0x2000 == 0x2000 drop", "ip frag-off & 8192 == 8192 drop"),
    ("ip frag-off & 0x2000 0x2000 drop", "ip frag-off & 8192 == 8192 drop"),
    ("ip frag-off != 0 drop", "ip frag-off != 0 drop"),
    ("iif lo accept", "iif \"lo\" accept"),
    ("iifname { eth0, \"wg*\" } accept", "iifname { \"eth0\", \"wg*\" } accept"),
    ("meta iifname veth* oifname != br-lan accept", "iifname \"veth*\" oifname != \"br-lan\" accept"),
    ("meta oif eth0.100 accept", "oif \"eth0.100\" accept"),
    ("vlan id { 1-10, 100 } drop", "vlan id { 1-10, 100 } drop"),
    ("ether saddr 02:0:5E:10:00:01 drop", "ether saddr 02:00:5e:10:00:01 drop"),
    ("meta nfproto != ipv4 drop", "meta nfproto ipv6 drop"),
    ("meta protocol ip accept", "meta nfproto ipv4 accept"),
    ("iif eth0 ip saddr @blocked drop", "iif \"eth0\" ip saddr @blocked drop"),
    ("ip saddr != @lan-1 tcp dport @ports drop", "ip saddr != @lan-1 tcp dport @ports drop"),
    ("ip saddr . tcp dport @services accept", "ip saddr . tcp dport @services accept"),
    (
        "meta iifname . ip6 saddr != { wg* . 2001:db8::/32,eth0 . ::1 } drop",
        "iifname . ip6 saddr != { \"eth0\" . ::1, \"wg*\" . 2001:db8::/32 } drop",
    ),
    (
        "ip daddr . meta l4proto . th dport 192.0.2.1 . tcp . http accept",
        "ip daddr . meta l4proto . th dport 192.0.2.1 . tcp . 80 accept",
    ),
    ("limit rate 10/second accept", "limit rate 10/second accept"),
    ("ct count over 20 drop", "ct count over 20 drop"),
    ("tcp dport 21 ct helper set ftp", "tcp dport 21 ct helper set \"ftp\" continue"),
    ("tcp dport 22 ct count 3 accept", "tcp dport 22 ct count 3 accept"),
    ("add @a { ip saddr }", "add @a { ip saddr } continue"),
    (
        "tcp dport 22 update @a { ip saddr & 255.255.0.0 . tcp dport timeout 90s limit rate over 3/minute counter } drop",
        "tcp dport 22 update @a { ip saddr & 255.255.0.0 . tcp dport timeout 1m30s limit rate over 3/minute } drop",
    ),
    ("delete @a { ip6 daddr & ffff:: } accept", "delete @a { ip6 daddr & ffff:: } accept"),
    (
        "add @a { ip saddr ct count over 3 } add @b { ip saddr } drop",
        "add @a { ip saddr ct count over 3 } add @b { ip saddr } drop",
    ),
    ("limit rate over 2048 kbytes/minute burst 1024 bytes drop", "limit rate over 2 mbytes/minute burst 1 kbytes drop"),
    (
        "tcp dport 22 limit rate 3/hour burst 5 packets log prefix \"ssh: \" level warn accept",
        "tcp dport 22 limit rate 3/hour burst 5 packets log prefix \"ssh: \" level warn accept",
    ),
    ("log group 3 prefix \"x\" drop", "log prefix \"x\" group 3 drop"),
    ("reject", "reject"),
    ("reject with icmpx type port-unreachable", "reject"),
    ("ip protocol udp reject with icmp type admin-prohibited", "ip protocol udp reject with icmp admin-prohibited"),
    ("tcp dport 113 reject with tcp reset", "tcp dport 113 reject with tcp reset"),
    ("tcp dport { 80, 443 } accept comment \"web äöü\"", "tcp dport { 80, 443 } accept comment \"web äöü\""),
    ("tcp dport 80\n  accept", "tcp dport 80 accept"),
    ("ct state established,related counter accept", "ct state established,related accept"),
    ("ct state { related, established } accept", "ct state established,related accept"),
    ("ct state != invalid accept", "ct state != invalid accept"),
    ("iifname wan ct state new ct status dnat accept", "iifname \"wan\" ct state new ct status dnat accept"),
    ("ct direction != original drop", "ct direction reply drop"),
    ("ct mark 0x10 accept", "ct mark 16 accept"),
    ("ct mark & 0xff00 0x100 accept", "ct mark & 0xff00 == 256 accept"),
    ("ct mark & 0xff != { 1, 2 } accept", "ct mark & 0xff != { 1, 2 } accept"),
    ("ct original ip daddr 192.0.2.0/24 accept", "ct original ip daddr 192.0.2.0/24 accept"),
    ("ct reply ip6 saddr 2001:db8::1 drop", "ct reply ip6 saddr 2001:db8::1 drop"),
    ("ct original proto-dst { http, 443 } accept", "ct original proto-dst { 80, 443 } accept"),
    ("oifname wan masquerade", "oifname \"wan\" masquerade"),
    ("tcp dport 80 masquerade to :1024-2047 random", "tcp dport 80 masquerade to :1024-2047 random"),
    ("masquerade fully-random,persistent comment \"x\"", "masquerade fully-random,persistent comment \"x\""),
    ("snat ip to 192.0.2.1", "snat to 192.0.2.1"),
    ("snat to 192.0.2.0/30", "snat to 192.0.2.0-192.0.2.3"),
    ("udp dport 53 dnat to 198.18.1.2:5353", "udp dport 53 dnat to 198.18.1.2:5353"),
    ("tcp dport 80 dnat ip6 to [2001:db8::2]:8080", "tcp dport 80 dnat to [2001:db8::2]:8080"),
    ("dnat to 2001:db8::2", "dnat to 2001:db8::2"),
    ("tcp dport 80 tproxy to :3129", "tcp dport 80 tproxy to :3129"),
    ("tcp dport 80 tproxy to :3129 meta mark set 1 accept", "tcp dport 80 meta mark set 1 tproxy to :3129"),
    ("udp dport 53 tproxy to 127.0.0.1:5353 or drop", "udp dport 53 tproxy ip to 127.0.0.1:5353 or drop"),
    ("meta l4proto { tcp, udp } tproxy ip6 to [::1]:9", "meta l4proto { tcp, udp } tproxy ip6 to [::1]:9"),
    ("tcp dport 80 tproxy ip to 192.0.2.1", "tcp dport 80 tproxy ip to 192.0.2.1"),
    ("socket transparent 1 meta mark set 0x1 accept", "socket transparent 1 meta mark set 1 accept"),
    ("tcp dport 80 socket transparent 0 drop", "tcp dport 80 socket transparent 0 drop"),
    ("tcp dport 80-89 redirect to :8080-8089", "tcp dport 80-89 redirect to :8080-8089"),
    ("tcp dport 25 redirect", "tcp dport 25 redirect"),
    ("fib daddr type local accept", "fib daddr type local accept"),
    ("meta mark 0x10 drop", "meta mark 16 drop"),
    ("mark & 0xff != 1 drop", "meta mark & 0xff != 1 drop"),
    ("meta mark set 0x10", "meta mark set 16 continue"),
    ("ct mark set mark accept", "ct mark set meta mark accept"),
    ("meta mark set ct mark and 0xff", "meta mark set ct mark & 0xff continue"),
    ("meta mark set meta mark & 0xffff00ff | 0x1200 accept", "meta mark set meta mark & 0xffff00ff ^ 0x1200 accept"),
    ("meta mark set meta mark or 0x20", "meta mark set meta mark | 0x20 continue"),
    ("ct mark set ct mark xor 0x1", "ct mark set ct mark ^ 0x1 continue"),
    ("meta mark set ct mark & 0", "meta mark set 0 continue"),
    ("tcp flags syn tcp option maxseg size set rt mtu", "tcp flags syn tcp option maxseg size set rt mtu continue"),
    (
        "tcp flags syn counter tcp option maxseg size set 1200 accept",
        "tcp flags syn tcp option maxseg size set 1200 accept",
    ),
    ("ip dscp set 46 ip6 hoplimit set 64 accept", "ip dscp set ef ip6 hoplimit set 64 accept"),
    (
        "udp dport 53 meta mark set 1 ct mark set meta mark log prefix \"x\" accept",
        "udp dport 53 meta mark set 1 ct mark set meta mark log prefix \"x\" accept",
    ),
    ("fib saddr type != { multicast, broadcast } drop", "fib saddr type != { broadcast, multicast } drop"),
    ("fib saddr . mark . iif oif missing drop", "fib saddr . mark . iif oif missing drop"),
    ("fib saddr . iif oif 0 drop", "fib saddr . iif oif missing drop"),
];

#[test]
fn forms() {
    for (written, canonical) in FORMS {
        let rule = parse(written).unwrap_or_else(|error| panic!("{}", error.render(written, "rule")));
        assert_eq!(rule.to_string(), *canonical, "{written}");
        assert_eq!(parse(canonical).as_ref(), Ok(&rule), "{written}");
    }
}

/// What is written, the text that is wrong, and what the message says.
const FAULTS: &[(&str, &str, &str)] = &[
    ("", "", "the rule ends here, expected a match, a statement or a verdict"),
    ("   ", "", "the rule ends here"),
    ("ipp saddr 10.0.0.1", "ipp", "found `ipp`, expected"),
    (
        "ip sadr 10.0.0.1 drop",
        "sadr",
        "found `sadr`, expected `daddr`, `dscp`, `frag-off`, `protocol`, `saddr`, `ttl` or `version`",
    ),
    ("ip saddr", "", "the rule ends here, expected"),
    ("ip saddr 10.0.0.256 drop", "10.0.0.256", "found `10.0.0.256`, expected"),
    ("ip saddr 10.0.0.0/33 drop", "10.0.0.0/33", "a prefix has at most 32 bits, not 33"),
    ("ip saddr 10.0.0.9-10.0.0.1 drop", "10.0.0.9-10.0.0.1", "write it as 10.0.0.1-10.0.0.9"),
    ("tcp dport 70000 accept", "70000", "a port (0 to 65535, or the name of a service)"),
    ("tcp dport { } accept", "}", "a port"),
    ("tcp dport { 80 443 } accept", "443", "expected `,`, `-` or `}`"),
    ("tcp dport 80 acept", "acept", "a verdict (accept, drop, reject, continue, masquerade, ...)"),
    ("tcp dport 80 accept accept", "accept", "expected `comment` or the end of the rule"),
    ("tcp dport < 0 drop", "< 0", "no value meets this"),
    ("ip ttl > 255 drop", "> 255", "no value meets this"),
    ("ip saddr 10.0.0.1 ip6 daddr ::1 drop", "ip6 daddr ::1", "is IPv6, but `ip saddr 10.0.0.1` is IPv4"),
    ("tcp dport 80 udp sport 53 drop", "udp sport 53", "another protocol"),
    ("meta l4proto icmp tcp dport 80 drop", "tcp dport 80", "another protocol"),
    ("icmp type 8 meta nfproto ipv6 drop", "meta nfproto ipv6", "is IPv6"),
    ("iif eth* drop", "eth*", "iifname"),
    ("iifname .. drop", ".", "found `.`"),
    ("vlan id 4096 drop", "4096", "a VLAN identifier (0 to 4095)"),
    ("ip frag-off & 0x1fff == 0x2000 drop", "& 0x1fff == 0x2000", "mask"),
    ("tcp flags & syn == ack drop", "& syn == ack", "flags"),
    ("tcp flags sin drop", "sin", "a TCP flag"),
    ("ip saddr . tcp dport 192.0.2.1 accept", "accept", "`.`"),
    ("ip saddr . tcp dport { 192.0.2.1 . 80, 192.0.2.2 . x } drop", "x", "a port"),
    ("ip saddr . tcp dport { 192.0.2.1 . 80 . 1 } drop", ".", "the end of the element"),
    ("ip saddr . ip6 daddr @both drop", "ip saddr . ip6 daddr @both", "one family"),
    ("tcp dport . udp sport @both drop", "tcp dport . udp sport @both", "another protocol"),
    ("ip saddr . ip ttl @both drop", "ttl", "expected `daddr`, `protocol` or `saddr`"),
    ("ip saddr @ ", "", "the rule ends here, expected the name of a set"),
    ("accept comment \"two\nlines\"", "\"two\nlines\"", "one line"),
    ("ip6 saddr ::1 add @a { ip saddr } drop", "drop", "is IPv4"),
    ("icmp type echo-request add @a { th dport } drop", "drop", "a protocol with ports"),
    ("add @a { ip saddr . ip6 daddr } drop", "add @a { ip saddr . ip6 daddr }", "one family"),
    ("add @a { tcp dport & 255.0.0.0 } drop", "tcp dport & 255.0.0.0", "a mask stands behind"),
    ("ct count over 5000000000 drop", "ct count over 5000000000", "32 bits"),
    ("udp dport 21 ct helper set \"ftp\"", "", "is of TCP"),
    ("meter a { ip saddr } drop", "meter", "a meter is a set here"),
    ("limit rate 0/second drop", "limit rate 0/second", "greater than zero"),
    ("log level info group 3 drop", "log level info group 3", "one of level and group"),
    ("drop tcp dport 80", "tcp", "expected `comment` or the end of the rule"),
    ("log tcp dport 80", "tcp", "expected"),
    ("ct state establised accept", "establised", "expected `(`, `established`, `invalid`"),
    ("ct zone 1 accept", "ct zone", "of connections, rules match only"),
    ("tcp dport 80 dnat 192.0.2.1", "192.0.2.1", "`to`"),
    ("ip daddr 192.0.2.1 dnat to 198.18.1.2:80", "dnat to 198.18.1.2:80", "names ports, so a match"),
    ("ip6 daddr 2001:db8::1 dnat to 198.18.1.2", "dnat to 198.18.1.2", "other address family"),
    ("ip saddr 192.0.2.1 tproxy to :80", "tproxy to :80", "needs a match of TCP or UDP"),
    ("ip6 daddr 2001:db8::1 tcp dport 80 tproxy to 127.0.0.1:80", "tproxy to 127.0.0.1:80", "other address family"),
    ("tcp dport 80 limit rate 1/second tproxy to :80 or drop", "tproxy to :80 or drop", "of its own"),
    ("snat to 192.0.2.9-192.0.2.1", "192.0.2.9-192.0.2.1", "this range has no values"),
    ("ct mark & 0x0f 0x10 accept", "& 0x0f 0x10", "a mask has 32 bits"),
    ("ct original ip saddr @set accept", "ip saddr @set", "no set can stand here"),
    ("ip ecn set ce", "ip ecn set", "rules can set `meta mark`"),
    ("tcp option maxseg size set 0", "0", "1 to 65535 bytes, not 0"),
    ("meta mark set 0x1ffffffff", "0x1ffffffff", "32 bits"),
    ("ip6 saddr 2001:db8::1 ip dscp set ef", "", "`ip dscp set ef` is IPv4, but `ip6 saddr 2001:db8::1` is IPv6"),
    ("udp dport 1 tcp option maxseg size set 1200", "", "is of TCP"),
    ("tcp option maxseg size 536 drop", "tcp option", "cannot match options"),
    ("tcp dport 80 jump web", "jump", "cannot jump"),
];

#[test]
fn faults() {
    for (written, place, message) in FAULTS {
        let error = parse(written).expect_err(written);
        assert_eq!(&written[error.span.clone()], *place, "{written}: {error}");
        assert!(error.to_string().contains(message), "{written}: {error}");
    }
}

#[test]
fn a_fault_names_line_and_column_and_points() {
    let text = "tcp dport 80\n  ip saddr 10.0.0.x drop";
    let error = parse(text).expect_err("no address");
    assert!(matches!(&error.fault, RuleFault::Unexpected { found: Some(found), .. } if found == "10.0.0.x"));
    let shown = error.render(text, "command line");
    assert!(shown.contains("command line:2:12: found `10.0.0.x`"), "{shown}");
    assert!(shown.contains("2 |   ip saddr 10.0.0.x drop\n  |            ^^^^^^^^"), "{shown}");
}

#[test]
fn spelling_makes_no_other_rule() {
    let same = [("tcp dport { 443, 80 } counter accept", "tcp dport {http, https} accept"), ("drop", "counter drop")];
    for (one, other) in same {
        assert_eq!(parse(one), parse(other));
    }
    assert_ne!(parse("tcp dport 80 accept"), parse("tcp dport 80 accept comment \"web\""));
}

proptest! {
    #[test]
    fn print_then_parse_is_the_identity(rule in prop_oneof![arbitrary::rule(), arbitrary::changing_rule()]) {
        let printed = rule.to_string();
        let again = parse(&printed).map_err(|error| TestCaseError::fail(error.render(&printed, "rule")))?;
        prop_assert_eq!(again.to_string(), printed);
        prop_assert_eq!(again, rule);
    }

    #[test]
    fn nothing_makes_it_panic(text in "[a-z0-9 .:/{}!=@\"*|&(),-]{0,60}|(tcp|ip|ip6|meta|flags|dport|saddr|[0-9./:]{1,9}|[<>=!]{1,2}| ){0,12}|.*") {
        if let Err(error) = parse(&text) {
            prop_assert!(text.get(error.span.clone()).is_some());
            prop_assert!(!error.render(&text, "rule").is_empty());
        }
    }
}
