//! The configuration: one TOML file, unknown keys refused, every error with its place.

mod assertion;
mod error;
mod evaluate;
mod judge;
mod load;
mod lockout;
mod parse;
mod pattern;
mod position;
mod session;
mod set_file;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

pub use assertion::{Assertion, AssertionError, Broken};
pub use error::ConfigError;
pub use evaluate::{Admission, ExpectedPacket};
pub use judge::{ChainVerdict, Culprit, Egress, Subject};
pub use load::{LoadError, check_assertions, load, load_bytes};
pub(crate) use parse::{BYPASSED, checked};
pub use parse::{at_assertion, at_rule, parse};
pub use pattern::{PatternError, PortPattern};
pub use session::{NoSession, Session, WayIn};
pub use set_file::parse_set_file;

use crate::control::set_row::DynamicRow;
use crate::model::{ModeChoice, ObstacleKinds};
use crate::rule::{ChainName, Element, Fragments, Policy, RULE_CHAINS, Rule, SetName, SetType, Timeout};
use crate::steer::SteerConfig;

/// What the operator wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// In the order of the file.
    pub ports: Vec<PortConfig>,
    /// What rules do with what they can not read.
    pub fragments: Fragments,
    /// Room for routes.
    pub fib: FibConfig,
    /// How long the data plane goes on alone.
    pub heartbeat: HeartbeatConfig,
    /// Metrics over HTTP.
    pub metrics: MetricsConfig,
    /// Samples of packets for a collector.
    pub sflow: SflowConfig,
    /// What is not ours alone to decide.
    pub flows: FlowsConfig,
    /// What is steered to sockets that are not bound to it.
    pub steer: Vec<SteerConfig>,
    /// What the chains must do with packets, or must not.
    pub assertions: Vec<Assertion>,
    /// By name.
    pub sets: BTreeMap<SetName, SetConfig>,
    /// In the order of [`ChainName::ALL`].
    pub chains: [ChainConfig; RULE_CHAINS],
}

impl Config {
    /// The elements of a set that are known; none of one that is in a file.
    pub fn elements(&self, name: &SetName) -> Option<&[Element]> {
        self.sets.get(name).and_then(SetConfig::listed)
    }

    /// The chain of this name.
    pub fn chain(&self, name: ChainName) -> &ChainConfig {
        &self.chains[name.index()]
    }

    /// What is said about the link of this name: its own entry, or else the first pattern that fits.
    pub fn port(&self, link: &str) -> Option<&PortConfig> {
        let named = self.ports.iter().find(|port| port.pattern.as_str() == link);
        named.or_else(|| self.ports.iter().find(|port| port.pattern.fits(link)))
    }
}

/// How many routes there is room for from the start. Tables grow by themselves where that is not enough; what is known before
/// need not be grown into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FibConfig {
    /// IPv4.
    pub ipv4_routes: u32,
    /// IPv6.
    pub ipv6_routes: u32,
}

/// How long the data plane trusts routes and neighbours of a daemon that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatConfig {
    /// Seconds; 0 is for ever.
    pub after: u32,
}

impl Default for HeartbeatConfig {
    /// A minute: about as long as the kernel itself sends to a neighbour that it has not heard of (`base_reachable_time`, at
    /// random 15 to 45 s, then 5 s of `delay_first_probe_time` and 3 s of probes). A restart takes far less.
    fn default() -> Self {
        Self { after: 60 }
    }
}

/// Metrics over HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where they can be asked for; none: nowhere.
    pub listen: Option<SocketAddr>,
}

/// Samples of packets, and counters of ports, for a collector of sFlow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SflowConfig {
    /// Where they are sent; none: nowhere.
    pub collector: Option<SocketAddr>,
    /// The address that this machine is known by; none: the one that it sends from.
    pub agent: Option<IpAddr>,
    /// One packet in so many is sampled.
    pub rate: u32,
    /// Seconds between counters; 0: no counters.
    pub polling: u32,
}

impl Default for SflowConfig {
    fn default() -> Self {
        Self { collector: None, agent: None, rate: 1000, polling: 20 }
    }
}

/// How flows get on with what else the kernel would do to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowsConfig {
    /// Whether rules of netfilter have their say.
    pub netfilter: NetfilterChoice,
    /// At most so many connections are carried at the driver; the kernel carries all others.
    pub max: u32,
    /// Seconds after which a packet of a connection passes the kernel again.
    pub lease: u32,
    /// What rules may do although connections are carried past them.
    pub ignore: ObstacleKinds,
}

impl Default for FlowsConfig {
    fn default() -> Self {
        Self {
            netfilter: NetfilterChoice::default(),
            max: 65_536,
            // What changes without an event (rules of iptables-legacy, elements that time out) acts this late at most.
            lease: 5,
            ignore: ObstacleKinds::default(),
        }
    }
}

/// What becomes of a packet that would be forwarded, and would meet rules of netfilter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetfilterChoice {
    /// It goes up, and they decide.
    #[default]
    Follow,
    /// It is sent on, past them.
    Bypass,
}

impl NetfilterChoice {
    /// The name in the config and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Follow => "follow",
            Self::Bypass => "bypass",
        }
    }
}

impl FromStr for NetfilterChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Follow, Self::Bypass].into_iter().find(|choice| choice.name() == text);
        known.ok_or_else(|| format!("unknown netfilter policy `{text}`; use `follow` or `bypass`"))
    }
}

/// What becomes of packets of a link that is wanted as a port, until it is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UntilReady {
    /// The kernel has them.
    #[default]
    Pass,
    /// They are dropped.
    Drop,
}

impl UntilReady {
    /// The name in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
        }
    }
}

impl FromStr for UntilReady {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Pass, Self::Drop].into_iter().find(|choice| choice.name() == text);
        known.ok_or_else(|| format!("unknown value `{text}` of `until_ready`; use `pass` or `drop`"))
    }
}

/// How packets reach the other end of a veth that is in another namespace, as a container's is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerChoice {
    /// They are handed to that end, where no program here sees them on their way through the link.
    #[default]
    Auto,
    /// Through the link.
    Never,
}

impl PeerChoice {
    /// The name in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Never => "never",
        }
    }
}

impl FromStr for PeerChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Auto, Self::Never].into_iter().find(|choice| choice.name() == text);
        known.ok_or_else(|| format!("unknown value `{text}` of `peer`; use `auto` or `never`"))
    }
}

/// Links to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Which links.
    pub pattern: PortPattern,
    /// How.
    pub mode: ModeChoice,
    /// What becomes of packets until then.
    pub until_ready: UntilReady,
    /// How packets reach its other end, where that is in another namespace.
    pub peer: PeerChoice,
}

impl PortConfig {
    /// With all other settings as they are by default.
    pub fn new(pattern: PortPattern, mode: ModeChoice) -> Self {
        Self { pattern, mode, until_ready: UntilReady::default(), peer: PeerChoice::default() }
    }
}

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetConfig {
    /// What its elements are.
    pub kind: SetType,
    /// What is in it.
    pub elements: Elements,
}

impl SetConfig {
    /// Its elements; none while they are in a file, and where the kernel alone knows them.
    pub fn listed(&self) -> Option<&[Element]> {
        match &self.elements {
            Elements::Listed(elements) => Some(elements),
            Elements::File(_) | Elements::Dynamic(_) => None,
        }
    }

    /// What is said of it, if rules fill it.
    pub fn dynamic(&self) -> Option<DynamicSet> {
        if let Elements::Dynamic(dynamic) = &self.elements { Some(*dynamic) } else { None }
    }
}

/// A set that rules fill; the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DynamicSet {
    /// How long elements stay; none: until they are deleted.
    pub timeout: Option<Timeout>,
    /// How many there may be.
    pub size: u32,
}

impl From<DynamicSet> for DynamicRow {
    fn from(set: DynamicSet) -> Self {
        Self { timeout: set.timeout.map(|timeout| timeout.to_string()), size: set.size }
    }
}

impl DynamicSet {
    /// As many as nft takes where nothing is said.
    pub const SIZE: u32 = 65_535;
}

/// Whether only the kernel can decide a rule: for what it does or matches, or for a set that rules fill.
pub fn needs_kernel(rule: &Rule, sets: &BTreeMap<SetName, SetConfig>) -> bool {
    let filled = |name: &SetName| sets.get(name).is_some_and(|set| set.dynamic().is_some());
    rule.needs_kernel() || rule.sets().any(filled)
}

/// The elements of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elements {
    /// In the order of the file. Copies share them: there may be a million.
    Listed(Arc<Vec<Element>>),
    /// One a line in this file; a relative path is relative to the configuration. See [`parse_set_file`].
    File(PathBuf),
    /// What rules put there.
    Dynamic(DynamicSet),
}

/// A chain: its policy and its rules in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainConfig {
    /// What is done with a packet that no rule decided.
    pub policy: Policy,
    /// First match decides. Copies share them: there may be a hundred thousand.
    pub rules: Vec<Arc<Rule>>,
}

impl ChainConfig {
    /// Its rules, in order.
    pub fn rules(&self) -> impl DoubleEndedIterator<Item = &Rule> + ExactSizeIterator {
        self.rules.iter().map(|rule| &**rule)
    }
}
