//! Base chains of nftables that forwarded packets meet.

use super::{
    attribute::{Attributes, text, u8_at},
    netfilter::{HEADER, number},
};
use crate::model::{IpVersion, NetfilterChain, NetfilterHook};

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;
/// In the list of devices: the beginning of names.
const DEVICE_PREFIX: u16 = 2;
/// `NF_DROP`.
const DROP: u32 = 0;
const BOTH: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NFPROTO_NETDEV`.
const NETDEV: u8 = 5;
/// `NFPROTO_BRIDGE`.
const BRIDGE: u8 = 7;
/// `NF_INET_INGRESS`.
const INET_INGRESS: u32 = 5;
/// `NF_IP_PRI_CONNTRACK`: where connections are looked up, at prerouting.
const CONNTRACK: i32 = -200;

/// A chain as the kernel names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) chain: String,
    /// Whether connections have been looked up before it.
    pub(super) tracked: bool,
}

/// A base chain on one of the hooks; other chains are none.
pub(super) fn base(payload: &[u8]) -> Option<(Key, NetfilterChain)> {
    let family = u8_at(payload, 0)?;
    let (word, versions) = match family {
        INET => ("inet", BOTH.to_vec()),
        2 => ("ip", vec![IpVersion::V4]),
        10 => ("ip6", vec![IpVersion::V6]),
        NETDEV => ("netdev", BOTH.to_vec()),
        // No packet that is routed past the bridge meets it; one that is routed through it does.
        BRIDGE => ("bridge", Vec::new()),
        _ => return None,
    };
    let (mut table, mut name, mut hooked, mut drops, mut translates) =
        (String::new(), String::new(), None, false, false);
    let (mut devices, mut priority) = (Vec::new(), 0);
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            CHAIN_TABLE => table = text(value),
            CHAIN_NAME => name = text(value),
            CHAIN_HOOK => {
                for (kind, value) in Attributes::within(value) {
                    match kind {
                        HOOK_NUMBER => hooked = number(value),
                        HOOK_PRIORITY => priority = number(value).unwrap_or_default().cast_signed(),
                        HOOK_DEVICE => devices.push(text(value)),
                        HOOK_DEVICES => devices.extend(Attributes::within(value).map(device)),
                        _ => {}
                    }
                }
            }
            CHAIN_POLICY => drops = number(value) == Some(DROP),
            CHAIN_TYPE => translates = text(value) == "nat",
            _ => {}
        }
    }
    devices.sort();
    devices.dedup();
    let hook = hook_of(family, hooked?)?;
    let chain = NetfilterChain {
        name: format!("{word} {table} {name}"),
        hook,
        versions,
        devices,
        rules: None,
        drops,
        translates,
        obstacles: Vec::new(),
    };
    let tracked = match hook {
        NetfilterHook::Prerouting => priority > CONNTRACK,
        NetfilterHook::Forward | NetfilterHook::Postrouting => true,
        NetfilterHook::Ingress | NetfilterHook::Egress | NetfilterHook::Bridge => false,
    };
    Some((Key { family, table, chain: name, tracked }, chain))
}

/// The hook with this number that a forwarded packet passes; others are none.
fn hook_of(family: u8, number: u32) -> Option<NetfilterHook> {
    Some(match (family, number) {
        (NETDEV, 0) | (INET, INET_INGRESS) => NetfilterHook::Ingress,
        (NETDEV, 1) => NetfilterHook::Egress,
        (NETDEV, _) => return None,
        (BRIDGE, _) => NetfilterHook::Bridge,
        (_, 0) => NetfilterHook::Prerouting,
        (_, 2) => NetfilterHook::Forward,
        (_, 4) => NetfilterHook::Postrouting,
        _ => return None,
    })
}

fn device((kind, value): (u16, &[u8])) -> String {
    let name = text(value);
    if kind == DEVICE_PREFIX { name + "*" } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute::put;

    fn chain(family: u8, hook: Option<u32>, policy: u32) -> Vec<u8> {
        let mut message = vec![family, 0, 0, 0];
        put(&mut message, CHAIN_TABLE, b"filter\0");
        put(&mut message, CHAIN_NAME, b"fwd\0");
        if let Some(hook) = hook {
            let mut nested = Vec::new();
            put(&mut nested, HOOK_NUMBER, &hook.to_be_bytes());
            if family == NETDEV {
                put(&mut nested, HOOK_DEVICE, b"eth1\0");
                let mut devices = Vec::new();
                put(&mut devices, 1, b"eth1\0");
                put(&mut devices, DEVICE_PREFIX, b"eth\0");
                put(&mut nested, HOOK_DEVICES, &devices);
            }
            put(&mut message, CHAIN_HOOK, &nested);
        }
        put(&mut message, CHAIN_POLICY, &policy.to_be_bytes());
        put(&mut message, CHAIN_TYPE, b"nat\0");
        message
    }

    #[test]
    fn only_chains_that_forwarded_packets_meet_count() {
        use NetfilterHook::{Bridge, Egress, Forward, Ingress, Prerouting};
        let rows = [
            ("forward of inet", chain(1, Some(2), 1), Some((Forward, false))),
            ("dropping forward of ip6", chain(10, Some(2), 0), Some((Forward, true))),
            ("prerouting of ip", chain(2, Some(0), 1), Some((Prerouting, false))),
            ("input", chain(1, Some(1), 0), None),
            ("output", chain(1, Some(3), 0), None),
            ("a chain that is only jumped to", chain(1, None, 0), None),
            ("bridge", chain(7, Some(2), 0), Some((Bridge, true))),
            ("input of bridge", chain(7, Some(1), 1), Some((Bridge, false))),
            ("ingress of netdev", chain(5, Some(0), 1), Some((Ingress, false))),
            ("egress of netdev", chain(5, Some(1), 1), Some((Egress, false))),
            ("ingress of inet", chain(1, Some(5), 1), Some((Ingress, false))),
        ];
        for (what, message, expected) in rows {
            let found = base(&message).map(|(_, chain)| (chain.hook, chain.drops));
            assert_eq!(found, expected, "{what}");
        }
        let (key, netdev) = base(&chain(5, Some(0), 1)).expect("a chain");
        assert_eq!((key.family, netdev.devices), (5, vec!["eth*".to_owned(), "eth1".to_owned()]));
        assert!(netdev.translates);
    }
}
