//! What each read verb prints for fixed replies, as text and as JSON. `UPDATE_GOLDEN=1` writes the files anew.

mod fake;
mod rows;

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use dataplane_user::{
    control::{
        flow::FlowCounts,
        protocol::{Data, Failure, FailureKind, Reply, Request},
        row::{
            Counts, DecisionRow, Difference, LinkRow, MirrorRow, MirrorState, NeighbourRow, NextHopRow, PortRow,
            RouteRow, RoutesRow, RuleRow, Stats, Table,
        },
        set_row::SetRow,
    },
    rule::ChainName,
};
use fake::{Daemon, text};
use rows::{addr, flows, owned, sockets, steered};
use serde_json::Value;

fn ports() -> Vec<PortRow> {
    let row = |name: &str, ifindex, mode: &str, mac, vlan, counts| PortRow {
        name: name.to_owned(),
        ifindex,
        mode: mode.to_owned(),
        state: "up".to_owned(),
        mac,
        mtu: 1500,
        vlan,
        taken: None,
        ipsec: false,
        routes: RoutesRow {
            ipv4: "mirror".to_owned(),
            ipv6: if mode == "tc" { "kernel" } else { "mirror" }.to_owned(),
        },
        netfilter: if mode == "tc" { "follow" } else { "none" }.to_owned(),
        flows: if mode == "tc" { "on" } else { "none" }.to_owned(),
        header: "ethernet".to_owned(),
        layer3: None,
        switching: None,
        peer: "none".to_owned(),
        counts,
    };
    vec![
        row("eth0", 2, "native", owned("02:00:00:00:00:01"), None, Counts::new(1_000_000, 20, 3, 400)),
        row("eth0.7", 12, "tc", owned("02:00:00:00:00:01"), Some(7), Counts::new(0, 0, 0, 1)),
        row("wg0", 101, "tc", None, None, Counts::default()),
    ]
}

fn routes() -> Vec<RouteRow> {
    let hop = |via: Option<&str>, dev: &str, weight| NextHopRow { via: via.map(addr), dev: owned(dev), weight };
    let row = |dst: &str, kind: &str, nexthops, mtu, packets| RouteRow {
        dst: dst.to_owned(),
        kind: kind.to_owned(),
        nexthops,
        mtu,
        packets,
        protocol: "static".to_owned(),
        metric: 100,
        table: 254,
    };
    vec![
        row("0.0.0.0/0", "unicast", vec![hop(Some("192.0.2.1"), "eth0", 1)], None, Some(5)),
        row("198.18.0.0/24", "unicast", vec![hop(None, "eth0", 1)], Some(1400), None),
        row("198.51.100.0/24", "unicast", vec![hop(Some("fe80::2"), "eth0", 1)], None, None),
        row("198.18.0.1/32", "local", vec![hop(None, "eth0", 1)], None, None),
        row("203.0.113.0/24", "blackhole", vec![], None, None),
        row(
            "2001:db8::/32",
            "unicast",
            vec![hop(Some("fe80::1"), "eth0", 2), hop(Some("192.0.2.1"), "wg0", 1)],
            None,
            None,
        ),
    ]
}

fn decision(addr_text: &str) -> DecisionRow {
    let (verdict, reason, known) =
        if addr_text == "198.18.1.2" { ("forward", "forwarded", true) } else { ("kernel", "no_route", false) };
    let when = |text: &str| known.then(|| text.to_owned());
    DecisionRow {
        verdict: verdict.to_owned(),
        decision: verdict.to_owned(),
        reason: reason.to_owned(),
        dst: addr(addr_text),
        prefix: when("198.18.0.0/15"),
        dev: when("eth1"),
        via: known.then(|| addr("192.0.2.1")),
        lladdr: when("02:00:00:00:00:02"),
        table: if known { Table::Mirror } else { Table::Kernel },
    }
}

fn neighbours() -> Vec<NeighbourRow> {
    let row = |dst, lladdr, state: &str| NeighbourRow {
        dst: addr(dst),
        dev: "eth0".to_owned(),
        lladdr,
        state: state.to_owned(),
    };
    vec![
        row("192.0.2.1", owned("02:00:00:00:00:02"), "reachable"),
        row("2001:db8::1", owned("02:00:00:00:00:03"), "stale"),
        row("192.0.2.9", None, "failed"),
    ]
}

fn rules(only: Option<ChainName>) -> Vec<RuleRow> {
    let row = |chain, handle, rule: &str, packets| RuleRow {
        chain,
        handle,
        rule: rule.to_owned(),
        packets,
        bytes: packets * 60,
    };
    let mut rows = vec![
        row(ChainName::Input, 9, "icmp type echo-request accept", 4),
        row(ChainName::Forward, 3, "ip saddr 192.0.2.0/24 tcp dport { 80, 443 } accept comment \"web #1\"", 12),
        row(ChainName::Forward, 5, "drop", 0),
    ];
    rows.retain(|row| only.is_none_or(|chain| chain == row.chain));
    rows
}

fn sets(only: Option<&str>) -> Vec<SetRow> {
    let row = |name: &str, kind: &str, elements: &[&str]| SetRow {
        name: name.to_owned(),
        kind: kind.to_owned(),
        elements: elements.iter().map(|&element| element.to_owned()).collect(),
        dynamic: None,
    };
    let mut rows = vec![
        row("blocked", "ipv4_addr", &["192.0.2.1", "198.51.100.0/24", "203.0.113.7-203.0.113.9"]),
        row("none", "ifname", &[]),
        row("pairs", "ipv6_addr . inet_service", &["2001:db8::/32 . 443"]),
    ];
    rows.retain(|row| only.is_none_or(|only| only == row.name));
    rows
}

fn stats(iface: Option<&str>) -> Stats {
    let mut ports = ports();
    ports.retain(|port| iface.is_none_or(|iface| iface == port.name));
    let mut totals = Counts::default();
    for port in &ports {
        totals += port.counts;
    }
    let reasons = [
        ("forwarded", totals.forwarded),
        ("local", totals.delivered),
        ("filter_forward", totals.dropped),
        ("not_ip", totals.passed),
        ("blackhole", 0),
    ];
    let mirror = MirrorRow { state: MirrorState::Live, routes4: 8, routes6: 5, resyncs: 2, mended: 1, probes: 9 };
    // One link that is counted, and one that is not yet.
    let links = ports.iter().filter(|port| port.name != "wg0").map(|port| LinkRow {
        name: port.name.clone(),
        ifindex: port.ifindex,
        rx_packets: port.counts.rx + 7,
        rx_bytes: 100 * port.counts.rx,
        rx_errors: 1,
        rx_dropped: 2,
        tx_packets: 60,
        tx_bytes: 6000,
        tx_errors: 3,
        tx_dropped: 4,
    });
    Stats {
        totals,
        reasons: reasons.map(|(name, count)| (name.to_owned(), count)).into(),
        links: links.collect(),
        ports,
        mirror,
        heartbeat: 60,
        kernel_rules: None,
        flows: Some(Box::new(FlowCounts {
            rows: 4,
            max: 65_536,
            armed: 3,
            events: 9,
            carried: 1000,
            ..FlowCounts::default()
        })),
    }
}

const CONFIG: &str =
    "[ports]\neth0 = { mode = \"auto\" }\n\n[chains.forward]\npolicy = \"drop\"\nrules = [\n  'accept',\n]\n";

fn answer(request: &Request) -> Result<Reply, Failure> {
    let difference = Difference {
        add: vec!["port eth1".to_owned()],
        remove: vec!["rule forward drop".to_owned()],
        change: vec!["chain input: policy accept -> drop".to_owned()],
    };
    let data = match request {
        Request::PortList => Data::Ports(ports()),
        Request::RouteList { prefix: None, .. } => Data::Routes(routes()),
        Request::RouteList { prefix: Some(prefix), .. } => {
            Data::Routes(routes().into_iter().filter(|row| row.dst == *prefix).collect())
        }
        Request::RouteGet { addr, .. } => Data::Decision(decision(&addr.to_string())),
        Request::FlowList { .. } => Data::Flows(flows()),
        Request::FlowDel { .. } => Data::Deleted(2),
        Request::NeighList => Data::Neighbours(neighbours()),
        Request::SocketList => Data::Sockets(sockets()),
        Request::SteerList => Data::Steer(steered()),
        Request::RuleList { chain } => Data::Rules(rules(*chain)),
        Request::RuleAdd { .. } => Data::Rules(rules(Some(ChainName::Input))),
        Request::SetList { name } => Data::Sets(sets(name.as_deref())),
        Request::FlowFlush | Request::SetAdd { .. } | Request::SetDel { .. } => Data::Done,
        Request::ConfigShow => Data::Config(CONFIG.to_owned()),
        Request::ConfigDiff(_) | Request::ConfigApply(_) => Data::Difference(difference),
        Request::Stats { iface } => Data::Stats(stats(iface.as_deref())),
        request => return Err(Failure::new(FailureKind::Failed, format!("{request:?}"))),
    };
    Ok(data.into())
}

#[test]
fn goldens() {
    let daemon = Daemon::start(answer);
    let file = daemon.socket.with_file_name("new.toml");
    let wanted = CONFIG.replace("  'accept',", "  'tcp dport 22 accept',\n  'accept',");
    fs::write(&file, wanted).expect("a file");
    let rows: &[(&str, &[&str])] = &[
        ("port_list", &["port list", "port -br"]),
        (
            "route_list",
            &["route list", "route list 203.0.113.0/24", "-6 route", "route list match 198.18.0.7 dev eth0"],
        ),
        ("route_get", &["route get 198.18.1.2", "route get 2001:db8::7 iif eth0"]),
        ("neigh_list", &["neigh list"]),
        ("socket_list", &["socket list", "socket list process sshd filter yes", "-6 socket list udp"]),
        ("steer_list", &["steer list"]),
        ("flow_list", &["flow list"]),
        ("flow_change", &["flow del dport 443", "flow flush"]),
        ("rule_list", &["rule list", "rule list forward", "rule list -br"]),
        ("rule_add", &["rule add input icmp type echo-request accept"]),
        ("set_list", &["set list", "set list blocked"]),
        ("set_change", &["set add blocked 192.0.2.9", "set del blocked 192.0.2.9 192.0.2.1"]),
        ("config_show", &["config show"]),
        ("config_diff", &["config diff FILE"]),
        ("config_apply", &["config apply FILE"]),
        ("stats", &["stats", "stats eth0.7", "stats -br"]),
    ];
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for (name, commands) in rows {
        let mut found = String::new();
        for command in commands.iter().flat_map(|command| [(*command).to_owned(), format!("{command} -j")]) {
            let args: Vec<_> =
                command.split(' ').map(|arg| if arg == "FILE" { file.to_str().expect("UTF-8") } else { arg }).collect();
            let output = daemon.dataplane(&args);
            let code = if command.contains("diff") { 6 } else { 0 };
            assert_eq!(output.status.code(), Some(code), "{command}: {}", text(&output.stderr));
            writeln!(
                found,
                "$ dataplane {command}\n{}",
                text(&output.stdout).replace(file.to_str().expect("UTF-8"), "FILE")
            )
            .expect("memory");
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("txt");
        if update {
            fs::write(&path, &found).expect("the golden is written");
        }
        let want = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(found, want, "{}", path.display());
    }
}

/// Every key of the objects under `value`, nested ones with their path.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{path}.{key}");
                if key != "reasons" {
                    keys(value, &path, found);
                }
                found.insert(path.trim_start_matches('.').to_owned());
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, path, found)),
        _ => {}
    }
}

#[test]
fn json_fields_are_the_contract() {
    const PORT: &str = "name ifindex mode state mac mtu vlan routes routes.ipv4 routes.ipv6 netfilter flows header layer3 switching peer taken \
                        ipsec rx forwarded delivered dropped passed";
    const LINK: &str = "name ifindex rx_packets rx_bytes rx_errors rx_dropped tx_packets tx_bytes tx_errors tx_dropped";
    const FLOWS: &str = "rows max armed asked full silent renewed epochs overruns resyncs events carried";
    let daemon = Daemon::start(answer);
    let below =
        |name: &str, keys: &str| keys.split(' ').map(|key| format!(" {name}.{key}")).collect::<Vec<_>>().concat();
    let stats = format!(
        "totals totals.rx totals.forwarded totals.delivered totals.dropped totals.passed reasons ports{} \
         links{} mirror mirror.state mirror.routes4 mirror.routes6 mirror.resyncs mirror.mended mirror.probes heartbeat flows{} \
         kernel_rules",
        below("ports", PORT),
        below("links", LINK),
        below("flows", FLOWS)
    );
    let rows = [
        ("port list", PORT),
        ("route list", "dst type nexthops nexthops.via nexthops.dev nexthops.weight mtu packets protocol metric table"),
        ("route get 198.18.1.2", "verdict decision reason dst prefix dev via lladdr table"),
        ("route get 198.51.100.1", "verdict decision reason dst prefix dev via lladdr table"),
        ("neigh list", "dst dev lladdr state"),
        (
            "socket list",
            "proto address port protocol dev families sockets transparent uid inodes filter filter.eth0 filter.eth1 processes \
             processes.pid processes.name processes.unit",
        ),
        (
            "steer list",
            "id matches to or_drop config socket socket.proto socket.address socket.port socket.peer socket.dev socket.state \
             socket.transparent socket.uid socket.inode socket.processes process packets steered passed dropped",
        ),
        (
            "flow list",
            "proto original original.saddr original.sport original.daddr original.dport reply reply.saddr reply.sport reply.daddr \
             reply.dport zone mark status state reason why age_ms packets forth forth.state forth.iif forth.oif \
             forth.lease_age_ms forth.packets back back.state back.iif back.oif back.lease_age_ms back.packets",
        ),
        ("rule list", "chain handle rule packets bytes"),
        ("set list", "name type elements"),
        ("stats", &stats),
    ];
    for (command, want) in rows {
        let args: Vec<_> = ["-j"].into_iter().chain(command.split(' ')).collect();
        let output = daemon.dataplane(&args);
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let mut found = BTreeSet::new();
        keys(&value, "", &mut found);
        assert_eq!(found, want.split(' ').map(str::to_owned).collect(), "{command}");
        // Nothing is left out of a row because it has no value, except where the contract says so.
        for row in value.as_array().into_iter().flatten() {
            let optional = usize::from(command == "route list" && row.get("packets").is_none());
            let top = want.split(' ').filter(|key| !key.contains('.')).count();
            assert_eq!(row.as_object().map(serde_json::Map::len), Some(top - optional), "{command}: {row}");
        }
    }
}

#[test]
fn listed_rules_are_valid_input() {
    let daemon = Daemon::start(answer);
    let listed = daemon.dataplane(&["rule", "list"]);
    for (line, row) in text(&listed.stdout).lines().zip(rules(None)) {
        let (chain, rule) = line.split_once(' ').expect("chain and rule");
        daemon.take_calls();
        let output = daemon.dataplane(&["rule", "add", chain, rule]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(daemon.take_calls(), [Request::RuleAdd { chain: row.chain, rule: row.rule }]);
    }
}
