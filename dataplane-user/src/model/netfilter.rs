//! Where a forwarded packet would meet rules of netfilter.

use std::fmt;

use dataplane_common::abi::Ifindex;

use super::{IpVersion, Model, OWN_RULES, Obstacle, ObstacleKinds};

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
    /// Anywhere in a bridge.
    Bridge,
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
            Self::Bridge => "bridge",
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
    /// What packets of established connections can meet in it and behind it, one of each kind.
    pub obstacles: Vec<Obstacle>,
}

impl NetfilterChain {
    /// Whether it is of iptables-legacy.
    pub fn is_legacy(&self) -> bool {
        self.name.contains("tables-legacy ")
    }

    /// Whether own rules are in it.
    pub fn is_own(&self) -> bool {
        self.name
            .strip_prefix("inet ")
            .and_then(|rest| rest.strip_prefix(OWN_RULES))
            .is_some_and(|rest| rest.starts_with(' '))
    }

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
    /// Whether rules for IPv4 and for IPv6 see packets in the frames of all bridges (`bridge-nf-call-iptables`,
    /// `bridge-nf-call-ip6tables`); none where `br_netfilter` is not there.
    pub calls: Option<[bool; 2]>,
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
                    NetfilterHook::Egress | NetfilterHook::Bridge => false,
                }
        })
    }

    /// What rules do that packets escape which are carried at the driver, having come in through devices of these names. What
    /// leaves through a device with a chain at its egress is the kernel's.
    fn obstacles<'a>(&'a self, devices: &[&str]) -> impl Iterator<Item = &'a Obstacle> {
        let met = self.chains.iter().filter(|chain| match chain.hook {
            NetfilterHook::Prerouting | NetfilterHook::Forward | NetfilterHook::Postrouting => true,
            NetfilterHook::Ingress => devices.iter().any(|device| chain.is_on(device)),
            NetfilterHook::Egress | NetfilterHook::Bridge => false,
        });
        met.flat_map(|chain| &chain.obstacles)
    }

    /// Whether what a device receives would meet rules of its own.
    pub fn meets_on_the_way_in(&self, device: &str) -> bool {
        self.chains.iter().any(|chain| chain.hook == NetfilterHook::Ingress && chain.is_on(device))
    }

    /// Whether what a device transmits would meet rules.
    pub fn meets_on_the_way_out(&self, device: &str) -> bool {
        self.chains.iter().any(|chain| chain.hook == NetfilterHook::Egress && chain.is_on(device))
    }
}

impl Model {
    /// What keeps all connections through these ports in the kernel, the worst first; notes are not among it.
    pub fn flow_obstacles(&self, ports: impl Iterator<Item = Ifindex>, ignore: ObstacleKinds) -> Vec<&Obstacle> {
        let mut found = self.all_obstacles(ports);
        found.retain(|one| one.forbids(ignore));
        found
    }

    /// The same with notes, and with what is ignored.
    pub fn all_obstacles(&self, ports: impl Iterator<Item = Ifindex>) -> Vec<&Obstacle> {
        let ports: Vec<_> = ports.filter_map(|ifindex| self.links.get(&ifindex)).collect();
        // A device on a port, as for a VLAN, has chains of its own; what comes in through it came in through the port.
        let through =
            |link: &&super::Link| self.devices_of(link).iter().any(|name| ports.iter().any(|port| port.name == *name));
        let devices: Vec<_> = self.links.values().filter(through).flat_map(|link| self.devices_of(link)).collect();
        let mut found: Vec<_> = self.netfilter.obstacles(&devices).collect();
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_common::abi::Tag;

    use crate::model::{Event, Link, ObstacleKind, Vlan};

    fn chain(hook: NetfilterHook, versions: &[IpVersion], devices: &[&str]) -> NetfilterChain {
        NetfilterChain {
            name: "inet t c".to_owned(),
            hook,
            versions: versions.to_vec(),
            devices: devices.iter().map(|name| (*name).to_owned()).collect(),
            rules: Some(1),
            drops: false,
            translates: false,
            obstacles: Vec::new(),
        }
    }

    #[test]
    fn what_is_met_forbids_unless_it_is_ignored() {
        let obstacle = |kind: ObstacleKind| Obstacle { kind, place: "rule inet t c handle 4".to_owned(), what: None };
        let of = |hook, devices: &[&str], kind| NetfilterChain {
            obstacles: vec![obstacle(kind), obstacle(ObstacleKind::Counter)],
            ..chain(hook, &[IpVersion::V4], devices)
        };
        let ignore: ObstacleKinds = [ObstacleKind::Log, ObstacleKind::Queue].into_iter().collect();
        let rows = [
            ("a log", of(NetfilterHook::Forward, &[], ObstacleKind::Log), true, false),
            ("a queue", of(NetfilterHook::Postrouting, &[], ObstacleKind::Queue), true, true),
            ("a limit of a port", of(NetfilterHook::Ingress, &["eth0"], ObstacleKind::Limit), true, true),
            ("one of another device", of(NetfilterHook::Ingress, &["eth9"], ObstacleKind::Limit), false, false),
            ("a limit of a VLAN device", of(NetfilterHook::Ingress, &["eth0.5"], ObstacleKind::Limit), true, true),
            ("one at egress", of(NetfilterHook::Egress, &["eth0"], ObstacleKind::Limit), false, false),
        ];
        for (what, chain, forbids, ignored) in rows {
            let link = |ifindex, name: &str| Link { ifindex, name: name.to_owned(), ..Link::default() };
            let mut model =
                Model { netfilter: Netfilter { chains: vec![chain], own: None, calls: None }, ..Model::default() };
            model.apply(Event::Link(link(2, "eth0")));
            model.apply(Event::Link(Link {
                parent: Some(2),
                vlan: Some(Vlan { tag: Tag::NONE, prioritises: false }),
                ..link(3, "eth0.5")
            }));
            model.apply(Event::Link(link(4, "eth9")));
            // The port is below the VLAN device.
            let some = |ignore| !model.flow_obstacles([2].into_iter(), ignore).is_empty();
            assert_eq!((some(ObstacleKinds::default()), some(ignore)), (forbids, ignored), "{what}");
        }
        assert_eq!(obstacle(ObstacleKind::Log).to_string(), "rule inet t c handle 4 has log");
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
            let netfilter = Netfilter { chains: vec![chain.clone()], own: None, calls: None };
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
