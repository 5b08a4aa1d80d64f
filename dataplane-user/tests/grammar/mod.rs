//! Every verb that sends a request to the daemon, with each form of its grammar, and the request.

use dataplane_user::{
    config,
    control::{
        protocol::{Apply, Care, Careful, ConfigText, Place, Request, Selection},
        set_row::DynamicRow,
    },
    model::{Mode, ModeChoice},
    rule::ChainName,
};

/// A config that can be read.
pub(crate) const CONFIG: &str = "[ports]\neth0 = { mode = \"auto\" }\n";

/// All of it; `file` holds [`CONFIG`].
pub(crate) fn grammar(file: &str) -> Vec<(String, Request)> {
    let rows = [links(), rules(), configs(file), flow_grammar().into()].concat();
    rows.into_iter().map(|(command, request)| (command.replace("FILE", file), request)).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Ports, routes and neighbours.
fn links() -> Vec<(&'static str, Request)> {
    let attach = |ifaces: &[&str], mode| Request::Attach { ifaces: names(ifaces), mode };
    let addr = |text: &str| text.parse().expect("an address");
    vec![
        ("attach eth0", attach(&["eth0"], ModeChoice::Auto)),
        ("attach eth0 eth1 --mode tc", attach(&["eth0", "eth1"], ModeChoice::Fixed(Mode::Tc))),
        ("attach --mode=native eth0", attach(&["eth0"], ModeChoice::Fixed(Mode::Native))),
        ("attach eth0 --mode generic", attach(&["eth0"], ModeChoice::Fixed(Mode::Generic))),
        ("detach eth0 eth1", Request::Detach(Selection::Ifaces(names(&["eth0", "eth1"])))),
        ("detach --all", Request::Detach(Selection::All)),
        ("port attach eth0 --mode tc", attach(&["eth0"], ModeChoice::Fixed(Mode::Tc))),
        ("port detach eth0", Request::Detach(Selection::Ifaces(names(&["eth0"])))),
        ("port list", Request::PortList),
        ("-j port list", Request::PortList),
        ("route list", Request::RouteList { prefix: None, table: None }),
        ("route list 198.18.0.0/15", Request::RouteList { prefix: Some("198.18.0.0/15".to_owned()), table: None }),
        ("route", Request::RouteList { prefix: None, table: None }),
        ("r l table 7 dev eth0", Request::RouteList { prefix: None, table: Some(7) }),
        ("-6 ro show default", Request::RouteList { prefix: None, table: None }),
        ("route get 198.18.0.1", Request::RouteGet { addr: addr("198.18.0.1"), from: None, iif: None }),
        (
            "route get 2001:db8::1 from 2001:db8::2 iif eth0 -j",
            Request::RouteGet {
                addr: addr("2001:db8::1"),
                from: Some(addr("2001:db8::2")),
                iif: Some("eth0".to_owned()),
            },
        ),
        ("neigh list", Request::NeighList),
        ("n ls eth0", Request::NeighList),
        ("socket list", Request::SocketList),
        ("so ls tcp port 22", Request::SocketList),
        ("port", Request::PortList),
        ("p -br", Request::PortList),
    ]
}

/// Rules, chains and sets.
fn rules() -> Vec<(&'static str, Request)> {
    let add = |chain, rule: &str| Request::RuleAdd { chain, rule: rule.to_owned() };
    let rules = vec![
        ("ru show forward", Request::RuleList { chain: Some(ChainName::Forward) }),
        ("rule list", Request::RuleList { chain: None }),
        ("rule list output", Request::RuleList { chain: Some(ChainName::Output) }),
        ("rule add forward tcp dport { 80, 443 } accept", add(ChainName::Forward, "tcp dport { 80, 443 } accept")),
        ("rule add prerouting drop comment web", add(ChainName::Prerouting, "drop comment \"web\"")),
        (
            "rule insert input drop",
            Request::RuleInsert { chain: ChainName::Input, rule: "drop".to_owned(), place: None },
        ),
        (
            "rule insert input before handle 3 drop",
            Request::RuleInsert {
                chain: ChainName::Input,
                rule: "drop".to_owned(),
                place: Some(Place { before: true, handle: 3 }),
            },
        ),
        (
            "rule replace input handle 3 drop",
            Request::RuleReplace { chain: ChainName::Input, handle: 3, rule: "drop".to_owned() },
        ),
        ("rule del forward 7", Request::RuleDel { chain: ChainName::Forward, handle: 7 }),
        ("rule delete forward handle 7", Request::RuleDel { chain: ChainName::Forward, handle: 7 }),
        ("rule del forward handle 7", Request::RuleDel { chain: ChainName::Forward, handle: 7 }),
        ("rule flush forward", Request::RuleFlush { chain: ChainName::Forward }),
    ];
    [rules, sets()].concat()
}

/// Chains and sets.
fn sets() -> Vec<(&'static str, Request)> {
    vec![
        ("chain list", Request::ChainList),
        ("chain policy forward drop", Request::ChainPolicy { chain: ChainName::Forward, policy: "drop".to_owned() }),
        (
            "set create pairs ipv4_addr . inet_service",
            Request::SetCreate { name: "pairs".to_owned(), kind: "ipv4_addr . inet_service".to_owned(), dynamic: None },
        ),
        (
            "set create seen ipv4_addr --dynamic --timeout 5m --size 9",
            Request::SetCreate {
                name: "seen".to_owned(),
                kind: "ipv4_addr".to_owned(),
                dynamic: Some(DynamicRow { timeout: Some("5m".to_owned()), size: 9 }),
            },
        ),
        ("set destroy pairs", Request::SetDestroy { name: "pairs".to_owned() }),
        (
            "rule flush input --confirm 2m",
            Request::Careful(Box::new(Careful {
                change: Request::RuleFlush { chain: ChainName::Input },
                care: Care { confirm: Some(120), ..Care::default() },
            })),
        ),
        ("set list", Request::SetList { name: None }),
        ("set list blocked -j", Request::SetList { name: Some("blocked".to_owned()) }),
        (
            "set add blocked 192.0.2.1 192.0.2.2",
            Request::SetAdd { name: "blocked".to_owned(), elements: names(&["192.0.2.1", "192.0.2.2"]) },
        ),
        (
            "set del pairs { 192.0.2.1 . 80, 192.0.2.2 . 443 }",
            Request::SetDel { name: "pairs".to_owned(), elements: names(&["192.0.2.1 . 80", "192.0.2.2 . 443"]) },
        ),
    ]
}

/// Configs and counters.
fn configs(file: &str) -> Vec<(&'static str, Request)> {
    let canonical = config::parse(CONFIG, file).expect("a config");
    let config = ConfigText { path: file.to_owned(), toml: canonical.to_toml() };
    vec![
        ("c", Request::ConfigShow),
        ("config show", Request::ConfigShow),
        ("config diff FILE", Request::ConfigDiff(config.clone())),
        ("config apply FILE", Request::ConfigApply(config.clone().into())),
        (
            "config apply FILE --confirm 1m",
            Request::ConfigApply(Apply { confirm: Some(60), ..Apply::from(config.clone()) }),
        ),
        ("config apply FILE --force", Request::ConfigApply(Apply { force: true, ..Apply::from(config) })),
        ("config confirm", Request::ConfigConfirm),
        ("config rollback", Request::ConfigRollback),
        ("config rollback --list", Request::ConfigHistory),
        ("config history", Request::ConfigHistory),
        ("stats", Request::Stats { iface: None }),
        ("stats eth0", Request::Stats { iface: Some("eth0".to_owned()) }),
        ("stats --watch", Request::Stats { iface: None }),
        ("stats --watch --interval 0.5 --count 3", Request::Stats { iface: None }),
        ("metrics", Request::Metrics),
    ]
}

/// The same of connections.
fn flow_grammar() -> [(&'static str, Request); 5] {
    let flows = |filter: &str, why_not| Request::FlowList { filter: filter.to_owned(), why_not, limit: 10_000 };
    [
        ("flow list", flows("", false)),
        ("flow list saddr 198.18.0.2 dport 443 proto tcp", flows("saddr 198.18.0.2 dport 443 proto tcp", false)),
        ("flow list --why-not", flows("", true)),
        ("flow del dport 53", Request::FlowDel { filter: "dport 53".to_owned() }),
        ("flow flush", Request::FlowFlush),
    ]
}
