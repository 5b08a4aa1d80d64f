//! Which links are ports, and how.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::Ifindex;

use super::{Daemon, state::RuleHandles};
use crate::{
    config::{Config, FlowsConfig, NetfilterChoice, PortConfig},
    control::row::Counts,
    kernel::Hook,
    lower::{Problem, Update},
    model::{Attachment, IpVersion, Link, Mode, ModeChoice, choose},
};

/// A link that is a port.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    /// Its name when it was attached.
    pub name: String,
    /// How it is attached.
    pub mode: Mode,
    /// Whether its programs are in place. Before that the maps may not know the port yet: a program swapped in then would
    /// leave all packets to the kernel, past the rules.
    pub linked: bool,
}

/// What the operator wants attached, and what is.
#[derive(Debug, Default)]
pub(super) struct Ports {
    config: Vec<PortConfig>,
    off: BTreeSet<String>,
    /// What is attached, by index.
    pub attached: BTreeMap<Ifindex, Attached>,
    /// What should be but cannot, with the reason.
    pub failed: BTreeMap<Ifindex, String>,
    /// What should be, and will be once the maps could be written, with the reason.
    pub postponed: BTreeMap<Ifindex, String>,
    /// Whose counters are in which slot.
    slots: BTreeMap<u32, Ifindex>,
    /// Counters of ports that are no more.
    pub retired: Retired,
}

/// Sums over ports that are no more: totals never go back.
#[derive(Debug, Default)]
pub(super) struct Retired {
    pub counts: Counts,
    pub reasons: BTreeMap<&'static str, u64>,
}

impl Ports {
    pub(super) fn new(config: &Config, rule_handles: &RuleHandles) -> Self {
        Self { config: config.ports.clone(), off: rule_handles.off.iter().cloned().collect(), ..Self::default() }
    }

    /// Slots whose counters go on.
    pub(super) fn adopt_slots(&mut self, slots: BTreeMap<Ifindex, u32>) {
        self.slots = slots.into_iter().map(|(ifindex, slot)| (slot, ifindex)).collect();
    }

    /// Takes what a config says in place of what was there.
    pub(super) fn replace(&mut self, config: &Config) {
        self.config.clone_from(&config.ports);
        self.off.clear();
    }

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

    /// Wants again what was wanted before.
    pub(super) fn restore(&mut self, config: Vec<PortConfig>, off: Vec<String>) {
        self.config = config;
        self.off = off.into_iter().collect();
    }

    /// Wants nothing.
    pub(super) fn clear(&mut self) {
        self.config.clear();
        self.off.clear();
    }

    /// What is said about a link: an entry of a name of its own, or else the first pattern that fits its name; then what was
    /// said about it under a name before.
    pub(super) fn wanted(&self, link: &Link, former: &[String]) -> Option<&PortConfig> {
        let before = former.iter().map(String::as_str);
        if link.names().chain(before.clone()).any(|name| self.off.contains(name)) {
            return None;
        }
        let own = |name: &str| self.config.iter().find(|port| port.pattern.as_str() == name);
        let fitting = |name: &str| self.config.iter().find(|port| port.pattern.fits(name));
        let now = link.names().find_map(own).or_else(|| fitting(&link.name));
        now.or_else(|| before.clone().find_map(own)).or_else(|| before.clone().find_map(fitting))
    }

    /// As lowering wants it.
    fn attachments(&self, flows: FlowsConfig) -> BTreeMap<Ifindex, Attachment> {
        let follow = flows.netfilter == NetfilterChoice::Follow;
        let attachment = |port: &Attached| Attachment { mode: port.mode, tc: true, follow };
        self.attached.iter().map(|(ifindex, port)| (*ifindex, attachment(port))).collect()
    }
}

impl Daemon {
    /// Follows what the kernel said: ports that come and go, then tables. Problems are logged; what can be done is done. No
    /// program is attached before its port and the rules are in the maps.
    pub(super) fn follow(&mut self) {
        self.note_names();
        if self.leaves_ports() {
            // What could not be written is said, and tried again, by who wrote it.
            let _written = self.reconcile();
            return;
        }
        self.update_gate();
        self.ports.postponed.clear();
        let former = self.detach_unwanted();
        self.update_gate_except(&former);
        let new = self.plan();
        let refreshed = self.refresh_chains().map_err(|error| format!("{error:#}"));
        self.update_egress();
        let update = self.lower();
        let mut again = false;
        // A port is filtered as soon as the programs know it; routes, for which packets in flight must be waited for, and XDP
        // come after that. Unless something is to be loaded first, or was not written.
        if refreshed.is_ok() && self.enter_ports(&update) {
            self.attach_ways_out(&new);
            again |= self.attach_planned(&new, |hook| !hook.is_xdp());
        }
        let written = refreshed.and(self.finish(update));
        self.observe_losses();
        if let Err(reason) = written {
            let waiting = self.unlink(new, &former);
            self.postpone(waiting, former, &reason);
            return;
        }
        self.attach_ways_out(&new);
        again |= self.attach_planned(&new, |_| true);
        // Links know devices, so of new ports it is known from here on.
        let again = self.update_rx_handlers() | again;
        if again {
            let _logged = self.reconcile();
            self.observe_losses();
        }
        self.notice_netfilter();
    }

    /// Counts what is lost behind redirects, from before the first port is at XDP. A port that may come back finds it there.
    pub(super) fn observe_losses(&mut self) {
        let redirects = self.ports.attached.values().any(|port| port.mode != Mode::Tc);
        let may = self.ports.config.iter().any(|port| port.mode != ModeChoice::Fixed(Mode::Tc));
        if !(redirects || may && self.tx_error_status.is_some()) {
            self.tx_errors.end();
            self.tx_error_status = None;
        } else if self.tx_error_status.is_none() {
            let done = self.tx_errors.observe(self.sizes, &self.pin_dirs).map_err(|error| error.to_string());
            if let Err(error) = &done {
                tracing::warn!(
                    "frames that a way out does not take count as forwarded, and not as redirect_failed: {error}"
                );
            }
            self.tx_error_status = Some(done);
        }
    }

    /// Lets go of ports that are gone, switched off or wanted in another mode. Gives those: their programs are still there.
    fn detach_unwanted(&mut self) -> BTreeMap<Ifindex, Attached> {
        let mut former = BTreeMap::new();
        let unwanted: Vec<_> = self
            .ports
            .attached
            .iter()
            .filter(|(ifindex, port)| self.wanted_mode(**ifindex) != Some(port.mode))
            .map(|(ifindex, port)| (*ifindex, port.name.clone()))
            .collect();
        for (ifindex, name) in unwanted {
            if self.wanted_mode(ifindex).is_some() {
                // Another mode: what both have stays attached, the rest is exchanged by `attach_hooks`.
                former.extend(self.ports.attached.remove_entry(&ifindex).filter(|(_, port)| port.linked));
                continue;
            }
            tracing::info!(port = name, "detached");
            self.release(ifindex);
        }
        let model = &self.model;
        self.ports.failed.retain(|ifindex, _| model.links.contains_key(ifindex));
        former
    }

    /// The mode that a link should be a port in; `None`: it should not.
    fn wanted_mode(&self, ifindex: Ifindex) -> Option<Mode> {
        let link = self.model.links.get(&ifindex)?;
        let wanted = self.ports.wanted(link, self.names.former(ifindex))?;
        Some(choose(link, self.model.features(ifindex), wanted.mode))
    }

    /// Enters links that should be ports; their programs follow once the maps know them.
    fn plan(&mut self) -> Vec<(Ifindex, Link)> {
        let mut new = Vec::new();
        for (ifindex, link) in &self.model.links {
            if link.loopback || self.ports.attached.contains_key(ifindex) || self.ports.failed.contains_key(ifindex) {
                continue;
            }
            if let Some(mode) = self.wanted_mode(*ifindex) {
                new.push((*ifindex, link.clone()));
                self.ports.attached.insert(*ifindex, Attached { name: link.name.clone(), mode, linked: false });
            }
        }
        new
    }

    /// Takes the programs off a port and forgets it.
    pub(super) fn release(&mut self, ifindex: Ifindex) {
        self.relinked = true;
        for hook in Hook::ALL {
            if let Err(error) = self.links.detach(ifindex, hook) {
                tracing::error!("{error}");
            }
        }
        self.ports.attached.remove(&ifindex);
    }

    /// Takes off the links of ports that an earlier daemon had and this one does not want.
    pub(super) fn drop_stale_links(&mut self) {
        for (ifindex, hook) in self.links.list() {
            let guarded = hook == Hook::TcEgress && self.egress_state.guarded.contains(&ifindex);
            if !self.ports.attached.contains_key(&ifindex)
                && !guarded
                && let Err(error) = self.links.detach(ifindex, hook)
            {
                tracing::error!("{error}");
            }
        }
    }

    /// Takes everything off.
    pub(super) fn detach_all(&mut self) {
        self.ports.clear();
        self.ports.failed.clear();
        self.ports.postponed.clear();
        self.detach_unwanted();
        self.guard();
        self.drop_stale_links();
        self.update_gate();
        let _logged = self.reconcile();
        self.observe_losses();
    }

    /// The slots of ports, brought in line with what the maps will hold: counters of ports that are gone are retired.
    pub(super) fn retire_slots(&mut self, want: &BTreeMap<u32, dataplane_common::abi::Port>) {
        let gone: Vec<u32> = self
            .ports
            .slots
            .iter()
            .filter(|(slot, ifindex)| want.get(slot).is_none_or(|port| port.ifindex != **ifindex))
            .map(|(slot, _)| *slot)
            .collect();
        for slot in gone {
            self.ports.slots.remove(&slot);
            if let Err(error) = self.retire(slot) {
                tracing::error!("counters of a port that is gone: {error}");
            }
        }
        for (slot, port) in want {
            if self.ports.slots.insert(*slot, port.ifindex).is_none()
                && let Err(error) = self.tables.clear_port_counters(*slot)
            {
                tracing::error!("counters of a new port: {error}");
            }
        }
    }

    fn retire(&mut self, slot: u32) -> Result<(), crate::kernel::TableError> {
        let counters = self.tables.port_counters(slot)?;
        let (counts, reasons) = super::query::digest(&counters);
        self.ports.retired.counts += counts;
        for (name, packets) in reasons {
            *self.ports.retired.reasons.entry(name).or_default() += packets;
        }
        self.tables.clear_port_counters(slot)
    }

    /// Lowers what changed of the model, and applies what follows from it. What does not work is logged.
    ///
    /// # Errors
    /// Why the maps do not hold what they should.
    pub(super) fn reconcile(&mut self) -> Result<(), String> {
        let update = self.lower();
        self.finish(update)
    }

    fn lower(&mut self) -> Update {
        let touched = std::mem::take(&mut self.touched);
        self.lowering.update(&self.model, &self.ports.attachments(self.flows), &touched)
    }

    /// Applies what was lowered, and tells what could not be done.
    fn finish(&mut self, update: Update) -> Result<(), String> {
        let written =
            self.catch_up(update).map_err(|error| format!("the maps could not be brought up to date: {error:#}"));
        let unwritten = written.as_ref().err().cloned();
        if let Some(error) = unwritten.as_ref().filter(|_| unwritten != self.unwritten) {
            tracing::error!("{error}; it is tried again each second");
        }
        self.unwritten = unwritten;
        let full = [IpVersion::V4, IpVersion::V6].into_iter().zip(self.tables.routing.overflowed());
        let full = full.filter(|(_, left)| *left != 0).map(|(version, left)| Problem::RoutesFull { version, left });
        let problems: Vec<_> = self.lowering.want().problems.iter().cloned().chain(full).collect();
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.problems = problems;
        written
    }

    /// Applies an update, and with it all that could not be written before.
    fn catch_up(&mut self, update: Update) -> anyhow::Result<()> {
        let update = if self.maps_dirty { Update::anew(self.lowering.want()) } else { update };
        self.apply(&update)
    }
}
