//! What a config would change. Nothing in it grows faster than the configs: readers ask for it with any that they like.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::running::RunningConfig;
use crate::{
    config::{Config, FlowsConfig, PortConfig, SflowConfig},
    control::row::Difference,
    model::ObstacleKind,
    rule::{ChainName, Policy, Rule},
};

/// What a config would change.
pub(super) fn difference(running: &RunningConfig, wanted: &Config) -> Difference {
    let mut difference = Difference::default();
    let before = running.settings();
    ports(&before, wanted, &mut difference);
    settings(&before, wanted, &mut difference);
    sets(running, wanted, &mut difference);
    for name in ChainName::ALL {
        let old: Vec<_> = running.chains().rules(name).iter().map(|installed| &installed.rule).collect();
        chain(name, (running.chains().policy(name), &old), wanted, &mut difference);
    }
    difference
}

/// Ports that come, go or change.
fn ports(running: &Config, wanted: &Config, difference: &mut Difference) {
    let by_name = |config: &'_ Config| -> HashMap<String, PortConfig> {
        let ports = config.ports.iter().rev();
        ports.map(|port| (port.pattern.as_str().to_owned(), port.clone())).collect()
    };
    let (old, new) = (by_name(running), by_name(wanted));
    for port in &running.ports {
        let name = port.pattern.as_str();
        match new.get(name) {
            None => difference.remove.push(format!("port {name}")),
            Some(wanted) => {
                let mut changes = |what: &str, old: &str, new: &str| {
                    if old != new {
                        difference.change.push(format!("port {name}: {what} {old} -> {new}"));
                    }
                };
                changes("mode", &port.mode.to_string(), &wanted.mode.to_string());
                changes("until_ready", port.until_ready.name(), wanted.until_ready.name());
                changes("peer", port.peer.name(), wanted.peer.name());
            }
        }
    }
    let names = wanted.ports.iter().map(|port| port.pattern.as_str());
    difference.add.extend(names.filter(|name| !old.contains_key(*name)).map(|name| format!("port {name}")));
}

fn settings(running: &Config, wanted: &Config, difference: &mut Difference) {
    let gone = running.assertions.iter().filter(|one| !wanted.assertions.contains(one));
    difference.remove.extend(gone.map(|one| format!("assert {one}")));
    let new = wanted.assertions.iter().filter(|one| !running.assertions.contains(one));
    difference.add.extend(new.map(|one| format!("assert {one}")));
    let gone = running.steer.iter().filter(|one| !wanted.steer.contains(one));
    difference.remove.extend(gone.map(|one| format!("steer {one}")));
    let new = wanted.steer.iter().filter(|one| !running.steer.contains(one));
    difference.add.extend(new.map(|one| format!("steer {one}")));
    if running.fragments != wanted.fragments {
        difference.change.push(format!("fragments: {} -> {}", running.fragments, wanted.fragments));
    }
    let room = |config: &Config| [("ipv4_routes", config.fib.ipv4_routes), ("ipv6_routes", config.fib.ipv6_routes)];
    for ((key, old), (_, new)) in room(running).into_iter().zip(room(wanted)).filter(|(old, new)| old != new) {
        difference.change.push(format!("fib: {key} {old} -> {new}"));
    }
    flows(running.flows, wanted.flows, difference);
    if running.heartbeat != wanted.heartbeat {
        difference.change.push(format!("heartbeat: after {} -> {}", running.heartbeat.after, wanted.heartbeat.after));
    }
    if running.metrics != wanted.metrics {
        let listen = |config: &Config| config.metrics.listen.map_or_else(|| "off".to_owned(), |it| it.to_string());
        difference.change.push(format!("metrics: listen {} -> {}", listen(running), listen(wanted)));
    }
    sflow(running.sflow, wanted.sflow, difference);
}

fn sflow(running: SflowConfig, wanted: SflowConfig, difference: &mut Difference) {
    let all = |sflow: SflowConfig| {
        [
            ("collector", sflow.collector.map_or_else(|| "off".to_owned(), |it| it.to_string())),
            ("agent", sflow.agent.map_or_else(|| "its own".to_owned(), |it| it.to_string())),
            ("rate", sflow.rate.to_string()),
            ("polling", sflow.polling.to_string()),
        ]
    };
    for ((key, old), (_, new)) in all(running).into_iter().zip(all(wanted)).filter(|(old, new)| old != new) {
        difference.change.push(format!("sflow: {key} {old} -> {new}"));
    }
}

fn flows(running: FlowsConfig, wanted: FlowsConfig, difference: &mut Difference) {
    let ignored = |flows: FlowsConfig| {
        let words: Vec<_> = flows.ignore.iter().map(ObstacleKind::name).collect();
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    };
    let all = |flows: FlowsConfig| {
        [
            ("netfilter", flows.netfilter.name().to_owned()),
            ("max", flows.max.to_string()),
            ("lease", flows.lease.to_string()),
            ("ignore", ignored(flows)),
        ]
    };
    for ((key, old), (_, new)) in all(running).into_iter().zip(all(wanted)).filter(|(old, new)| old != new) {
        difference.change.push(format!("flows: {key} {old} -> {new}"));
    }
}

fn sets(running: &RunningConfig, wanted: &Config, difference: &mut Difference) {
    let old = running.chains().sets();
    for (name, set) in old {
        match wanted.sets.get(name) {
            None => difference.remove.push(format!("set {}", name.as_str())),
            Some(other) if other != set => difference.change.push(format!("set {}", name.as_str())),
            Some(_) => {}
        }
    }
    let new = wanted.sets.keys().filter(|name| !old.contains_key(name));
    difference.add.extend(new.map(|name| format!("set {}", name.as_str())));
}

/// Rules that come, go or stand elsewhere.
fn chain(chain: ChainName, old: (Policy, &[&Arc<Rule>]), wanted: &Config, difference: &mut Difference) {
    let ((policy, old), new) = (old, wanted.chain(chain));
    if policy != new.policy {
        difference.change.push(format!("chain {chain}: policy {} -> {}", policy, new.policy));
    }
    let mut left: HashMap<&Arc<Rule>, usize> = HashMap::with_capacity(old.len());
    for rule in old {
        *left.entry(rule).or_default() += 1;
    }
    let mut kept = Vec::new();
    for rule in &new.rules {
        match left.get_mut(rule).filter(|count| **count > 0) {
            Some(count) => {
                *count -= 1;
                kept.push(rule);
            }
            None => difference.add.push(format!("{chain} {rule}")),
        }
    }
    // Of equal rules the last are the ones that go.
    let stays: HashSet<_> = kept.iter().copied().collect();
    let gone = old.iter().rev().filter(|rule| {
        let count = left.get_mut(**rule).filter(|count| **count > 0);
        count.map(|count| *count -= 1).is_some()
    });
    let mut gone: Vec<_> = gone.map(|rule| format!("{chain} {rule}")).collect();
    gone.reverse();
    difference.remove.append(&mut gone);
    let before: Vec<_> = old.iter().copied().filter(|rule| stays.contains(rule)).collect();
    if before != kept {
        difference.change.push(format!("chain {chain}: order of rules"));
    }
}
