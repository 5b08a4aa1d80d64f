//! Packets that rules log or reject.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::{Duration, Instant},
};

use dataplane_common::abi::{Ifindex, PacketEvent, event_kind};

use super::{chains::InstalledRule, desired::Desired, epoch::PerEpoch, rejecter::Rejecter};
use crate::{
    event::{Bucket, Interfaces, Packet, line},
    rule::{Action, ChainName, RejectWith, Statement},
};

/// Lines a second, of one rule.
const RATE: u32 = 10;
/// Lines at once, of one rule.
const BURST: u32 = 20;
/// How often at most it is said what was left out.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of rules that tell of packets.
#[derive(Debug)]
pub(super) struct PacketLog {
    /// By counter.
    rules: PerEpoch<HashMap<u32, LogRule>>,
    /// By handle.
    pace: HashMap<u64, Pace>,
    /// When to say what was left out.
    due: Option<Instant>,
    rejecter: Rejecter,
}

/// A rule that tells of packets.
#[derive(Clone, Debug)]
struct LogRule {
    chain: ChainName,
    handle: u64,
    prefix: String,
    with: Option<RejectWith>,
}

/// How fast the log of a rule grows.
#[derive(Debug)]
struct Pace {
    chain: ChainName,
    bucket: Bucket,
    left_out: u64,
    reported: Instant,
}

impl PacketLog {
    pub(super) fn new(now: Instant) -> Self {
        Self { rules: PerEpoch::default(), pace: HashMap::new(), due: None, rejecter: Rejecter::open(now) }
    }

    /// Why senders of rejected packets get no answers.
    pub(super) fn unanswered(&self) -> Option<&io::Error> {
        self.rejecter.missing()
    }

    /// When [`Self::say`] has something to say.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Says what was left out.
    pub(super) fn report_suppressed(&mut self, now: Instant) {
        for (handle, pace) in &mut self.pace {
            if pace.left_out > 0 && now >= pace.reported + REPORT_INTERVAL {
                let (left_out, chain) = (std::mem::take(&mut pace.left_out), pace.chain);
                pace.reported = now;
                tracing::info!(target: "dataplane::log", %chain, handle, "{left_out} lines were left out: a rule logs {RATE} a second");
            }
        }
        self.rejecter.report_suppressed(now);
        let pending = self.rejecter.has_suppressed() || self.pace.values().any(|pace| pace.left_out > 0);
        self.due = pending.then(|| now + REPORT_INTERVAL);
    }

    fn log(&mut self, rule: &LogRule, packet: &Packet<'_>, interfaces: Interfaces<'_>, now: Instant) {
        let (chain, handle) = (rule.chain, rule.handle);
        let bucket = || Pace { chain, bucket: Bucket::new(RATE, BURST, now), left_out: 0, reported: now };
        let pace = self.pace.entry(handle).or_insert_with(bucket);
        if pace.bucket.take(now) {
            tracing::info!(target: "dataplane::log", %chain, handle, "{}{}", rule.prefix, line(packet, interfaces));
        } else {
            if pace.left_out == 0 {
                pace.reported = now;
            }
            pace.left_out += 1;
            self.due.get_or_insert(now + REPORT_INTERVAL);
        }
    }
}

impl LogRule {
    /// `None` for a rule that tells nothing.
    fn new(chain: ChainName, installed: &InstalledRule) -> Option<Self> {
        let log = installed.rule.statements().iter().find_map(|statement| match statement {
            Statement::Log(log) => Some(log),
            _ => None,
        });
        let with = match installed.rule.action() {
            Action::Reject(with) => Some(with),
            Action::Accept | Action::Drop | Action::Continue | Action::Translate(_) | Action::Proxy(_) => None,
        };
        let prefix = log.and_then(|log| log.prefix.as_ref()).map(|prefix| prefix.as_str().to_owned());
        let acts = log.is_some() || with.is_some();
        acts.then(|| Self { chain, handle: installed.handle, prefix: prefix.unwrap_or_default(), with })
    }
}

impl PacketLog {
    /// Logs and answers what a rule tells of. A rule that has gone meanwhile tells nothing.
    pub(super) fn log_packet<'m>(
        &mut self,
        event: &PacketEvent,
        desired: &Desired,
        name: impl Fn(Ifindex) -> &'m str,
        now: Instant,
    ) {
        self.index_rules(desired);
        let rule = self.rules.get(desired.epoch()).and_then(|rules| rules.get(&event.counter)).cloned();
        let (Some(rule), Some(packet)) = (rule, Packet::read(event)) else { return };
        if event.kind & event_kind::LOG != 0 {
            let interfaces = Interfaces { iif: name(event.iif), oif: name(event.oif) };
            self.log(&rule, &packet, interfaces, now);
        }
        if event.kind & event_kind::REJECT != 0
            && let Some(with) = rule.with
        {
            self.rejecter.reject(event, &packet, with, now);
            if self.rejecter.has_suppressed() {
                self.due.get_or_insert(now + REPORT_INTERVAL);
            }
        }
    }

    /// Finds the rules that tell of packets, if they are not known.
    fn index_rules(&mut self, desired: &Desired) {
        if self.rules.get(desired.epoch()).is_some() {
            return;
        }
        let chains = desired.chains();
        let all = ChainName::ALL.into_iter().flat_map(|chain| chains.rules(chain).iter().map(move |one| (chain, one)));
        let rules: HashMap<_, _> =
            all.filter_map(|(chain, one)| Some((one.counter, LogRule::new(chain, one)?))).collect();
        let handles: HashSet<_> = rules.values().map(|rule| rule.handle).collect();
        self.pace.retain(|handle, _| handles.contains(handle));
        self.rules.put(desired.epoch(), rules);
    }
}
