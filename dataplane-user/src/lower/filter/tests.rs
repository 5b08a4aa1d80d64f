mod alone;
mod packet;

use dataplane_common::abi::{ActionCode, Acts, CHAINS, Features, Ifindex, LimitFlags, seek};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{ChainRules, Entry, FilterError, FilterFault, LoweredFilter, Membership, STRIDE, Unsupported};
use crate::filter::build;
use crate::rule::arbitrary::{LINKS, plain_rule};
use crate::rule::{ChainName, Element, Fragments, ItemKind, LinkPattern, Policy, Rule, SetType, parse};
use packet::{Hit, Packet};

/// The links of the tests' world.
fn links(pattern: &LinkPattern) -> Vec<Ifindex> {
    (1..).zip(LINKS).filter(|(_, name)| pattern.fits(name)).map(|(index, _)| index).collect()
}

fn lower(
    chains: [ChainRules<'_>; CHAINS],
    links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
) -> Result<LoweredFilter, FilterError> {
    super::lower(chains, links, &|_| None)
}

fn numbered(rules: &[Rule]) -> Vec<(&Rule, u32)> {
    rules.iter().zip(0..).collect()
}

fn in_forward<'r>(rules: &'r [(&'r Rule, u32)]) -> [ChainRules<'r>; CHAINS] {
    let mut chains = [ChainRules::default(); CHAINS];
    chains[ChainName::Forward.index()].rules = rules;
    chains
}

fn lowered(texts: &[&str]) -> LoweredFilter {
    let rules: Vec<_> = texts.iter().map(|text| parse(text).expect(text)).collect();
    lower(in_forward(&numbered(&rules)), &links).expect("room")
}

/// Rules that a packet matches, or may match unreadably, in their order, as the kernel half would find them.
fn hits(lowered: &LoweredFilter, packet: &Packet) -> Vec<(u32, Hit)> {
    let key = packet.key();
    let holds = |membership: Membership| {
        let mut key = key;
        seek(&mut key, membership.selectors);
        lowered.sets[membership.set as usize].hold(&std::array::from_fn(|at| key.sought[at]))
    };
    let hit = |entry: &Entry| {
        let entry = if key.class().is_unreadable() { entry.for_unreadable()? } else { *entry };
        let hit = if entry.action_code == ActionCode::Unreadable { Hit::Unreadable } else { Hit::Yes };
        (entry.is_for(key.family()) && entry.fits(&key, holds)).then_some((entry.counter, hit))
    };
    let mut hits: Vec<_> = lowered.entries[ChainName::Forward.index()].iter().filter_map(hit).collect();
    // A rule may be unreadable in several boxes; met it is in one only, or it would count twice.
    hits.dedup_by(|later, first| later == first && first.1 == Hit::Unreadable);
    hits
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn entries_match_what_the_rules_match(
        rules in vec(plain_rule(), 1..4),
        (packets, steering, strict) in (vec(packet::packets(), 8), any::<[u8; 16]>(), any::<bool>()),
    ) {
        let rules = numbered(&rules);
        let mut chains = in_forward(&rules);
        chains[ChainName::Forward.index()].fragments = if strict { Fragments::DropUnreadable } else { Fragments::Pass };
        let Ok(lowered) = lower(chains, &links) else {
            // Too many entries, or an extension header.
            return Ok(());
        };
        let image = build(&lowered).expect("few shapes");
        for (number, mut packet) in packets.into_iter().enumerate() {
            // Most packets are made to meet one of the rules, or to miss it narrowly.
            for (place, asked) in rules[number % rules.len()].0.matches().iter().enumerate() {
                packet.steer(asked, steering[(number * 3 + place) % steering.len()]);
            }
            let expected: Vec<_> = rules
                .iter()
                .map(|(rule, counter)| (*counter, packet.meets(rule)))
                .filter(|(_, hit)| *hit == Hit::Yes || strict && *hit == Hit::Unreadable)
                .collect();
            prop_assert_eq!(hits(&lowered, &packet), expected.clone(), "{:?}", packet);
            // And the tables find the first of them.
            let (found, _) = image.find(ChainName::Forward.index(), &packet.key(), 0);
            prop_assert_eq!(found.map(|found| found.order), expected.first().map(|(index, _)| (index + 1) * STRIDE));
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
    ("ip6 saddr != 2001:db8::/32 drop", 1),
    (
        "ip saddr { 10.0.0.1, 10.0.0.3, 10.0.0.5, 10.0.0.7, 10.0.0.9, 10.0.0.11, 10.0.0.13, 10.0.0.15, 10.0.0.17 } drop",
        1,
    ),
    ("tcp dport { 80, 443, 8000-8080 } accept", 3),
    ("tcp dport != 22 drop", 2),
    ("ip saddr { 10.0.0.0/8, 192.0.2.0/24 } tcp dport { 80, 443 } accept", 4),
    ("th dport 53 accept", 5),
    ("meta l4proto { tcp, udp } th dport 53 accept", 2),
    ("tcp flags syn,ack drop", 2),
    ("tcp flags & (fin|syn|rst|ack) == syn drop", 1),
    ("ip saddr . tcp dport { 10.0.0.1 . 80, 10.0.0.2 . 443 } drop", 1),
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
        assert_eq!(lowered(&[text]).entries[ChainName::Forward.index()].len(), *size, "{text}");
    }
}

/// A packet from 10.0.0.1 whose ports cannot be read, and whether a rule drops it for what they might be.
#[test]
fn what_no_ports_would_meet_drops_nothing_unread() {
    let packet = Packet::v4("10.0.0.1", "198.51.100.1").protocol(6).fragment(100);
    let rows = [
        ("ip saddr . tcp sport { 10.0.0.1 . 1 } drop", true),
        ("ip saddr . tcp sport { 10.0.0.2 . 1 } drop", false),
        ("ip saddr . tcp sport { 10.0.0.1 . 4-9 } tcp sport 1-5 drop", true),
        ("ip saddr . tcp sport { 10.0.0.1 . 1 } tcp sport 2 drop", false),
        ("ip saddr . tcp sport { 10.0.0.1 . 1, 10.0.0.1 . 2 } tcp sport 2 drop", true),
        ("ip saddr . tcp sport { 10.0.0.1 . 1, 10.0.0.2 . 2 } tcp sport 2 drop", false),
        ("ip saddr . tcp sport { 10.0.0.1 . 5 } tcp sport != 5 drop", false),
        ("ip saddr . tcp sport { 10.0.0.1 . 1-9 } tcp sport != 1-4 tcp sport != 5-9 drop", false),
        ("ip saddr . tcp dport { 10.0.0.1 . 1 } tcp sport 2 drop", true),
    ];
    for (text, drops) in rows {
        let rules = [parse(text).expect(text)];
        let rules = numbered(&rules);
        let mut chains = in_forward(&rules);
        chains[ChainName::Forward.index()].fragments = Fragments::DropUnreadable;
        let lowered = lower(chains, &links).expect("room");
        let expected = if drops { vec![(0, Hit::Unreadable)] } else { vec![] };
        assert_eq!(hits(&lowered, &packet), expected, "{text}");
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
    let lowered = lowered(&rules);
    let v4 = || Packet::v4("198.18.0.2", "198.51.100.1");
    let v6 = || Packet::v6("2001:db8::2", "2001:db8:1::1");
    let rows = [
        ("syn to ssh", v4().tcp(40000, 22, 0x02), vec![(0, Hit::Yes)]),
        ("syn to https over IPv6", v6().tcp(40000, 443, 0x02), vec![(0, Hit::Yes)]),
        ("syn and ack", v4().tcp(40000, 22, 0x12), vec![]),
        ("psh does not matter", v4().tcp(40000, 22, 0x0a), vec![(0, Hit::Yes)]),
        ("telnet", v4().tcp(40000, 23, 0x02), vec![]),
        (
            "a later TCP fragment: rules that accept by ports do not meet it",
            v4().protocol(6).fragment(100),
            vec![(6, Hit::Yes)],
        ),
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
        assert_eq!(hits(&lowered, &packet), expected, "{what}");
    }
}

#[test]
fn chains_are_lowered_in_order_with_their_features() {
    let rules = ["tcp dport { 22, 80 } drop", "continue", "iifname absent drop"].map(|text| parse(text).expect(text));
    let rules = numbered(&rules);
    let mut chains = [ChainRules::default(); CHAINS];
    chains[0].rules = &rules[..1];
    chains[1].policy = Policy::Drop;
    chains[3].rules = &rules[1..2];
    let lowered = lower(chains, &links).expect("room");
    assert_eq!(lowered.entries.each_ref().map(Vec::len), [2, 0, 0, 1]);
    assert_eq!(lowered.policies, [ActionCode::Accept, ActionCode::Drop, ActionCode::Accept, ActionCode::Accept]);
    assert_eq!(lowered.features, Features::PREROUTING | Features::INPUT | Features::OUTPUT | Features::IPV6);
    let rulings: Vec<_> = lowered.entries.iter().flatten().map(|entry| (entry.counter, entry.action_code)).collect();
    assert_eq!(rulings, [(0, ActionCode::Drop), (0, ActionCode::Drop), (1, ActionCode::Continue)]);

    let waiting = lower(in_forward(&rules[2..]), &links).expect("room");
    assert_eq!((waiting.entries[2].len(), waiting.features), (0, Features::FORWARD | Features::IPV6));
}

#[test]
fn what_is_not_supported_is_named() {
    let rows = [
        ("ip saddr @blocked drop", Unsupported::Set("@blocked".to_owned())),
        ("ip6 nexthdr 44 drop", Unsupported::NextHeader("ip6 nexthdr 44".to_owned())),
        ("ip6 nexthdr != tcp drop", Unsupported::NextHeader("ip6 nexthdr != tcp".to_owned())),
    ];
    for (text, unsupported) in rows {
        let rules = [parse("accept").expect("a rule"), parse(text).expect(text)];
        let error = lower(in_forward(&numbered(&rules)), &links).expect_err(text);
        assert_eq!((error.chain, error.index), (ChainName::Forward, 1), "{text}");
        assert_eq!(error.fault, FilterFault::Unsupported(unsupported), "{text}");
    }
    let pair: (SetType, Vec<Element>) =
        (SetType::new(vec![ItemKind::Ipv4, ItemKind::Service]).expect("kinds"), Vec::new());
    let rules = [parse("ip saddr @pair drop").expect("a rule")];
    let error = super::lower(in_forward(&numbered(&rules)), &links, &|_| Some((&pair.0, &pair.1))).expect_err("a pair");
    assert!(
        error
            .to_string()
            .contains("@pair is a set of ipv4_addr . inet_service, and this match takes a set of ipv4_addr"),
        "{error}"
    );
    let nexthdr = parse("ip6 nexthdr tcp accept").expect("a rule");
    assert_eq!(super::unsupported(&nexthdr), None);
}

#[test]
fn the_error_for_too_large_rules_names_the_size() {
    let huge = "tcp flags & (fin|syn|rst|psh) != fin ip frag-off & 0x1fff != 0 vlan id != 5 ip ttl != 64 ip dscp != 1 \
                ether saddr != { 2:0:0:0:0:1-2:0:0:0:0:5 } accept";
    let error = lower(in_forward(&numbered(&[parse(huge).expect("a rule")])), &links).expect_err("large");
    assert_eq!(error.fault, FilterFault::Large(4 * 13 * 12 * 8 * 6));
    let lists = ["ip saddr", "ip daddr", "tcp sport", "tcp dport"].map(|field| {
        let values: Vec<_> = (0..9)
            .map(|value| if field.contains("addr") { format!("10.0.0.{}", 2 * value) } else { (2 * value).to_string() })
            .collect();
        format!("{field} {{ {} }}", values.join(", "))
    });
    let error = lower(in_forward(&numbered(&[parse(&format!("{} drop", lists.join(" "))).expect("a rule")])), &links);
    assert_eq!(error.expect_err("sets").fault, FilterFault::Sets(4));
}

/// Rules that match sets, against packets; the sets hold the elements of the config.
#[test]
fn sets_hold_what_their_elements_say() {
    let config = crate::config::parse(
        "[sets.net]\ntype = 'ipv4_addr'\nelements = ['192.0.2.9', '198.51.100.0/24', '203.0.113.5-203.0.113.77']\n\
         [sets.six]\ntype = 'ipv6_addr'\nelements = ['2001:db8::1', '2001:db8:7::/48']\n\
         [sets.web]\ntype = 'inet_service'\nelements = ['80', '8000-8080']\n\
         [sets.lan]\ntype = 'ifname'\nelements = ['eth*']\n\
         [sets.pair]\ntype = 'ipv4_addr . inet_service'\nelements = ['192.0.2.0/24 . 80', '192.0.2.9 . 8000-8080']\n\
         [sets.way]\ntype = 'ifname . inet_proto . ipv6_addr'\nelements = ['eth* . 6 . 2001:db8::/32']\n\
         [sets.none]\ntype = 'ipv4_addr'\n",
        "sets.toml",
    )
    .expect("sets");
    let v4 = |source| Packet::v4(source, "198.51.100.1");
    let rows = [
        ("ip saddr @net drop", v4("192.0.2.9"), true),
        ("ip saddr @net drop", v4("192.0.2.8"), false),
        ("ip saddr @net drop", v4("198.51.100.255"), true),
        ("ip saddr @net drop", v4("203.0.113.77"), true),
        ("ip saddr @net drop", v4("203.0.113.78"), false),
        ("ip saddr != @net drop", v4("203.0.113.78"), true),
        ("ip saddr != @net drop", v4("203.0.113.5"), false),
        ("ip saddr != @net drop", Packet::v6("2001:db8::1", "2001:db8::2"), false),
        ("ip daddr @net tcp dport @web drop", v4("10.0.0.1").tcp(1, 8080, 0), true),
        ("ip daddr @net tcp dport @web drop", v4("10.0.0.1").tcp(1, 8081, 0), false),
        ("ip daddr @net tcp dport @web drop", v4("10.0.0.1").udp(1, 80), false),
        ("ip saddr . tcp dport @pair drop", v4("192.0.2.7").tcp(1, 80, 0), true),
        ("ip saddr . tcp dport @pair drop", v4("192.0.2.7").tcp(1, 8000, 0), false),
        ("ip saddr . tcp dport @pair drop", v4("192.0.2.9").tcp(1, 8080, 0), true),
        ("ip saddr . tcp dport @pair drop", v4("192.0.2.9").udp(1, 80), false),
        ("ip saddr . udp dport != @pair drop", v4("192.0.2.9").udp(1, 80), false),
        ("ip saddr . udp dport != @pair drop", v4("192.0.2.9").udp(1, 81), true),
        ("ip saddr . udp dport != @pair drop", v4("192.0.2.9").icmp(8), false),
        ("iifname . meta l4proto . ip6 daddr @way drop", Packet::v6("::1", "2001:db8::2").tcp(1, 2, 0).iif(2), true),
        ("iifname . meta l4proto . ip6 daddr @way drop", Packet::v6("::1", "2001:db8::2").tcp(1, 2, 0).iif(3), false),
        ("iifname . meta l4proto . ip6 daddr @way drop", Packet::v6("::1", "2001:db8::2").udp(1, 2).iif(2), false),
        ("ip6 saddr @six drop", Packet::v6("2001:db8:7:ffff::1", "2001:db8::2"), true),
        ("ip6 saddr @six drop", Packet::v6("2001:db8:8::1", "2001:db8::2"), false),
        ("iifname @lan drop", v4("10.0.0.1").iif(2), true),
        ("iifname @lan drop", v4("10.0.0.1").iif(3), false),
        ("ip saddr @none drop", v4("10.0.0.1"), false),
        ("ip saddr != @none drop", v4("10.0.0.1"), true),
    ];
    let sets = |name: &crate::rule::SetName| {
        let set = config.sets.get(name)?;
        Some((&set.kind, set.listed()?))
    };
    for (text, packet, met) in rows {
        let rules = [parse(text).expect(text)];
        let lowered = super::lower(in_forward(&numbered(&rules)), &links, &sets).expect(text);
        let expected = if met { vec![(0, Hit::Yes)] } else { Vec::new() };
        assert_eq!(hits(&lowered, &packet), expected, "{text}: {packet:?}");
        let (found, _) = build(&lowered).expect(text).find(2, &packet.key(), 0);
        assert_eq!(found.is_some(), met, "{text}: {packet:?}");
    }
}

#[test]
fn limits_are_those_of_nft() {
    const SECOND: u64 = 1_000_000_000;
    let rows = [
        ("limit rate 10/second accept", SECOND / 10, SECOND / 2, LimitFlags::empty()),
        ("limit rate 1/week burst 2 packets accept", 604_800 * SECOND, 2 * 604_800 * SECOND, LimitFlags::empty()),
        ("limit rate over 5/minute drop", 12 * SECOND, 60 * SECOND, LimitFlags::OVER),
        ("limit rate 1000 bytes/second accept", SECOND / 1000, SECOND, LimitFlags::BYTES),
        (
            "limit rate over 1 kbytes/second burst 1 kbytes drop",
            SECOND / 1024,
            2 * SECOND,
            LimitFlags::OVER | LimitFlags::BYTES,
        ),
    ];
    for (text, unit, depth, flags) in rows {
        let rules = [parse(text).expect(text)];
        let lowered = lower(in_forward(&numbered(&rules)), &links).expect(text);
        let limit = lowered.limits[&0];
        assert_eq!((limit.cost >> 8, limit.depth, limit.flags), (unit, depth, flags.bits()), "{text}");
        assert_eq!(lowered.features, Features::FORWARD | Features::LIMITS | Features::IPV6, "{text}");
        assert!(lowered.entries[2].iter().all(|entry| entry.acts == Acts::LIMIT), "{text}");
    }
    let rules = ["reject", "log drop", "log limit rate 1/second reject"].map(|text| parse(text).expect(text));
    let lowered = lower(in_forward(&numbered(&rules)), &links).expect("rules");
    let acts: Vec<_> = lowered.entries[2].iter().map(|entry| entry.acts).collect();
    assert_eq!(acts, [Acts::REJECT, Acts::LOG, Acts::all()]);
    assert_eq!(lowered.features, Features::FORWARD | Features::LOGGING | Features::LIMITS | Features::IPV6);
}
