mod filling;

use super::*;
use crate::{lower::filter::FilterFault, rule::parse};

fn by_its_name(pattern: &LinkPattern) -> Vec<String> {
    vec![pattern.as_str().to_owned()]
}

fn no_set(_: &SetName) -> Option<Known<'static>> {
    None
}

fn no_dynamic_set(_: &SetName) -> Option<(&'static SetType, DynamicSet)> {
    None
}

const NAMES: Names<'static> =
    Names { links: &by_its_name, sets: &no_set, dynamic: &no_dynamic_set, delivers: true, carries: false };

/// The table of one chain with these rules.
fn table(chain: ChainName, policy: Policy, rules: &[&str]) -> Result<OwnTable, FilterError> {
    let rules: Vec<_> =
        rules.iter().map(|text| parse(text).unwrap_or_else(|error| panic!("{}", error.render(text, "rule")))).collect();
    let mut chains = vec![KernelChain::default(); ChainName::ALL.len()];
    let numbered = rules.iter().zip(1..).collect();
    chains[chain.index()] = KernelChain { policy, rules: numbered };
    own_table(&chains, NAMES, &[7])
}

/// The steps of a rule of chain forward.
fn steps(text: &str) -> Vec<Step> {
    let table = table(ChainName::Forward, Policy::Accept, &[text]).unwrap_or_else(|error| panic!("{error}"));
    table.chains[0].rules[1].steps.clone()
}

fn equal(value: &[u8]) -> Step {
    Step::Compare(8, false, value.to_vec())
}

#[test]
fn matches_become_what_nft_writes() {
    use Step::{Accept, Compare, Connection, Count, Mask, Meta, Payload, Swap, Within};
    let after = |steps: Vec<Step>| [steps, vec![Count, Accept]].concat();
    let tcp = || vec![Meta(16, 8), equal(&[6])];
    let ipv4 = || vec![Meta(15, 8), equal(&[2])];
    let state = |bits: u32, any: bool| {
        vec![Connection(0, None, 8), Mask(8, bits.to_ne_bytes().to_vec()), Compare(8, any, vec![0; 4])]
    };
    let rows = [
        ("ct state established,related", state(6, true)),
        ("ct state { established, related }", state(6, true)),
        ("ct state != invalid", state(1, false)),
        (
            "ct status dnat",
            vec![Connection(2, None, 8), Mask(8, 32_u32.to_ne_bytes().to_vec()), Compare(8, true, vec![0; 4])],
        ),
        ("ct direction reply", vec![Connection(1, None, 8), equal(&[1])]),
        ("ct mark 0x10", vec![Connection(3, None, 8), equal(&16_u32.to_ne_bytes())]),
        (
            "ct mark & 0xff != 3",
            vec![
                Connection(3, None, 8),
                Mask(8, 255_u32.to_ne_bytes().to_vec()),
                Compare(8, true, 3_u32.to_ne_bytes().to_vec()),
            ],
        ),
        ("ct mark 1-9", vec![Connection(3, None, 8), Swap(8, 4), Within(8, false, vec![0, 0, 0, 1], vec![0, 0, 0, 9])]),
        ("ct original ip daddr 192.0.2.1", [ipv4(), vec![Connection(20, Some(0), 8), equal(&[192, 0, 2, 1])]].concat()),
        ("ct reply proto-src 80", vec![Connection(11, Some(1), 8), equal(&[0, 80])]),
        ("tcp dport 22", [tcp(), vec![Payload(2, 2, 2, 8), equal(&[0, 22])]].concat()),
        (
            "tcp sport != 1024-65535",
            [tcp(), vec![Payload(2, 0, 2, 8), Within(8, true, vec![4, 0], vec![255, 255])]].concat(),
        ),
        (
            "ip saddr 198.18.0.0/15",
            [ipv4(), vec![Payload(1, 12, 4, 8), Mask(8, vec![255, 254, 0, 0]), equal(&[198, 18, 0, 0])]].concat(),
        ),
        ("ip protocol tcp", [ipv4(), tcp()].concat()),
        (
            "tcp flags & (syn | ack) == syn",
            [tcp(), vec![Payload(2, 13, 1, 8), Mask(8, vec![18]), equal(&[2])]].concat(),
        ),
        // As received; the kernel has taken one off by then.
        ("ip ttl 5", [ipv4(), vec![Payload(1, 8, 1, 8), equal(&[4])]].concat()),
        ("ip dscp ef", [ipv4(), vec![Payload(1, 1, 1, 8), Mask(8, vec![0xfc]), equal(&[46 << 2])]].concat()),
        ("meta nfproto ipv4", ipv4()),
        ("iifname \"eth0\"", vec![Meta(6, 8), equal(b"eth0\0\0\0\0\0\0\0\0\0\0\0\0")]),
    ];
    for (text, wanted) in rows {
        assert_eq!(steps(&format!("{text} accept")), after(wanted), "{text}");
    }
}

#[test]
fn changes_become_what_nft_writes() {
    use Step::{
        Connection, Count, Flip, Meta, Payload, Put, RouteSegment, SetConnection, SetMeta, SetSegment, Swap, Write,
    };
    let bytes = |value: u32| value.to_ne_bytes().to_vec();
    let ipv4 = || vec![Meta(15, 8), equal(&[2])];
    let ipv6 = || vec![Meta(15, 8), equal(&[10])];
    let tcp = || vec![Meta(16, 8), equal(&[6])];
    let rows = [
        ("meta mark set 5", vec![], vec![Put(8, bytes(5)), SetMeta(3, 8)]),
        ("ct mark set meta mark", vec![], vec![Meta(3, 8), SetConnection(3, 8)]),
        (
            "meta mark set ct mark & 0xff | 0x100",
            vec![],
            vec![Connection(3, None, 8), Flip(8, bytes(0xff), bytes(0x100)), SetMeta(3, 8)],
        ),
        ("tcp option maxseg size set rt mtu", tcp(), vec![RouteSegment(8), Swap(8, 2), SetSegment(8)]),
        (
            "tcp dport 80 tcp option maxseg size set 1200",
            [tcp(), vec![Payload(2, 2, 2, 8), equal(&[0, 80])]].concat(),
            vec![Put(8, vec![4, 176]), SetSegment(8)],
        ),
        (
            "ip dscp set ef",
            ipv4(),
            vec![Payload(1, 0, 2, 8), Flip(8, vec![0xff, 3], vec![0, 0xb8]), Write(1, 0, 2, Some(10), 8)],
        ),
        (
            "ip6 dscp set cs1",
            ipv6(),
            vec![Payload(1, 0, 2, 8), Flip(8, vec![0xf0, 0x3f], vec![2, 0]), Write(1, 0, 2, None, 8)],
        ),
        (
            "ip ttl set 64",
            ipv4(),
            vec![Payload(1, 8, 2, 8), Flip(8, vec![0, 0xff], vec![64, 0]), Write(1, 8, 2, Some(10), 8)],
        ),
        (
            "ip6 hoplimit set 64",
            ipv6(),
            vec![Payload(1, 6, 2, 8), Flip(8, vec![0xff, 0], vec![0, 64]), Write(1, 6, 2, None, 8)],
        ),
    ];
    for (text, before, does) in rows {
        assert_eq!(steps(text), [before, vec![Count], does].concat(), "{text}");
    }
}

#[test]
fn what_changes_has_a_chain_where_it_works() {
    for (chain, name, kind, priority) in [
        (ChainName::Prerouting, "prerouting", ChainKind::Filter, -101),
        (ChainName::Forward, "forward", ChainKind::Filter, 0),
        (ChainName::Output, "output", ChainKind::Route, -101),
        (ChainName::Postrouting, "postrouting", ChainKind::Filter, -101),
    ] {
        let rules = ["meta mark set 1", "tcp dport 9 accept"];
        let table = table(chain, Policy::Accept, &rules).expect("a table");
        let [one] = &table.chains[..] else { panic!("{table:?}") };
        assert_eq!((&*one.name, one.kind, one.priority), (name, kind, priority));
        let handles: Vec<_> = one.rules.iter().map(|rule| rule.handle).collect();
        assert_eq!(handles, [None, Some(1), Some(2)], "{chain}: each counts once");
    }
    // Of two tables, one changes.
    let before = table(ChainName::Forward, Policy::Accept, &["meta mark set 1"]).expect("a table");
    let both = before.together_with(&before);
    let writes = |chain: &OwnChain| {
        chain.rules.iter().flat_map(|rule| &rule.steps).any(|step| matches!(step, Step::SetMeta(..)))
    };
    assert_eq!(both.chains.iter().map(writes).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn lists_become_sets_without_a_name() {
    let found = steps("tcp dport { 22, 80, 81, 8000-8080 } accept");
    let Step::In(8, false, set) = &found[3] else { panic!("{found:?}") };
    // What touches is one range, and one more makes all of them ranges.
    let port = |low: u16, high: u16| vec![(low.to_be_bytes().to_vec(), high.to_be_bytes().to_vec())];
    assert_eq!(set.elements, [port(22, 22), port(80, 81), port(8000, 8080)]);
    assert!(set.intervals && set.name.is_none());
    let found = steps("iifname { \"eth*\", \"wg0\" } accept");
    let Step::In(8, false, set) = &found[1] else { panic!("{found:?}") };
    assert!(set.elements[0][0].0.starts_with(b"eth\0") && set.elements[0][0].1.starts_with(b"eth\xff"), "{set:?}");
    let found = steps("ip saddr . tcp dport { 192.0.2.1 . 80, 198.51.100.0/24 . 443 } accept");
    let Some(Step::In(8, false, set)) = found.iter().find(|step| matches!(step, Step::In(..))) else {
        panic!("{found:?}")
    };
    assert_eq!(set.fields, [(7, 4), (13, 2)]);
}

#[test]
fn what_translates_has_a_chain_of_its_own() {
    let rules = ["ip saddr 203.0.113.0/24 drop", "udp dport 9 accept", "tcp dport 80 dnat to 198.18.1.2:8080"];
    let table = table(ChainName::Prerouting, Policy::Accept, &rules).expect("a table");
    let names: Vec<_> = table.chains.iter().map(|chain| (&*chain.name, chain.kind.word(), chain.priority)).collect();
    assert_eq!(names, [("prerouting", "filter", -101), ("prerouting_nat", "nat", -100)]);
    let handles = |index: usize| table.chains[index].rules.iter().map(|rule| rule.handle).collect::<Vec<_>>();
    // First whose packets pass by; each counts once.
    assert_eq!(handles(0), [None, Some(1), Some(2), None]);
    assert_eq!(handles(1), [None, None, Some(3)]);
    let last = table.chains[1].rules[2].steps.last();
    let wanted = Step::Nat { destination: true, family: 2, addresses: (8, 8), ports: Some((16, 16)), flags: 2 };
    assert_eq!(last, Some(&wanted));
}

#[test]
fn masquerading_alone_filters_nothing() {
    let table = table(ChainName::Postrouting, Policy::Accept, &["oifname \"wan\" masquerade"]).expect("a table");
    let [chain] = &table.chains[..] else { panic!("{table:?}") };
    assert_eq!((&*chain.name, chain.hook, chain.drops), ("postrouting_nat", 4, false));
    assert_eq!(chain.rules[1].steps.last(), Some(&Step::Masquerade(None, 0)));
}

#[test]
fn a_policy_that_drops_counts() {
    let table = table(ChainName::Forward, Policy::Drop, &["ct state established accept"]).expect("a table");
    let chain = &table.chains[0];
    assert!(chain.drops);
    let last = chain.rules.last().expect("rules");
    assert_eq!((last.handle, &last.steps[..]), (Some(POLICY_HANDLE), &[Step::Count, Step::Drop][..]));
}

#[test]
fn a_packet_passes_both_tables_while_one_takes_the_others_place() {
    let before = table(ChainName::Forward, Policy::Drop, &["ct state established accept"]).expect("a table");
    let after = table(ChainName::Forward, Policy::Accept, &["ct state new drop"]).expect("a table");
    let both = after.together_with(&before);
    let names: Vec<_> = both.chains.iter().map(|chain| (&*chain.name, chain.drops)).collect();
    assert_eq!(names, [("forward", false), ("forward_before", true)]);
    let sets: Vec<_> = both.sets.iter().filter_map(|set| set.name.as_deref()).collect();
    assert_eq!(sets, ["_ports", "__ports_before"]);
}

#[test]
fn what_cannot_be_written_is_named() {
    for (chain, rules, said) in [
        (ChainName::Forward, &["ct state new accept", "vlan id 7 drop"][..], "name that instead"),
        (ChainName::Prerouting, &["limit rate 1/second accept", "tcp dport 80 redirect to :8080"], "in front of one"),
        (ChainName::Forward, &["ct state new ip saddr @absent accept"], "not known"),
        (ChainName::Postrouting, &["meta mark 0 accept", "meta mark set 1", "masquerade"], "in front of"),
    ] {
        let error = table(chain, Policy::Accept, rules).expect_err(said);
        assert!(error.to_string().contains(said), "{error}");
        assert!(matches!(error.fault, FilterFault::Kernel(_) | FilterFault::Unsupported(_)));
    }
}

/// A rule that hands to a proxy counts, marks and accepts what gets a socket; without one the next rule is evaluated, or the
/// packet is dropped. While nothing delivers, it is not there.
#[test]
fn proxies_get_packets() {
    use Step::{Accept, Compare, Count, Drop, Flip, Mask, Meta, Proxy, Put, SetMeta, Transparent};
    let mark = || {
        vec![
            Meta(3, 8),
            Flip(8, (!(1_u32 << 27)).to_ne_bytes().to_vec(), (1_u32 << 27).to_ne_bytes().to_vec()),
            SetMeta(3, 8),
        ]
    };
    let tcp = || vec![Meta(16, 8), equal(&[6])];
    let port = || Put(12, vec![0x0c, 0x39]);
    let rules = [
        "meta l4proto tcp tproxy to :3129",
        "meta l4proto tcp tproxy ip to 127.0.0.1:3129 or drop",
        "meta l4proto tcp tproxy ip6 to [::1]",
        "socket transparent 1 accept",
        "ct state new drop",
    ];
    let made = table(ChainName::Prerouting, Policy::Accept, &rules).expect("a table");
    let steps: Vec<_> = made.chains[0].rules[1..].iter().map(|rule| rule.steps.clone()).collect();
    let family = |number| vec![Meta(15, 8), equal(&[number])];
    let after = |front: Vec<Vec<Step>>| [front.concat(), vec![Count], mark(), vec![Accept]].concat();
    assert_eq!(steps[0], after(vec![tcp(), vec![port(), Proxy(0, None, Some(12))]]));
    let address = Put(8, vec![127, 0, 0, 1]);
    assert_eq!(steps[1], after(vec![family(2), tcp(), vec![address, port(), Proxy(2, Some(8), Some(12))]]));
    assert_eq!(steps[2], [family(2), tcp(), vec![Count, Drop]].concat());
    let one = [[0; 15].as_slice(), &[1]].concat();
    assert_eq!(steps[3], after(vec![family(10), tcp(), vec![Put(8, one), Proxy(10, Some(8), None)]]));
    assert_eq!(steps[4], [vec![Transparent(8), equal(&[1]), Count], mark(), vec![Accept]].concat());
    assert_eq!(made.chains[0].rules[3].handle, Some(2 | OR_DROP));

    let rules: Vec<_> = rules.iter().map(|rule| parse(rule).expect("a rule")).collect();
    let mut chains = vec![KernelChain::default(); ChainName::ALL.len()];
    chains[0] = KernelChain { policy: Policy::Accept, rules: rules.iter().zip(1..).collect() };
    let without = own_table(&chains, Names { delivers: false, ..NAMES }, &[7]).expect("a table");
    let handles: Vec<_> = without.chains[0].rules[1..].iter().map(|rule| rule.handle).collect();
    assert_eq!(handles, [Some(2 | OR_DROP), Some(5)]);

    // What has a socket is not translated.
    let both = ["tcp dport 80 tproxy to :3129", "tcp dport 80 redirect to :3128"];
    let made = table(ChainName::Prerouting, Policy::Accept, &both).expect("a table");
    let translating =
        made.chains.iter().find(|chain| chain.kind == ChainKind::Translate).expect("a chain that translates");
    let bit = (1_u32 << 27).to_ne_bytes().to_vec();
    assert_eq!(translating.rules[1].steps, [Meta(3, 8), Mask(8, bit.clone()), Compare(8, false, bit), Accept]);
}

/// The kernel tracks connections for the table unless nothing needs them; fragments are put together either way.
#[test]
fn connections_are_tracked_for_who_needs_them() {
    let both = ["tcp dport 80 tproxy ip to :3129", "tcp dport 80 tproxy ip6 to :3129"];
    let rows = [
        (&["socket transparent 1 accept", "tcp dport 80 tproxy to :3129"][..], false),
        (&both[..], false),
        (&both[..1], true),
        (&both[1..], true),
        (&["tcp dport 80 tproxy to :3129 or drop", "meta mark 7 drop"], false),
        (&["tcp dport 80 tproxy to :3129", "ct state invalid drop"], true),
        (&["ct state established accept", "tcp dport 80 tproxy to :3129"], true),
        (&["tcp dport 80 tproxy to :3129", "tcp dport 443 redirect to :3128"], true),
        (&["tcp dport 80 tproxy to :3129", "ct mark set 7"], true),
        (&["tcp dport 80 tproxy to :3129", "tcp dport 21 ct helper set \"ftp\""], true),
        (&["tcp dport 80 ct count over 9 drop", "tcp dport 80 tproxy to :3129"], true),
        (&["socket transparent 1 accept"], true),
        (&["meta mark 7 drop"], true),
    ];
    for (rules, tracked) in rows {
        let rules: Vec<_> = rules.iter().map(|rule| parse(rule).expect("a rule")).collect();
        let mut chains = vec![KernelChain::default(); ChainName::ALL.len()];
        chains[0] = KernelChain { policy: Policy::Accept, rules: rules.iter().zip(1..).collect() };
        let other = parse("ip daddr 192.0.2.1 drop").expect("a rule");
        chains[ChainName::Forward.index()] = KernelChain { policy: Policy::Accept, rules: vec![(&other, 9)] };
        for (names, tracked) in [
            (NAMES, tracked),
            (Names { carries: true, ..NAMES }, true),
            // Without the rules that hand to a proxy, nothing else puts fragments together.
            (Names { delivers: false, ..NAMES }, true),
        ] {
            let made = own_table(&chains, names, &[7]).expect("a table");
            let looks = made.chains.iter().filter(|chain| chain.rules[0].steps.contains(&CONNECTION)).count();
            assert_eq!(looks, if tracked { made.chains.len() } else { 0 }, "{rules:?} {:?}", names.carries);
            assert!(made.chains.iter().all(|chain| chain.rules[0].steps.contains(&Step::Accept)), "{rules:?}");
        }
    }
}

/// What the table needs for itself has names that no set of the operator can have.
#[test]
fn sets_of_the_operator_are_not_ours() {
    assert!(SetName::new(PORTS).is_none(), "{PORTS}");
    let ours = table(ChainName::Forward, Policy::Drop, &["ct state established accept"]).expect("a table");
    let both = ours.together_with(&ours);
    for set in both.sets.iter().filter_map(|set| set.name.as_deref()) {
        assert!(SetName::new(set).is_none(), "{set}");
    }
}

/// What this machine would drop of its own packets is not translated first: what leaves through no port is not filtered.
#[test]
fn what_output_drops_is_not_translated() {
    let rules = ["ip daddr 127.0.0.1 tcp dport 80 drop", "tcp dport 80 dnat to 198.18.1.80"];
    let table = table(ChainName::Output, Policy::Accept, &rules).expect("a table");
    let translating =
        table.chains.iter().find(|chain| chain.kind == ChainKind::Translate).expect("a chain that translates");
    assert_eq!(translating.rules.len(), 2);
    assert_eq!(translating.rules[0].steps.last(), Some(&Step::Accept));
}

#[test]
fn a_renamed_link_stays_the_one_that_iif_means() {
    fn renamed(pattern: &LinkPattern) -> Vec<String> {
        vec![if pattern.is_followed() { "wan0" } else { "eth0" }.to_owned()]
    }
    let names = Names { links: &renamed, ..NAMES };
    for (text, name) in [("iif eth0 drop", "wan0"), ("oif eth0 drop", "wan0"), ("iifname eth0 drop", "eth0")] {
        let rule = parse(text).expect("a rule");
        let context = Context { chain: ChainName::Forward, names };
        let steps = asked::matches(&rule, context).expect("steps");
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(16, 0);
        assert!(steps.contains(&Step::Compare(8, false, bytes)), "{text}: {steps:?}");
    }
}
