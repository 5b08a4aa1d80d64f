//! Which links are ports, and what they counted.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::{Ifindex, Port};

use super::{DataPlane, Facts, Live};
use crate::{
    config::{FlowsConfig, NetfilterChoice},
    control::row::Counts,
    daemon::query::digest,
    kernel::TableError,
    model::{Attachment, Link, Mode, ModeChoice, choose},
};

/// Links that are to be ports, and have no programs yet.
pub(in crate::daemon) type Planned = Vec<(Ifindex, Link)>;

/// A link that is a port.
#[derive(Clone, Debug)]
pub(in crate::daemon) struct Attached {
    /// Its name when it was attached.
    pub name: String,
    /// How it is attached.
    pub mode: Mode,
    /// Whether its programs are in place. Before that the maps may not know the port yet: a program swapped in then would
    /// leave all packets to the kernel, past the rules.
    pub linked: bool,
}

/// What is attached.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Ports {
    /// By index.
    attached: BTreeMap<Ifindex, Attached>,
    /// What should be but cannot, with the reason.
    failed: BTreeMap<Ifindex, String>,
    /// What should be, and will be once the maps could be written, with the reason.
    postponed: BTreeMap<Ifindex, String>,
    /// Whose counters are in which slot.
    slots: BTreeMap<u32, Ifindex>,
    /// Counters of ports that are no more.
    retired: Counted,
}

/// Sums over ports that are no more: totals never go back.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Counted {
    pub counts: Counts,
    pub reasons: BTreeMap<&'static str, u64>,
}

impl Counted {
    fn add(&mut self, (counts, reasons): (Counts, BTreeMap<&'static str, u64>)) {
        self.counts += counts;
        for (name, packets) in reasons {
            *self.reasons.entry(name).or_default() += packets;
        }
    }
}

impl Ports {
    pub(super) fn new(slots: BTreeMap<Ifindex, u32>) -> Self {
        let mut ports = Self::default();
        ports.adopt_slots(slots);
        ports
    }

    /// Slots whose counters go on.
    pub(super) fn adopt_slots(&mut self, slots: BTreeMap<Ifindex, u32>) {
        self.slots = slots.into_iter().map(|(ifindex, slot)| (slot, ifindex)).collect();
    }

    /// What is attached, by index.
    pub(in crate::daemon) fn attached(&self) -> &BTreeMap<Ifindex, Attached> {
        &self.attached
    }

    /// What should be but cannot, with the reason.
    pub(in crate::daemon) fn failed(&self) -> &BTreeMap<Ifindex, String> {
        &self.failed
    }

    /// What should be, and will be once the maps could be written, with the reason.
    pub(in crate::daemon) fn postponed(&self) -> &BTreeMap<Ifindex, String> {
        &self.postponed
    }

    /// Why a link is no port.
    pub(in crate::daemon) fn trouble(&self, ifindex: Ifindex) -> Option<&String> {
        self.failed.get(&ifindex).or_else(|| self.postponed.get(&ifindex))
    }

    /// Counters of ports that are no more.
    pub(super) fn retired(&self) -> &Counted {
        &self.retired
    }

    /// As lowering wants it.
    pub(super) fn attachments(&self, flows: FlowsConfig) -> BTreeMap<Ifindex, Attachment> {
        let follow = flows.netfilter == NetfilterChoice::Follow;
        let ignore = follow.then_some(flows.ignore);
        let attachment = |port: &Attached| Attachment { mode: port.mode, tc: true, follow, flows: ignore };
        self.attached.iter().map(|(ifindex, port)| (*ifindex, attachment(port))).collect()
    }

    /// A port that has another name now; whether there is one.
    pub(in crate::daemon) fn rename(&mut self, ifindex: Ifindex, name: &str) -> bool {
        let port = self.attached.get_mut(&ifindex);
        port.map(|port| name.clone_into(&mut port.name)).is_some()
    }

    /// A port has all its programs; whether it had not.
    pub(super) fn link(&mut self, ifindex: Ifindex) -> bool {
        self.attached.get_mut(&ifindex).is_some_and(|port| !std::mem::replace(&mut port.linked, true))
    }

    /// A link cannot be a port.
    pub(super) fn fail(&mut self, ifindex: Ifindex, reason: String) {
        self.failed.insert(ifindex, reason);
    }

    /// A link is no port any more.
    pub(super) fn forget(&mut self, ifindex: Ifindex) {
        self.attached.remove(&ifindex);
    }

    /// Ports that failed are tried again: these, or all.
    pub(in crate::daemon) fn retry(&mut self, only: Option<&[Ifindex]>) {
        self.failed.retain(|ifindex, _| only.is_some_and(|only| !only.contains(ifindex)));
    }

    /// Ports that were postponed are tried now.
    pub(in crate::daemon) fn resume(&mut self) {
        self.postponed.clear();
    }

    /// Leaves links alone that should be ports while the maps cannot be written; those that were ports stay as they were.
    pub(in crate::daemon) fn postpone(&mut self, new: Planned, mut former: BTreeMap<Ifindex, Attached>, reason: &str) {
        for (ifindex, link) in new {
            match former.remove(&ifindex) {
                Some(port) => drop(self.attached.insert(ifindex, port)),
                None => drop(self.attached.remove(&ifindex)),
            }
            tracing::debug!("{} is no port yet: {reason}", link.name);
            self.postponed.insert(ifindex, reason.to_owned());
        }
    }
}

/// The mode that a link should be a port in; `None`: it should not.
fn wanted_mode(ifindex: Ifindex, facts: Facts<'_>) -> Option<Mode> {
    let model = facts.observed.model();
    let link = model.links.get(&ifindex)?;
    let wanted = facts.desired.ports().wanted_with_bridge(link, facts.observed)?;
    // A mode that is said of a bridge is that of its members; what they leave to it meets tc.
    let is_bridge = link.bridge.is_some();
    Some(if is_bridge { Mode::Tc } else { choose(link, model.features(ifindex), wanted.mode) })
}

impl DataPlane {
    /// Lets go of ports that are gone, switched off or wanted in another mode. Gives those: their programs are still there.
    pub(in crate::daemon) fn detach_unwanted(&mut self, facts: Facts<'_>) -> BTreeMap<Ifindex, Attached> {
        let live = &mut self.live;
        let mut former = BTreeMap::new();
        let attached = live.ports.attached.iter();
        let unwanted = attached.filter(|(ifindex, port)| wanted_mode(**ifindex, facts) != Some(port.mode));
        let unwanted: Vec<_> = unwanted.map(|(ifindex, port)| (*ifindex, port.name.clone())).collect();
        for (ifindex, name) in unwanted {
            if wanted_mode(ifindex, facts).is_some() {
                // Another mode: what both have stays attached, the rest is exchanged by `attach_hooks`.
                former.extend(live.ports.attached.remove_entry(&ifindex).filter(|(_, port)| port.linked));
                continue;
            }
            tracing::info!(port = name, "detached");
            live.release(ifindex);
        }
        let links = &facts.observed.model().links;
        live.ports.failed.retain(|ifindex, _| links.contains_key(ifindex));
        former
    }

    /// Enters links that should be ports; their programs follow once the maps know them.
    pub(in crate::daemon) fn plan(&mut self, facts: Facts<'_>) -> Planned {
        let ports = &mut self.live.ports;
        let mut new = Vec::new();
        for (ifindex, link) in &facts.observed.model().links {
            if link.loopback || ports.attached.contains_key(ifindex) || ports.failed.contains_key(ifindex) {
                continue;
            }
            if let Some(mode) = wanted_mode(*ifindex, facts) {
                new.push((*ifindex, link.clone()));
                ports.attached.insert(*ifindex, Attached { name: link.name.clone(), mode, linked: false });
            }
        }
        new
    }

    /// Counts what is lost behind redirects, from before the first port is at XDP. A port that may come back finds it there.
    pub(in crate::daemon) fn observe_losses(&mut self, facts: Facts<'_>) {
        let redirects = self.attached().values().any(|port| port.mode != Mode::Tc);
        let mut wanted = facts.desired.ports().config().iter();
        let may = wanted.any(|port| port.mode != ModeChoice::Fixed(Mode::Tc));
        let observe = redirects || may && self.losses().is_some();
        self.live.kernel.observe_losses(observe);
    }

    /// Takes off all ports, which nothing wants any more.
    pub(in crate::daemon) fn detach_all(&mut self, facts: Facts<'_>) {
        self.live.ports.failed.clear();
        self.live.ports.postponed.clear();
        self.detach_unwanted(facts);
        self.live.guard(facts);
        self.live.drop_stale_links();
        self.update_gate(facts);
    }
}

impl Live {
    /// The slots of ports, brought in line with what the maps will hold: counters of ports that are gone are retired.
    pub(super) fn retire_slots(&mut self, want: &BTreeMap<u32, Port>) {
        let slots = self.ports.slots.iter();
        let gone = slots.filter(|(slot, ifindex)| want.get(slot).is_none_or(|port| port.ifindex != **ifindex));
        let gone: BTreeSet<u32> = gone.map(|(slot, _)| *slot).collect();
        for slot in gone {
            self.ports.slots.remove(&slot);
            if let Err(error) = self.retire(slot) {
                tracing::error!("cannot clear the counters of a removed port: {error}");
            }
        }
        for (slot, port) in want {
            if self.ports.slots.insert(*slot, port.ifindex).is_none()
                && let Err(error) = self.kernel.clear_port_counters(*slot)
            {
                tracing::error!("cannot clear the counters of a new port: {error}");
            }
        }
    }

    fn retire(&mut self, slot: u32) -> Result<(), TableError> {
        self.ports.retired.add(digest(&self.kernel.port_counters(slot)?));
        self.kernel.clear_port_counters(slot)
    }
}
