//! Links that the config wants as ports, and whose packets wait until they are (`until_ready = "drop"`).

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::Ifindex;

use super::{Attached, DataPlane, Facts, verbs::GateStep};
use crate::{
    config::{PortConfig, UntilReady},
    daemon::{desired::Desired, observed::Observed},
    kernel::Hook,
    netlink::GateRule,
};

/// No link has a longer name.
const LONGEST: usize = 15;

/// The table in front of the kernel, as it was last written.
#[derive(Debug)]
pub(super) struct PortGate {
    /// None: there is no table, or nobody knows what it holds.
    written: Option<(Vec<GateRule>, BTreeSet<Ifindex>)>,
    /// Why it could not be written.
    trouble: Option<String>,
    /// Whether a table may be there that nobody asked for.
    stray: bool,
    /// Ports of an earlier daemon, until they are ours.
    adopted: BTreeSet<Ifindex>,
}

impl Default for PortGate {
    fn default() -> Self {
        Self { written: None, trouble: None, stray: true, adopted: BTreeSet::new() }
    }
}

/// Whose packets wait, and whose pass: what is switched off, then what is named, then patterns in their order.
fn rules(desired: &Desired) -> Vec<GateRule> {
    let waits = |port: &PortConfig| port.until_ready == UntilReady::Drop;
    let config = desired.ports().config();
    if !config.iter().any(waits) {
        return Vec::new();
    }
    let pass = |name| GateRule { name, waits: false };
    let off = std::iter::once("lo".to_owned()).chain(desired.ports().off()).map(pass);
    let rule = |port: &PortConfig| GateRule { name: port.pattern.as_str().to_owned(), waits: waits(port) };
    let named = config.iter().filter(|port| !port.pattern.is_glob()).map(rule);
    // One that a table can not ask for passes nobody by: it only waits longer.
    let globs = config.iter().filter(|port| port.pattern.is_glob() && port.pattern.is_beginning()).map(rule);
    off.chain(named).chain(globs).filter(|rule| rule.name.len() <= LONGEST).collect()
}

impl DataPlane {
    /// Writes the table of links that are not ready, where it is not as it should be. `linked`: those whose packets meet
    /// programs of ours.
    fn write_gate(&mut self, linked: BTreeSet<Ifindex>, desired: &Desired) {
        let rules = rules(desired);
        let (kernel, PortGate { written, stray, trouble, .. }) = (&mut self.live.kernel, &mut self.port_gate);
        let done = match written {
            _ if rules.is_empty() => {
                let there = written.take().is_some() || std::mem::take(stray) || trouble.is_some();
                if there { kernel.gate(GateStep::Remove) } else { Ok(()) }
            }
            Some((of, ready)) if *of == rules => {
                let new: Vec<_> = linked.difference(ready).copied().collect();
                let gone: Vec<_> = ready.difference(&linked).copied().collect();
                kernel.gate(GateStep::Admit(&new)).and_then(|()| kernel.gate(GateStep::Dismiss(&gone)))
            }
            _ => kernel.gate(GateStep::Write(&rules, &linked.iter().copied().collect::<Vec<_>>())),
        };
        match done {
            Ok(()) => {
                self.port_gate.trouble = None;
                self.port_gate.written = (!rules.is_empty()).then_some((rules, linked));
            }
            // A kernel without nf_tables has nothing to take away.
            Err(error) if rules.is_empty() => tracing::debug!("{error}"),
            Err(error) => {
                if self.port_gate.trouble.as_ref() != Some(&error) {
                    tracing::error!("links that are not ready are not held back: {error}");
                }
                (self.port_gate.written, self.port_gate.trouble) = (None, Some(error));
            }
        }
    }

    /// Before anything is attached. What an earlier daemon attached still filters.
    pub(in crate::daemon) fn close_gate(&mut self, facts: Facts<'_>) {
        // Links that are no ports have tc egress, too.
        let filtered = self.live.kernel.attached().into_iter().filter(|(_, hook)| *hook != Hook::TcEgress);
        self.port_gate.adopted = filtered.map(|(ifindex, _)| ifindex).collect();
        self.update_gate(facts);
    }

    /// All that is wanted is attached.
    pub(in crate::daemon) fn open_gate(&mut self, facts: Facts<'_>) {
        self.port_gate.adopted.clear();
        self.update_gate(facts);
    }

    /// Whether the table was seen in the kernel.
    pub(in crate::daemon) fn sees_gate(&self, observed: &Observed) -> Option<bool> {
        let own = observed.model().netfilter.own.as_ref()?;
        Some(own.iter().any(|name| name == self.live.kernel.gate_name()))
    }

    /// Somebody took the table away, with all tables most likely: it is written again.
    pub(in crate::daemon) fn note_gate_deleted(&mut self, facts: Facts<'_>) {
        if self.port_gate.written.take().is_some() {
            tracing::warn!("table inet {} was deleted; it is written again", self.live.kernel.gate_name());
            self.update_gate(facts);
        }
    }

    /// Brings the table in line with the ports that are linked.
    pub(in crate::daemon) fn update_gate(&mut self, facts: Facts<'_>) {
        self.update_gate_except(&BTreeMap::new(), facts);
    }

    /// The same, but for ports that will have another mode, and keep their programs until then.
    pub(in crate::daemon) fn update_gate_except(&mut self, former: &BTreeMap<Ifindex, Attached>, facts: Facts<'_>) {
        let linked = self.attached().iter().filter(|(_, port)| port.linked).map(|(ifindex, _)| *ifindex);
        let linked = linked.chain(self.port_gate.adopted.iter().copied()).chain(former.keys().copied());
        self.write_gate(linked.collect(), facts.desired);
    }

    /// Tries again what could not be written.
    pub(in crate::daemon) fn retry_gate(&mut self, facts: Facts<'_>) {
        if self.port_gate.written.is_some() && self.sees_gate(facts.observed) == Some(false) {
            self.port_gate.written = None;
            self.update_gate(facts);
        } else if self.port_gate.trouble.is_some() {
            self.update_gate(facts);
        }
    }

    /// Why packets of links that are not ready are not dropped, though the config says so.
    pub(in crate::daemon) fn gate_trouble(&self) -> Option<String> {
        let trouble = self.port_gate.trouble.as_ref()?;
        Some(format!("links that are not ready are not held back: {trouble}"))
    }

    /// The name of the table, if it is wanted.
    pub(in crate::daemon) fn gate_name(&self, desired: &Desired) -> Option<&str> {
        let waits = desired.ports().config().iter().any(|port| port.until_ready == UntilReady::Drop);
        waits.then(|| self.live.kernel.gate_name())
    }
}
