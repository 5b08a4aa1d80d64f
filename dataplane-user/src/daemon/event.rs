//! Packets that rules log or reject.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use dataplane_common::abi::{Event, Ifindex, told};

use super::{Daemon, filter::Standing, reject::Answerer};
use crate::{
    event::{Bucket, Packet, Ways, line},
    rule::{ChainName, RejectWith, Statement, Verdict},
};

/// Lines a second, of one rule.
const RATE: u32 = 10;
/// Lines at once, of one rule.
const BURST: u32 = 20;
/// How often at most it is said what was left out.
const SAY: Duration = Duration::from_secs(1);

/// What is known of rules that tell of packets.
#[derive(Debug)]
pub(super) struct Telling {
    /// By counter; `None` after the chains have changed, until the next event.
    rules: Option<HashMap<u32, Teller>>,
    /// By handle.
    pace: HashMap<u64, Pace>,
    /// When to say what was left out.
    due: Option<Instant>,
    pub(super) answerer: Answerer,
}

/// A rule that tells of packets.
#[derive(Clone, Debug)]
struct Teller {
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
    said: Instant,
}

impl Telling {
    pub(super) fn new(now: Instant) -> Self {
        Self { rules: None, pace: HashMap::new(), due: None, answerer: Answerer::open(now) }
    }

    /// The chains have changed.
    pub(super) fn forget(&mut self) {
        self.rules = None;
    }

    /// When [`Self::say`] has something to say.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Says what was left out.
    pub(super) fn say(&mut self, now: Instant) {
        for (handle, pace) in &mut self.pace {
            if pace.left_out > 0 && now >= pace.said + SAY {
                let (left_out, chain) = (std::mem::take(&mut pace.left_out), pace.chain);
                pace.said = now;
                tracing::info!(target: "dataplane::log", %chain, handle, "{left_out} lines were left out: a rule logs {RATE} a second");
            }
        }
        self.answerer.say(now);
        let behind = self.answerer.is_behind() || self.pace.values().any(|pace| pace.left_out > 0);
        self.due = behind.then(|| now + SAY);
    }

    fn log(&mut self, rule: &Teller, packet: &Packet<'_>, ways: Ways<'_>, now: Instant) {
        let (chain, handle) = (rule.chain, rule.handle);
        let bucket = || Pace { chain, bucket: Bucket::new(RATE, BURST, now), left_out: 0, said: now };
        let pace = self.pace.entry(handle).or_insert_with(bucket);
        if pace.bucket.take(now) {
            tracing::info!(target: "dataplane::log", %chain, handle, "{}{}", rule.prefix, line(packet, ways));
        } else {
            if pace.left_out == 0 {
                pace.said = now;
            }
            pace.left_out += 1;
            self.due.get_or_insert(now + SAY);
        }
    }
}

impl Teller {
    /// `None` for a rule that tells nothing.
    fn new(chain: ChainName, standing: &Standing) -> Option<Self> {
        let log = standing.rule.statements().iter().find_map(|statement| match statement {
            Statement::Log(log) => Some(log),
            Statement::Limit(_) => None,
        });
        let with = match standing.rule.verdict() {
            Verdict::Reject(with) => Some(with),
            Verdict::Accept | Verdict::Drop | Verdict::Continue => None,
        };
        let prefix = log.and_then(|log| log.prefix.as_ref()).map(|prefix| prefix.as_str().to_owned());
        let tells = log.is_some() || with.is_some();
        tells.then(|| Self { chain, handle: standing.handle, prefix: prefix.unwrap_or_default(), with })
    }
}

impl Daemon {
    /// Logs and answers what a rule tells of. A rule that has gone meanwhile tells nothing.
    pub(super) fn tell(&mut self, event: &Event) {
        let now = Instant::now();
        if self.telling.rules.is_none() {
            let all = ChainName::ALL
                .into_iter()
                .flat_map(|chain| self.chains.rules(chain).iter().map(move |one| (chain, one)));
            let tellers = all.filter_map(|(chain, one)| Some((one.counter, Teller::new(chain, one)?)));
            let rules: HashMap<_, _> = tellers.collect();
            let handles: std::collections::HashSet<_> = rules.values().map(|rule| rule.handle).collect();
            self.telling.pace.retain(|handle, _| handles.contains(handle));
            self.telling.rules = Some(rules);
        }
        let rule = self.telling.rules.as_ref().and_then(|rules| rules.get(&event.counter)).cloned();
        let (Some(rule), Some(packet)) = (rule, Packet::read(event)) else { return };
        if event.told & told::LOG != 0 {
            let name = |ifindex: Ifindex| self.model.links.get(&ifindex).map_or("", |link| link.name.as_str());
            let ways = Ways { iif: name(event.iif), oif: name(event.oif) };
            self.telling.log(&rule, &packet, ways, now);
        }
        if event.told & told::REJECT != 0
            && let Some(with) = rule.with
        {
            self.telling.answerer.reject(event, &packet, with, now);
            if self.telling.answerer.is_behind() {
                self.telling.due.get_or_insert(now + SAY);
            }
        }
    }
}
