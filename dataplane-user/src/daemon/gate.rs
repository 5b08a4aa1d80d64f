//! Links that the config wants as ports, and whose packets wait until they are (`until_ready = "drop"`).

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::Ifindex;

use super::{Daemon, port::Attached};
use crate::{
    config::UntilReady,
    control::row::{Finding, Status},
    kernel::Hook,
    netlink::{Gate, GateRule},
};

/// No link has a longer name.
const LONGEST: usize = 15;

/// The table in front of the kernel, as it was last written.
#[derive(Debug)]
pub(super) struct PortGate {
    gate: Gate,
    /// None: there is no table, or nobody knows what it holds.
    written: Option<(Vec<GateRule>, BTreeSet<Ifindex>)>,
    /// Why it could not be written.
    trouble: Option<String>,
    /// Whether a table may be there that nobody asked for.
    stray: bool,
    /// Ports of an earlier daemon, until they are ours.
    adopted: BTreeSet<Ifindex>,
}

impl PortGate {
    pub(super) fn new(pins: &std::path::Path) -> Self {
        Self { gate: Gate::of(pins), written: None, trouble: None, stray: true, adopted: BTreeSet::new() }
    }
}

impl Daemon {
    /// Whose packets wait, and whose pass: what is switched off, then what is named, then patterns in their order.
    fn gate_rules(&self) -> Vec<GateRule> {
        let waits = |port: &crate::config::PortConfig| port.until_ready == UntilReady::Drop;
        let config = self.ports.config();
        if !config.iter().any(waits) {
            return Vec::new();
        }
        let pass = |name| GateRule { name, waits: false };
        let off = std::iter::once("lo".to_owned()).chain(self.ports.off()).map(pass);
        let rule =
            |port: &crate::config::PortConfig| GateRule { name: port.pattern.as_str().to_owned(), waits: waits(port) };
        let named = config.iter().filter(|port| !port.pattern.is_glob()).map(rule);
        // One that a table can not ask for passes nobody by: it only waits longer.
        let globs = config.iter().filter(|port| port.pattern.is_glob() && port.pattern.is_beginning()).map(rule);
        off.chain(named).chain(globs).filter(|rule| rule.name.len() <= LONGEST).collect()
    }

    /// Writes the table of links that are not ready, where it is not as it should be. `linked`: those whose packets meet
    /// programs of ours.
    fn write_gate(&mut self, linked: BTreeSet<Ifindex>) {
        let rules = self.gate_rules();
        let PortGate { gate, written, stray, trouble, .. } = &mut self.port_gate;
        let done = match written {
            _ if rules.is_empty() => {
                let there = written.take().is_some() || std::mem::take(stray) || trouble.is_some();
                if there { gate.remove() } else { Ok(()) }
            }
            Some((of, ready)) if *of == rules => {
                let new: Vec<_> = linked.difference(ready).copied().collect();
                let gone: Vec<_> = ready.difference(&linked).copied().collect();
                gate.admit(&new).and_then(|()| gate.hold_back(&gone))
            }
            _ => gate.write(&rules, &linked.iter().copied().collect::<Vec<_>>()),
        };
        match done {
            Ok(()) => {
                self.port_gate.trouble = None;
                self.port_gate.written = (!rules.is_empty()).then_some((rules, linked));
            }
            // A kernel without nf_tables has nothing to take away.
            Err(error) if rules.is_empty() => tracing::debug!("{error}"),
            Err(error) => {
                let trouble = error.to_string();
                if self.port_gate.trouble.as_ref() != Some(&trouble) {
                    tracing::error!("links that are not ready are not held back: {trouble}");
                }
                (self.port_gate.written, self.port_gate.trouble) = (None, Some(trouble));
            }
        }
    }

    /// Before anything is attached. What an earlier daemon attached still filters.
    pub(super) fn close_gate(&mut self) {
        if self.leaves_ports() {
            // Whoever waited waits on.
            return;
        }
        // Links that are no ports have tc egress, too.
        let filtered = self.links.list().into_iter().filter(|(_, hook)| *hook != Hook::TcEgress);
        self.port_gate.adopted = filtered.map(|(ifindex, _)| ifindex).collect();
        self.update_gate();
    }

    /// All that is wanted is attached.
    pub(super) fn open_gate(&mut self) {
        self.port_gate.adopted.clear();
        self.update_gate();
    }

    /// Whether the table was seen in the kernel.
    pub(super) fn sees_gate(&self) -> Option<bool> {
        let own = self.model.netfilter.own.as_ref()?;
        Some(own.iter().any(|name| name == self.port_gate.gate.name()))
    }

    /// Somebody took the table away, with all tables most likely: it is written again.
    pub(super) fn note_gate_deleted(&mut self) {
        if self.port_gate.written.take().is_some() {
            tracing::warn!("table inet {} was deleted; it is written again", self.port_gate.gate.name());
            self.update_gate();
        }
    }

    /// Brings the table in line with the ports that are linked.
    pub(super) fn update_gate(&mut self) {
        self.update_gate_except(&BTreeMap::new());
    }

    /// The same, but for ports that will have another mode, and keep their programs until then.
    pub(super) fn update_gate_except(&mut self, former: &BTreeMap<Ifindex, Attached>) {
        let linked = self.ports.attached.iter().filter(|(_, port)| port.linked).map(|(ifindex, _)| *ifindex);
        let linked = linked.chain(self.port_gate.adopted.iter().copied()).chain(former.keys().copied());
        self.write_gate(linked.collect());
    }

    /// Tries again what could not be written.
    pub(super) fn retry_gate(&mut self) {
        if self.leaves_ports() {
            return;
        }
        if self.port_gate.written.is_some() && self.sees_gate() == Some(false) {
            self.port_gate.written = None;
            self.update_gate();
        } else if self.port_gate.trouble.is_some() {
            self.update_gate();
        }
    }

    /// Why packets of links that are not ready are not dropped, though the config says so.
    pub(super) fn gate_trouble(&self) -> Option<String> {
        let trouble = self.port_gate.trouble.as_ref()?;
        Some(format!("links that are not ready are not held back: {trouble}"))
    }

    /// What the doctor says of it.
    pub(super) fn gate_finding(&self) -> Option<Finding> {
        let waits = self.ports.config().iter().any(|port| port.until_ready == UntilReady::Drop);
        let check = "until_ready".to_owned();
        Some(match self.gate_trouble() {
            Some(found) => Finding { check, status: Status::Fail, found, fix: "modprobe nf_tables".to_owned() },
            None if waits => {
                let found =
                    format!("packets of links that are not ready wait at table inet {}", self.port_gate.gate.name());
                Finding { check, status: Status::Ok, found, fix: String::new() }
            }
            None => return None,
        })
    }
}
