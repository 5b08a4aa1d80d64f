//! What the daemon answers with, row by row. Field names are the operator's contract: scripts rely on them.
//!
//! Names of reasons, modes and states travel as text, so that a command line still reads an older or newer daemon.

pub use super::routes_row::RoutesRow;
use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{flow, open_socket::RecipientRow};
use crate::rule::ChainName;

/// Packets by what became of them, since the port was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Received: the sum of the other four, always.
    pub rx: u64,
    /// Transmitted by us.
    pub forwarded: u64,
    /// Up the stack, for this machine.
    pub delivered: u64,
    /// Ended here.
    pub dropped: u64,
    /// Left to the kernel to decide.
    pub passed: u64,
}

impl Counts {
    /// Counts that balance: `rx` is the sum.
    pub fn new(forwarded: u64, delivered: u64, dropped: u64, passed: u64) -> Self {
        Self { rx: forwarded + delivered + dropped + passed, forwarded, delivered, dropped, passed }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.rx += other.rx;
        self.forwarded += other.forwarded;
        self.delivered += other.delivered;
        self.dropped += other.dropped;
        self.passed += other.passed;
    }
}

/// One row of `port list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    /// Name of the interface.
    pub name: String,
    /// Its index in the kernel; 0 while it does not exist.
    pub ifindex: u32,
    /// The mode in use: `native`, `generic` or `tc`; `none` while it is not attached.
    pub mode: String,
    /// `up`, `down` or `absent`.
    pub state: String,
    /// Link address; none where the device has no Ethernet header.
    pub mac: Option<String>,
    /// Bytes, without the link header.
    pub mtu: u32,
    /// VLAN identifier, for a VLAN device.
    pub vlan: Option<u16>,
    /// Who says where its packets go.
    #[serde(default)]
    pub routes: RoutesRow,
    /// Who takes its frames before IP sees them; then they are the kernel's.
    #[serde(default)]
    pub taken: Option<String>,
    /// Whether policies of `IPsec` may cover packets that are routed; these are the kernel's.
    #[serde(default)]
    pub ipsec: bool,
    /// What becomes of its packets that rules of netfilter would see: `follow`, `bypass`, or `none` where there are none.
    #[serde(default)]
    pub netfilter: String,
    /// Whether connections that these rules let through are carried: `on`, or why not; `none` and `bypass` as above.
    #[serde(default)]
    pub flows: String,
    /// What its packets begin with: `ethernet`, or `none` where that is IP.
    #[serde(default)]
    pub header: String,
    /// Why the kernel forwards what it receives, where that is because of the kind of device.
    #[serde(default)]
    pub layer3: Option<String>,
    /// Of a member of a bridge: `on` where frames for other members are sent there at the driver, else why they are not.
    #[serde(default)]
    pub switching: Option<String>,
    /// Whether packets are handed to its other end: `direct`, or why not; `none` where that is in this namespace.
    #[serde(default)]
    pub peer: String,
    /// Its packets.
    #[serde(flatten)]
    pub counts: Counts,
}

/// One row of `route list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// Always `ADDR/LEN`; the default routes are `0.0.0.0/0` and `::/0`.
    pub dst: String,
    /// As `ip route` names it: `unicast`, `local`, `blackhole`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// None for types that end here.
    pub nexthops: Vec<NextHopRow>,
    /// Bytes, where the route itself sets one.
    pub mtu: Option<u32>,
    /// Packets that took it, where that is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Who added it, as `ip route` names it: `kernel`, `static`, `bird`, or a number.
    #[serde(default)]
    pub protocol: String,
    /// Lower ones win.
    #[serde(default)]
    pub metric: u32,
    /// The number of its table.
    #[serde(default)]
    pub table: u32,
}

/// One next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHopRow {
    /// The router; none when the destination is on the link.
    pub via: Option<IpAddr>,
    /// Name of the interface.
    pub dev: Option<String>,
    /// Share of the flows, relative to the others.
    pub weight: u32,
}

/// Who looked a route up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// The mirrored tables.
    Mirror,
    /// The kernel's own lookup.
    Kernel,
}

/// The answer of `route get`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRow {
    /// Name of a [`dataplane_common::Verdict`].
    pub verdict: String,
    /// The same, by the name that it had before; for one release.
    pub decision: String,
    /// Name of a [`dataplane_common::Reason`].
    pub reason: String,
    /// What was asked.
    pub dst: IpAddr,
    /// The route that matched, `ADDR/LEN`.
    pub prefix: Option<String>,
    /// The way out.
    pub dev: Option<String>,
    /// The router; none when the destination is on the link.
    pub via: Option<IpAddr>,
    /// Link address of the next hop.
    pub lladdr: Option<String>,
    /// Who decided.
    pub table: Table,
}

/// What became of a packet, and who said so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictRow {
    /// Name of a [`dataplane_common::Verdict`].
    pub verdict: String,
    /// Name of a [`dataplane_common::Reason`].
    pub reason: String,
    /// The chain whose rule or policy decided, or that the packet passed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<ChainName>,
    /// The rule; none where a policy decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// Its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The route that matched, `ADDR/LEN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// The router; none when the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Link address of the next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    /// Its connection; none where the flow table has no row for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Box<flow::PacketFlow>>,
    /// The socket that gets it, where it is for this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<Box<RecipientRow>>,
}

/// A packet that somebody watches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketRow {
    /// When: nanoseconds since 1970.
    pub time: u64,
    /// The port.
    pub port: String,
    /// Where it was judged: `xdp` or `tc`.
    pub tier: String,
    /// What became of it.
    #[serde(flatten)]
    pub judgement: VerdictRow,
    /// Bytes of the frame.
    pub length: u32,
    /// What can be read of it.
    pub packet: String,
    /// The frame as it came in, in hex, from its beginning.
    pub frame: String,
}

/// The answer of `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What would become of it.
    #[serde(flatten)]
    pub judgement: VerdictRow,
    /// The outgoing frame, in hex, where it is forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
    /// Its way, stage by stage.
    pub stages: Vec<Stage>,
}

/// A stage on the way of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// What it said.
    pub result: String,
}

/// One row of `neigh list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourRow {
    /// Whose link address it is.
    pub dst: IpAddr,
    /// Name of the interface.
    pub dev: String,
    /// None while it is not known.
    pub lladdr: Option<String>,
    /// As `ip neigh` names it, lower case: `reachable`, `stale`, `failed`, ...
    pub state: String,
}

/// One row of `rule list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Where it stands.
    pub chain: ChainName,
    /// Names the rule as long as it lives; never used again.
    pub handle: u64,
    /// The rule in its canonical form, on one line.
    pub rule: String,
    /// Packets that matched.
    pub packets: u64,
    /// Their bytes: whole frames, link header included.
    pub bytes: u64,
}

/// The answer of `stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// All ports together.
    pub totals: Counts,
    /// Packets by the name of every [`dataplane_common::Reason`], those without packets too.
    pub reasons: BTreeMap<String, u64>,
    /// As in `port list`.
    pub ports: Vec<PortRow>,
    /// What the kernel counts at them, by name as in `ports`; those that do not exist are missing.
    #[serde(default)]
    pub links: Vec<LinkRow>,
    /// How well the kernel is followed.
    #[serde(default)]
    pub mirror: MirrorRow,
    /// Seconds after the end of the daemon until routed packets are left to the kernel; 0 is never.
    #[serde(default)]
    pub heartbeat: u32,
    /// Connections; none while none is carried.
    #[serde(default)]
    pub flows: Option<Box<flow::FlowCounts>>,
    /// What own rules that the kernel decides have dropped; none where the driver decides all of them.
    #[serde(default)]
    pub kernel_rules: Option<Box<flow::KernelRulesRow>>,
}

/// Frames of a link since it was made: what the kernel and its driver counted, and what XDP took before they did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    /// Name of the interface.
    pub name: String,
    /// Its index in the kernel.
    pub ifindex: u32,
    /// Received. Most drivers count what XDP redirects, too; where one does not, and its count is below ours, it is ours.
    pub rx_packets: u64,
    /// Received, as the kernel has it.
    pub rx_bytes: u64,
    /// Received, but broken.
    pub rx_errors: u64,
    /// Given up by the kernel or the device, for want of room above all. Some drivers count here what XDP drops.
    pub rx_dropped: u64,
    /// Transmitted; as the kernel has it.
    pub tx_packets: u64,
    /// Transmitted; as the kernel has it.
    pub tx_bytes: u64,
    /// The device failed.
    pub tx_errors: u64,
    /// No room.
    pub tx_dropped: u64,
}

/// How far the mirror of the kernel's tables has come, and how well it follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorRow {
    /// Whether it decides yet.
    #[serde(default)]
    pub state: MirrorState,
    /// IPv4 routes of all tables.
    #[serde(default)]
    pub routes4: u64,
    /// IPv6 routes of all tables.
    #[serde(default)]
    pub routes6: u64,
    /// How often everything was compared with the kernel since the daemon started.
    #[serde(default)]
    pub resyncs: u64,
    /// How many links, addresses, neighbours, settings and routes had to be mended.
    #[serde(default)]
    pub mended: u64,
    /// How often the kernel was asked to look after a neighbour that is in use.
    #[serde(default)]
    pub probes: u64,
}

/// What the mirror is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MirrorState {
    /// Reading the kernel's tables for the first time: an earlier daemon's maps, or the kernel, decide.
    Loading,
    /// Following them.
    #[default]
    Live,
}

/// How a check of `doctor` went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, but slower or otherwise than one might expect.
    Warn,
    /// Does not work.
    Fail,
}

impl Status {
    /// The name in text and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One row of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at; with a colon and the interface where it is about one.
    pub check: String,
    /// How it went.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// The command that cures it, or empty.
    pub fix: String,
}

/// What differs between a config file and the running config, one line of text for each thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Only in the file.
    pub add: Vec<String>,
    /// Only in the running config.
    pub remove: Vec<String>,
    /// In both, with other values.
    pub change: Vec<String>,
}

impl Difference {
    /// Whether both are the same.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty() && self.change.is_empty()
    }
}

/// A config that was in force before: one row of `config history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// When another took its place, in seconds since 1970 UTC.
    pub time: u64,
    /// User who did that.
    pub uid: u32,
    /// Its text, as `config show` prints it.
    pub config: String,
}
