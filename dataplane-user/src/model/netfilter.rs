//! Where a forwarded packet would meet rules of netfilter.

use std::fmt;

use super::IpVersion;

/// A place in a packet's way, as nft names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetfilterHook {
    /// Before the route is known.
    Prerouting,
    /// Through this machine.
    Forward,
    /// On the way out.
    Postrouting,
    /// A device has received it.
    Ingress,
    /// A device is about to transmit it.
    Egress,
}

impl NetfilterHook {
    /// The name in nft.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Forward => "forward",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A chain with something to say, or whatever else is hooked there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetfilterChain {
    /// As nft names it: family, table, chain; or a table of iptables-legacy; or what else it is.
    pub name: String,
    /// Where it is hooked.
    pub hook: NetfilterHook,
    /// The devices whose packets meet it.
    pub versions: Vec<IpVersion>,
    /// Names of the devices that it is bound to (`*` at the end: all that begin so), at ingress and egress.
    pub devices: Vec<String>,
    /// Rules directly in it; `None` where the kernel does not list them.
    pub rules: Option<usize>,
    /// Whether it drops what no rule decided.
    pub drops: bool,
    /// Whether it translates addresses, which no rule of ours does.
    pub translates: bool,
}

impl NetfilterChain {
    /// Whether it is bound to a device of this name.
    fn is_on(&self, device: &str) -> bool {
        let fits = |bound: &String| match bound.strip_suffix('*') {
            Some(start) => device.starts_with(start),
            None => bound == device,
        };
        self.devices.iter().any(fits)
    }
}

impl fmt::Display for NetfilterChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (hook {}", self.name, self.hook.name())?;
        if !self.devices.is_empty() {
            write!(f, " of {}", self.devices.join(", "))?;
        }
        match self.rules {
            Some(1) => f.write_str(", 1 rule")?,
            Some(rules) => write!(f, ", {rules} rules")?,
            None => f.write_str(", rules unknown")?,
        }
        f.write_str(if self.translates { ", NAT" } else { "" })?;
        f.write_str(if self.drops { ", policy drop)" } else { ")" })
    }
}

/// All such places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Netfilter {
    /// In order.
    pub chains: Vec<NetfilterChain>,
    /// Names of the tables that daemons like this one wrote; none where that is not known.
    pub own: Option<Vec<String>>,
}

impl Netfilter {
    /// Whether a packet of this family that came in through devices of these names, one on the other, would meet rules when
    /// it is forwarded.
    pub fn meets(&self, version: IpVersion, devices: &[&str]) -> bool {
        self.chains.iter().any(|chain| {
            chain.versions.contains(&version)
                && match chain.hook {
                    NetfilterHook::Prerouting | NetfilterHook::Forward | NetfilterHook::Postrouting => true,
                    NetfilterHook::Ingress => devices.iter().any(|device| chain.is_on(device)),
                    NetfilterHook::Egress => false,
                }
        })
    }

    /// Whether what a device transmits would meet rules.
    pub fn meets_on_the_way_out(&self, device: &str) -> bool {
        self.chains.iter().any(|chain| chain.hook == NetfilterHook::Egress && chain.is_on(device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(hook: NetfilterHook, versions: &[IpVersion], devices: &[&str]) -> NetfilterChain {
        NetfilterChain {
            name: "inet t c".to_owned(),
            hook,
            versions: versions.to_vec(),
            devices: devices.iter().map(|name| (*name).to_owned()).collect(),
            rules: Some(1),
            drops: false,
            translates: false,
        }
    }

    #[test]
    fn only_what_a_packet_comes_by_counts() {
        use IpVersion::{V4, V6};
        let both = [V4, V6];
        let rows = [
            (chain(NetfilterHook::Forward, &[V4], &[]), [true, false], false),
            (chain(NetfilterHook::Prerouting, &[V6], &[]), [false, true], false),
            (chain(NetfilterHook::Postrouting, &both, &[]), [true, true], false),
            (chain(NetfilterHook::Ingress, &both, &["eth1"]), [false, false], false),
            (chain(NetfilterHook::Ingress, &both, &["eth1", "eth0"]), [true, true], false),
            (chain(NetfilterHook::Ingress, &both, &["et*"]), [true, true], false),
            (chain(NetfilterHook::Egress, &both, &["eth0"]), [false, false], true),
        ];
        for (chain, met, out) in rows {
            let netfilter = Netfilter { chains: vec![chain.clone()], own: None };
            assert_eq!(both.map(|version| netfilter.meets(version, &["eth0.5", "eth0"])), met, "{chain}");
            assert_eq!(netfilter.meets_on_the_way_out("eth0"), out, "{chain}");
        }
    }

    #[test]
    fn chains_have_a_description() {
        let plain = chain(NetfilterHook::Forward, &[IpVersion::V4], &[]);
        assert_eq!(plain.to_string(), "inet t c (hook forward, 1 rule)");
        let ingress = chain(NetfilterHook::Ingress, &[IpVersion::V4], &["eth0", "eth1"]);
        assert_eq!(ingress.to_string(), "inet t c (hook ingress of eth0, eth1, 1 rule)");
        let nat = NetfilterChain { rules: None, translates: true, drops: true, ..plain };
        assert_eq!(nat.to_string(), "inet t c (hook forward, rules unknown, NAT, policy drop)");
    }
}
