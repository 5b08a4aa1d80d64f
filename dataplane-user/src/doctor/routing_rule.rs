//! Routing rules: which of them take the routes of a port away from the mirror, and which do not do what they are for.

use super::{Facts, fault, fine};
use crate::{
    control::row::{Finding, Status},
    model::{IpVersion, Model, RouteSource, RouteType, RoutingRule},
};

/// What lists the rules of a family.
const fn list(version: IpVersion) -> &'static str {
    match version {
        IpVersion::V4 => "ip rule list  # delete with `ip rule del` those that are not needed",
        IpVersion::V6 => "ip -6 rule list  # delete with `ip -6 rule del` those that are not needed",
    }
}

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    for version in [IpVersion::V4, IpVersion::V6] {
        let rules = || facts.model.routing_rules.of(version);
        if rules().next().is_none() {
            continue;
        }
        let check = format!("rules {version}");
        let before = findings.len();
        for source in [RouteSource::Stack, RouteSource::Kernel] {
            findings.extend(taken(facts, version, source));
        }
        if findings.len() == before {
            let defaults = rules().cloned().eq(RoutingRule::defaults(version));
            let found = if defaults { "only the default routing rules" } else { "all routing rules are followed" };
            findings.push(fine(check, found));
        }
    }
    findings.extend(source_marks(facts));
}

/// The ports whose routes come from there, and the first rule to blame.
fn taken(facts: &Facts, version: IpVersion, source: RouteSource) -> Option<Finding> {
    let ports = facts.ports.iter().map(|port| &port.link);
    let links: Vec<_> = ports.filter(|link| facts.model.route_source(version, link) == source).collect();
    let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    let rule = links.first().map(|link| facts.model.rule_of(version, link))?;
    let because = rule.map_or_else(|| "a VRF".to_owned(), |rule| format!("rule `{rule}`"));
    let (check, names) = (format!("rules {version}"), names.join(", "));
    let found = if source == RouteSource::Stack {
        format!("{names}: the kernel forwards {version} itself, because of {because}")
    } else {
        // As right, and slower.
        format!("{names}: each packet is looked up in the kernel, because of {because}")
    };
    Some(fault(check, Status::Warn, found, list(version)))
}

/// With `src_valid_mark` the kernel looks up the source of a packet by its mark, too: where that leads to a table in which all is
/// local, every source is one of this machine's, and the packet is dropped as a martian.
fn source_marks(facts: &Facts) -> Option<Finding> {
    let by = facts.source_marks.first()?;
    let rule = facts.model.routing_rules.of(IpVersion::V4).find(|rule| makes_all_local(&facts.model, rule))?;
    Some(fault(
        "src_valid_mark",
        Status::Warn,
        format!("net.ipv4.conf.{by}.src_valid_mark is 1: packets that rule `{rule}` delivers are dropped as martians"),
        format!("ip rule add iif NAME ...  # for each interface that they come in through, instead of `{rule}`"),
    ))
}

/// Whether a rule leads packets with a mark, from everywhere, to a table that makes networks local.
fn makes_all_local(model: &Model, rule: &RoutingRule) -> bool {
    let local = |table| {
        let mut rows = model.routes4.table(table);
        rows.any(|(prefix, routes)| !prefix.is_host() && routes.iter().any(|route| route.kind == RouteType::Local))
    };
    rule.mark.is_some_and(|(value, mask)| value & mask != 0)
        && !rule.inverted
        && rule.iif.is_none()
        && rule.table != crate::model::TABLE_LOCAL
        && local(rule.table)
}
