//! What is desired: the config that is in force, with the handles and counters of its rules.

use super::{chains::Chains, running::RunningConfig, running::WantedPorts};
use crate::config::{Config, FibConfig, FlowsConfig, HeartbeatConfig};

/// What the operator wants.
#[derive(Debug, Default)]
pub(super) struct Desired {
    running: RunningConfig,
    /// How often rules or sets may have changed: what was found out about them holds for one of these numbers.
    epoch: u64,
}

impl Desired {
    pub(super) fn new(running: RunningConfig) -> Self {
        Self { running, epoch: 0 }
    }

    /// The config that is in force. A copy is cheap.
    pub(super) fn running(&self) -> &RunningConfig {
        &self.running
    }

    /// Takes all that a config says but chains and sets.
    pub(super) fn set_settings(&mut self, config: &Config) {
        self.running.set_settings(config);
    }

    /// Takes all that was in force before but chains and sets.
    pub(super) fn restore_settings(&mut self, before: RunningConfig) {
        self.running.restore_settings(before);
    }

    /// Steers nothing.
    pub(super) fn clear_steer(&mut self) {
        self.running.clear_steer();
    }

    /// The links that are to be ports.
    pub(super) fn ports(&self) -> &WantedPorts {
        self.running.ports()
    }

    /// The same, to be changed.
    pub(super) fn ports_mut(&mut self) -> &mut WantedPorts {
        self.running.ports_mut()
    }

    /// Rules and sets.
    pub(super) fn chains(&self) -> &Chains {
        self.running.chains()
    }

    /// The same, to be changed: what was found out about them holds no longer.
    pub(super) fn chains_mut(&mut self) -> &mut Chains {
        self.epoch += 1;
        self.running.chains_mut()
    }

    /// Of which rules something was found out, for [`super::epoch::PerEpoch`].
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What room for routes was asked for.
    pub(super) fn fib(&self) -> FibConfig {
        self.running.fib()
    }

    /// How long the data plane goes on without this daemon.
    pub(super) fn heartbeat(&self) -> HeartbeatConfig {
        self.running.heartbeat()
    }

    /// How flows get on with what else the kernel would do.
    pub(super) fn flows(&self) -> FlowsConfig {
        self.running.flows()
    }
}
