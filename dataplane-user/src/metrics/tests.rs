use std::collections::HashSet;

use super::*;
use crate::{
    control::row::{Counts, RoutesRow},
    rule::ChainName,
};

fn port(name: &str, ifindex: u32) -> PortRow {
    PortRow {
        name: name.to_owned(),
        ifindex,
        mode: "native".to_owned(),
        state: "up".to_owned(),
        mac: None,
        mtu: 1500,
        vlan: None,
        routes: RoutesRow::default(),
        taken: None,
        ipsec: false,
        netfilter: "none".to_owned(),
        flows: "none".to_owned(),
        header: "ethernet".to_owned(),
        layer3: None,
        switching: None,
        peer: "none".to_owned(),
        counts: Counts::default(),
    }
}

fn rule(handle: u64) -> RuleRow {
    RuleRow { chain: ChainName::Forward, handle, rule: "accept".to_owned(), packets: handle * 10, bytes: handle * 1000 }
}

fn scrape() -> Scrape {
    let reasons: BTreeMap<_, _> = (1..).zip(Reason::ALL).map(|(count, reason)| (reason.name(), count)).collect();
    Scrape {
        ports: vec![(port("a", 2), reasons), (port("we\\ird\"name", 3), BTreeMap::new())],
        links: ["b", "a"]
            .map(|name| LinkRow { name: name.to_owned(), rx_bytes: 640, tx_errors: 2, ..LinkRow::default() })
            .into(),
        rules: vec![rule(1), rule(2)],
        all_rules: 2,
        neighbours: 5,
        mirror: MirrorRow { routes4: 7, routes6: 8, resyncs: 9, ..MirrorRow::default() },
        flows: Some(FlowCounts { rows: 4, max: 65_536, armed: 3, renewed: 2, ..FlowCounts::default() }),
        sflow: Some(SflowCounts { samples: 12, lost: 1, datagrams: 3, unsent: 0 }),
        steer: vec![(3, SteerCounter { steered: 7, passed: 1, dropped: 0 })],
        missed: 4,
        uptime: Duration::from_millis(1500),
        pending: Some(23),
    }
}

/// A label set as the specification's grammar has it; gives what follows the closing brace.
fn labels(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix('{')?;
    loop {
        let (name, value) = rest.split_once("=\"")?;
        let good = |c: char| c == '_' || c.is_ascii_alphanumeric();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(good) {
            return None;
        }
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next()? {
                (_, '\\') => drop(chars.next().filter(|(_, c)| ['\\', '"', 'n'].contains(c))?),
                (at, '"') => break at,
                _ => {}
            }
        };
        rest = &value[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.strip_prefix('}'),
        }
    }
}

/// What a reader of OpenMetrics would refuse.
fn faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let Some(body) = text.strip_suffix("# EOF\n") else { return vec!["no end".to_owned()] };
    let (mut families, mut series) = (HashSet::new(), HashSet::new());
    let (mut family, mut helped, mut kind) = ("", "", "");
    for line in body.lines() {
        if let Some(words) = line.strip_prefix("# ") {
            let [what, name, value] = *words.splitn(3, ' ').collect::<Vec<_>>() else {
                faults.push(format!("short: {line}"));
                continue;
            };
            if name != family {
                family = name;
                if !families.insert(name) {
                    faults.push(format!("again: {line}"));
                }
            }
            match what {
                "HELP" => helped = name,
                "TYPE" => kind = value,
                "UNIT" if name.ends_with(&format!("_{value}")) => {}
                _ => faults.push(format!("unknown: {line}")),
            }
            continue;
        }
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let name = format!("{family}{suffix}");
        let rest = line.strip_prefix(&name).map(|rest| if rest.starts_with('{') { labels(rest) } else { Some(rest) });
        let value = rest.flatten().and_then(|rest| rest.strip_prefix(' ')).and_then(|value| value.parse::<f64>().ok());
        if value.is_none() || helped != family {
            faults.push(format!("sample of {family}, {kind}: {line}"));
        }
        if !series.insert(line.rsplit_once(' ').map_or(line, |(series, _)| series)) {
            faults.push(format!("twice: {line}"));
        }
    }
    faults
}

#[test]
fn the_format_is_kept() {
    assert_eq!(faults(&scrape().text()), [""; 0]);
    assert_eq!(faults(&Scrape::default().text()), [""; 0]);
}

#[test]
fn a_broken_format_is_seen() {
    let head = "# HELP a x.\n# TYPE a counter\n";
    let rows = [
        "",
        "a 1\n",
        "a_total{b=\"} 1\n",
        "a_total{b=\"\\x\"} 1\n",
        "a_total\n",
        "a_total 1\na_total 1\n",
        "b_total 1\n",
    ];
    assert_eq!(faults(&format!("{head}a_total{{b=\"x\"}} 1\n# EOF\n")), [""; 0]);
    assert_eq!(faults(&format!("{head}a_total 1\n")).len(), 1, "no end");
    for row in &rows[1..] {
        assert_eq!(faults(&format!("{head}{row}# EOF\n")).len(), 1, "{row}");
    }
}

#[test]
fn every_number_is_exported() {
    let text = scrape().text();
    let lines: HashSet<_> = text.lines().collect();
    for (count, reason) in (1..).zip(Reason::ALL) {
        let (verdict, name) = (reason.verdict().name(), reason.name());
        let want =
            format!("dataplane_port_packets_total{{port=\"a\",verdict=\"{verdict}\",reason=\"{name}\"}} {count}");
        assert!(lines.contains(want.as_str()), "{want}\n{text}");
    }
    for want in [
        "dataplane_port_up{port=\"we\\\\ird\\\"name\"} 1",
        "dataplane_port_attached{port=\"a\",mode=\"native\"} 1",
        "dataplane_rule_packets_total{chain=\"forward\",handle=\"2\"} 20",
        "dataplane_rule_bytes_total{chain=\"forward\",handle=\"2\"} 2000",
        "dataplane_rules 2",
        "dataplane_routes{family=\"ipv4\"} 7",
        "dataplane_routes{family=\"ipv6\"} 8",
        "dataplane_neighbours 5",
        "dataplane_mirror_live 1",
        "dataplane_mirror_resyncs_total 9",
        "dataplane_trace_missed_total 4",
        "dataplane_steer_lookups_total{entry=\"3\",outcome=\"steered\"} 7",
        "dataplane_uptime_seconds 1.5",
        "dataplane_config_pending_seconds 23",
        "dataplane_link_rx_bytes_total{port=\"a\"} 640",
        "dataplane_link_tx_errors_total{port=\"b\"} 2",
    ] {
        assert!(lines.contains(want), "{want}\n{text}");
    }
    assert!(!Scrape::default().text().contains("config_pending"), "no config waits");
    let ordered: Vec<_> = text.lines().filter(|line| line.starts_with("dataplane_link_rx_bytes_total")).collect();
    assert!(ordered.len() == 2 && ordered.is_sorted(), "{ordered:?}");
}

#[test]
fn rules_with_series_are_capped() {
    let rules: Vec<_> = (1..=RULES as u64 + 5).map(rule).collect();
    let text = Scrape { all_rules: rules.len() as u64, rules, ..Scrape::default() }.text();
    assert_eq!(text.matches("\ndataplane_rule_packets_total{").count(), RULES);
    assert!(text.contains("\ndataplane_rules 1005\n"));
}
