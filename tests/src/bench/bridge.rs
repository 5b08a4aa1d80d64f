//! `bench bridge`: frames between members of a bridge, and packets from one bridge to another.

use std::fmt;

use anyhow::Result;

use super::chain::{Chain, mac};

/// What is built of `a1` and `b0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridging {
    /// Both are members of one bridge, and frames are for a host behind the other.
    Switched,
    /// The same, and packets in frames are shown to netfilter, which has no rules (`br_netfilter`).
    Called,
    /// Each is the member of a bridge, and packets are routed from one to the other.
    Routed,
}

impl fmt::Display for Bridging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Switched => "bridge",
            Self::Called => "bridge, br_netfilter",
            Self::Routed => "two bridges, routed",
        })
    }
}

/// An address for `a1` while its own is that of a host behind `b0`.
const OTHER: &str = "02:00:00:00:aa:01";

impl Bridging {
    /// The bridges, which are attached in place of their members.
    pub const fn bridges(self) -> &'static [&'static str] {
        match self {
            Self::Switched | Self::Called => &["br0"],
            Self::Routed => &["br0", "br1"],
        }
    }

    /// Why it cannot be on this machine, if so.
    pub fn missing(self) -> Option<String> {
        let there = self != Self::Called || std::path::Path::new("/proc/sys/net/bridge").exists();
        (!there).then(|| "the kernel has no br_netfilter".to_owned())
    }

    /// Builds it.
    pub fn build(self, chain: &Chain) -> Result<()> {
        let ip = |words: &str| chain.dut.run("ip", &words.split(' ').collect::<Vec<_>>()).map(drop);
        for bridge in self.bridges() {
            ip(&format!("link add {bridge} type bridge stp_state 0 forward_delay 0"))?;
        }
        for name in ["iptables", "ip6tables", "arptables"] {
            let called = if self == Self::Called { "1" } else { "0" };
            // A kernel without `br_netfilter` has no such thing.
            let _absent = chain.dut.set(&format!("bridge/bridge-nf-call-{name}"), called);
        }
        let [last, first] = [self.bridges().len() - 1, 0].map(|at| self.bridges()[at]);
        if self == Self::Routed {
            chain.lead_away()?;
        } else {
            ip(&format!("link set a1 address {OTHER}"))?;
        }
        ip(&format!("link set a1 master {first}"))?;
        ip(&format!("link set b0 master {last}"))?;
        for bridge in self.bridges() {
            ip(&format!("link set {bridge} up"))?;
        }
        let known = |mac: String, member: &str| {
            chain.dut.run("bridge", &["fdb", "replace", &mac, "dev", member, "master", "static"]).map(drop)
        };
        known(mac(&chain.source, "a0")?.to_string(), "a1")?;
        if self == Self::Routed {
            known(mac(&chain.sink, "b1")?.to_string(), "b0")?;
            chain.lead(["br0", "br1"])?;
        } else {
            known(chain.path.gateway.to_string(), "b0")?;
        }
        Ok(())
    }

    /// Makes the chain what it was.
    pub fn dissolve(self, chain: &Chain) -> Result<()> {
        for bridge in self.bridges() {
            chain.dut.run("ip", &["link", "del", bridge])?;
        }
        if self == Self::Routed {
            chain.lead(["a1", "b0"])?;
        } else {
            chain.dut.run("ip", &["link", "set", "a1", "address", &chain.path.gateway.to_string()])?;
        }
        Ok(())
    }
}
