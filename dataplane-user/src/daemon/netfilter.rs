//! What the kernel would have done to forwarded packets beside routing them: rules of netfilter, what shapes the way out,
//! what else is at tc.

use std::collections::BTreeSet;

use dataplane_common::abi::Ifindex;

use super::{Daemon, obstacle};
use crate::{
    config::NetfilterChoice,
    control::row::{Finding, Status},
    kernel,
    model::{IpVersion, Link, Model, NetfilterChain, NetfilterHook, TcPlace},
    netlink::qdisc,
};

/// The chains that the operator has been told of.
#[derive(Debug, Default)]
pub(super) struct NetfilterNotices {
    chains: BTreeSet<(NetfilterHook, String)>,
    choice: NetfilterChoice,
    /// Why no connection is carried past them.
    obstacle: Option<String>,
    shaped: BTreeSet<String>,
}

/// What is said where rules are passed by.
const BYPASS: &str = "WARNING: packets that dataplane forwards bypass these netfilter chains";
/// What is said where they are not.
const FOLLOW: &str = "packets that would be forwarded go up to the kernel, which asks these netfilter chains";

/// The chains that packets through ports would meet.
pub(super) fn met(model: &Model) -> Vec<&NetfilterChain> {
    model.netfilter.chains.iter().filter(|chain| !chain.is_own()).collect()
}

/// What is in front of a link's driver that XDP would pass by, if packets may leave through it.
fn shaped(model: &Model, link: &Link) -> Option<String> {
    let found: Vec<_> = model.in_front_of(link).collect();
    if found.is_empty() {
        return None;
    }
    let who = if link.vlan.is_some() { "the kernel" } else { "tc" };
    Some(format!("{} is shaped ({}): {who} sends what leaves there", link.name, found.join(", ")))
}

/// The same of all links.
pub(super) fn all_shaped(model: &Model) -> impl Iterator<Item = String> {
    model.links.values().filter_map(|link| shaped(model, link))
}

impl NetfilterNotices {
    /// Logs what has come, and what has gone. `shaped`: nothing is said of that while there are no ports.
    pub(super) fn notice(
        &mut self,
        met: &[&NetfilterChain],
        shaped: Option<BTreeSet<String>>,
        choice: NetfilterChoice,
        obstacle: Option<String>,
    ) {
        let key = |chain: &NetfilterChain| (chain.hook, chain.name.clone());
        let chains: BTreeSet<_> = met.iter().map(|chain| key(chain)).collect();
        let told = std::mem::take(&mut self.chains);
        let anew = self.choice != choice;
        let new: Vec<_> = met.iter().copied().filter(|chain| anew || !told.contains(&key(chain))).collect();
        if !new.is_empty() {
            tracing::warn!("{}", advice(choice, &new));
        } else if chains.is_empty() && !told.is_empty() {
            tracing::info!("netfilter no longer has rules that forwarded packets would meet");
        }
        match &obstacle {
            Some(found) if self.obstacle != obstacle => tracing::warn!("{found}"),
            None if self.obstacle.is_some() => {
                tracing::info!("netfilter no longer has rules that keep connections in the kernel");
            }
            _ => {}
        }
        self.obstacle = obstacle;
        if let Some(shaped) = shaped {
            shaped.difference(&self.shaped).for_each(|what| tracing::info!("{what}"));
            self.shaped = shaped;
        }
        (self.chains, self.choice) = (chains, choice);
    }
}

impl Daemon {
    /// The chains that packets through the ports meet.
    fn met(&self) -> Vec<&NetfilterChain> {
        if self.plane.attached().is_empty() { Vec::new() } else { met(self.observed.model()) }
    }

    /// What `port list` says of a port.
    pub(super) fn netfilter_word(&self, link: &Link) -> &'static str {
        let meets = |version| self.observed.model().meets_netfilter(version, link);
        let meets = [IpVersion::V4, IpVersion::V6].into_iter().any(meets);
        if meets { self.desired.flows().netfilter.name() } else { "none" }
    }

    /// What an operator who attaches to these links has to know.
    pub(super) fn passed_by(&self, links: &[Ifindex]) -> Vec<String> {
        let (met, model) = (self.met(), self.observed.model());
        let mut said: Vec<_> =
            (!met.is_empty()).then(|| advice(self.desired.flows().netfilter, &met)).into_iter().collect();
        said.extend(obstacle::sentence(&self.flow_obstacles()));
        said.extend(all_shaped(model));
        let links = links.iter().filter_map(|ifindex| model.links.get(ifindex));
        said.extend(links.filter_map(at_tc));
        said
    }

    /// Logs what has come, and what has gone.
    pub(super) fn notice_netfilter(&mut self) {
        let are_ports = !self.plane.attached().is_empty();
        let obstacle = obstacle::sentence(&if are_ports { self.flow_obstacles() } else { Vec::new() });
        self.observed.notice_netfilter(are_ports, self.desired.flows().netfilter, obstacle);
    }

    /// What the doctor says of all this.
    pub(super) fn passed_by_findings(&self) -> Vec<Finding> {
        let finding = |check: &str, status, found, fix: &str| Finding {
            check: check.to_owned(),
            status,
            found,
            fix: fix.to_owned(),
        };
        let (met, choice) = (self.met(), self.desired.flows().netfilter);
        let mut findings = vec![if met.is_empty() {
            finding("netfilter", Status::Ok, "no rules that forwarded packets would meet".to_owned(), "")
        } else {
            finding("netfilter", Status::Warn, advice(choice, &met), cure(choice, &met))
        }];
        let model = self.observed.model();
        for link in model.links.values() {
            if let Some(found) = shaped(model, link) {
                findings.push(finding(&format!("qdisc: {}", link.name), Status::Ok, found, ""));
            }
        }
        findings
    }
}

/// What becomes of packets that would meet these chains, and what can be done.
fn advice(choice: NetfilterChoice, met: &[&NetfilterChain]) -> String {
    let list: Vec<String> = met.iter().map(ToString::to_string).collect();
    let list = list.join("; ");
    // Rules of ours know no connections, so they do not take the place of a translation.
    let movable = met.iter().all(|chain| !chain.translates && chain.rules.is_some());
    match (choice, movable) {
        (NetfilterChoice::Follow, true) => format!(
            "{FOLLOW}: {list}; to decide at the driver, move their rules here (`dataplane rule add`) and say `netfilter = \
             \"bypass\"` under [flows] in the config"
        ),
        (NetfilterChoice::Follow, false) => format!("{FOLLOW}: {list}"),
        (NetfilterChoice::Bypass, true) => format!(
            "{BYPASS}: {list}; move their rules here (`dataplane rule add`), or say `netfilter = \"follow\"` under [flows] in \
             the config"
        ),
        (NetfilterChoice::Bypass, false) => {
            format!("{BYPASS}: {list}; say `netfilter = \"follow\"` under [flows] in the config")
        }
    }
}

/// The command that shows what to do.
fn cure(choice: NetfilterChoice, met: &[&NetfilterChain]) -> &'static str {
    let movable = met.iter().all(|chain| !chain.translates && chain.rules.is_some());
    match (choice, movable) {
        (_, true) => "nft list ruleset  # then the same with `dataplane rule add`",
        (NetfilterChoice::Follow, false) => "nft list ruleset  # nothing to do, if these are to be met",
        (NetfilterChoice::Bypass, false) => {
            "nft list ruleset  # then `netfilter = \"follow\"` under [flows] in the config"
        }
    }
}

/// Programs and classifiers of others at tc ingress, which do not see what is forwarded.
fn at_tc(link: &Link) -> Option<String> {
    let programs = kernel::foreign_programs(&link.name, TcPlace::Ingress).into_iter().flatten().map(|(_, name)| name);
    let programs = programs.map(|name| format!("program {name}"));
    let classifiers = qdisc::classifiers(link.ifindex, TcPlace::Ingress).unwrap_or_default();
    let all: Vec<_> = programs.chain(classifiers).collect();
    let list = all.join(", ");
    (!all.is_empty())
        .then(|| format!("at tc ingress of {}, {list} (marks, mirrors): sees nothing of what is forwarded", link.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(translates: bool) -> NetfilterChain {
        NetfilterChain {
            name: "ip nat postrouting".to_owned(),
            hook: NetfilterHook::Postrouting,
            versions: vec![IpVersion::V4],
            devices: Vec::new(),
            rules: Some(1),
            drops: false,
            translates,
            obstacles: Vec::new(),
        }
    }

    #[test]
    fn no_rule_takes_the_place_of_a_translation() {
        let (plain, nat) = (chain(false), chain(true));
        for choice in [NetfilterChoice::Follow, NetfilterChoice::Bypass] {
            for (met, movable) in [(vec![&plain], true), (vec![&nat], false), (vec![&plain, &nat], false)] {
                for text in [advice(choice, &met), cure(choice, &met).to_owned()] {
                    assert_eq!(text.contains("rule add"), movable, "{text}");
                }
            }
        }
    }
}
