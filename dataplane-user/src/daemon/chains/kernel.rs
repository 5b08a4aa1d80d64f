//! Chains that the kernel decides, and what the driver keeps of them.

use std::sync::Arc;

use dataplane_common::abi::Ifindex;

use super::{Chains, InstalledRule};
use crate::{
    config::{FlowsConfig, NetfilterChoice, needs_kernel},
    lower::{
        filter::FilterError,
        own_table::{KernelChain, Names, is_early, own_table},
    },
    model::{ObstacleKind, OwnTable},
    rule::{ChainName, LinkPattern, Policy, Rule, SetName},
};

impl Chains {
    /// Whether the kernel decides: some rule depends on connections, or translates them.
    pub(in crate::daemon) fn are_in_kernel(&self) -> bool {
        self.rules.iter().flatten().any(|installed| self.needs_kernel(&installed.rule))
    }

    /// Whether only the kernel can decide a rule.
    pub(in crate::daemon) fn needs_kernel(&self, rule: &Rule) -> bool {
        needs_kernel(rule, &self.sets)
    }

    /// What the driver does with what no rule of it decided: nothing passes unjudged.
    pub(super) fn driver_policy(&self, index: usize, in_kernel: bool) -> Policy {
        let judges = self.policies[index] == Policy::Drop || !self.rules[index].is_empty();
        match (in_kernel, self.table_lost && judges) {
            (false, _) => self.policies[index],
            (true, true) => Policy::Drop,
            (true, false) => Policy::Accept,
        }
    }

    /// Notes whether the kernel's table is not there although the kernel is to decide.
    pub(in crate::daemon) fn set_table_lost(&mut self, lost: bool) {
        self.table_lost = lost;
    }

    /// The rules that the driver decides although the kernel decides the rest.
    pub(in crate::daemon) fn early_rules(&self) -> impl Iterator<Item = Arc<Rule>> {
        let rules = if self.are_in_kernel() { self.early(ChainName::Prerouting.index()) } else { &[] };
        rules.iter().map(|installed| Arc::clone(&installed.rule))
    }

    /// The rules of a chain that the driver decides although the kernel decides the rest.
    pub(super) fn early(&self, index: usize) -> &[InstalledRule] {
        if index != ChainName::Prerouting.index() {
            return &[];
        }
        let rules = &self.rules[index];
        let early = |rule: &Rule| is_early(rule) && !self.needs_kernel(rule);
        let end = rules.iter().position(|installed| !early(&installed.rule)).unwrap_or(rules.len());
        &rules[..end]
    }

    /// The table of nftables that decides, if the kernel does. `ports`: links whose packets meet the chains. `delivers`: marked
    /// packets have a local route. `flows`: what is carried.
    pub(in crate::daemon) fn own_table(
        &self,
        links: &dyn Fn(&LinkPattern) -> Vec<String>,
        ports: &[Ifindex],
        delivers: bool,
        flows: FlowsConfig,
    ) -> Result<Option<OwnTable>, FilterError> {
        if !self.are_in_kernel() {
            return Ok(None);
        }
        let chains = ChainName::ALL.map(|chain| KernelChain {
            policy: self.policy(chain),
            rules: self.rules(chain).iter().map(|installed| (&*installed.rule, installed.handle)).collect(),
        });
        let sets = |name: &SetName| self.elements(name);
        let dynamic = |name: &SetName| {
            let set = self.sets.get(name)?;
            Some((&set.kind, set.dynamic()?))
        };
        let carries = flows.netfilter == NetfilterChoice::Follow && flows.ignore.contains(ObstacleKind::Tproxy);
        own_table(&chains, Names { links, sets: &sets, dynamic: &dynamic, delivers, carries }, ports).map(Some)
    }

    /// Whether packets for others may be for sockets of this machine.
    pub(in crate::daemon) fn deliver(&self) -> bool {
        self.rules(ChainName::Prerouting).iter().any(|installed| installed.rule.delivers())
    }

    /// Whether the kernel decides, as last committed.
    pub(in crate::daemon) fn kernel_decides(&self) -> bool {
        self.kernel_decides
    }
}
