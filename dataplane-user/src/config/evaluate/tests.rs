//! Packets from anywhere to port 22, and what chains make of them.

use super::super::judge::TCP;
use super::*;
use crate::config::parse;

/// Chain input, and whether it lets in a first segment to port 22 from anywhere on eth0; and then from prerouting.
const ROWS: &[(&str, &str)] = &[
    ("rules = []", "yes"),
    ("policy = 'drop'", "no"),
    ("policy = 'drop'\nrules = ['tcp dport 22 accept']", "yes"),
    ("policy = 'drop'\nrules = ['tcp dport { 80, 22 } log accept']", "yes"),
    ("policy = 'drop'\nrules = ['tcp dport 22 limit rate 3/second accept']", "some"),
    ("policy = 'drop'\nrules = ['tcp dport 23 accept', 'udp dport 22 accept', 'th dport 21 accept']", "no"),
    ("policy = 'drop'\nrules = ['th dport 22 accept']", "yes"),
    ("rules = ['ip saddr 192.0.2.0/24 drop']", "some"),
    ("rules = ['ip saddr 192.0.2.0/24 drop', 'drop']", "no"),
    ("rules = ['ip saddr 192.0.2.0/24 accept', 'ip daddr 198.51.100.1 accept']", "yes"),
    ("rules = ['ip6 saddr 2001:db8::/32 drop', 'meta nfproto ipv6 drop']", "yes"),
    ("rules = ['ip saddr @none drop']", "yes"),
    ("rules = ['ip saddr != @none drop']", "no"),
    ("rules = ['ip saddr @bad drop']", "some"),
    ("rules = ['ip saddr . tcp dport { 192.0.2.1 . 22 } drop']", "some"),
    ("rules = ['ip saddr . tcp dport { 192.0.2.1 . 23 } drop']", "yes"),
    ("rules = ['iifname eth0 tcp dport 22 reject']", "no"),
    ("rules = ['iifname eth1 drop', 'oifname eth1 drop']", "yes"),
    ("rules = ['tcp flags & (syn | ack) == syn drop']", "no"),
    ("rules = ['tcp flags & (syn | ack) == ack drop']", "yes"),
    ("rules = ['ct state established drop']", "yes"),
    ("policy = 'drop'\nrules = ['ct state new accept']", "yes"),
    ("policy = 'drop'\nrules = ['ct state established,related accept']", "no"),
    ("rules = ['ip ttl < 60 drop']", "some"),
    ("rules = ['icmp type echo-request drop', 'ip frag-off & 0x1fff != 0 drop']", "yes"),
    ("rules = ['tcp dport 22 continue', 'drop']", "no"),
];

fn syn(config: &Config) -> Admission {
    let way = WayIn { link: "eth0".to_owned(), ..WayIn::default() };
    config.admits(&ExpectedPacket {
        family: Family::V4,
        protocol: TCP,
        addresses: [None; 2],
        ports: [None, Some(22)],
        flags: 2,
        state: crate::rule::NEW,
        iif: Some(&way),
    })
}

#[test]
fn packets_from_anywhere() {
    const SETS: &str = "[sets.bad]\ntype = 'ipv4_addr'\nelements = ['192.0.2.6']\n[sets.none]\ntype = 'ipv4_addr'\n";
    for (chain, want) in ROWS {
        for name in ["input", "prerouting"] {
            let config = parse(&format!("{SETS}[chains.{name}]\n{chain}\n"), "some.toml");
            // Some may stand in one chain only.
            let Ok(config) = config else {
                assert!(name == "prerouting" && chain.contains("oifname"), "{name}: {chain}");
                continue;
            };
            assert_eq!(syn(&config).name(), *want, "{name}: {chain}");
        }
    }
}

#[test]
fn both_chains_must_let_it_in() {
    for (prerouting, input, want) in [
        ("accept", "drop", "no"),
        ("drop", "accept", "no"),
        ("accept", "accept", "yes"),
        ("ip saddr 192.0.2.1 drop", "accept", "some"),
        ("ip saddr 192.0.2.1 drop", "drop", "no"),
        ("tcp dport 22 redirect to :2222", "accept", "some"),
    ] {
        let text = format!("[chains.prerouting]\nrules = ['{prerouting}']\n[chains.input]\nrules = ['{input}']\n");
        let config = parse(&text, "some.toml").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(syn(&config).name(), want, "{prerouting}; {input}");
    }
}
