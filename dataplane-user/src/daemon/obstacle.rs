//! Whether connections that netfilter lets through are carried at the driver, and which rule keeps them in the kernel.

use dataplane_common::abi::Features;

use super::Daemon;
use crate::{
    config::{FlowsConfig, NetfilterChoice},
    control::row::{Finding, Status},
    model::{Link, Model, Obstacle, ObstacleKind},
};

/// At most so many rules are named in one line.
const NAMED: usize = 4;

/// What the operator can write to have connections carried although there is such a rule.
fn remedy(kind: ObstacleKind) -> String {
    if kind.can_be_ignored() {
        format!("nft -a list ruleset  # or `ignore = [\"{kind}\"]` under [flows] in the config")
    } else {
        "nft -a list ruleset  # nothing to do, if a program is to see all packets".to_owned()
    }
}

/// The rules, as one text.
fn list(obstacles: &[&Obstacle]) -> String {
    let mut named: Vec<_> = obstacles.iter().take(NAMED).map(ToString::to_string).collect();
    if obstacles.len() > NAMED {
        named.push(format!("and {} more", obstacles.len() - NAMED));
    }
    named.join("; ")
}

/// What keeps connections in the kernel, for a log line, a warning or a finding.
pub(super) fn sentence(obstacles: &[&Obstacle]) -> Option<String> {
    (!obstacles.is_empty()).then(|| format!("no connection is carried at the driver: {}", list(obstacles)))
}

impl Daemon {
    /// The rules that keep connections in the kernel, the worst first.
    pub(super) fn flow_obstacles(&self) -> Vec<&Obstacle> {
        let flows = self.desired.flows();
        if flows.netfilter == NetfilterChoice::Bypass {
            return Vec::new();
        }
        self.observed.model().flow_obstacles(self.plane.attached().keys().copied(), flows.ignore)
    }

    /// What `port list` says of connections through a port: `on`, or why they stay in the kernel.
    pub(super) fn flows_word(&self, link: &Link) -> String {
        let netfilter = self.netfilter_word(link);
        if netfilter != NetfilterChoice::Follow.name() {
            return netfilter.to_owned();
        }
        if let Some(first) = self.flow_obstacles().first() {
            return first.to_string();
        }
        match self.flows.trouble() {
            Some(error) => format!("connections cannot be followed: {error}"),
            None if self.plane.features().contains(Features::FLOWS) => "on".to_owned(),
            None => "connections are not followed yet".to_owned(),
        }
    }

    /// What the doctor says of connections, where packets meet netfilter.
    pub(super) fn flow_findings(&self) -> Vec<Finding> {
        let model = self.observed.model();
        let mut links = self.plane.attached().keys().filter_map(|ifindex| model.links.get(ifindex));
        let Some(link) = links.find(|link| self.netfilter_word(link) == NetfilterChoice::Follow.name()) else {
            return Vec::new();
        };
        let all = model.all_obstacles(self.plane.attached().keys().copied());
        let word = self.flows_word(link);
        let mut findings = vec![judge(self.desired.flows(), &all, &word)];
        findings.extend(notes(&all));
        findings.extend(legacy(model, self.desired.flows().lease));
        findings
    }
}

fn finding(check: &str, status: Status, found: String, fix: String) -> Finding {
    Finding { check: check.to_owned(), status, found, fix }
}

/// Whether connections are carried.
fn judge(flows: FlowsConfig, all: &[&Obstacle], word: &str) -> Finding {
    let forbid: Vec<_> = all.iter().copied().filter(|one| one.forbids(flows.ignore)).collect();
    if let (Some(found), Some(first)) = (sentence(&forbid), forbid.first()) {
        return finding("flows", Status::Warn, found, remedy(first.kind));
    }
    let ignored: Vec<_> = all.iter().copied().filter(|one| !one.kind.is_note()).collect();
    let mut found = match word {
        "on" => "connections that netfilter lets through are carried at the driver".to_owned(),
        other => format!("no connection is carried at the driver: {other}"),
    };
    if !ignored.is_empty() {
        found = format!("{found}; ignored: {}", list(&ignored));
    }
    finding("flows", Status::Ok, found, String::new())
}

/// What is only worth a note.
fn notes(all: &[&Obstacle]) -> impl Iterator<Item = Finding> {
    let notes = [
        (ObstacleKind::Counter, "flows: counter", "it counts the packets that pass the kernel"),
        (ObstacleKind::Helper, "flows: helper", "connections with a helper stay in the kernel"),
        (ObstacleKind::Flowtable, "flows: flowtable", "connections in the kernel's flowtable are left to it"),
    ];
    notes.into_iter().filter_map(|(kind, check, meaning)| {
        let of: Vec<_> = all.iter().copied().filter(|one| one.kind == kind).collect();
        (!of.is_empty()).then(|| finding(check, Status::Ok, format!("{}: {meaning}", list(&of)), String::new()))
    })
}

/// Tables of iptables-legacy, whose changes the kernel does not announce.
fn legacy(model: &Model, lease: u32) -> Option<Finding> {
    let names: Vec<_> =
        model.netfilter.chains.iter().filter(|chain| chain.is_legacy()).map(ToString::to_string).collect();
    let found = format!(
        "changes of these act on running connections only after the lease of {lease} s, since the kernel does not announce them: {}",
        names.join("; ")
    );
    let fix =
        "iptables-legacy-save  # then the same with iptables-nft; or a shorter `lease` under [flows] in the config";
    (!names.is_empty()).then(|| finding("flows: iptables-legacy", Status::Warn, found, fix.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObstacleKinds;

    fn obstacle(kind: ObstacleKind, handle: u32) -> Obstacle {
        Obstacle { kind, place: format!("rule inet fw fwd handle {handle}"), what: None }
    }

    #[test]
    fn findings_name_the_rule_and_what_to_write() {
        let [queue, log, counter] = [(ObstacleKind::Queue, 4), (ObstacleKind::Log, 5), (ObstacleKind::Counter, 6)]
            .map(|(kind, at)| obstacle(kind, at));
        let ignore = |kinds: &[ObstacleKind]| FlowsConfig {
            ignore: kinds.iter().copied().collect::<ObstacleKinds>(),
            ..FlowsConfig::default()
        };
        let rows = [
            (
                ignore(&[]),
                vec![&queue, &log],
                Status::Warn,
                "handle 4 has queue; rule inet fw fwd handle 5 has log",
                "nothing to do",
            ),
            (ignore(&[]), vec![&log], Status::Warn, "handle 5 has log", "ignore = [\"log\"]"),
            (ignore(&[ObstacleKind::Log]), vec![&log], Status::Ok, "ignored: rule inet fw fwd handle 5 has log", ""),
            (ignore(&[ObstacleKind::Queue]), vec![&queue], Status::Warn, "handle 4 has queue", "nothing to do"),
            (ignore(&[]), vec![&counter], Status::Ok, "are carried at the driver", ""),
        ];
        for (flows, all, status, found, fix) in rows {
            let finding = judge(flows, &all, "on");
            assert_eq!(finding.status, status, "{finding:?}");
            assert!(finding.found.contains(found) && finding.fix.contains(fix), "{finding:?}");
        }
        let noted: Vec<_> = notes(&[&queue, &counter]).collect();
        assert_eq!(noted.len(), 1);
        assert!(noted[0].found.contains("handle 6 has counter"), "{noted:?}");
        let many: Vec<_> = (0..9).map(|at| obstacle(ObstacleKind::Log, at)).collect();
        assert!(list(&many.iter().collect::<Vec<_>>()).ends_with("handle 3 has log; and 5 more"));
    }
}
