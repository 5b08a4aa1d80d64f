//! Programs come to ports.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use dataplane_common::abi::{Features, Ifindex};

use super::{Attached, DataPlane, Facts, Live, Planned};
use crate::{
    config::PortConfig,
    kernel::{Batch, Hook, LinkError, is_gone},
    model::{IpVersion, Link, Mode, ModeChoice, NetconfScope},
};

/// The hooks of a port.
fn hooks(mode: Mode, features: Features) -> impl Iterator<Item = Hook> {
    let egress = features.intersects(Features::OUTPUT | Features::FORWARD | Features::FLOWS).then_some(Hook::TcEgress);
    let (ingress, xdp) = match mode {
        Mode::Native => (Hook::TcBehindXdp, Some(Hook::Xdp)),
        Mode::Generic => (Hook::TcBehindXdp, Some(Hook::Generic)),
        Mode::Tc => (Hook::TcIngress, None),
    };
    // tc first: what XDP hands over must find it there.
    [Some(ingress), egress, xdp].into_iter().flatten()
}

impl DataPlane {
    /// Ports may come, until what this gives is dropped.
    pub(in crate::daemon) fn begin_batch(&self) -> Batch {
        self.live.kernel.begin_batch()
    }

    /// Ways out first: what goes up at one port may leave through another.
    pub(in crate::daemon) fn attach_ways_out(&mut self, new: &[(Ifindex, Link)]) {
        self.live.attach_ways_out(new);
    }

    /// Attaches hooks of ports that were planned; those that have them all are linked. Whether some could not be.
    pub(in crate::daemon) fn attach_planned(
        &mut self,
        new: &[(Ifindex, Link)],
        facts: Facts<'_>,
        which: impl Fn(Hook) -> bool,
    ) -> bool {
        let mut failed = false;
        for (ifindex, link) in new {
            let Some(mode) = self.live.ports.attached().get(ifindex).map(|port| port.mode) else { continue };
            let all = hooks(mode, self.features()).all(&which);
            if let Err(error) = self.live.attach_hooks(*ifindex, &link.name, &which) {
                let reason = explain(link, &error);
                tracing::error!("cannot attach {}: {reason}", link.name);
                self.live.release(*ifindex);
                self.live.ports.fail(*ifindex, reason);
                failed = true;
            } else if all && self.live.ports.link(*ifindex) {
                tracing::info!(port = link.name, %mode, "attached");
                self.update_gate(facts);
            }
        }
        failed
    }

    /// Takes off what new ports have already, unless that is all; those that others have to wait with.
    pub(in crate::daemon) fn unlink(&mut self, mut new: Planned, former: &BTreeMap<Ifindex, Attached>) -> Planned {
        new.retain(|(ifindex, _)| self.live.ports.attached().get(ifindex).is_some_and(|port| !port.linked));
        for (ifindex, _) in new.iter().filter(|(ifindex, _)| !former.contains_key(ifindex)) {
            self.live.release(*ifindex);
        }
        new
    }

    /// Loads what ports that may come will need.
    pub(in crate::daemon) fn prepare(&mut self, facts: Facts<'_>) {
        let hooks = self.live.hooks_in_use(self.features(), facts);
        if let Err(error) = self.live.kernel.ready(&hooks) {
            tracing::debug!("a program for ports that may come is not ready: {error}");
        }
    }
}

impl Live {
    fn attach_ways_out(&mut self, new: &[(Ifindex, Link)]) {
        if !self.guards(self.kernel.features()) {
            return;
        }
        for (ifindex, link) in new.iter().filter(|(ifindex, _)| self.ports.attached().contains_key(ifindex)) {
            if let Err(error) = self.kernel.attach(*ifindex, &link.name, Hook::TcEgress) {
                tracing::debug!("tc egress of {}: {error}; it is tried again with the other hooks", link.name);
            }
        }
    }

    /// Attaches these hooks of a port, and takes off those it should not have.
    fn attach_hooks(&mut self, ifindex: Ifindex, name: &str, which: impl Fn(Hook) -> bool) -> Result<(), LinkError> {
        self.relinked = true;
        let wanted: Vec<_> = hooks(self.ports.attached()[&ifindex].mode, self.kernel.features()).collect();
        self.kernel.ready(&wanted)?;
        for hook in Hook::ALL.into_iter().filter(|hook| !wanted.iter().any(|other| other.shares_place(*hook))) {
            self.kernel.detach(ifindex, hook)?;
        }
        for hook in wanted.into_iter().filter(|hook| which(*hook)) {
            self.kernel.attach(ifindex, name, hook)?;
        }
        Ok(())
    }

    /// The hooks of all ports that have programs, and of those that may come, for programs with these features: a new port
    /// must not wait until its programs are loaded.
    pub(super) fn hooks_in_use(&self, features: Features, facts: Facts<'_>) -> Vec<Hook> {
        let linked = self.ports.attached().values().filter(|port| port.linked).map(|port| port.mode);
        let expected = facts.desired.ports().config().iter().map(|port| match port.mode {
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
    pub(super) fn expected_features(facts: Facts<'_>) -> Features {
        let model = facts.observed.model();
        let absent = |port: &&PortConfig| port.pattern.is_glob() || model.link_named(port.pattern.as_str()).is_none();
        if !facts.desired.ports().config().iter().any(|port| absent(&port)) {
            return Features::empty();
        }
        // What comes later is virtual.
        let mut features = Features::PARTIAL_CHECKSUMS;
        let strict = [NetconfScope::All, NetconfScope::Default].map(|scope| (IpVersion::V4, scope));
        let strict = strict.iter().filter_map(|scope| model.netconf.get(scope)?.rp_filter).any(|value| value != 0);
        features.set(Features::RP_FILTER, strict);
        features
    }

    /// Takes the programs off a port and forgets it.
    pub(super) fn release(&mut self, ifindex: Ifindex) {
        self.relinked = true;
        for hook in Hook::ALL {
            if let Err(error) = self.kernel.detach(ifindex, hook) {
                tracing::error!("{error}");
            }
        }
        self.ports.forget(ifindex);
    }

    /// Takes off the links of ports that an earlier daemon had and this one does not want.
    pub(super) fn drop_stale_links(&mut self) {
        for (ifindex, hook) in self.kernel.attached() {
            let guarded = hook == Hook::TcEgress && self.egress_state.guarded().contains(&ifindex);
            if !self.ports.attached().contains_key(&ifindex)
                && !guarded
                && let Err(error) = self.kernel.detach(ifindex, hook)
            {
                tracing::error!("{error}");
            }
        }
    }

    /// Swaps the loaded programs in at every port.
    ///
    /// # Errors
    /// The first port at which that did not work; the others were tried all the same.
    pub(super) fn relink(&mut self, facts: Facts<'_>) -> anyhow::Result<()> {
        let _batch = self.kernel.begin_batch();
        let ports: Vec<_> = self.ports.attached().iter().map(|(ifindex, port)| (*ifindex, port.clone())).collect();
        // What goes up is held to the chain from before it does.
        self.relink_guarded(facts);
        self.guard(facts);
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
        self.guard(facts);
        done
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
