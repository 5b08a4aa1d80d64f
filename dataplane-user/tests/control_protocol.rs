//! What travels on the socket, to the letter: a command line and a daemon of different versions meet there.

use dataplane_user::{
    control::{
        json,
        protocol::{ConfigText, Data, Failure, FailureKind, Reply, Request, Response, Selection},
        row::{Counts, MirrorRow, MirrorState, Stats},
    },
    model::{Mode, ModeChoice},
    rule::ChainName,
};

#[test]
fn requests_go_there_and_back() {
    let config = || ConfigText { path: "a.toml".to_owned(), toml: "[ports]\n".to_owned() };
    let rule = || "ip saddr 192.0.2.1 drop comment \"a\nb\"".to_owned();
    let rows = [
        (
            Request::Attach { ifaces: vec!["eth0".to_owned()], mode: ModeChoice::Fixed(Mode::Native) },
            r#"{"verb":"attach","with":{"ifaces":["eth0"],"mode":"native"}}"#,
            true,
        ),
        (Request::Detach(Selection::All), r#"{"verb":"detach","with":"all"}"#, true),
        (
            Request::Detach(Selection::Ifaces(vec!["eth0".to_owned()])),
            r#"{"verb":"detach","with":{"ifaces":["eth0"]}}"#,
            true,
        ),
        (Request::PortList, r#"{"verb":"port list"}"#, false),
        (Request::RouteList { prefix: None, table: None }, r#"{"verb":"route list","with":{"prefix":null}}"#, false),
        (
            Request::RouteGet { addr: "2001:db8::1".parse().expect("v6"), from: None, iif: Some("eth0".to_owned()) },
            r#"{"verb":"route get","with":{"addr":"2001:db8::1","from":null,"iif":"eth0"}}"#,
            false,
        ),
        (Request::NeighList, r#"{"verb":"neigh list"}"#, false),
        (Request::RuleList { chain: None }, r#"{"verb":"rule list","with":{"chain":null}}"#, false),
        (
            Request::RuleAdd { chain: ChainName::Forward, rule: rule() },
            r#"{"verb":"rule add","with":{"chain":"forward","rule":"ip saddr 192.0.2.1 drop comment \"a\nb\""}}"#,
            true,
        ),
        (
            Request::RuleInsert { chain: ChainName::Input, rule: "drop".to_owned(), place: None },
            r#"{"verb":"rule insert","with":{"chain":"input","rule":"drop"}}"#,
            true,
        ),
        (
            Request::RuleDel { chain: ChainName::Output, handle: u64::MAX },
            r#"{"verb":"rule del","with":{"chain":"output","handle":18446744073709551615}}"#,
            true,
        ),
        (
            Request::RuleFlush { chain: ChainName::Prerouting },
            r#"{"verb":"rule flush","with":{"chain":"prerouting"}}"#,
            true,
        ),
        (Request::SetList { name: None }, r#"{"verb":"set list","with":{"name":null}}"#, false),
        (
            Request::SetAdd { name: "s".to_owned(), elements: vec!["192.0.2.1".to_owned()] },
            r#"{"verb":"set add","with":{"name":"s","elements":["192.0.2.1"]}}"#,
            true,
        ),
        (
            Request::SetDel { name: "s".to_owned(), elements: vec!["192.0.2.1".to_owned()] },
            r#"{"verb":"set del","with":{"name":"s","elements":["192.0.2.1"]}}"#,
            true,
        ),
        (Request::ConfigShow, r#"{"verb":"config show"}"#, false),
        (Request::ConfigDiff(config()), r#"{"verb":"config diff","with":{"path":"a.toml","toml":"[ports]\n"}}"#, false),
        (
            Request::ConfigApply(config().into()),
            r#"{"verb":"config apply","with":{"path":"a.toml","toml":"[ports]\n"}}"#,
            true,
        ),
        (Request::Metrics, r#"{"verb":"metrics"}"#, false),
        (Request::Stats { iface: None }, r#"{"verb":"stats","with":{"iface":null}}"#, false),
        (Request::Doctor, r#"{"verb":"doctor"}"#, false),
        (Request::Whereabouts, r#"{"verb":"whereabouts"}"#, false),
    ];
    for (request, line, change) in rows.into_iter().chain(flow_requests()) {
        assert_eq!(json::line(&request).expect("JSON"), line);
        assert_eq!(json::parse::<Request>(line.as_bytes()).expect("a request"), request);
        assert_eq!(request.is_change(), change, "{line}");
    }
}

/// Those about connections.
fn flow_requests() -> [(Request, &'static str, bool); 7] {
    [
        (Request::SocketList, r#"{"verb":"socket list"}"#, false),
        (Request::SteerList, r#"{"verb":"steer list"}"#, false),
        (
            Request::SteerAdd { entry: "tcp 192.0.2.1 port 1 to fd 3".to_owned(), replace: true },
            r#"{"verb":"steer add","with":{"entry":"tcp 192.0.2.1 port 1 to fd 3","replace":true}}"#,
            true,
        ),
        (Request::SteerDel { id: 7 }, r#"{"verb":"steer del","with":{"id":7}}"#, true),
        (
            Request::FlowList { filter: "dport 443".to_owned(), why_not: true, limit: 9 },
            r#"{"verb":"flow list","with":{"filter":"dport 443","why_not":true,"limit":9}}"#,
            false,
        ),
        (
            Request::FlowDel { filter: "proto udp".to_owned() },
            r#"{"verb":"flow del","with":{"filter":"proto udp"}}"#,
            true,
        ),
        (Request::FlowFlush, r#"{"verb":"flow flush"}"#, true),
    ]
}

#[test]
fn answers_go_there_and_back() {
    let stats = Stats {
        totals: Counts::new(u64::MAX, 0, 0, 0),
        reasons: [("local".to_owned(), 1)].into(),
        ports: vec![],
        links: vec![],
        mirror: MirrorRow { state: MirrorState::Loading, routes4: 7, routes6: 2, resyncs: 3, mended: 1, probes: 5 },
        heartbeat: 60,
        flows: None,
        kernel_rules: None,
    };
    let rows = [
        (Response::Reply(Data::Done.into()), r#"{"reply":{"data":"done","warnings":[]}}"#.to_owned()),
        (
            Response::Reply(Reply::from(Data::Config("a".to_owned())).warn("b")),
            r#"{"reply":{"data":{"config":"a"},"warnings":["b"]}}"#.to_owned(),
        ),
        (
            Response::Reply(Data::Stats(stats).into()),
            format!(
                r#"{{"reply":{{"data":{{"stats":{{"totals":{{"rx":{0},"forwarded":{0},"delivered":0,"dropped":0,"passed":0}},"reasons":{{"local":1}},"ports":[],"links":[],"mirror":{{"state":"loading","routes4":7,"routes6":2,"resyncs":3,"mended":1,"probes":5}},"heartbeat":60,"flows":null,"kernel_rules":null}}}},"warnings":[]}}}}"#,
                u64::MAX
            ),
        ),
        (
            Response::Failure(Failure::new(FailureKind::NotFound, "no port eth9")),
            r#"{"failure":{"kind":"not_found","message":"no port eth9"}}"#.to_owned(),
        ),
    ];
    for (answer, line) in rows {
        assert_eq!(json::line(&answer).expect("JSON"), line);
        assert_eq!(json::parse::<Response>(line.as_bytes()).expect("an answer"), answer);
    }
}

#[test]
fn exit_codes_are_the_contract() {
    let rows = [
        (FailureKind::Failed, 1),
        (FailureKind::Usage, 2),
        (FailureKind::NotFound, 3),
        (FailureKind::Unreachable, 4),
        (FailureKind::Rejected, 5),
        (FailureKind::Differences, 6),
        (FailureKind::Degraded, 7),
    ];
    for (kind, code) in rows {
        assert_eq!(kind.exit_code(), code, "{kind:?}");
    }
}
