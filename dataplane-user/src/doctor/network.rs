//! Settings of the network namespace.

use std::collections::BTreeSet;

use dataplane_common::abi::Ifindex;

use super::{Facts, PortFacts, fault, fine};
use crate::{
    control::row::{Finding, Status},
    model::{Family, IpVersion, Link, NetconfScope, Routes, TABLE_MAIN},
};

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    forwarding(facts, findings);
    reverse_path(facts, findings);
    conntrack(facts, findings);
    bridges(facts, findings);
    bare_devices(facts, findings);
    if facts.daemon.is_err() {
        // With a daemon, it says so itself.
        findings.push(if facts.netfilter.is_empty() {
            fine("netfilter", "no rules that forwarded packets would meet")
        } else {
            fault(
                "netfilter",
                Status::Warn,
                format!("forwarded packets meet these chains: {}", facts.netfilter.join("; ")),
                "nft list ruleset  # a daemon would leave forwarded packets to the kernel, which applies them",
            )
        });
    }
}

/// Which way packets take that are routed into bridges, and those that come in through them.
fn bridges(facts: &Facts, findings: &mut Vec<Finding>) {
    for bridge in facts.model.links.values().filter(|link| link.bridge.is_some() && link.up) {
        let way = match facts.model.why_kernel_bridges(bridge) {
            None => "what is routed into it goes straight to the member that the host is behind".to_owned(),
            Some(why) => format!("what is routed into it is handed to the bridge by tc: {why}"),
        };
        let received = received(facts, bridge).map_or_else(String::new, |received| format!("; {received}"));
        let switched = switched(facts, bridge).map_or_else(String::new, |switched| format!("; {switched}"));
        findings.push(fine(format!("bridge {}", bridge.name), way + &received + &switched));
    }
}

/// Who sends frames from one member of a bridge to another, if it is a port.
fn switched(facts: &Facts, bridge: &Link) -> Option<String> {
    let members = facts.ports.iter().filter(|port| port.link.master == Some(bridge.ifindex));
    let mut words = members.filter_map(|port| Some((&port.link.name, port.row.as_ref()?.switching.as_ref()?)));
    let first = words.next()?;
    Some(match [first].into_iter().chain(words).find(|(_, word)| *word != "on") {
        None => "frames between its members are switched at the driver".to_owned(),
        Some((member, why)) => format!("frames of {member} for other members are the kernel's: {why}"),
    })
}

/// What forwards packets of devices without link header, and into them.
fn bare_devices(facts: &Facts, findings: &mut Vec<Finding>) {
    let bare = |link: &&Link| link.up && !link.ethernet && !link.loopback;
    for link in facts.model.links.values().filter(bare) {
        let found = match link.layer3.why_kernel() {
            None => "without link header: tc forwards what it receives, and what is routed into it".to_owned(),
            Some(why) if link.layer3.sends() => {
                format!("tc forwards what is routed into it, the kernel what it receives: {why}")
            }
            Some(why) => format!("the kernel forwards: {why}"),
        };
        findings.push(fine(format!("device {}", link.name), found));
    }
}

/// Where what comes in through the members of a bridge is judged, if it is a port.
fn received(facts: &Facts, bridge: &Link) -> Option<String> {
    let is_port = |link: &Link| facts.ports.iter().any(|port| port.link.ifindex == link.ifindex && port.row.is_some());
    if !is_port(bridge) {
        return None;
    }
    let mut members = facts.model.links.values().filter(|link| link.master == Some(bridge.ifindex));
    let missing = members.find(|link| !is_port(link)).map(|link| format!("{} is no port", link.name));
    let why = facts.model.why_kernel_receives(bridge).map(str::to_owned).or(missing);
    Some(why.map_or_else(
        || "what comes in for it is judged at its members".to_owned(),
        |why| format!("what comes in for it passes the bridge first: {why}"),
    ))
}

/// Connections, where some may be carried at the driver.
fn conntrack(facts: &Facts, findings: &mut Vec<Finding>) {
    let followed = |port: &PortFacts| port.row.as_ref().is_some_and(|row| row.netfilter == "follow");
    let alone = facts.daemon.is_err() && !facts.netfilter.is_empty();
    let (Some(events), true) = (facts.conntrack.events, alone || facts.ports.iter().any(followed)) else { return };
    let lost = match events {
        0 => Some("no connection is carried at the driver"),
        2 => Some("connections that began while no program listened are not carried at the driver"),
        _ => None,
    };
    findings.push(match lost {
        Some(lost) => fault(
            "conntrack events",
            Status::Warn,
            format!("net.netfilter.nf_conntrack_events is {events}: {lost}"),
            "sysctl -w net.netfilter.nf_conntrack_events=1",
        ),
        None => fine("conntrack events", "all connections are announced"),
    });
    let (Some(count), Some(max)) = (facts.conntrack.count, facts.conntrack.max) else { return };
    findings.push(if count.saturating_mul(10) >= max.saturating_mul(9) {
        fault(
            "conntrack table",
            Status::Warn,
            format!("{count} of {max} connections: the kernel drops the packets of new ones when it is full"),
            format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(2)),
        )
    } else {
        fine("conntrack table", format!("{count} of {max} connections"))
    });
}

fn forwarding(facts: &Facts, findings: &mut Vec<Finding>) {
    let off: Vec<_> =
        facts.ports.iter().filter(|port| !facts.model.forwarding(IpVersion::V4, port.link.ifindex)).collect();
    let all = |version| facts.model.netconf.get(&(version, NetconfScope::All)).and_then(|conf| conf.forwarding);
    findings.push(match off.as_slice() {
        // Without ports, the one switch is all there is to see.
        [] if facts.ports.is_empty() && all(IpVersion::V4) == Some(false) => fault(
            "forwarding ipv4",
            Status::Fail,
            "net.ipv4.ip_forward is 0: nothing is forwarded",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        [] => fine("forwarding ipv4", "on"),
        _ if all(IpVersion::V4) != Some(true) && off.len() == facts.ports.len() => fault(
            "forwarding ipv4",
            Status::Fail,
            "net.ipv4.ip_forward is 0: nothing is forwarded",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        some => {
            let names: Vec<_> = some.iter().map(|port| port.link.name.as_str()).collect();
            let fix: Vec<_> = names.iter().map(|name| format!("net.ipv4.conf.{name}.forwarding=1")).collect();
            fault(
                "forwarding ipv4",
                Status::Warn,
                format!("off for packets from {}", names.join(", ")),
                format!("sysctl -w {}", fix.join(" ")),
            )
        }
    });
    let ipv6 = facts.model.addresses.iter().any(|address| match address.address {
        std::net::IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        std::net::IpAddr::V4(_) => false,
    });
    let on = match facts.ports.as_slice() {
        [] => all(IpVersion::V6) == Some(true),
        ports => ports.iter().any(|port| facts.model.forwarding(IpVersion::V6, port.link.ifindex)),
    };
    findings.push(if on {
        fine("forwarding ipv6", "on")
    } else if ipv6 {
        fault(
            "forwarding ipv6",
            Status::Fail,
            "net.ipv6.conf.all.forwarding is 0, and there are IPv6 addresses: nothing is forwarded",
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        )
    } else {
        fine("forwarding ipv6", "off, and no IPv6 addresses")
    });
}

/// Strict filtering loses packets where they come back another way: where it has, or where a prefix is reached over several
/// interfaces.
fn reverse_path(facts: &Facts, findings: &mut Vec<Finding>) {
    let split = split_devices(&facts.model.routes4);
    let mut strict = Vec::new();
    for port in facts.ports.iter().filter(|port| facts.model.rp_filter(port.link.ifindex) == 1) {
        let name = &port.link.name;
        if port.reverse_path != 0 {
            strict.push((name, format!("{name} has dropped {} packets", port.reverse_path)));
        } else if split.contains(&port.link.ifindex) {
            strict.push((name, format!("{name} is one of several paths to a prefix")));
        }
    }
    if strict.is_empty() {
        findings.push(fine("rp_filter", "not strict on asymmetric paths"));
        return;
    }
    let found: Vec<_> = strict.iter().map(|(_, why)| why.as_str()).collect();
    // The larger one of `all` and the interface counts, so 2 on the interface is enough.
    let fix: Vec<_> = strict.iter().map(|(name, _)| format!("net.ipv4.conf.{name}.rp_filter=2")).collect();
    findings.push(fault(
        "rp_filter",
        Status::Warn,
        format!("strict on asymmetric paths: {}", found.join(", ")),
        format!("sysctl -w {}", fix.join(" ")),
    ));
}

/// Interfaces over which a prefix is reached that is reached over another, too.
fn split_devices<A: Family>(routes: &Routes<A>) -> BTreeSet<Ifindex> {
    let ways = routes.table(TABLE_MAIN).map(|(_, routes)| {
        routes.iter().flat_map(|route| &route.next_hops).map(|hop| hop.dev).collect::<BTreeSet<Ifindex>>()
    });
    ways.filter(|devices| devices.len() > 1).flatten().collect()
}
