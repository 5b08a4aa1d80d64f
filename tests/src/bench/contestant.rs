//! What is compared: ways of getting a packet from `a1` to `b0`, each put in place and taken away again.

use std::{fmt, fmt::Write as _};

use anyhow::{Result, ensure};
use aya::programs::{tc::SchedClassifierLink, xdp::XdpLink};

use super::{
    bridge::Bridging,
    chain::Chain,
    connection::{self, Netfilter},
    daemon::{self, Daemon, Mode},
    forward::Family,
    program::Surroundings,
};

/// First of the ports that rules ask for; no packet of the generator goes there.
const PORT: usize = 10_000;

/// Rules on forwarded packets, none of which matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// No chain at all.
    None,
    /// So many rules, one port each.
    Linear(usize),
    /// One rule with a set of so many ports: what a careful administrator of nft would write.
    Set(usize),
    /// So many pairs of networks with a range of ports: a rule each of ours, and one concatenated set of intervals for nft,
    /// which is the best that nft has for this.
    Boxes(usize),
}

impl Rules {
    /// As rules of nft's language, which is ours too; the last one accepts.
    fn lines(self) -> Vec<String> {
        let drop = |port: usize| format!("udp dport {port} drop");
        let mut lines: Vec<_> = match self {
            Self::None => return Vec::new(),
            Self::Linear(count) => (PORT..PORT + count).map(drop).collect(),
            Self::Set(count) => {
                let ports: Vec<_> = (PORT..PORT + count).map(|port| port.to_string()).collect();
                vec![format!("udp dport {{ {} }} drop", ports.join(", "))]
            }
            Self::Boxes(count) => {
                let rule = |[source, destination, ports]: [String; 3]| {
                    format!("ip saddr {source} ip daddr {destination} udp dport {ports} drop")
                };
                boxes(count).map(rule).collect()
            }
        };
        lines.push("accept".to_owned());
        lines
    }
}

/// Source and destination network, and ports; none is that of a packet.
fn boxes(count: usize) -> impl Iterator<Item = [String; 3]> {
    (0..count).map(|number| {
        let (low, middle, high) = (number % 256, number / 256 % 256, number / 65_536);
        let port = PORT + 16 * high;
        [format!("198.19.{low}.0/24"), format!("203.0.113.{middle}"), format!("{port}-{}", port + 7)]
    })
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Linear(1) => f.write_str(", 1 rule"),
            Self::Linear(count) => write!(f, ", {count} rules"),
            Self::Set(count) => write!(f, ", set of {count}"),
            Self::Boxes(count) => write!(f, ", {count} boxes"),
        }
    }
}

/// One way of forwarding. Each attaches only what its line says; the sink's program on `b1` is always there, and so is
/// GRO on `a1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// XDP drop on `a1`: half the chain, and the least that receiving costs.
    Drop,
    /// XDP on `a1` that redirects everything to `b0` through a `DEVMAP_HASH`, and reads and writes no byte: the least that
    /// forwarding costs.
    Null,
    /// The same, and the headers rewritten as every router has to, without a look at any table.
    Rewrite,
    /// tc on `a1` that redirects everything to `b0`, and reads and writes no byte: the least that forwarding an skb costs.
    NullTc,
    /// The kernel's IP stack, with rules in nft's forward hook (table `inet`); no XDP on `a1` or `b0`.
    Kernel(Rules),
    /// `dataplane` on `a1` and `b0`.
    Dataplane(Mode, Rules),
    /// `dataplane` on `a1` and `b0` without rules, and somebody who watches one packet in so many.
    Traced(u32),
    /// The kernel's IP stack with rules that need connections, each of which is established.
    KernelConnections(Netfilter),
    /// `dataplane` on `a1` and `b0`, beside the same rules.
    Connections(Mode, Netfilter),
    /// Another build of `dataplane` ([`daemon::against`]).
    Against(Mode, Rules),
    /// This build once more: what it differs from itself in a run.
    Again(Mode, Rules),
    /// The kernel's bridges.
    KernelBridge(Bridging),
    /// `dataplane` on the same bridges, and so on their members.
    Bridge(Mode, Bridging),
    /// `xdp-forward` of xdp-tools on `a1` and `b0`.
    XdpForward,
}

impl Contestant {
    /// What everybody is compared with.
    pub const KERNEL: Self = Self::Kernel(Rules::None);

    /// Rules that take long to put in place.
    const LARGE: [Rules; 2] = [Rules::Linear(10_000), Rules::Boxes(100_000)];

    /// Whether it takes part only when it is named.
    pub fn is_large(self) -> bool {
        matches!(self, Self::Kernel(rules) | Self::Dataplane(_, rules) if Self::LARGE.contains(&rules))
    }

    /// All of them, in the order of a round.
    pub fn all() -> Vec<Self> {
        let rules = [1, 10, 100, 1000].map(Rules::Linear);
        let mut all = vec![Self::Drop, Self::Null, Self::Rewrite, Self::NullTc, Self::Kernel(Rules::None)];
        all.extend(rules.map(Self::Kernel));
        all.push(Self::Kernel(Rules::Set(1000)));
        all.extend([Mode::Native, Mode::Tc].map(|mode| Self::Dataplane(mode, Rules::None)));
        all.extend(rules.map(|rules| Self::Dataplane(Mode::Native, rules)));
        all.push(Self::Dataplane(Mode::Native, Rules::Set(1000)));
        all.push(Self::Traced(1000));
        for rules in Self::LARGE {
            all.extend([Self::Kernel(rules), Self::Dataplane(Mode::Native, rules)]);
        }
        all.push(Self::XdpForward);
        all
    }

    /// Those of `bench flow`.
    pub fn with_connections() -> Vec<Self> {
        let both = [Netfilter::Stateful, Netfilter::Masquerade];
        let mut all = vec![Self::Null, Self::NullTc, Self::Kernel(Rules::None)];
        all.extend(both.map(Self::KernelConnections));
        all.push(Self::Dataplane(Mode::Native, Rules::None));
        all.extend(both.map(|netfilter| Self::Connections(Mode::Native, netfilter)));
        all.push(Self::Dataplane(Mode::Tc, Rules::None));
        all.push(Self::Connections(Mode::Tc, Netfilter::Masquerade));
        all
    }

    /// Those of `bench bridge`.
    pub fn with_bridges() -> Vec<Self> {
        let mut all = vec![Self::Null, Self::NullTc, Self::KERNEL];
        for bridging in [Bridging::Switched, Bridging::Called, Bridging::Routed] {
            all.push(Self::KernelBridge(bridging));
            all.extend([Mode::Native, Mode::Tc].map(|mode| Self::Bridge(mode, bridging)));
        }
        all
    }

    /// Those that compare this build with another one.
    pub fn against() -> Vec<Self> {
        let mut all = vec![Self::Null, Self::NullTc, Self::Kernel(Rules::None)];
        for (mode, rules) in [
            (Mode::Native, Rules::None),
            (Mode::Native, Rules::Linear(1)),
            (Mode::Native, Rules::Linear(1000)),
            (Mode::Tc, Rules::None),
        ] {
            all.extend([Self::Dataplane(mode, rules), Self::Against(mode, rules), Self::Again(mode, rules)]);
        }
        all
    }

    /// The null redirect that it is compared with: that of its own tier.
    #[must_use]
    pub const fn floor(self) -> Self {
        match self {
            Self::Dataplane(Mode::Tc, _)
            | Self::Connections(Mode::Tc, _)
            | Self::Bridge(Mode::Tc, _)
            | Self::Against(Mode::Tc, _)
            | Self::Again(Mode::Tc, _) => Self::NullTc,
            _ => Self::Null,
        }
    }

    /// Why it cannot take part on this machine, if so.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Drop | Self::Null | Self::Rewrite | Self::NullTc | Self::Kernel(Rules::None) => None,
            Self::Kernel(_) | Self::KernelConnections(_) => absent("nft", "nftables"),
            Self::Connections(..) => absent("nft", "nftables").or_else(|| Self::Traced(1).missing()),
            Self::KernelBridge(bridging) => absent("bridge", "iproute2").or_else(|| bridging.missing()),
            Self::Bridge(_, bridging) => Self::KernelBridge(bridging).missing().or_else(|| Self::Traced(1).missing()),
            Self::Against(..) => daemon::against().err().map(|error| format!("{error:#}")),
            Self::Dataplane(..) | Self::Again(..) | Self::Traced(_) => {
                daemon::binary().err().map(|error| format!("{error:#}"))
            }
            Self::XdpForward => absent("xdp-forward", "xdp-tools"),
        }
    }

    /// Puts it in place.
    pub fn set_up<'a>(
        self,
        chain: &'a Chain,
        surroundings: &mut Surroundings,
        families: &[Family],
    ) -> Result<Contender<'a>> {
        let held = match self {
            Self::Drop => Held::Link { _link: surroundings.attach("sink", &chain.dut, "a1")? },
            Self::Null | Self::Rewrite => {
                surroundings.set_exit(&chain.dut, "b0")?;
                let program = if self == Self::Null { "null" } else { "rewrite" };
                Held::Link { _link: surroundings.attach(program, &chain.dut, "a1")? }
            }
            Self::NullTc => Held::TcLink { _link: surroundings.attach_tc(&chain.dut, "a1")? },
            Self::Kernel(Rules::None) => Held::Nothing,
            Self::Kernel(rules) => {
                chain.dut.feed("nft", &["-f", "-"], &ruleset(rules))?;
                Held::Nft
            }
            Self::KernelConnections(netfilter) => {
                chain.dut.feed("nft", &["-f", "-"], &netfilter.ruleset())?;
                connection::forget(chain)?;
                connection::establish(chain, netfilter, families, true)?;
                Held::Nft
            }
            Self::Connections(mode, netfilter) => {
                chain.dut.feed("nft", &["-f", "-"], &netfilter.ruleset())?;
                connection::forget(chain)?;
                Held::DaemonAndNft(Box::new(Daemon::start_following(chain, mode, netfilter, families)?))
            }
            Self::Dataplane(mode, rules) | Self::Again(mode, rules) => {
                Held::Daemon(Box::new(Daemon::start(chain, daemon::binary()?, mode, &rules.lines())?))
            }
            Self::Against(mode, rules) => {
                Held::Daemon(Box::new(Daemon::start(chain, daemon::against()?, mode, &rules.lines())?))
            }
            Self::KernelBridge(bridging) => {
                bridging.build(chain)?;
                Held::Bridges(bridging)
            }
            Self::Bridge(mode, bridging) => {
                bridging.build(chain)?;
                Held::DaemonOnBridges(Box::new(Daemon::start_on_bridges(chain, mode, bridging)?), bridging)
            }
            Self::Traced(one_in) => {
                let mut daemon = Daemon::start(chain, daemon::binary()?, Mode::Native, &[])?;
                daemon.watch(chain, one_in)?;
                Held::Daemon(Box::new(daemon))
            }
            Self::XdpForward => {
                chain.dut.run("xdp-forward", &["load", "a1", "b0"])?;
                Held::XdpForward
            }
        };
        Ok(Contender { chain, held: Some(held) })
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("floor: XDP drop on a1 (half chain)"),
            Self::Null => f.write_str("floor: XDP null redirect"),
            Self::Rewrite => f.write_str("floor: XDP rewrite and redirect"),
            Self::NullTc => f.write_str("floor: tc null redirect"),
            Self::Kernel(rules @ Rules::None) => write!(f, "kernel{rules}"),
            Self::Kernel(rules) => write!(f, "kernel, nft{rules}"),
            Self::KernelConnections(netfilter) => write!(f, "kernel, {netfilter}"),
            Self::Connections(mode, netfilter) => write!(f, "dataplane {mode}, {netfilter}"),
            Self::Against(mode, rules) => write!(f, "the other build, {mode}{rules}"),
            Self::Again(mode, rules) => write!(f, "dataplane {mode}{rules}, again"),
            Self::Dataplane(mode, rules) => write!(f, "dataplane {mode}{rules}"),
            Self::Traced(one_in) => write!(f, "dataplane native, 1 in {one_in} traced"),
            Self::KernelBridge(bridging) => write!(f, "kernel, {bridging}"),
            Self::Bridge(mode, bridging) => write!(f, "dataplane {mode}, {bridging}"),
            Self::XdpForward => f.write_str("xdp-forward"),
        }
    }
}

/// A contestant in place; taken away by [`Contender::tear_down`], or as well as can be when dropped.
#[derive(Debug)]
pub struct Contender<'a> {
    chain: &'a Chain,
    held: Option<Held>,
}

#[derive(Debug)]
enum Held {
    Nothing,
    Link { _link: XdpLink },
    TcLink { _link: SchedClassifierLink },
    Nft,
    Daemon(Box<Daemon>),
    DaemonAndNft(Box<Daemon>),
    Bridges(Bridging),
    DaemonOnBridges(Box<Daemon>, Bridging),
    XdpForward,
}

impl Contender<'_> {
    /// Takes it away; says what is worth knowing about the run, such as packets that missed the fast path.
    pub fn tear_down(mut self) -> Result<Option<String>> {
        self.remove()
    }

    fn remove(&mut self) -> Result<Option<String>> {
        let dut = &self.chain.dut;
        let mut note = None;
        match self.held.take() {
            None | Some(Held::Nothing | Held::Link { .. } | Held::TcLink { .. }) => {}
            Some(Held::Nft) => drop(dut.run("nft", &["flush", "ruleset"])?),
            Some(Held::Daemon(daemon)) => note = Some(daemon.stop(self.chain)?),
            Some(Held::DaemonAndNft(daemon)) => {
                note = Some(daemon.stop(self.chain)?);
                drop(dut.run("nft", &["flush", "ruleset"])?);
            }
            Some(Held::Bridges(bridging)) => bridging.dissolve(self.chain)?,
            Some(Held::DaemonOnBridges(daemon, bridging)) => {
                note = Some(daemon.stop(self.chain)?);
                bridging.dissolve(self.chain)?;
            }
            Some(Held::XdpForward) => drop(dut.run("xdp-forward", &["unload", "a1", "b0"])?),
        }
        ensure!(
            !dut.run("ip", &["link", "show", "dev", "a1"])?.contains("xdp"),
            "an XDP program is still on a1; the next contestant would not be measured alone",
        );
        Ok(note)
    }
}

impl Drop for Contender<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("bench: taking a contestant away: {error:#}");
        }
    }
}

fn ruleset(rules: Rules) -> String {
    let mut text = "table inet bench {\n".to_owned();
    let lines = if let Rules::Boxes(count) = rules {
        let elements: Vec<_> = boxes(count).map(|parts| parts.join(" . ")).collect();
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            text,
            " set boxes {{ type ipv4_addr . ipv4_addr . inet_service; flags interval; elements = {{ {} }}; }}",
            elements.join(", ")
        );
        vec!["ip saddr . ip daddr . udp dport @boxes drop".to_owned(), "accept".to_owned()]
    } else {
        rules.lines()
    };
    text += " chain forward {\n  type filter hook forward priority filter; policy accept;\n";
    for line in lines {
        let _infallible = writeln!(text, "  {line}");
    }
    text + " }\n}\n"
}

/// Says that a program is not on the PATH, when it is not.
fn absent(program: &str, package: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    (!found).then(|| format!("{program} is not on the PATH; install {package}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_end_in_accept_and_never_name_the_generators_port() {
        for (rules, lines) in
            [(Rules::None, 0), (Rules::Linear(1), 2), (Rules::Linear(1000), 1001), (Rules::Set(1000), 2)]
        {
            let text = rules.lines();
            assert_eq!(text.len(), lines, "{rules:?}");
            assert!(text.last().is_none_or(|line| line == "accept"), "{rules:?}");
            assert!(!text.iter().any(|line| line.contains(" 9 ")), "{rules:?}");
        }
    }

    #[test]
    fn names_are_distinct() {
        let names: std::collections::HashSet<_> = Contestant::all().iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), Contestant::all().len());
    }
}
