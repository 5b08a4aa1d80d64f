//! The loop's way from what was observed and desired to what is written.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use dataplane_common::abi::Ifindex;

use super::{
    Daemon,
    chains::{Chains, InstalledRule},
    guard::guarded,
    journal::Line,
    plane::{Attached, Facts, Planned},
    state::Entry as Row,
};
use crate::{
    lower::Update,
    model::{Event, Link},
    rule::{ChainName, Rule},
};

impl Daemon {
    /// Follows what was heard. Ports and rules depend on links alone.
    pub(super) fn reconcile_if_touched(&mut self) {
        if self.observed.are_links_touched() {
            self.follow();
        } else if self.observed.is_touched() || self.plane.is_dirty() {
            let _logged = self.reconcile();
        }
    }

    /// Follows what the kernel said: ports that come and go, then tables. Problems are logged; what can be done is done. No
    /// program is attached before its port and the rules are in the maps.
    pub(super) fn follow(&mut self) {
        self.note_names();
        if self.leaves_ports() {
            // What could not be written is said, and tried again, by who wrote it.
            let _written = self.reconcile();
            return;
        }
        let _batch = self.plane.begin_batch();
        let facts = Facts::new(&self.observed, &self.desired, &self.packets);
        self.plane.update_gate(facts);
        self.plane.ports_mut().resume();
        let former = self.plane.detach_unwanted(facts);
        self.plane.update_gate_except(&former, facts);
        let new = self.plane.plan(facts);
        let refreshed = self.refresh_chains().map_err(|error| format!("{error:#}"));
        self.plane.update_egress(Facts::new(&self.observed, &self.desired, &self.packets));
        let update = self.lower();
        self.forbid_flows();
        let facts = Facts::new(&self.observed, &self.desired, &self.packets);
        let mut again = false;
        // A port is filtered as soon as the programs know it; routes, for which packets in flight must be waited for, and XDP
        // come after that. Unless something is to be loaded first, or was not written.
        if refreshed.is_ok() && self.plane.enter_ports(&update) {
            self.plane.attach_ways_out(&new);
            again |= self.plane.attach_planned(&new, facts, |hook| !hook.is_xdp());
        }
        let written = refreshed.and(self.plane.apply(update, facts));
        self.plane.observe_losses(facts);
        self.follow_flows();
        match written {
            Ok(()) => self.attach_new(&new, again),
            Err(reason) => self.postpone(new, former, &reason),
        }
    }

    /// The maps know the ports: the rest of their programs is attached.
    fn attach_new(&mut self, new: &[(Ifindex, Link)], mut again: bool) {
        let facts = Facts::new(&self.observed, &self.desired, &self.packets);
        self.plane.attach_ways_out(new);
        again |= self.plane.attach_planned(new, facts, |_| true);
        // Links know devices, so of new ports it is known from here on.
        again |= self.update_rx_handlers();
        if again {
            let _logged = self.reconcile();
            self.plane.observe_losses(Facts::new(&self.observed, &self.desired, &self.packets));
        }
        self.notice_netfilter();
    }

    /// The maps do not know the ports: they wait, and so does what would be attached to them.
    fn postpone(&mut self, new: Planned, former: BTreeMap<Ifindex, Attached>, reason: &str) {
        let waiting = self.plane.unlink(new, &former);
        self.plane.ports_mut().postpone(waiting, former, reason);
    }

    /// Lowers what changed of the model, and applies what follows from it. What does not work is logged.
    ///
    /// # Errors
    /// Why the maps do not hold what they should.
    pub(super) fn reconcile(&mut self) -> Result<(), String> {
        let update = self.lower();
        self.forbid_flows();
        let applied = self.plane.apply(update, Facts::new(&self.observed, &self.desired, &self.packets));
        self.follow_flows();
        applied
    }

    fn lower(&mut self) -> Update {
        let touched = self.observed.take_touched();
        self.plane.lower(&touched, Facts::new(&self.observed, &self.desired, &self.packets))
    }

    /// Tries again what could not be written.
    pub(super) fn make_good(&mut self) {
        let waits = self.plane.is_dirty()
            || self.plane.is_stale()
            || self.plane.table_waits()
            || !self.plane.ports().postponed().is_empty();
        if !self.observed.is_loading() && waits {
            self.follow();
        }
    }

    /// Takes everything off.
    ///
    /// # Errors
    /// Something is still there; it is tried again each second.
    pub(super) fn detach_all(&mut self) -> anyhow::Result<()> {
        self.desired.ports_mut().clear();
        self.desired.clear_steer();
        self.steering.end();
        self.plane.detach_all(Facts::new(&self.observed, &self.desired, &self.packets));
        let refreshed = self.refresh_chains();
        if let Err(error) = &refreshed {
            tracing::error!("{error:#}");
        }
        let _logged = self.reconcile();
        self.plane.observe_losses(Facts::new(&self.observed, &self.desired, &self.packets));
        refreshed?;
        self.delivery_stays().map_or(Ok(()), |said| Err(anyhow!(said)))
    }

    /// Takes note of links that have another name than before.
    fn note_names(&mut self) {
        for (ifindex, before) in self.observed.note_names() {
            let Some(link) = self.observed.model().links.get(&ifindex) else { continue };
            if self.plane.ports_mut().rename(ifindex, &link.name) {
                tracing::warn!(
                    "port {before} is called {name} now and stays a port; write {name} into the config before the daemon starts \
                     anew: `iif {before}` still means it, `iifname {before}` does not",
                    name = link.name
                );
            }
        }
    }

    /// Looks who takes the frames of ports before IP sees them; whether it is somebody else now.
    pub(super) fn update_rx_handlers(&mut self) -> bool {
        let Some(handlers) = self.plane.rx_handlers() else { return false };
        if handlers == self.observed.model().handlers {
            return false;
        }
        self.observed.follow(Event::Handlers(handlers));
        true
    }

    /// Commits the chains again after links have changed, if that makes a difference, or if what is live is not what it should
    /// be.
    pub(super) fn refresh_chains(&mut self) -> anyhow::Result<()> {
        if self.plane.is_current(&self.observed) && self.is_table_current() {
            self.plane.table_stays();
            return Ok(());
        }
        self.commit().context("the rules could not be brought up to date, and stay as they were")
    }

    /// Changes the chains, all or nothing, and writes them down.
    pub(super) fn change_chains<T>(
        &mut self,
        change: impl FnOnce(&mut Chains) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let value = self.change_chains_unsaved(change)?;
        self.save();
        Ok(value)
    }

    /// Changes the chains, all or nothing: a change that cannot be lowered or written leaves the old ones in force.
    pub(super) fn change_chains_unsaved<T>(
        &mut self,
        change: impl FnOnce(&mut Chains) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let before = self.desired.chains().clone();
        let done = guarded(|| {
            let value = change(self.desired.chains_mut())?;
            self.commit()?;
            Ok(value)
        });
        let done = done.unwrap_or_else(|panic| Err(anyhow!("the daemon made a mistake with these rules: {panic}")));
        if done.is_err() {
            self.restore_chains(before);
        } else {
            // A set of a million elements is not let go of in a moment, nor need the ring wait for that.
            std::thread::spawn(move || drop(before));
        }
        done
    }

    /// Puts the chains of before in the place of those that are not to be.
    pub(super) fn restore_chains(&mut self, before: Chains) {
        let chains = self.desired.chains_mut();
        let failed = std::mem::replace(chains, before);
        chains.counters.tainted_by(&failed.counters);
        self.plane.outdate();
        // Where that does not work it is tried again each second.
        if let Err(error) = self.refresh_chains() {
            tracing::error!("the previous rules could not be written again: {error:#}");
        }
    }

    /// Puts a rule at a place of a chain.
    pub(super) fn insert_rule(&mut self, chain: ChainName, rule: Rule, place: usize) -> anyhow::Result<InstalledRule> {
        match self.insert_in_place(chain, &rule, place)? {
            Some(installed) => Ok(installed),
            None => self.change_chains(|chains| chains.insert(chain, rule, place)),
        }
    }

    /// Puts a rule in the place of another, with a handle and a counter of its own.
    pub(super) fn replace_rule(&mut self, chain: ChainName, handle: u64, rule: Rule) -> anyhow::Result<InstalledRule> {
        let place = self.desired.chains().find(chain, handle)?;
        // In front of it: until that is gone, each packet is judged as before or as it will be.
        let Some(installed) = self.insert_in_place(chain, &rule, place)? else {
            return self.change_chains(|chains| chains.exchange(chain, handle, rule));
        };
        if let Err(error) = self.remove_rule(chain, handle) {
            self.remove_rule(chain, installed.handle)?;
            return Err(error);
        }
        Ok(installed)
    }

    fn insert_in_place(
        &mut self,
        chain: ChainName,
        rule: &Rule,
        place: usize,
    ) -> anyhow::Result<Option<InstalledRule>> {
        let next = self.desired.chains().rules(chain).get(place).map(|next| next.handle);
        let added = (chain, rule, place);
        let done = self.plane.add_in_place(&self.observed, &mut self.desired, &self.packets, added)?;
        if let Some(installed) = &done {
            let entry = Row {
                chain: chain.name().to_owned(),
                rule: installed.rule.to_string(),
                handle: installed.handle,
                counter: installed.counter,
            };
            self.note(&match next {
                Some(before) if place > 0 => Line::Insert { entry, before },
                next => Line::Add { entry, in_front: next.is_some() },
            });
        }
        Ok(done)
    }

    /// Takes a rule out of a chain.
    pub(super) fn remove_rule(&mut self, chain: ChainName, handle: u64) -> anyhow::Result<()> {
        if !self.plane.remove_in_place(&mut self.desired, chain, handle) {
            return self.change_chains(|chains| Ok(chains.remove(chain, handle)?));
        }
        self.note(&Line::Remove { chain: chain.name().to_owned(), handle });
        Ok(())
    }
}
