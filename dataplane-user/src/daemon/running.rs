//! The config that is in force: one struct, which is built from a config and made one again here only.

use std::collections::BTreeSet;

use super::{chains::Chains, observed::Observed, state::RuleHandles};
use crate::{
    config::{Assertion, Config, FibConfig, FlowsConfig, HeartbeatConfig, MetricsConfig, PortConfig, SflowConfig},
    model::Link,
    steer::SteerConfig,
};

/// What is in force. A copy is cheap: it shares rules and sets.
#[derive(Clone, Debug, Default)]
pub(super) struct RunningConfig {
    ports: WantedPorts,
    chains: Chains,
    fib: FibConfig,
    heartbeat: HeartbeatConfig,
    flows: FlowsConfig,
    metrics: MetricsConfig,
    sflow: SflowConfig,
    assertions: Vec<Assertion>,
    steer: Vec<SteerConfig>,
}

impl RunningConfig {
    /// What an earlier daemon wrote down.
    pub(super) fn new(config: &Config, rule_handles: &RuleHandles) -> Self {
        let mut running = Self { chains: Chains::new(config, rule_handles), ..Self::default() };
        running.set_settings(config);
        running.ports.off = rule_handles.off.iter().cloned().collect();
        running
    }

    /// Takes what a config says in place of what was there. Rules that are in both keep handle and counter.
    pub(super) fn replace(&mut self, config: &Config) -> anyhow::Result<()> {
        self.chains.replace(config)?;
        self.set_settings(config);
        Ok(())
    }

    /// Takes all that a config says but chains and sets, which take a commit to come into force.
    pub(super) fn set_settings(&mut self, config: &Config) {
        let Config {
            ports,
            assertions,
            steer,
            fib,
            heartbeat,
            flows,
            metrics,
            sflow,
            fragments: _,
            sets: _,
            chains: _,
        } = config;
        self.ports = WantedPorts { config: ports.clone(), off: BTreeSet::new() };
        self.assertions.clone_from(assertions);
        self.steer.clone_from(steer);
        (self.fib, self.heartbeat, self.flows) = (*fib, *heartbeat, *flows);
        (self.metrics, self.sflow) = (*metrics, *sflow);
    }

    /// Whether its rules must keep to any.
    pub(super) fn has_assertions(&self) -> bool {
        !self.assertions.is_empty()
    }

    /// Takes all that another one has but chains and sets.
    pub(super) fn restore_settings(&mut self, before: Self) {
        *self = Self { chains: std::mem::take(&mut self.chains), ..before };
    }

    /// As a config, without chains and sets.
    pub(super) fn settings(&self) -> Config {
        Config {
            ports: self.ports.config.clone(),
            assertions: self.assertions.clone(),
            steer: self.steer.clone(),
            fragments: self.chains.fragments(),
            fib: self.fib,
            heartbeat: self.heartbeat,
            flows: self.flows,
            metrics: self.metrics,
            sflow: self.sflow,
            ..Config::default()
        }
    }

    /// As a config.
    pub(super) fn config(&self) -> Config {
        let Config { sets, chains, .. } = self.chains.config();
        Config { sets, chains, ..self.settings() }
    }

    /// The links that are to be ports.
    pub(super) fn ports(&self) -> &WantedPorts {
        &self.ports
    }

    /// The same, to be changed.
    pub(super) fn ports_mut(&mut self) -> &mut WantedPorts {
        &mut self.ports
    }

    /// Rules and sets.
    pub(super) fn chains(&self) -> &Chains {
        &self.chains
    }

    /// The same, to be changed.
    pub(super) fn chains_mut(&mut self) -> &mut Chains {
        &mut self.chains
    }

    /// What room for routes was asked for.
    pub(super) fn fib(&self) -> FibConfig {
        self.fib
    }

    /// How long the data plane goes on without this daemon.
    pub(super) fn heartbeat(&self) -> HeartbeatConfig {
        self.heartbeat
    }

    /// How flows get on with what else the kernel would do.
    pub(super) fn flows(&self) -> FlowsConfig {
        self.flows
    }

    /// What is steered to sockets.
    pub(super) fn steer(&self) -> &[SteerConfig] {
        &self.steer
    }

    /// Steers nothing.
    pub(super) fn clear_steer(&mut self) {
        self.steer.clear();
    }

    /// Where metrics are served.
    pub(super) fn metrics(&self) -> MetricsConfig {
        self.metrics
    }

    /// Where samples of packets are sent.
    pub(super) fn sflow(&self) -> SflowConfig {
        self.sflow
    }
}

/// The links that are to be ports.
#[derive(Clone, Debug, Default)]
pub(super) struct WantedPorts {
    config: Vec<PortConfig>,
    /// Names that a pattern fits, and that the operator switched off.
    off: BTreeSet<String>,
}

impl WantedPorts {
    /// In the order of the config.
    pub(super) fn config(&self) -> &[PortConfig] {
        &self.config
    }

    /// Names switched off.
    pub(super) fn off(&self) -> Vec<String> {
        self.off.iter().cloned().collect()
    }

    /// Wants a port by name.
    pub(super) fn want(&mut self, wanted: PortConfig) {
        self.off.remove(wanted.pattern.as_str());
        self.config.retain(|port| port.pattern != wanted.pattern);
        self.config.push(wanted);
    }

    /// No longer wants a port by name, not even where a pattern fits it.
    pub(super) fn unwant(&mut self, name: &str) {
        self.config.retain(|port| port.pattern.as_str() != name);
        if self.config.iter().any(|port| port.pattern.fits(name)) {
            self.off.insert(name.to_owned());
        }
    }

    /// Names that a pattern fits, or members of bridges, are not wanted.
    pub(super) fn switch_off(&mut self, names: Vec<String>) {
        self.off.extend(names);
    }

    /// Wants nothing.
    pub(super) fn clear(&mut self) {
        self.config.clear();
        self.off.clear();
    }

    /// Wants again what was switched off.
    pub(super) fn switch_on(&mut self, name: &str) {
        self.off.remove(name);
    }

    /// What is said about a link, or about the bridge that it is a member of: members are ports with their bridge.
    pub(super) fn wanted_with_bridge(&self, link: &Link, observed: &Observed) -> Option<&PortConfig> {
        let former = observed.former_names(link.ifindex);
        if self.is_off(link, former) {
            return None;
        }
        self.wanted(link, former).or_else(|| {
            let bridge = observed.model().bridge_of(link)?;
            self.wanted(bridge, observed.former_names(bridge.ifindex))
        })
    }

    fn is_off(&self, link: &Link, former: &[String]) -> bool {
        link.names().chain(former.iter().map(String::as_str)).any(|name| self.off.contains(name))
    }

    /// What is said about a link: an entry of a name of its own, or else the first pattern that fits its name; then what was
    /// said about it under a name before.
    pub(super) fn wanted(&self, link: &Link, former: &[String]) -> Option<&PortConfig> {
        let before = former.iter().map(String::as_str);
        if self.is_off(link, former) {
            return None;
        }
        let own = |name: &str| self.config.iter().find(|port| port.pattern.as_str() == name);
        let fitting = |name: &str| self.config.iter().find(|port| port.pattern.fits(name));
        let now = link.names().find_map(own).or_else(|| fitting(&link.name));
        now.or_else(|| before.clone().find_map(own)).or_else(|| before.clone().find_map(fitting))
    }
}
