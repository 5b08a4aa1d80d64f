//! Programs come to ports.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use dataplane_common::abi::{Features, Ifindex};

use super::{Daemon, port::Attached};
use crate::{
    config::PortConfig,
    kernel::{Hook, LinkError, is_gone},
    lower::Update,
    model::{IpVersion, Link, Mode, ModeChoice, NetconfScope},
};

/// The hooks of a port.
fn hooks(mode: Mode, features: Features) -> impl Iterator<Item = Hook> {
    let egress = features.intersects(Features::OUTPUT | Features::FORWARD).then_some(Hook::TcEgress);
    let (ingress, xdp) = match mode {
        Mode::Native => (Hook::TcBehindXdp, Some(Hook::Xdp)),
        Mode::Generic => (Hook::TcBehindXdp, Some(Hook::Generic)),
        Mode::Tc => (Hook::TcIngress, None),
    };
    // tc first: what XDP hands over must find it there.
    [Some(ingress), egress, xdp].into_iter().flatten()
}

impl Daemon {
    /// Ways out first: what goes up at one port may leave through another.
    pub(super) fn attach_ways_out(&mut self, new: &[(Ifindex, Link)]) {
        if !self.guards(self.object.features()) {
            return;
        }
        for (ifindex, link) in new.iter().filter(|(ifindex, _)| self.ports.attached.contains_key(ifindex)) {
            if let Err(error) = self.links.attach(&mut self.object, *ifindex, &link.name, Hook::TcEgress) {
                tracing::debug!("tc egress of {}: {error}; it is tried again with the other hooks", link.name);
            }
        }
    }

    /// Attaches hooks of ports that were planned; those that have them all are linked. Whether some could not be.
    pub(super) fn attach_planned(&mut self, new: &[(Ifindex, Link)], which: impl Fn(Hook) -> bool) -> bool {
        let mut failed = false;
        for (ifindex, link) in new {
            let Some(mode) = self.ports.attached.get(ifindex).map(|port| port.mode) else { continue };
            let all = hooks(mode, self.object.features()).all(&which);
            if let Err(error) = self.attach_hooks(*ifindex, &link.name, &which) {
                let reason = explain(link, &error);
                tracing::error!("cannot attach {}: {reason}", link.name);
                self.release(*ifindex);
                self.ports.failed.insert(*ifindex, reason);
                failed = true;
            } else if let Some(port) = self.ports.attached.get_mut(ifindex).filter(|port| all && !port.linked) {
                port.linked = true;
                tracing::info!(port = link.name, mode = %port.mode, "attached");
                self.update_gate();
            }
        }
        failed
    }

    /// Attaches these hooks of a port, and takes off those it should not have.
    fn attach_hooks(&mut self, ifindex: Ifindex, name: &str, which: impl Fn(Hook) -> bool) -> Result<(), LinkError> {
        self.relinked = true;
        let wanted: Vec<_> = hooks(self.ports.attached[&ifindex].mode, self.object.features()).collect();
        self.object.ready(&wanted)?;
        for hook in Hook::ALL.into_iter().filter(|hook| !wanted.iter().any(|other| other.shares_place(*hook))) {
            self.links.detach(ifindex, hook)?;
        }
        for hook in wanted.into_iter().filter(|hook| which(*hook)) {
            self.links.attach(&mut self.object, ifindex, name, hook)?;
        }
        Ok(())
    }

    /// The hooks of all ports that have programs, and of those that may come, for programs with these features: a new port
    /// must not wait until its programs are loaded.
    pub(super) fn hooks_in_use(&self, features: Features) -> Vec<Hook> {
        let linked = self.ports.attached.values().filter(|port| port.linked).map(|port| port.mode);
        let expected = self.ports.config().iter().map(|port| match port.mode {
            ModeChoice::Fixed(mode) => mode,
            ModeChoice::Auto => Mode::Tc,
        });
        let mut all: BTreeSet<_> = linked.chain(expected).flat_map(|mode| hooks(mode, features)).collect();
        if self.guards(features) {
            all.insert(Hook::TcEgress);
        }
        all.into_iter().collect()
    }

    /// What ports that may come most likely ask of the programs: those are loaded before, not when the port is there.
    pub(super) fn expected_features(&self) -> Features {
        let absent =
            |port: &&PortConfig| port.pattern.is_glob() || self.model.link_named(port.pattern.as_str()).is_none();
        if !self.ports.config().iter().any(|port| absent(&port)) {
            return Features::empty();
        }
        // What comes later is virtual.
        let mut features = Features::PARTIAL_CHECKSUMS;
        let strict = [NetconfScope::All, NetconfScope::Default].map(|scope| (IpVersion::V4, scope));
        let strict = strict.iter().filter_map(|scope| self.model.netconf.get(scope)?.rp_filter).any(|value| value != 0);
        features.set(Features::RP_FILTER, strict);
        features
    }

    /// Loads what ports that may come will need.
    pub(super) fn prepare(&mut self) {
        let hooks = self.hooks_in_use(self.object.features());
        if let Err(error) = self.object.ready(&hooks) {
            tracing::debug!("a program for ports that may come is not ready: {error}");
        }
    }

    /// Swaps the loaded programs in at every port.
    ///
    /// # Errors
    /// The first port at which that did not work; the others were tried all the same.
    pub(super) fn relink(&mut self) -> anyhow::Result<()> {
        let ports: Vec<_> = self.ports.attached.iter().map(|(ifindex, port)| (*ifindex, port.clone())).collect();
        // What goes up is held to the chain from before it does.
        self.relink_guarded();
        self.guard();
        let mut done = Ok(());
        for (ifindex, port) in ports.into_iter().filter(|(_, port)| port.linked) {
            if let Err(error) = self.attach_hooks(ifindex, &port.name, |_| true)
                // The kernel says so soon, and then it is no port any more.
                && !matches!(error, LinkError::Gone)
                && !is_gone(ifindex)
            {
                tracing::error!("cannot swap the programs of {}: {error}", port.name);
                done = done.and(Err(anyhow!("cannot swap the programs of {}: {error}", port.name)));
            }
        }
        self.guard();
        done
    }

    /// Takes off what new ports have already, unless that is all; those that others have to wait with.
    pub(super) fn unlink(
        &mut self,
        mut new: Vec<(Ifindex, Link)>,
        former: &BTreeMap<Ifindex, Attached>,
    ) -> Vec<(Ifindex, Link)> {
        new.retain(|(ifindex, _)| self.ports.attached.get(ifindex).is_some_and(|port| !port.linked));
        for (ifindex, _) in new.iter().filter(|(ifindex, _)| !former.contains_key(ifindex)) {
            self.release(*ifindex);
        }
        new
    }

    /// Writes ports ahead of all else, where the programs can do what they ask for. Whether that could be.
    pub(super) fn enter_ports(&mut self, update: &Update) -> bool {
        if self.maps_dirty || update.anew || !self.object.features().contains(self.lowering.want().features) {
            return false;
        }
        if !update.ports.is_empty() {
            let ports = self.lowering.want().ports.clone();
            self.retire_slots(&ports);
            for (slot, port) in update.ports.iter().filter_map(|(slot, port)| Some((*slot, (*port)?))) {
                self.tables.write_port(slot, &port);
            }
        }
        true
    }
}

/// Why a port is not attached, for people.
fn explain(link: &Link, error: &LinkError) -> String {
    let name = &link.name;
    match error {
        LinkError::Busy => {
            let holder = link.xdp.first().map_or_else(
                || "another program".to_owned(),
                |xdp| match crate::kernel::program_name(xdp.program) {
                    Some(known) => format!("program {known} (id {})", xdp.program),
                    None => format!("program id {}", xdp.program),
                },
            );
            format!(
                "{holder} is attached to {name} already and stays; take it off (`ip link set {name} xdp off` or `bpftool net`), or use --mode tc"
            )
        }
        LinkError::Unsupported(cause) => format!(
            "{name} does not take an XDP program in this mode ({cause}); the MTU, offloads or driver may be in the way: use --mode tc, or auto"
        ),
        other => other.to_string(),
    }
}
