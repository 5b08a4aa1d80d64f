use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{
    ChainConfig, Config, Elements, FibConfig, FlowsConfig, HeartbeatConfig, MetricsConfig, NetfilterChoice, PeerChoice,
    PortConfig, PortPattern, SetConfig, SflowConfig, UntilReady, at_rule, parse, parse_set_file,
};
use crate::model::{Mode, ModeChoice, ObstacleKind};
use crate::rule::arbitrary::{bits, ipv4, ipv6, pattern, rule, set_name};
use crate::rule::{ChainName, Element, Fragments, Item, ItemKind, Policy, Range, SetType};

/// The example of the manual.
const EXAMPLE: &str = r#"[ports]
eth0 = { mode = "auto" }
"veth*" = { mode = "tc" }            # names or globs
"veth7" = { mode = "generic" }

[fib]
ipv4_routes = 1_000_000

[sets.blocked]
type = "ipv4_addr"
elements = ["192.0.2.1", "198.51.100.0/24"]

[sets.services]
type = "ipv4_addr . inet_service"
elements = ["192.0.2.1 . 80", "192.0.2.2 . 8000-8080"]

[sets.long]
type = "ipv6_addr"
file = "blocked.txt"

[chains.forward]
policy = "drop"
rules = [
  'iif eth0 ip saddr @blocked drop',
  'tcp dport { 80, 443 } accept comment "web"',
]
"#;

#[test]
fn the_example() {
    let config = parse(EXAMPLE, "dataplane.toml").expect("the example");
    let forward = config.chain(ChainName::Forward);
    assert_eq!(forward.policy, Policy::Drop);
    let rules: Vec<_> = forward.rules.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["iif \"eth0\" ip saddr @blocked drop", "tcp dport { 80, 443 } accept comment \"web\""]);
    assert_eq!(config.chain(ChainName::Input), &ChainConfig::default());
    let mode = |link: &str| config.port(link).map(|port| port.mode);
    assert_eq!(mode("eth0"), Some(ModeChoice::Auto));
    assert_eq!(mode("veth3"), Some(ModeChoice::Fixed(Mode::Tc)));
    assert_eq!(mode("veth7"), Some(ModeChoice::Fixed(Mode::Generic)));
    assert_eq!(mode("eth1"), None);
    assert_eq!(config.fib, FibConfig { ipv4_routes: 1_000_000, ipv6_routes: 0 });
    let sets: Vec<_> = config.sets.values().map(|set| (set.kind.to_string(), &set.elements)).collect();
    assert_eq!(sets[1], ("ipv6_addr".to_owned(), &Elements::File("blocked.txt".into())));
    let Elements::Listed(services) = sets[2].1 else { panic!("a list") };
    assert_eq!(services[1].to_string(), "192.0.2.2 . 8000-8080");
    assert_eq!(parse("", "empty").expect("nothing is a configuration"), Config::default());
}

/// A file, line and column of what is wrong, the text at that place, and what the message says.
const FAULTS: &[(&str, usize, usize, &str, &str)] = &[
    (
        "[prots]\n",
        1,
        2,
        "prots",
        "there is no key `prots` here; take ports, fragments, assert, steer, fib, heartbeat, metrics, sflow, flows, sets or chains",
    ),
    ("fragments = 'drop'\n", 1, 13, "'drop'", "unknown fragment policy `drop`; use `drop-unreadable` or `pass`"),
    ("[flows]\nnetfilter = 'ask'\n", 2, 13, "'ask'", "use `follow` or `bypass`"),
    ("[flows]\nleast = 5\n", 2, 1, "least", "take netfilter, max, lease or ignore"),
    ("[flows]\nmax = 0\n", 2, 7, "0", "`max` must be a number from 1 to 4000000"),
    ("[flows]\nmax = 4_000_001\n", 2, 7, "4_000_001", "a number from 1 to 4000000"),
    ("[flows]\nmax = '9'\n", 2, 7, "'9'", "a number from 1 to 4000000"),
    ("[flows]\nlease = 3601\n", 2, 9, "3601", "`lease` must be a number from 1 to 3600"),
    ("[flows]\nlease = 0.5\n", 2, 9, "0.5", "a number from 1 to 3600"),
    ("[flows]\nignore = 'log'\n", 2, 10, "'log'", "`ignore` must be a list"),
    ("[flows]\nignore = ['log', 1]\n", 2, 18, "1", "an element of `ignore` must be a string"),
    ("[flows]\nignore = ['log', 'qeue']\n", 2, 18, "'qeue'", "unknown kind `qeue`; use limit, quota,"),
    ("[flows]\nignore = ['queue']\n", 2, 11, "'queue'", "`queue` cannot be ignored"),
    ("[ports]\neth0 = { until_ready = 'wait' }\n", 2, 24, "'wait'", "use `pass` or `drop`"),
    ("[ports]\neth0 = { peer = 'direct' }\n", 2, 17, "'direct'", "use `auto` or `never`"),
    ("[ports]\n'wg?' = { until_ready = 'drop' }\n", 2, 1, "'wg?'", "the beginning of names"),
    ("[fib]\nroutes = 1\n", 2, 1, "routes", "take ipv4_routes or ipv6_routes"),
    ("[fib]\nipv4_routes = -1\n", 2, 15, "-1", "a number from 0 to 4000000"),
    ("[metrics]\nport = 9464\n", 2, 1, "port", "take listen"),
    ("[metrics]\nlisten = 9464\n", 2, 10, "9464", "an address and a port"),
    ("[metrics]\nlisten = 'localhost:9464'\n", 2, 10, "'localhost:9464'", "an address and a port"),
    ("[metrics]\nlisten = '127.0.0.1:0'\n", 2, 10, "'127.0.0.1:0'", "an address and a port"),
    ("[sflow]\nserver = '192.0.2.1:6343'\n", 2, 1, "server", "take collector, agent, rate or polling"),
    ("[sflow]\ncollector = '192.0.2.1'\n", 2, 13, "'192.0.2.1'", "an address and a port"),
    ("[sflow]\ncollector = '[::]:6343'\n", 2, 13, "'[::]:6343'", "an address and a port"),
    ("[sflow]\nagent = 'router'\n", 2, 9, "'router'", "an address of this machine"),
    ("[sflow]\nrate = 0\n", 2, 8, "0", "a number from 1 to 16777215"),
    ("[sflow]\npolling = 100_000\n", 2, 11, "100_000", "a number from 0 to 86400"),
    ("[sflow]\nrate = 10\n", 2, 1, "rate", "`[sflow]` needs `collector`"),
    ("[ports]\neth0 = { mod = 'auto' }\n", 2, 10, "mod", "there is no key `mod` here; take mode"),
    ("[ports]\neth0 = { mode = 'fast' }\n", 2, 17, "'fast'", "`fast` is not a mode; use auto, native, generic or tc"),
    ("[ports]\neth0 = 'auto'\n", 2, 1, "eth0", "must be a table"),
    ("[ports]\n'eth[' = {}\n", 2, 1, "'eth['", "neither a name nor a glob"),
    ("[chains.forwarding]\n", 1, 9, "forwarding", "there is no chain `forwarding`"),
    ("[chains.forward]\npolicy = 'deny'\n", 2, 10, "'deny'", "unknown policy `deny`; use `accept` or `drop`"),
    ("[chains.forward]\npolicy = 1\n", 2, 10, "1", "must be a string"),
    ("[chains.forward]\nrules = 'accept'\n", 2, 9, "'accept'", "must be a list"),
    ("[chains.forward]\nrules = [ 1 ]\n", 2, 11, "1", "a rule must be a string"),
    ("[chains.forward]\nrule = []\n", 2, 1, "rule", "take policy or rules"),
    ("[chains.forward]\nrules = [\n  'accept',\n  'ip sadr 10.0.0.1 drop',\n]\n", 4, 7, "sadr", "found `sadr`"),
    ("[chains.input]\nrules = [\"tcp dport 70000 drop\"]\n", 2, 21, "70000", "a port"),
    ("[chains.input]\nrules = [\"iif \\\"lo\\\" tcp dport 70000 drop\"]\n", 2, 32, "70000", "a port"),
    ("[chains.input]\nrules = [\"iif \\u0022lo\\U00000022 tcp dport 7x drop\"]\n", 2, 44, "7x", "a port"),
    ("[chains.input]\nrules = ['''\ntcp dport\n  70000\n''']\n", 4, 3, "70000", "a port"),
    ("[chains.input]\r\nrules = ['''\r\ntcp dport\r\n  70000\r\n''']\r\n", 4, 3, "70000", "a port"),
    ("[chains.input]\nrules = [\"\"\"\ntcp dport \\\n   \n  70000 drop\"\"\"]\n", 5, 3, "70000", "a port"),
    ("[chains.input]\nrules = [\"\"\"tcp \\\n  flags sin\"\"\"]\n", 3, 9, "sin", "a TCP flag"),
    ("[chains.input]\nrules = ['tcp dport']\n", 2, 20, "'", "the rule ends here"),
    ("[chains.input]\nrules = ['accept comment \"ä\" x']\n", 2, 30, "x", "the end of the rule"),
    ("[chains.input]\nrules = ['ip saddr 1.1.1.1 ip6 saddr ::1 drop']\n", 2, 28, "ip6 saddr ::1", "is IPv6"),
    ("[chains.input]\nrules = ['ip saddr @nobody drop']\n", 2, 11, "ip saddr @nobody", "there is no set @nobody"),
    ("[sets.a]\ntype = 'ipv4'\n", 2, 9, "ipv4", "`ipv4_addr`"),
    ("[sets.a]\nelements = []\n", 1, 7, "a", "`type` is missing"),
    ("[sets.a]\ntype = 'ipv4_addr'\nelements = ['1.1.1.1', '::1']\n", 3, 25, "::1", "an IPv4 address"),
    ("[sets.a]\ntype = 'ipv4_addr . inet_service'\nelements = ['1.1.1.1 . 70000']\n", 3, 24, "70000", "a port"),
    ("[sets.a]\ntype = 'ipv4_addr'\nelements = []\nfile = 'x'\n", 1, 7, "a", "either `elements` or `file`"),
    ("[sets.9]\ntype = 'mark'\n", 1, 7, "9", "the name of a set"),
    ("[chains.input\n", 1, 14, "\n", ""),
    ("[ports]\na = {}\na = {}\n", 3, 1, "a", "duplicate key"),
];

#[test]
fn faults_have_a_position() {
    for (text, line, column, place, message) in FAULTS {
        let error = parse(text, "some.toml").expect_err(text);
        assert_eq!((error.line, error.column), (*line, *column), "{text}{error}");
        assert!(error.message.contains(message), "{text}{error}");
        let shown = error.to_string();
        assert!(shown.contains(&format!("some.toml:{line}:{column}: ")), "{shown}");
        let there: String = text.lines().nth(line - 1).unwrap_or("").chars().skip(column - 1).collect();
        assert!((there.clone() + "\n").starts_with(place), "{text}{there}");
        let carets = shown.matches('^').count();
        assert_eq!(carets, place.chars().count().max(1), "{shown}");
    }
}

#[test]
fn a_fault_is_shown_with_its_line() {
    let error = parse("[chains.forward]\nrules = [\n  'ip sadr 10.0.0.1 drop',\n]\n", "etc/dp.toml").expect_err("sadr");
    let expected = "\
error: etc/dp.toml:3:7: found `sadr`, expected `daddr`, `dscp`, `frag-off`, `protocol`, `saddr`, `ttl` or `version`: did you mean `saddr`?
  |
3 |   'ip sadr 10.0.0.1 drop',
  |       ^^^^
  |";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn later_faults_find_their_rule() {
    let error = at_rule(EXAMPLE, "dataplane.toml", ChainName::Forward, 1, "too much");
    assert_eq!((error.line, error.column), (25, 3), "{error}");
}

#[test]
fn files_of_elements() {
    let kind = SetType::new(vec![ItemKind::Ipv4]).expect("a type");
    let text = "# bad people\n192.0.2.1\n\n  198.51.100.0/24  # all of them\n";
    let elements = parse_set_file(&kind, text, "blocked.txt").expect("elements");
    let shown: Vec<_> = elements.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["192.0.2.1", "198.51.100.0/24"]);
    let error = parse_set_file(&kind, "192.0.2.1\n 192.0.2\n", "blocked.txt").expect_err("no address");
    assert_eq!((error.line, error.column), (2, 2), "{error}");
}

fn item(kind: ItemKind) -> BoxedStrategy<Item> {
    match kind {
        ItemKind::Ipv4 => ipv4().prop_map(|address| Item::Ipv4(Range::single(address))).boxed(),
        ItemKind::Ipv6 => (ipv6(), 0..=128u32)
            .prop_filter_map("a prefix", |(address, length)| Range::prefix(address, length).map(Item::Ipv6))
            .boxed(),
        ItemKind::Ether => bits().prop_map(|mac| Item::Ether(Range::single(mac))).boxed(),
        ItemKind::Protocol => bits().prop_map(|protocol| Item::Protocol(Range::single(protocol))).boxed(),
        ItemKind::Service => bits().prop_map(|port| Item::Service(Range::single(port))).boxed(),
        ItemKind::Mark => bits().prop_map(|mark| Item::Mark(Range::single(mark))).boxed(),
        ItemKind::Link => pattern().prop_map(Item::Link).boxed(),
    }
}

fn set() -> impl Strategy<Value = SetConfig> {
    vec(select(ItemKind::ALL.to_vec()), 1..4).prop_flat_map(set_of)
}

fn set_of(kinds: Vec<ItemKind>) -> impl Strategy<Value = SetConfig> {
    {
        let element = kinds.iter().map(|kind| item(*kind)).collect::<Vec<_>>().prop_map(Element);
        let listed = vec(element, 0..4).prop_map(|listed| Elements::Listed(listed.into()));
        let elements = prop_oneof![4 => listed, 1 => Just(Elements::File("a \"b\"/c'.txt".into()))];
        let kind = SetType::new(kinds).expect("at least one");
        elements.prop_map(move |elements| SetConfig { kind: kind.clone(), elements })
    }
}

fn sflow() -> impl Strategy<Value = SflowConfig> {
    let collector = select(vec!["192.0.2.1:6343", "[2001:db8::1]:1"]).prop_map(|text| text.parse().expect(text));
    let agent = option::of(select(vec!["192.0.2.2", "2001:db8::2"]));
    let agent = agent.prop_map(|text| text.map(|text| text.parse().expect(text)));
    let collected = (collector, agent, 1..=16_777_215_u32, 0..=86_400_u32);
    option::of(collected).prop_map(|collected| match collected {
        Some((collector, agent, rate, polling)) => SflowConfig { collector: Some(collector), agent, rate, polling },
        None => SflowConfig::default(),
    })
}

fn flows() -> impl Strategy<Value = FlowsConfig> {
    let choice = select(vec![NetfilterChoice::Follow, NetfilterChoice::Bypass]);
    let kinds: Vec<_> = ObstacleKind::ALL.into_iter().filter(|kind| kind.can_be_ignored()).collect();
    let max = prop_oneof![Just(65_536), 1..=4_000_000_u32];
    let ignore = vec(select(kinds), 0..4).prop_map(|kinds| kinds.into_iter().collect());
    (choice, max, 1..=3600_u32, ignore).prop_map(|(netfilter, max, lease, ignore)| FlowsConfig {
        netfilter,
        max,
        lease,
        ignore,
    })
}

fn config() -> impl Strategy<Value = Config> {
    let mode = select(vec![
        ModeChoice::Auto,
        ModeChoice::Fixed(Mode::Native),
        ModeChoice::Fixed(Mode::Generic),
        ModeChoice::Fixed(Mode::Tc),
    ]);
    let names = select(vec!["eth0", "veth*", "wg?", "en[ps]*", "eth0.100", "a b"]);
    let until_ready = select(vec![UntilReady::Pass, UntilReady::Drop]);
    let peer = select(vec![PeerChoice::Auto, PeerChoice::Never]);
    let ports = btree_map(names, (mode, until_ready, peer), 0..4).prop_map(|ports| {
        let port = |(text, (mode, until_ready, peer)): (&str, _)| PortConfig {
            peer,
            pattern: PortPattern::new(text).expect(text),
            mode,
            until_ready: if text.contains(['?', '[']) { UntilReady::Pass } else { until_ready },
        };
        ports.into_iter().rev().map(port).collect()
    });
    let policy = || option::of(Just(Policy::Drop)).prop_map(Option::unwrap_or_default);
    let chain =
        || (policy(), vec(rule().prop_map(Arc::new), 0..4)).prop_map(|(policy, rules)| ChainConfig { policy, rules });
    let routes = || prop_oneof![Just(0), 0..=4_000_000_u32];
    let fib = (routes(), routes()).prop_map(|(ipv4_routes, ipv6_routes)| FibConfig { ipv4_routes, ipv6_routes });
    let heartbeat = prop_oneof![Just(0), Just(60), 3..=31_536_000_u32].prop_map(|after| HeartbeatConfig { after });
    let fragments = select(vec![Fragments::DropUnreadable, Fragments::Pass]);
    let listen = option::of(select(vec!["127.0.0.1:9464", "[::1]:1", "0.0.0.0:65535", "[2001:db8::1]:80"]));
    let metrics = listen.prop_map(|listen| MetricsConfig { listen: listen.map(|text| text.parse().expect(text)) });
    let config = (
        ports,
        (fragments, fib),
        heartbeat,
        (metrics, sflow(), flows()),
        btree_map(set_name(), set(), 0..3),
        [chain(), chain(), chain(), chain()],
    );
    // Rules of chain postrouting only translate.
    let of_driver = |[prerouting, input, forward, output]: [ChainConfig; 4]| {
        [prerouting, input, forward, output, ChainConfig::default()]
    };
    config.prop_flat_map(move |(ports, (fragments, fib), heartbeat, (metrics, sflow, flows), sets, chains)| {
        let chains = of_driver(chains);
        // A set for each name that a rule asks.
        let asked: Vec<_> = chains.iter().flat_map(ChainConfig::rules).flat_map(crate::rule::Rule::matches).collect();
        let asked: std::collections::BTreeMap<_, _> = asked
            .into_iter()
            .filter_map(|one: &crate::rule::Match| Some((one.set()?.clone(), one.set_type()?.kinds().to_vec())))
            .collect();
        let theirs: Vec<_> = asked.values().map(|kind| set_of(kind.clone())).collect();
        let asked: Vec<_> = asked.into_keys().collect();
        theirs.prop_map(move |theirs| {
            let sets = sets.clone().into_iter().chain(asked.iter().cloned().zip(theirs)).collect();
            Config {
                assertions: vec!["must forward icmp 192.0.2.1 > 192.0.2.9".parse().expect("an assertion")],
                steer: vec!["tcp 192.0.2.0/24 port 1-9 to listen :4000 or drop".parse().expect("an entry")],
                ports: Vec::clone(&ports),
                fragments,
                fib,
                heartbeat,
                metrics,
                sflow,
                flows,
                sets,
                chains: chains.clone(),
            }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn write_then_parse_is_the_identity(config in config()) {
        let written = config.to_toml();
        let again = parse(&written, "written").map_err(|error| TestCaseError::fail(format!("{error}\n{written}")))?;
        prop_assert_eq!(&again, &config, "{}", written);
        prop_assert_eq!(again.to_toml(), written);
    }

    #[test]
    fn nothing_makes_it_panic(place in 0..EXAMPLE.len(), length in 0..8usize, with in "['\"\\[\\]={}\\\\a\n]{0,3}") {
        let mut text = EXAMPLE.to_owned();
        let end = (place + length).min(text.len());
        text.replace_range(place..end, &with);
        if let Err(error) = parse(&text, "broken") {
            prop_assert!(error.line <= text.lines().count() + 1);
        }
    }
}
