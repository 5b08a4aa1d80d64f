//! Bridges: what routing out of them must know of them, their members, and the hosts behind these.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::{BRIDGED_HOSTS, Ifindex};
use dataplane_common::wire::Mac;

use super::{IpVersion, Link, Model, NetfilterHook};

/// How many hosts behind bridges are known: a neighbour can make up as many as it likes. What is for others is left to the
/// kernel's bridge.
pub const FDB_HOSTS: usize = BRIDGED_HOSTS as usize;

/// What a bridge says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// It holds frames of VLANs apart (`vlan_filtering`).
    pub filters_vlans: bool,
    /// After how many hundredths of a second without a frame it forgets a host (`ageing_time`).
    pub ageing: u32,
    /// Rules of netfilter for IPv4 and for IPv6 see the packets in its frames, whatever the namespace says (`nf_call_iptables`,
    /// `nf_call_ip6tables`).
    pub calls: [bool; 2],
}

/// What a member says of its part in a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, as the kernel reports it")]
pub struct BridgePort {
    /// Its state lets frames through (`BR_STATE_FORWARDING`).
    pub forwarding: bool,
    /// Where its frames go depends on more than its state: it is locked, has a backup or VLAN tunnels.
    pub special: bool,
    /// It gets nothing from other isolated members.
    pub isolated: bool,
    /// It may get what it received itself (`hairpin`).
    pub hairpin: bool,
    /// The bridge answers neighbour discovery for it (`neigh_suppress`).
    pub suppresses: bool,
}

/// What a bridge knows of a host: an entry of its forwarding table (FDB) without a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// The bridge.
    pub bridge: Ifindex,
    /// The host.
    pub mac: Mac,
    /// The member that it is behind; none: it is this machine, or not known any more.
    pub member: Option<Ifindex>,
}

/// Hosts behind members of bridges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fdb {
    members: BTreeMap<(Ifindex, Mac), Ifindex>,
    /// There was no room for a host. The kernel announces it once.
    refused: bool,
}

impl Fdb {
    /// Takes in an entry; whether that changed anything.
    pub fn follow(&mut self, entry: FdbEntry) -> bool {
        let key = (entry.bridge, entry.mac);
        match entry.member {
            Some(_) if self.members.len() >= FDB_HOSTS && !self.members.contains_key(&key) => {
                self.refused = true;
                false
            }
            Some(member) => self.members.insert(key, member) != Some(member),
            None => self.members.remove(&key).is_some(),
        }
    }

    /// Puts other entries in place of all; those that differ.
    pub fn replace(&mut self, entries: Vec<FdbEntry>) -> BTreeSet<(Ifindex, Mac)> {
        let mut new = Self::default();
        for entry in entries {
            new.follow(entry);
        }
        let keys = self.members.keys().chain(new.members.keys()).copied();
        let differing = keys.filter(|key| self.members.get(key) != new.members.get(key)).collect();
        *self = new;
        differing
    }

    /// The member of a bridge that a host is behind.
    pub fn member(&self, bridge: Ifindex, host: Mac) -> Option<Ifindex> {
        self.members.get(&(bridge, host)).copied()
    }

    /// All hosts, with the members that they are behind.
    pub fn iter(&self) -> impl Iterator<Item = (Ifindex, Mac, Ifindex)> {
        self.members.iter().map(|((bridge, mac), member)| (*bridge, *mac, *member))
    }

    /// Forgets what is on a link, which is gone; what that was.
    pub fn forget(&mut self, link: Ifindex) -> BTreeSet<(Ifindex, Mac)> {
        let gone = self.members.extract_if(.., |(bridge, _), member| *bridge == link || *member == link);
        gone.map(|(key, _)| key).collect()
    }

    /// Whether there was no room for a host since all were listed.
    pub fn has_refused(&self) -> bool {
        self.refused
    }

    /// Whether there was no room for a host, and is now: all are to be listed again.
    pub fn has_room_again(&self) -> bool {
        self.refused && self.members.len() < FDB_HOSTS / 4 * 3
    }

    /// How many hosts are known.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl Model {
    /// The member of a bridge that transmits what this machine sends to a host, as `br_dev_xmit` (`net/bridge/br_device.c`)
    /// finds it. `None` where only the kernel can say: the host is not known, or more than the table decides.
    pub fn bridged_to<'a>(&'a self, bridge: &'a Link, host: Mac) -> Option<&'a Link> {
        if self.why_kernel_bridges(bridge).is_some() {
            return None;
        }
        let member = self.links.get(&self.fdb.member(bridge.ifindex, host)?)?;
        Some(member).filter(|member| member.master == Some(bridge.ifindex) && self.is_plain_member(member))
    }

    /// The bridge that a link is a member of.
    pub fn bridge_of(&self, link: &Link) -> Option<&Link> {
        self.links.get(&link.master?).filter(|master| master.bridge.is_some())
    }

    /// Whether frames leave through a member of a bridge for no other reason than that a host is behind it.
    pub fn is_plain_member(&self, member: &Link) -> bool {
        let bridge = self.bridge_of(member);
        Self::lets_through(member) && bridge.is_some_and(|bridge| self.why_kernel_bridges(bridge).is_none())
    }

    /// Why what is routed into a bridge is left to the kernel's bridge, for people; `None`: it is not.
    pub fn why_kernel_bridges(&self, bridge: &Link) -> Option<&'static str> {
        let shaped = !self.leaves_plainly(bridge);
        let shaped = shaped.then_some("a queueing discipline, a classifier or a rule of netfilter is at its egress");
        self.why_special(bridge).or(shaped)
    }

    /// Whether what comes in through a member of a bridge for the bridge itself needs no more than its table says.
    pub fn is_plain_entrance(&self, member: &Link) -> bool {
        let bridge = self.bridge_of(member);
        Self::lets_through(member) && bridge.is_some_and(|bridge| self.why_kernel_receives(bridge).is_none())
    }

    /// Why what comes in through members of a bridge is left to the kernel's bridge, for people; `None`: it is not.
    pub fn why_kernel_receives(&self, bridge: &Link) -> Option<&'static str> {
        let ages = bridge.bridge.is_some_and(|bridge| bridge.ageing != 0);
        let taken = || self.taker(bridge).map(|_| "another device takes its packets");
        self.why_special(bridge).or_else(|| (!ages).then_some("its ageing_time is 0")).or_else(taken)
    }

    /// Why frames between members of a bridge are left to the kernel's bridge, for people; `None`: they are not.
    pub fn why_kernel_switches(&self, bridge: &Link) -> Option<&'static str> {
        let members = || self.links.values().filter(|link| link.master == Some(bridge.ifindex));
        let suppresses = || members().any(|link| link.bridge_port.is_some_and(|port| port.suppresses));
        self.why_kernel_receives(bridge)
            .or_else(|| {
                self.is_seen_by_netfilter(bridge).then_some("rules of netfilter see its packets (br_netfilter)")
            })
            .or_else(|| suppresses().then_some("a member has neigh_suppress"))
    }

    /// Whether a bridge hands packets in its frames of a family to netfilter (`br_nf_pre_routing` in
    /// `net/bridge/br_netfilter_hooks.c`), which looks at their headers at least.
    pub fn checks_headers(&self, bridge: &Link) -> [bool; 2] {
        let Some(said) = bridge.bridge else { return [false; 2] };
        let called = self.netfilter.calls;
        [0, 1].map(|family| called.is_some_and(|all| all[family] || said.calls[family]))
    }

    /// Whether rules of netfilter see packets in the frames of a bridge.
    fn is_seen_by_netfilter(&self, bridge: &Link) -> bool {
        let members = self.links.values().filter(|link| link.master == Some(bridge.ifindex));
        let devices: Vec<_> = members.chain([bridge]).map(|link| link.name.as_str()).collect();
        let seen = self.checks_headers(bridge);
        let versions = [IpVersion::V4, IpVersion::V6].into_iter().zip(seen).filter(|(_, seen)| *seen);
        let own = self.own_rules && seen != [false; 2];
        let at_ingress = devices.iter().any(|device| self.netfilter.meets_on_the_way_in(device));
        own || at_ingress || versions.into_iter().any(|(version, _)| self.netfilter.meets(version, &devices))
    }

    /// Why frames between a member of a bridge and others are left to the kernel's bridge, for people: nothing inside where they
    /// are not, none where the link is no member.
    pub fn why_kernel_switches_at(&self, member: &Link) -> Option<Option<&'static str>> {
        let own = if !Self::lets_through(member) {
            Some("it is down, blocked or locked, or has a backup or VLAN tunnels")
        } else if self.netfilter.meets_on_the_way_out(&member.name) {
            Some("a chain of netfilter is at its egress")
        } else {
            member.offloads.then_some("its hardware switches (switchdev)")
        };
        Some(self.why_kernel_switches(self.bridge_of(member)?).or(own))
    }

    /// Whether the state of a member lets all frames through.
    fn lets_through(member: &Link) -> bool {
        member.bridge_port.is_some_and(|port| port.forwarding && !port.special) && member.up && member.ethernet
    }

    /// Why more than its table has a say in what a bridge does.
    fn why_special(&self, bridge: &Link) -> Option<&'static str> {
        let of_bridges = |chain: &super::NetfilterChain| chain.hook == NetfilterHook::Bridge;
        match bridge.bridge {
            None => Some("it is no bridge"),
            _ if !bridge.up => Some("it is down"),
            Some(Bridge { filters_vlans: true, .. }) => Some("vlan_filtering is on"),
            _ if bridge.promiscuity != 0 => Some("it is promiscuous"),
            _ if self.netfilter.chains.iter().any(of_bridges) => Some("netfilter has rules for bridges"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_found_no_room_are_listed_again_once_there_is_some() {
        let entry = |number: usize, member| {
            let bytes = (number as u32).to_be_bytes();
            FdbEntry { bridge: 20, mac: Mac([2, 0, bytes[0], bytes[1], bytes[2], bytes[3]]), member }
        };
        let mut fdb = Fdb::default();
        (0..FDB_HOSTS).for_each(|number| assert!(fdb.follow(entry(number, Some(2)))));
        assert!(!fdb.has_refused(), "there was room for all");
        assert!(fdb.follow(entry(7, Some(3))), "one that is known may move");
        assert!(!fdb.follow(entry(FDB_HOSTS, Some(2))));
        assert!(fdb.has_refused() && !fdb.has_room_again());
        (0..FDB_HOSTS / 2).for_each(|number| assert!(fdb.follow(entry(number, None))));
        assert!(fdb.has_room_again());
        fdb.replace(vec![entry(FDB_HOSTS, Some(2))]);
        assert!(!fdb.has_refused() && fdb.len() == 1);
    }
}
