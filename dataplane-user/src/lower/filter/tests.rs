mod packet;

use dataplane_common::abi::{CHAINS, ENTRIES, Entry, Features, Hit, Ifindex, Ruling};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{ChainRules, FilterFault, LoweredFilter, Unsupported, lower};
use crate::rule::arbitrary::{LINKS, plain_rule};
use crate::rule::{ChainName, LinkPattern, Policy, Rule, parse};
use packet::Packet;

/// The links of the tests' world.
fn links(pattern: &LinkPattern) -> Vec<Ifindex> {
    (1..).zip(LINKS).filter(|(_, name)| pattern.fits(name)).map(|(index, _)| index).collect()
}

fn numbered(rules: &[Rule]) -> Vec<(Rule, u32)> {
    rules.iter().cloned().zip(0..).collect()
}

fn in_forward(rules: &[(Rule, u32)]) -> [ChainRules<'_>; CHAINS] {
    let mut chains = [ChainRules::default(); CHAINS];
    chains[ChainName::Forward.index()].rules = rules;
    chains
}

fn lowered(texts: &[&str]) -> LoweredFilter {
    let rules: Vec<_> = texts.iter().map(|text| parse(text).expect(text)).collect();
    lower(in_forward(&numbered(&rules)), &links).expect("room")
}

/// Rules that a packet meets or can not be seen to meet, in their order, as the kernel half would find them.
fn hits(entries: &[Entry], packet: &Packet) -> Vec<(u32, Hit)> {
    let key = packet.key();
    let hits = entries.iter().map(|entry| (entry.counter, entry.matches(&key)));
    let mut hits: Vec<_> = hits.filter(|(_, hit)| *hit != Hit::No).collect();
    // A rule may be unreadable in several boxes; met it is in one only, or it would count twice.
    hits.dedup_by(|later, first| later == first && first.1 == Hit::Unreadable);
    hits
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn entries_say_what_the_rules_say(
        rules in vec(plain_rule(), 1..4),
        (packets, steering) in (vec(packet::packets(), 8), any::<[u8; 16]>()),
    ) {
        let rules = numbered(&rules);
        let Ok(lowered) = lower(in_forward(&rules), &links) else {
            // Too many entries, or an extension header.
            return Ok(());
        };
        for (number, mut packet) in packets.into_iter().enumerate() {
            // Most packets are made to meet one of the rules, or to miss it narrowly.
            for (place, asked) in rules[number % rules.len()].0.matches().iter().enumerate() {
                packet.steer(asked, steering[(number * 3 + place) % steering.len()]);
            }
            let expected: Vec<_> = rules
                .iter()
                .map(|(rule, counter)| (*counter, packet.meets(rule)))
                .filter(|(_, hit)| *hit != Hit::No)
                .collect();
            prop_assert_eq!(hits(&lowered.entries, &packet), expected, "{:?}", packet);
        }
    }
}

/// A rule, and how many entries it makes.
const SIZES: &[(&str, usize)] = &[
    ("accept", 1),
    ("ip saddr 10.0.0.0/8 drop", 1),
    ("ip saddr 10.0.0.0-10.0.0.2 drop", 2),
    ("ip saddr { 10.0.0.0/9, 10.128.0.0/9 } drop", 1),
    ("ip saddr != 10.0.0.0/8 drop", 8),
    ("ip6 saddr != 2001:db8::/32 drop", 32),
    ("tcp dport { 80, 443, 8000-8080 } accept", 3),
    ("tcp dport != 22 drop", 2),
    ("ip saddr { 10.0.0.0/8, 192.0.2.0/24 } tcp dport { 80, 443 } accept", 4),
    ("th dport 53 accept", 5),
    ("meta l4proto { tcp, udp } th dport 53 accept", 2),
    ("tcp flags syn,ack drop", 2),
    ("tcp flags & (fin|syn|rst|ack) == syn drop", 1),
    ("ip frag-off & 0x1fff != 0 drop", 13),
    ("vlan id != 5 drop", 12),
    ("iifname \"eth*\" drop", 2),
    ("iifname absent drop", 0),
    ("iifname != absent drop", 1),
    ("tcp dport 80 tcp dport 443 drop", 0),
];

#[test]
fn sizes() {
    for (text, size) in SIZES {
        assert_eq!(lowered(&[text]).entries.len(), *size, "{text}");
    }
}

/// Rules from real life, and packets with the first rule that each meets.
#[test]
fn a_small_router() {
    let rules = [
        "tcp flags & (fin|syn|rst|ack) == syn tcp dport { ssh, http, https } accept",
        "iifname \"eth0\" ip saddr { 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 } drop comment \"bogons\"",
        "icmp type { echo-request, echo-reply } accept",
        "icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept",
        "ip6 saddr fe80::/10 drop",
        "ip saddr != 198.18.0.0/15 udp dport domain drop",
        "ip frag-off & 0x1fff != 0 drop",
        "vlan id 100 oifname != \"br-lan\" drop",
    ];
    let entries = lowered(&rules).entries;
    let v4 = || Packet::v4("198.18.0.2", "198.51.100.1");
    let v6 = || Packet::v6("2001:db8::2", "2001:db8:1::1");
    let rows = [
        ("syn to ssh", v4().tcp(40000, 22, 0x02), vec![(0, Hit::Yes)]),
        ("syn to https over IPv6", v6().tcp(40000, 443, 0x02), vec![(0, Hit::Yes)]),
        ("syn and ack", v4().tcp(40000, 22, 0x12), vec![]),
        ("psh does not matter", v4().tcp(40000, 22, 0x0a), vec![(0, Hit::Yes)]),
        ("telnet", v4().tcp(40000, 23, 0x02), vec![]),
        ("a later TCP fragment", v4().protocol(6).fragment(100), vec![(0, Hit::Unreadable), (6, Hit::Yes)]),
        ("bogon", Packet::v4("172.31.255.255", "198.51.100.1").iif(1), vec![(1, Hit::Yes)]),
        ("bogon elsewhere", Packet::v4("172.31.255.255", "198.51.100.1").iif(2), vec![]),
        ("ping", v4().icmp(8), vec![(2, Hit::Yes)]),
        ("redirect", v4().icmp(5), vec![]),
        ("ping over IPv6", v6().icmp(128), vec![(3, Hit::Yes)]),
        ("link-local", Packet::v6("fe80::1", "2001:db8::1"), vec![(4, Hit::Yes)]),
        ("our name server", v4().udp(53000, 53), vec![]),
        ("foreign name server", Packet::v4("203.0.113.9", "198.51.100.1").udp(53000, 53), vec![(5, Hit::Yes)]),
        ("IPv6 never meets a rule of IPv4", v6().udp(53000, 53), vec![]),
        ("tagged", v4().vlan(100).oif(1), vec![(7, Hit::Yes)]),
        ("tagged, to the bridge", v4().vlan(100).oif(3), vec![]),
        ("untagged", v4().oif(1), vec![]),
        ("priority-tagged", v4().vlan(0).oif(1), vec![]),
    ];
    for (what, packet, expected) in rows {
        assert_eq!(hits(&entries, &packet), expected, "{what}");
    }
}

#[test]
fn chains_follow_each_other_and_tell_what_is_needed() {
    let rules = ["tcp dport { 22, 80 } drop", "continue", "iifname absent drop"].map(|text| parse(text).expect(text));
    let rules = numbered(&rules);
    let mut chains = [ChainRules::default(); CHAINS];
    chains[0].rules = &rules[..1];
    chains[1].policy = Policy::Drop;
    chains[3].rules = &rules[1..2];
    let lowered = lower(chains, &links).expect("room");
    let places: Vec<_> = lowered.filter.chains.iter().map(|chain| (chain.first, chain.count, chain.policy)).collect();
    assert_eq!(places, [(0, 2, 0), (2, 0, 1), (2, 0, 0), (2, 1, 0)]);
    assert_eq!(lowered.features, Features::PREROUTING | Features::INPUT | Features::OUTPUT);
    let rulings: Vec<_> = lowered.entries.iter().map(|entry| (entry.counter, entry.ruling)).collect();
    assert_eq!(rulings, [(0, Ruling::Drop as u16), (0, Ruling::Drop as u16), (1, Ruling::Continue as u16)]);

    let waiting = lower(in_forward(&rules[2..]), &links).expect("room");
    assert_eq!((waiting.entries.len(), waiting.features), (0, Features::FORWARD));
}

#[test]
fn what_is_not_supported_is_named() {
    let rows = [
        ("ip saddr @blocked drop", Unsupported::Set("@blocked".to_owned())),
        ("reject", Unsupported::Reject),
        ("log drop", Unsupported::Log),
        ("limit rate 5/second accept", Unsupported::Limit),
        ("ip6 nexthdr 44 drop", Unsupported::NextHeader("ip6 nexthdr 44".to_owned())),
        ("ip6 nexthdr != tcp drop", Unsupported::NextHeader("ip6 nexthdr != tcp".to_owned())),
    ];
    for (text, unsupported) in rows {
        let rules = numbered(&[parse("accept").expect("a rule"), parse(text).expect(text)]);
        let error = lower(in_forward(&rules), &links).expect_err(text);
        assert_eq!((error.chain, error.index), (ChainName::Forward, 1), "{text}");
        assert_eq!(error.fault, FilterFault::Unsupported(unsupported), "{text}");
    }
    let nexthdr = parse("ip6 nexthdr tcp accept").expect("a rule");
    assert_eq!(super::unsupported(&nexthdr), None);
}

#[test]
fn what_does_not_fit_says_how_much_it_needs() {
    let many = parse("ip saddr != 10.0.0.1 ip daddr != 10.0.0.2 accept").expect("a rule");
    let rules = numbered(&vec![many; 5]);
    assert_eq!(lower(in_forward(&rules[..4]), &links).expect("room").entries.len(), ENTRIES as usize);
    let error = lower(in_forward(&rules), &links).expect_err("full");
    assert_eq!((error.index, &error.fault), (4, &FilterFault::Full { needed: 1024, free: 0 }));

    let huge = "ip6 saddr != ::1 ip6 daddr != ::2 ether saddr != 2:0:0:0:0:1 ether daddr != 2:0:0:0:0:2 accept";
    let error = lower(in_forward(&numbered(&[parse(huge).expect("a rule")])), &links).expect_err("full");
    assert_eq!(error.fault, FilterFault::Full { needed: 128 * 128 * 48 * 48, free: 4096 });
}
