//! The config that is in force.

use super::{Daemon, chains::Chains};
use crate::config::Config;

/// What is in force, as of a moment: cheap to take, and to be made something of elsewhere.
#[derive(Debug)]
pub(super) struct Running {
    /// All but chains and sets.
    pub settings: Config,
    pub chains: Chains,
}

impl Running {
    /// As a config.
    pub(super) fn config(&self) -> Config {
        let Config { sets, chains, .. } = self.chains.config();
        Config { sets, chains, ..self.settings.clone() }
    }
}

impl Daemon {
    /// What is in force now.
    pub(super) fn snapshot(&self) -> Running {
        let settings = Config {
            ports: self.ports.config().to_vec(),
            fragments: self.chains.fragments(),
            fib: self.fib,
            heartbeat: self.heartbeat,
            flows: self.flows,
            metrics: self.metrics_endpoint.wanted,
            ..Config::default()
        };
        Running { settings, chains: self.chains.clone() }
    }

    /// The config that is in force.
    pub(super) fn running(&self) -> Config {
        self.snapshot().config()
    }
}
