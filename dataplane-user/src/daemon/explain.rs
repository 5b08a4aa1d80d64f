//! What would become of a packet: the programs that are loaded, run on its bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dataplane_common::{
    Reason, Verdict,
    abi::{Adjacency, Features, Ifindex, Limit, RouteKind, Target, TraceRecord, chain_trace},
    wire::LinkHeader,
};

use tokio::task::spawn_blocking;

use super::{
    Daemon,
    recipient::{Recipients, in_words},
    trace_row,
};
use crate::{
    config::Config,
    control::{
        protocol::{Failure, FailureKind},
        row::{Explanation, Stage, VerdictRow},
    },
    kernel::{Hook, Ran, TestRun, TestRunError},
    model::Mode,
};

/// Frames in one request.
const FRAMES: usize = 1024;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of an Ethernet and an IPv6 header.
const HEADERS: usize = 54;
/// Bytes of a frame.
const LONGEST: usize = 9_216;

/// Programs to try packets on, and what they were made for.
#[derive(Debug)]
pub(super) struct DryRun {
    features: Features,
    test_run: Mutex<TestRun>,
}

/// The same, for one request: with the limits that were in force when it came.
#[derive(Debug)]
pub(super) struct PreparedRun {
    dry_run: Arc<DryRun>,
    limits: BTreeMap<u32, Limit>,
}

impl From<TestRunError> for Failure {
    fn from(error: TestRunError) -> Self {
        Self::new(FailureKind::Failed, error.to_string())
    }
}

/// Frames on their way, for [`Daemon::explain`].
#[derive(Debug)]
pub(super) struct Trip {
    ifindex: Ifindex,
    hooks: &'static [Hook],
    prepared_run: PreparedRun,
}

/// What the programs did to a frame.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) ifindex: Ifindex,
    pub(super) frame: Vec<u8>,
    ran: Ran,
    pub(super) record: TraceRecord,
    /// How often it was handed over.
    handed_over: usize,
}

impl PreparedRun {
    /// The programs of these hooks, loaded.
    pub(super) fn ready(&self, hooks: &[Hook]) -> Result<MutexGuard<'_, TestRun>, Failure> {
        let mut test_run = self.dry_run.test_run.lock().unwrap_or_else(PoisonError::into_inner);
        test_run.set_limits(&self.limits)?;
        test_run.ready(hooks)?;
        Ok(test_run)
    }
}

impl Arrived {
    /// The record that the programs wrote.
    pub(super) fn into_record(self) -> TraceRecord {
        self.record
    }
}

impl Trip {
    /// Runs the frames, in hex, through the programs: without the ring.
    pub(super) fn run(self, frames: &[String]) -> Result<Vec<Arrived>, Failure> {
        let mut test_run = self.prepared_run.ready(self.hooks)?;
        let frames = frames.iter().map(|text| {
            let frame = hex::decode(text).map_err(|error| {
                Failure::new(FailureKind::Usage, format!("a frame is not hexadecimal ({error}): {text:.80}"))
            })?;
            if frame.len() > LONGEST {
                let said = format!("a frame has {} bytes; at most {LONGEST} are allowed", frame.len());
                return Err(Failure::new(FailureKind::Usage, said));
            }
            run_tiers(&mut test_run, self.hooks, self.ifindex, frame)
        });
        frames.collect()
    }
}

/// Runs a frame through the tiers of a port, until one judges it.
pub(super) fn run_tiers(
    test_run: &mut TestRun,
    hooks: &[Hook],
    ifindex: Ifindex,
    frame: Vec<u8>,
) -> Result<Arrived, Failure> {
    for (handed_over, hook) in hooks.iter().enumerate() {
        let ran = match test_run.run(*hook, ifindex, &frame) {
            // The kernel tries no skb that ends inside its IP header; at XDP the same pipeline reads it.
            Err(TestRunError::Run { .. }) if frame.len() < HEADERS => test_run.run(Hook::Generic, ifindex, &frame),
            ran => ran,
        }?;
        if let Some(record) = ran.record {
            return Ok(Arrived { ifindex, frame, ran, record, handed_over });
        }
    }
    Err(Failure::new(FailureKind::Failed, "no program judges this frame; is its port still attached?"))
}

impl Daemon {
    /// Sends frames on their way that came in on a port, through the chains in force or through none.
    pub(super) fn send_off(&mut self, iface: &str, frames: &[String], chains: bool) -> Result<Trip, Failure> {
        let ifindex = self.link(iface)?.ifindex;
        let Some(hooks) = self.hooks(ifindex) else {
            let said = format!("{iface} is not a port; `dataplane attach {iface}` makes it one");
            return Err(Failure::new(FailureKind::NotFound, said));
        };
        if frames.len() > FRAMES {
            let said = format!("{} frames in one request; at most {FRAMES} are allowed", frames.len());
            return Err(Failure::new(FailureKind::Usage, said));
        }
        Ok(Trip { ifindex, hooks, prepared_run: self.load_dry_run(chains)? })
    }

    /// The programs that packets of a port meet, in order; none where it is no port.
    pub(super) fn hooks(&self, ifindex: Ifindex) -> Option<&'static [Hook]> {
        let port = self.plane.attached().get(&ifindex)?;
        Some(match port.mode {
            Mode::Native => &[Hook::Xdp, Hook::TcIngress],
            Mode::Generic => &[Hook::Generic, Hook::TcIngress],
            Mode::Tc => &[Hook::TcIngress],
        })
    }

    /// What became of frames that have arrived; by the rules of a config, where there is one that is not in force.
    pub(super) fn explain(
        &mut self,
        arrived: impl Iterator<Item = Arrived>,
        config: Option<&Config>,
    ) -> Vec<Explanation> {
        self.index_rules();
        let mut recipients = Recipients::default();
        let explain = |it: Arrived| {
            let stage =
                Stage { name: "xdp".to_owned(), result: "leaves it to tc, which can do what XDP cannot".to_owned() };
            let explanation = self.explanation(&it, vec![stage; it.handed_over], &mut recipients);
            match config {
                None => self.handed_on(&it, explanation, &mut recipients),
                Some(config) => self.under(config, &it, explanation),
            }
        };
        arrived.map(explain).collect()
    }

    /// Opens programs like those in use, with chains or without, unless that is done.
    pub(super) fn load_dry_run(&mut self, chains: bool) -> Result<PreparedRun, Failure> {
        let without = if chains { Features::TRACING } else { Features::TRACING | Features::RULES };
        let features = self.plane.features().difference(without);
        let limits = self.plane.limits().clone();
        if let Some(dry_run) = self.packets.dry_run(chains, self.plane.epoch())
            && dry_run.features == features
        {
            return Ok(PreparedRun { dry_run: Arc::clone(dry_run), limits });
        }
        self.packets.forget_dry_run(chains);
        let test_run = Mutex::new(self.plane.dry_run(features)?);
        let dry_run = Arc::new(DryRun { features, test_run });
        self.packets.set_dry_run(chains, self.plane.epoch(), Arc::clone(&dry_run));
        Ok(PreparedRun { dry_run, limits })
    }

    /// Has the programs loaded that `explain` needs for the ports there are, before it is asked for: once for each set of
    /// features and tables, in a thread that gives way to others.
    pub(super) fn prepare_dry_run(&mut self) {
        let ports = self.plane.attached().iter().filter(|(_, port)| port.linked);
        let hooks: BTreeSet<Hook> = ports.filter_map(|(ifindex, _)| self.hooks(*ifindex)).flatten().copied().collect();
        let asked = (self.plane.epoch(), self.plane.features().difference(Features::TRACING));
        if hooks.is_empty() || self.plane.is_dirty() || !self.packets.is_new_dry_run(asked) {
            return;
        }
        match self.load_dry_run(true) {
            Ok(prepared_run) => drop(spawn_blocking(move || {
                if let Err(failure) = prepared_run.ready(&Vec::from_iter(hooks)) {
                    tracing::debug!("explain will have to load its programs: {failure}");
                }
            })),
            Err(failure) => tracing::debug!("explain will have to open its programs: {failure}"),
        }
    }

    fn explanation(&self, arrived: &Arrived, mut stages: Vec<Stage>, recipients: &mut Recipients) -> Explanation {
        let Arrived { frame: before, ran, record, .. } = arrived;
        let judgement = VerdictRow { recipient: self.recipient(record, recipients), ..self.verdict_row(record) };
        let mut stage = |name: &str, result: String| stages.push(Stage { name: name.to_owned(), result });
        let tier = if record.tier == 0 { "XDP" } else { "tc" };
        stage("parse", format!("at {tier}: {}", self.line(record)));
        let said = self.chain_traces(record);
        let mut chains = said.iter().map(|said| {
            let result = match said.rule {
                Some(rule) => format!("rule {}: {}", rule.handle, rule.rule),
                None if said.by_rule => "a rule that has gone meanwhile".to_owned(),
                None => format!("no rule matches; the policy is {}", self.desired.chains().policy(said.chain)),
            };
            (said.chain.name(), result)
        });
        let prerouting = (record.chains[0] != 0).then(|| chains.next()).flatten();
        if let Some((name, result)) = prerouting {
            stage(name, result);
        }
        if let Some(result) = self.flow_stage(record, judgement.flow.as_deref()) {
            stage("flow", result);
        }
        if record.target != chain_trace::NONE {
            let target = Target::from_raw(record.target);
            let prefix = judgement.prefix.as_deref().unwrap_or("no prefix");
            stage("route", format!("{prefix}: {}", kind(target.kind())));
            let asked =
                record.adjacency != chain_trace::NONE || trace_row::reason(record) == Reason::NeighbourUnresolved;
            if target.kind() == RouteKind::Unicast && asked {
                stage("next hop", self.next_hop(target, record, &judgement));
            }
        }
        for (name, result) in chains {
            stage(name, result);
        }
        let reason = trace_row::reason(record);
        stage("verdict", format!("{}: {}: {}", judgement.verdict, reason.name(), reason.meaning()));
        let out =
            self.plane.want().adjacencies.get(&record.adjacency).map_or(LinkHeader::Ethernet, Adjacency::link_header);
        let frame = (reason.verdict() == Verdict::Forward).then(|| sent(&ran.frame, record.offset as usize, out));
        if reason == Reason::Bridged {
            stage("frame", format!("as it came, to {}", judgement.dev.as_deref().unwrap_or("a member")));
        } else if let Some(after) = frame {
            stage("frame", changes(before, after, record.offset as usize, out));
        }
        if matches!(reason.verdict(), Verdict::Deliver | Verdict::Kernel) {
            let recipient = judgement.recipient.as_ref().map(|recipient| in_words(recipient, record));
            stage("kernel", recipient.unwrap_or_else(|| reason.advice().to_owned()));
        }
        Explanation { judgement, frame: frame.map(hex::encode), stages }
    }

    /// The group, its member, and what is known of the neighbour.
    fn next_hop(&self, target: Target, record: &TraceRecord, judgement: &VerdictRow) -> String {
        let members = self
            .plane
            .want()
            .groups
            .get(&target.group())
            .map_or(0, |group| group.members[..group.slots as usize].iter().collect::<BTreeSet<_>>().len());
        let group = format!("group {}, {members} member(s)", target.group());
        let Some(dev) = &judgement.dev else { return format!("{group}: none can be used") };
        let via = judgement.via.map_or_else(|| "the destination itself".to_owned(), |via| via.to_string());
        let bare = |adjacency: &Adjacency| adjacency.link_header() == LinkHeader::None;
        let neighbour = match &judgement.lladdr {
            Some(lladdr) => format!("lladdr {lladdr}"),
            None if self.plane.want().adjacencies.get(&record.adjacency).is_some_and(bare) => {
                "without link address".to_owned()
            }
            None => "whose link address is not known".to_owned(),
        };
        format!("{group}: adjacency {} via {via} dev {dev} {neighbour}", record.adjacency)
    }
}

const fn kind(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::None => "no route",
        RouteKind::Local => "local",
        RouteKind::Broadcast => "broadcast",
        RouteKind::Multicast => "multicast",
        RouteKind::Blackhole => "blackhole",
        RouteKind::Unreachable => "unreachable",
        RouteKind::Prohibit => "prohibit",
        RouteKind::Unicast => "unicast",
        RouteKind::Kernel => "the kernel's to look up",
    }
}

/// What is sent of the frame that a program left: the kernel takes the link header off where the way out has none.
fn sent(left: &[u8], offset: usize, out: LinkHeader) -> &[u8] {
    if out == LinkHeader::None && offset != 0 { left.get(ETHERNET..).unwrap_or_default() } else { left }
}

/// In what the outgoing frame differs; the IP header of the one that came in is at `offset`.
fn changes(before: &[u8], after: &[u8], offset: usize, out: LinkHeader) -> String {
    let text = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let (Some(old), Some(new)) = (before.get(..14), after.get(..14)) else { return "too short to compare".to_owned() };
    let mut list = Vec::new();
    if offset != 0 && out == LinkHeader::Ethernet {
        list.push(format!("destination {} -> {}", text(&old[..6]), text(&new[..6])));
        list.push(format!("source {} -> {}", text(&old[6..12]), text(&new[6..12])));
    }
    let moved = match (offset, out) {
        (_, LinkHeader::None) => 0,
        (0, LinkHeader::Ethernet) => ETHERNET,
        // Tags were taken off or put on in front of it.
        _ => offset + after.len() - before.len().min(offset + after.len()),
    };
    if offset != moved {
        list.push(format!("link header of {offset} -> {moved} bytes"));
    }
    let (Some(old), Some(new)) = (before.get(offset..), after.get(moved..)) else { return list.join(", ") };
    let limit = if old.first().is_some_and(|byte| byte >> 4 == 6) { 7 } else { 8 };
    let fields: Vec<_> = fields(old).filter(|(field, _)| old.get(field.clone()) != new.get(field.clone())).collect();
    list.extend(fields.iter().map(|(field, name)| {
        format!("{name} {} -> {}", value(&old[field.clone()]), new.get(field.clone()).map_or_else(String::new, value))
    }));
    let named = |at: &usize| fields.iter().any(|(field, _)| field.contains(at));
    for at in (0..old.len().min(new.len())).filter(|at| old[*at] != new[*at] && !named(at)) {
        list.push(match at {
            at if at == limit => format!("ttl {} -> {}", old[at], new[at]),
            10 | 11 => format!("checksum byte {:02x} -> {:02x}", old[at], new[at]),
            at => format!("byte {at} of the packet {:02x} -> {:02x}", old[at], new[at]),
        });
    }
    list.join(", ")
}

/// What translation changes in an IP packet: where it is, and how rules name it.
fn fields(packet: &[u8]) -> impl Iterator<Item = (Range<usize>, &'static str)> {
    let ipv6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
    let (source, destination, transport, protocol) = if ipv6 { (8, 24, 40, 6) } else { (12, 16, 20, 9) };
    let sum = if packet.get(protocol) == Some(&6) { 16 } else { 6 };
    let fields = [
        (source..destination, "saddr"),
        (destination..transport, "daddr"),
        (transport..transport + 2, "sport"),
        (transport + 2..transport + 4, "dport"),
        (transport + sum..transport + sum + 2, "transport checksum"),
    ];
    // Options and extension headers are not translated.
    let plain = ipv6 || packet.first() == Some(&0x45);
    let end = packet.len();
    fields.into_iter().filter(move |(field, _)| plain && field.end <= end)
}

/// An address or a number, by its length.
fn value(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return IpAddr::from(v4).to_string();
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => IpAddr::from(v6).to_string(),
        Err(_) => bytes.iter().fold(0, |number: u32, byte| number << 8 | u32::from(*byte)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_translation_changes_is_named() {
        let mut before = vec![0; 14 + 28];
        before[14..42].copy_from_slice(&[
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 1, 1, 198, 18, 0, 2, 198, 18, 1, 2, 0x9c, 0x40, 0, 53, 0, 8, 1, 2,
        ]);
        let mut after = before.clone();
        after[14 + 8] = 63;
        after[14 + 12..14 + 16].copy_from_slice(&[198, 18, 1, 1]);
        after[14 + 20..14 + 22].copy_from_slice(&[4, 0]);
        after[14 + 26] = 2;
        let said = changes(&before, &after, 14, LinkHeader::Ethernet);
        let expected =
            "saddr 198.18.0.2 -> 198.18.1.1, sport 40000 -> 1024, transport checksum 258 -> 514, ttl 64 -> 63";
        assert!(said.ends_with(expected), "{said}");
        let expected = "link header of 14 -> 0 bytes, saddr";
        let bare = sent(&after, 14, LinkHeader::None);
        assert!(changes(&before, bare, 14, LinkHeader::None).starts_with(expected), "{bare:x?}");
        let made = changes(&before[14..], &after, 0, LinkHeader::Ethernet);
        assert!(made.starts_with("link header of 0 -> 14 bytes, saddr"), "{made}");
    }
}
