//! What is said on the control socket.
//!
//! The client sends a [`Request`] a line, the daemon answers each with an [`Response`] on a line, in order.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub use super::care::{Apply, Care, Careful, Place};
pub use super::failure::{Failure, FailureKind};
use super::flow::FlowRow;
pub use super::open_socket::SocketRow;
use super::row::{
    DecisionRow, Difference, Explanation, Finding, HistoryRow, NeighbourRow, PacketRow, PortRow, RouteRow, RuleRow,
    Stats,
};
use super::set_row::{DynamicRow, SetRow};
pub use super::status::Whereabouts;
use super::status::{ChainRow, StatusRow};
use super::steer::SteerRow;
use crate::{model::ModeChoice, rule::ChainName};

/// Longest request line that the daemon reads of a peer who may only read, in bytes.
pub const REQUEST_LIMIT: usize = 1 << 20;
/// And of one who may change things: a config of a hundred thousand rules has eight million.
pub const CHANGE_LIMIT: usize = 64 << 20;

/// What can be asked of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", content = "with", deny_unknown_fields)]
pub enum Request {
    /// Attach to interfaces, or change the mode of attached ones. Answered with [`Data::Ports`]: those.
    #[serde(rename = "attach")]
    Attach {
        /// Names of interfaces that exist.
        ifaces: Vec<String>,
        /// How to attach.
        mode: ModeChoice,
    },
    /// Detach from interfaces. Answered with [`Data::Done`].
    #[serde(rename = "detach")]
    Detach(Selection),
    /// Answered with [`Data::Ports`].
    #[serde(rename = "port list")]
    PortList,
    /// Answered with [`Data::Routes`].
    #[serde(rename = "route list")]
    RouteList {
        /// Only this prefix, `ADDR/LEN` without host bits, as in [`RouteRow::dst`].
        prefix: Option<String>,
        /// Of this table; else of tables main and default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        table: Option<u32>,
    },
    /// Answered with [`Data::Decision`].
    #[serde(rename = "route get")]
    RouteGet {
        /// Destination.
        addr: IpAddr,
        /// Source, of the same family.
        from: Option<IpAddr>,
        /// Interface that the packet would come in on.
        iif: Option<String>,
    },
    /// Answered with [`Data::Neighbours`].
    #[serde(rename = "neigh list")]
    NeighList,
    /// Sockets that packets of any sender may be for. Answered with [`Data::Sockets`].
    #[serde(rename = "socket list")]
    SocketList,
    /// Entries that give packets to sockets. Answered with [`Data::Steer`].
    #[serde(rename = "steer list")]
    SteerList,
    /// Steer to the socket that comes with the request. Answered with [`Data::Steer`]: the entry.
    #[serde(rename = "steer add")]
    SteerAdd {
        /// The entry, not parsed yet.
        entry: String,
        /// Give one that matches the same another socket.
        replace: bool,
    },
    /// Steer no more. Answered with [`Data::Done`].
    #[serde(rename = "steer del")]
    SteerDel {
        /// Which: [`SteerRow::id`].
        id: u32,
    },
    /// Connections. Answered with [`Data::Flows`].
    #[serde(rename = "flow list")]
    FlowList {
        /// Pairs of words and values, not parsed yet.
        filter: String,
        /// Also those that the kernel alone knows, with the reasons.
        why_not: bool,
        /// So many rows at most.
        limit: u32,
    },
    /// Have the kernel forget connections. Answered with [`Data::Deleted`].
    #[serde(rename = "flow del")]
    FlowDel {
        /// Which: not parsed yet, and not empty.
        filter: String,
    },
    /// Send all connections through the kernel once. Answered with [`Data::Done`].
    #[serde(rename = "flow flush")]
    FlowFlush,
    /// Answered with [`Data::Rules`].
    #[serde(rename = "rule list")]
    RuleList {
        /// Only this chain.
        chain: Option<ChainName>,
    },
    /// Append a rule. Answered with [`Data::Rules`]: the new one.
    #[serde(rename = "rule add")]
    RuleAdd {
        /// Where.
        chain: ChainName,
        /// In the language of rules, not parsed yet.
        rule: String,
    },
    /// Put a rule first, or beside another. Answered with [`Data::Rules`]: the new one.
    #[serde(rename = "rule insert")]
    RuleInsert {
        /// Where.
        chain: ChainName,
        /// In the language of rules, not parsed yet.
        rule: String,
        /// Beside which one; none: first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<Place>,
    },
    /// Put a rule in the place of another. Answered with [`Data::Rules`]: the new one.
    #[serde(rename = "rule replace")]
    RuleReplace {
        /// Where.
        chain: ChainName,
        /// Which: [`RuleRow::handle`].
        handle: u64,
        /// In the language of rules, not parsed yet.
        rule: String,
    },
    /// Answered with [`Data::Chains`].
    #[serde(rename = "chain list")]
    ChainList,
    /// What becomes of packets that no rule decides. Answered with [`Data::Done`].
    #[serde(rename = "chain policy")]
    ChainPolicy {
        /// Of which chain.
        chain: ChainName,
        /// `accept` or `drop`.
        policy: String,
    },
    /// Make an empty set. Answered with [`Data::Done`].
    #[serde(rename = "set create")]
    SetCreate {
        /// Its name.
        name: String,
        /// Its type, as nft has it.
        kind: String,
        /// What is said of it, if rules fill it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dynamic: Option<DynamicRow>,
    },
    /// Remove a set that no rule matches. Answered with [`Data::Done`].
    #[serde(rename = "set destroy")]
    SetDestroy {
        /// Its name.
        name: String,
    },
    /// Another change, with care. Answered as that change is.
    #[serde(rename = "careful")]
    Careful(Box<Careful>),
    /// Delete one rule. Answered with [`Data::Done`].
    #[serde(rename = "rule del")]
    RuleDel {
        /// Where.
        chain: ChainName,
        /// Which: [`RuleRow::handle`].
        handle: u64,
    },
    /// Delete all rules of a chain; its policy stays. Answered with [`Data::Done`].
    #[serde(rename = "rule flush")]
    RuleFlush {
        /// Where.
        chain: ChainName,
    },
    /// Answered with [`Data::Sets`].
    #[serde(rename = "set list")]
    SetList {
        /// Only this set.
        name: Option<String>,
    },
    /// Put elements into a set, all or none. Answered with [`Data::Done`].
    #[serde(rename = "set add")]
    SetAdd {
        /// Which set.
        name: String,
        /// In the language of the set's type, not parsed yet.
        elements: Vec<String>,
    },
    /// Take elements out of a set, all or none. Answered with [`Data::Done`].
    #[serde(rename = "set del")]
    SetDel {
        /// Which set.
        name: String,
        /// In the language of the set's type, not parsed yet.
        elements: Vec<String>,
    },
    /// Answered with [`Data::Config`].
    #[serde(rename = "config show")]
    ConfigShow,
    /// What [`Request::ConfigApply`] would change. Answered with [`Data::Difference`].
    #[serde(rename = "config diff")]
    ConfigDiff(ConfigText),
    /// Replace the running config. Answered with [`Data::Difference`]: what was changed.
    #[serde(rename = "config apply")]
    ConfigApply(Apply),
    /// Keep the config that waits for it. Answered with [`Data::Done`].
    #[serde(rename = "config confirm")]
    ConfigConfirm,
    /// Go back to the config before. Answered with [`Data::Difference`]: what was changed.
    #[serde(rename = "config rollback")]
    ConfigRollback,
    /// Answered with [`Data::History`].
    #[serde(rename = "config history")]
    ConfigHistory,
    /// The daemon in a few lines. Answered with [`Data::Status`].
    #[serde(rename = "status")]
    Status,
    /// Answered with [`Data::Stats`].
    #[serde(rename = "stats")]
    Stats {
        /// Only this port.
        iface: Option<String>,
    },
    /// Counters and states as `OpenMetrics` text. Answered with [`Data::Metrics`].
    #[serde(rename = "metrics")]
    Metrics,
    /// What would become of frames that came in on a port. Answered with [`Data::Explanations`], one for each.
    #[serde(rename = "explain")]
    Explain {
        /// The port.
        iface: String,
        /// The frames, in hex.
        frames: Vec<String>,
        /// Judged by the rules of this config in place of those in force.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<ConfigText>,
    },
    /// Watch for packets. Answered with [`Data::Watching`], then with [`Data::Packet`] and [`Data::Missed`] until the
    /// connection ends.
    #[serde(rename = "trace")]
    Trace {
        /// Which: matches, verdicts, reasons; not parsed yet.
        filter: String,
        /// One packet in so many; 0 and 1: each.
        one_in: u32,
        /// How many bytes of each frame.
        bytes: u32,
    },
    /// What only the daemon knows of its health. Answered with [`Data::Findings`].
    #[serde(rename = "doctor")]
    Doctor,
    /// Where the daemon is, and has its files. Answered with [`Data::Whereabouts`].
    #[serde(rename = "whereabouts")]
    Whereabouts,
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    /// Every attached port.
    All,
    /// These, by name of the interface.
    Ifaces(Vec<String>),
}

/// A config file that the command line has read, with the elements of its sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigText {
    /// Where it came from, for messages only: the daemon does not open it.
    pub path: String,
    /// TOML, canonical if the command line has found it valid. The daemon validates it again.
    pub toml: String,
}

/// What the daemon says to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// It is done.
    Reply(Reply),
    /// It is not done, and nothing was changed.
    Failure(Failure),
}

/// A request that was fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// What was asked for.
    pub data: Data,
    /// What the operator should know beside it, a sentence or more each: printed on stderr.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Reply {
    /// The same with one more warning.
    #[must_use]
    pub fn warn(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }
}

impl From<Data> for Reply {
    fn from(data: Data) -> Self {
        Self { data, warnings: Vec::new() }
    }
}

/// The data of a [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    /// Nothing to show: the change is in force.
    Done,
    /// Rows of `port list`; after `attach`, the ports attached.
    Ports(Vec<PortRow>),
    /// Rows of `route list`.
    Routes(Vec<RouteRow>),
    /// The answer of `route get`.
    Decision(DecisionRow),
    /// Rows of `neigh list`.
    Neighbours(Vec<NeighbourRow>),
    /// Rows of `socket list`.
    Sockets(Vec<SocketRow>),
    /// Rows of `steer list`, by number.
    Steer(Vec<SteerRow>),
    /// Rows of `flow list`.
    Flows(Vec<FlowRow>),
    /// How many were deleted.
    Deleted(u64),
    /// Rows of `rule list`, chain after chain, in the order of evaluation.
    Rules(Vec<RuleRow>),
    /// Rows of `chain list`.
    Chains(Vec<ChainRow>),
    /// Rows of `set list`, by name.
    Sets(Vec<SetRow>),
    /// The running config as TOML.
    Config(String),
    /// What differs, or what was changed.
    Difference(Difference),
    /// The configs of before, the latest first.
    History(Vec<HistoryRow>),
    /// What the daemon knows of the answer of `status`.
    Status(StatusRow),
    /// The answer of `stats`.
    Stats(Stats),
    /// The answer of `metrics`: `OpenMetrics` text.
    Metrics(String),
    /// Rows of `doctor`.
    Findings(Vec<Finding>),
    /// Where the daemon is.
    Whereabouts(Whereabouts),
    /// The answers of `explain`, in the order of the frames.
    Explanations(Vec<Explanation>),
    /// From now on packets are watched for.
    Watching,
    /// A packet that was watched for.
    Packet(Box<PacketRow>),
    /// How many packets were not told of since the beginning: more than the daemon tells in a second, or than the reader
    /// takes.
    Missed(u64),
}

/// Serde for what has a name in text already.
macro_rules! as_text {
    ($($name:ty)+) => { $(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )+ };
}

as_text!(ChainName ModeChoice);
