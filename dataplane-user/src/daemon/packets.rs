//! The packets: those that rules log or reject, those that are watched, and those that only tell what would become of them.

use std::{collections::HashMap, sync::Arc, time::Instant};

use dataplane_common::abi::{Features, Ifindex, PacketEvent};

use super::{
    chains::Chains, desired::Desired, epoch::PerEpoch, explain::DryRun, packet_log::PacketLog, trace::TraceSubscribers,
};
use crate::rule::ChainName;

/// Where rules stand, by their counters: chain, and place in it.
type RuleIndex = HashMap<u32, (ChainName, usize)>;

/// What is done with single packets.
pub(super) struct Packets {
    /// Packets that rules log or reject.
    packet_log: PacketLog,
    /// Those who watch packets.
    trace_subscribers: TraceSubscribers,
    /// Where the rules of an epoch stand.
    rule_index: PerEpoch<RuleIndex>,
    /// Programs to try packets on, for an epoch of the tables.
    dry_run: [PerEpoch<Arc<DryRun>>; 2],
    /// Epoch and features that they were last made ready for, before they were needed.
    prepared: Option<(u64, Features)>,
}

impl Packets {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            packet_log: PacketLog::new(now),
            trace_subscribers: TraceSubscribers::default(),
            rule_index: PerEpoch::default(),
            dry_run: Default::default(),
            prepared: None,
        }
    }

    /// Logs and answers what a rule says of a packet. A rule that has gone meanwhile says nothing.
    pub(super) fn log<'m>(&mut self, event: &PacketEvent, desired: &Desired, name: impl Fn(Ifindex) -> &'m str) {
        self.packet_log.log_packet(event, desired, name, Instant::now());
    }

    /// When there is something to say of what was not logged.
    pub(super) fn log_due(&self) -> Option<Instant> {
        self.packet_log.due()
    }

    /// Says what was not logged.
    pub(super) fn report_suppressed(&mut self, now: Instant) {
        self.packet_log.report_suppressed(now);
    }

    /// Why senders of rejected packets get no answers.
    pub(super) fn unanswered(&self) -> Option<&std::io::Error> {
        self.packet_log.unanswered()
    }

    /// Those who watch packets.
    pub(super) fn trace_subscribers(&self) -> &TraceSubscribers {
        &self.trace_subscribers
    }

    /// The same, when one comes or goes, or is told of a packet.
    pub(super) fn trace_subscribers_mut(&mut self) -> &mut TraceSubscribers {
        &mut self.trace_subscribers
    }

    /// What programs must be able to, for those who watch.
    pub(super) fn features(&self) -> Features {
        self.trace_subscribers.features()
    }

    /// Finds out where rules stand, if that is not known.
    pub(super) fn index_rules(&mut self, desired: &Desired) {
        if self.rule_index.get(desired.epoch()).is_none() {
            self.rule_index.put(desired.epoch(), index(desired.chains()));
        }
    }

    /// Chain and place of the rule with a counter. [`Self::index_rules`] comes first.
    pub(super) fn place_of(&self, counter: u32, desired: &Desired) -> Option<(ChainName, usize)> {
        self.rule_index.get(desired.epoch())?.get(&counter).copied()
    }

    /// The programs to try packets on that were made for an epoch of the tables.
    pub(super) fn dry_run(&self, chains: bool, epoch: u64) -> Option<&Arc<DryRun>> {
        self.dry_run[usize::from(chains)].get(epoch)
    }

    /// Lets go of them where tables have another epoch now: they hold on to maps.
    pub(super) fn keep_dry_run(&mut self, epoch: u64) {
        self.dry_run.iter_mut().for_each(|one| one.keep(epoch));
    }

    /// Whether they were not yet made ready for an epoch and features.
    pub(super) fn is_new_dry_run(&mut self, asked: (u64, Features)) -> bool {
        self.prepared.replace(asked) != Some(asked)
    }

    /// Lets go of them.
    pub(super) fn forget_dry_run(&mut self, chains: bool) {
        self.dry_run[usize::from(chains)].clear();
    }

    /// Others take their place.
    pub(super) fn set_dry_run(&mut self, chains: bool, epoch: u64, dry_run: Arc<DryRun>) {
        self.dry_run[usize::from(chains)].put(epoch, dry_run);
    }
}

fn index(chains: &Chains) -> RuleIndex {
    let all = ChainName::ALL.into_iter();
    let places = all.flat_map(|chain| {
        chains.rules(chain).iter().enumerate().map(move |(place, one)| (one.counter, (chain, place)))
    });
    places.collect()
}
