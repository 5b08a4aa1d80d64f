//! What a daemon that starts takes over, and what it is given.

use std::{collections::BTreeMap, path::Path};

use dataplane_common::abi::{Features, Ifindex, map};

use super::{recovery::RecoveredState, running::RunningConfig, state::State, store::Store};
use crate::{
    config::{self, Config},
    kernel::{Bpffs, Links, PinDirs, earlier_slots},
    lower::filter::unsupported,
    rule::ChainName,
};

/// A config that is given now, and one for where none is remembered.
pub(super) type Configs = (Option<Config>, Option<anyhow::Result<Config>>);

/// What is in the kernel of an earlier daemon.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Whether programs are attached.
    pub attached: bool,
    /// Whether it dropped all, since its state could not be trusted.
    pub closed: bool,
    /// Whether counters of rules are there.
    pub counters: bool,
    /// The slots of its ports.
    pub slots: BTreeMap<Ifindex, u32>,
}

/// Looks for it.
pub(super) fn look(bpffs: &Bpffs, links: &Links, place: &PinDirs) -> Found {
    // A daemon that did not come far left maps without ports: the one before it is the one that counts.
    let slots = bpffs.earlier().iter().map(|earlier| earlier_slots(earlier)).find(|slots| !slots.is_empty());
    Found {
        attached: links.are_attached(),
        closed: bpffs.is_closed(),
        counters: place.lasting.join(map::RULE_COUNTERS).exists(),
        slots: slots.unwrap_or_default(),
    }
}

/// What a daemon begins with.
pub(super) struct Begun {
    pub store: Store,
    pub running: RunningConfig,
    /// What programs most likely must be able to.
    pub features: Features,
    /// The slots of ports that go on.
    pub slots: BTreeMap<Ifindex, u32>,
}

/// Remembers what an earlier daemon was doing. A config given now takes the place of what was remembered, the first one of
/// nothing.
pub(super) fn begin(state: State, (config, first): Configs, found: Found) -> anyhow::Result<Begun> {
    let Found { attached, closed, counters, mut slots } = found;
    let mut recovered = state.recover(attached);
    let first = first.filter(|_| config.is_none() && !recovered.any && !attached).transpose()?;
    let config = config.or(first);
    let doubtful = config.is_none() && recovered.faults.iter().any(|fault| fault.grave);
    let quarantine = doubtful.then(|| recovered.quarantine(attached && !closed, &mut slots));
    let RecoveredState { mut running, features, history, pending, faults, .. } = recovered;
    if !counters {
        running.chains_mut().counters.are_zero();
    }
    let mut store = Store::new(state, history, faults, quarantine);
    store.begin(&mut running, config.as_ref(), pending.filter(|_| !doubtful))?;
    Ok(Begun { store, running, features, slots })
}

/// Reads a config file. Rules that can be read but not done yet are refused here: nothing has been touched.
pub(super) fn read(path: &Path) -> anyhow::Result<Config> {
    let (config, text) = config::load(path)?;
    let name = path.display().to_string();
    for chain in ChainName::ALL {
        for (index, rule) in config.chain(chain).rules.iter().enumerate() {
            if let Some(what) = unsupported(rule) {
                return Err(config::at_rule(&text, &name, chain, index, &what.to_string()).into());
            }
        }
    }
    Ok(config)
}
