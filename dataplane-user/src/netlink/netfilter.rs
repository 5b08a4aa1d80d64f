//! Rules of netfilter that forwarded packets would meet: of nftables, of iptables-legacy, and whatever else is hooked there.
//!
//! All of it needs `CAP_NET_ADMIN` alone. A request that the kernel does not answer counts as a rule: there may be one.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    Error,
    attribute::{Attributes, put, text, u8_at},
    hook, legacy,
    socket::{Listener, RecvResult, Requester},
};
use crate::model::{IpVersion, Netfilter, NetfilterChain, NetfilterHook};

/// `NFNL_SUBSYS_NFTABLES << 8`.
pub(super) const NFTABLES: u16 = 10 << 8;
/// `NFNLGRP_NFTABLES`.
pub(super) const GROUP: u32 = 7;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_DELRULE: u16 = 8;
pub(super) const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
/// `struct nfgenmsg`.
pub(super) const HEADER: usize = 4;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;
/// In the list of devices: the beginning of names.
const DEVICE_PREFIX: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const GENERATION: u16 = 1;

/// `NF_DROP`.
const DROP: u32 = 0;
const BOTH: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NFPROTO_NETDEV`.
const NETDEV: u8 = 5;
/// `NF_INET_INGRESS`.
const INET_INGRESS: u32 = 5;

/// How the names of the tables begin that [`super::gate`] writes: they are ours, and forwarded packets do not meet them.
pub(super) const OWN_TABLE: &str = "dataplane_until_ready";

/// How long rules may go on to change before they are listed.
const GATHER: Duration = Duration::from_millis(20);

/// The known state of netfilter, and the socket for its announcements.
pub(super) struct NetfilterMonitor {
    /// None where the kernel has no nftables, or does not let this user listen: then it is listed each time.
    listener: Option<Listener>,
    /// When to list it.
    due: Option<Instant>,
    /// The generation of nftables' rules, and what is in them.
    known: Option<(Vec<u8>, Netfilter)>,
}

impl NetfilterMonitor {
    pub(super) fn open() -> Self {
        let listener = Listener::open(libc::NETLINK_NETFILTER as isize, &[GROUP]);
        let listener = listener.inspect_err(|error| tracing::debug!("{error}; netfilter is listed each second")).ok();
        Self { listener, due: None, known: None }
    }

    /// It is listed next time, changed or not.
    pub(super) fn look(&mut self) {
        self.due.get_or_insert_with(Instant::now);
    }

    /// Waits until it is to be listed. May be dropped while waiting.
    pub(super) async fn wait(&mut self) -> Result<(), Error> {
        loop {
            let due = self.due;
            let heard = async {
                match &mut self.listener {
                    Some(listener) => listener.wait().await.map(|heard| concerns(listener, &heard)),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = heard => if changed? {
                    self.due.get_or_insert_with(|| Instant::now() + GATHER);
                },
                () = until(due) => return Ok(()),
            }
        }
    }

    /// Reads the announcements that are there. Returns whether to list it now.
    pub(super) fn is_due(&mut self) -> Result<bool, Error> {
        while let Some(listener) = &mut self.listener {
            let heard = listener.poll()?;
            if matches!(heard, RecvResult::Nothing) {
                break;
            }
            if concerns(listener, &heard) {
                self.due.get_or_insert_with(|| Instant::now() + GATHER);
            }
        }
        Ok(self.due.take_if(|due| *due <= Instant::now()).is_some())
    }

    /// All that forwarded packets would meet.
    pub(super) fn survey(&mut self) -> Netfilter {
        let seen = self.nftables();
        let Netfilter { mut chains, own } =
            seen.unwrap_or_else(|error| Netfilter { chains: unknown("nftables", &error), own: None });
        let hooks = hook::list();
        match &hooks {
            Ok(Some(hooks)) => chains.extend(hooks.iter().filter_map(hook::Hooked::foreign)),
            Ok(None) => {}
            Err(error) => chains.extend(unknown("hooks of netfilter", error)),
        }
        chains.extend(legacy::chains(hooks.ok().flatten().as_deref()));
        chains.sort();
        Netfilter { chains, own }
    }

    /// The chains of nftables, from the last time if no rule has changed since.
    fn nftables(&mut self) -> Result<Netfilter, Error> {
        let mut requester = Requester::open(libc::NETLINK_NETFILTER as isize)?;
        let generation = match requester.get("rules' generation", NFTABLES | NFT_MSG_GETGEN, &[0; HEADER], |message| {
            let is = message.kind & 0xff == NFT_MSG_NEWGEN;
            Attributes::behind(message.payload, HEADER).find(|(kind, _)| is && *kind == GENERATION)?.1.to_vec().into()
        }) {
            Err(error) if is_missing(&error) => return Ok(Netfilter::default()),
            other => other?.unwrap_or_default(),
        };
        if let Some((known, seen)) = &self.known
            && *known == generation
        {
            return Ok(seen.clone());
        }
        self.known = None;
        let seen = nftables(&mut requester)?;
        self.known = Some((generation, seen.clone()));
        Ok(seen)
    }
}

/// Waits until an instant; for ever when there is none.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Whether a datagram says more than that elements of sets came or went.
fn concerns(listener: &Listener, heard: &RecvResult) -> bool {
    let rules = NFTABLES | NFT_MSG_NEWTABLE..=NFTABLES | NFT_MSG_DELRULE;
    match heard {
        RecvResult::Nothing => false,
        RecvResult::Overrun => true,
        RecvResult::Datagram => listener.messages().any(|message| rules.contains(&message.kind)),
    }
}

/// A stand-in for chains that the kernel did not list.
fn unknown(what: &str, error: &Error) -> Vec<NetfilterChain> {
    vec![unnamed(format!("{what} that cannot be seen: {error}"), &BOTH)]
}

/// Something that is hooked, of which nothing is known.
pub(super) fn unnamed(name: String, versions: &[IpVersion]) -> NetfilterChain {
    NetfilterChain {
        name,
        hook: NetfilterHook::Forward,
        versions: versions.to_vec(),
        devices: Vec::new(),
        rules: None,
        drops: false,
        translates: false,
    }
}

/// Whether the kernel, or this namespace, has nothing to list.
pub(super) fn is_missing(error: &Error) -> bool {
    let missing = |error: &io::Error| {
        let known = [libc::EINVAL, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::ENOPROTOOPT];
        error.raw_os_error().is_some_and(|number| known.contains(&number))
    };
    match error {
        Error::Refused { source, .. } | Error::Ask { source, .. } | Error::Open(source) => missing(source),
        _ => false,
    }
}

/// A chain as the kernel names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    family: u8,
    table: String,
    chain: String,
}

/// The chains of nftables that have rules or a dropping policy, and the tables that are ours.
fn nftables(requester: &mut Requester) -> Result<Netfilter, Error> {
    let all = [0; HEADER];
    let tables =
        requester.dump("netfilter tables", NFTABLES | NFT_MSG_GETTABLE, &all, |message| table(message.payload))?;
    let bases =
        requester.dump("netfilter chains", NFTABLES | NFT_MSG_GETCHAIN, &all, |message| base(message.payload))?;
    let mut chains = Vec::new();
    for (key, chain) in bases {
        let asleep =
            |(family, name, asleep): &(u8, String, bool)| (*family, name) == (key.family, &key.table) && *asleep;
        if key.table.starts_with(OWN_TABLE) || tables.iter().any(asleep) {
            continue;
        }
        let mut request = vec![key.family, 0, 0, 0];
        put(&mut request, RULE_TABLE, &terminated(&key.table));
        put(&mut request, RULE_CHAIN, &terminated(&key.chain));
        let rules = requester.dump("netfilter rules", NFTABLES | NFT_MSG_GETRULE, &request, |message| {
            holder(message.payload).filter(|holder| *holder == key)
        })?;
        let chain = NetfilterChain { rules: Some(rules.len()), ..chain };
        chains.extend((chain.drops || chain.rules != Some(0)).then_some(chain));
    }
    let own = tables.into_iter().map(|(_, name, _)| name).filter(|name| name.starts_with(OWN_TABLE));
    Ok(Netfilter { chains, own: Some(own.collect()) })
}

/// A name as the kernel takes it.
pub(super) fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// A table, and whether it is not hooked in at the moment.
fn table(payload: &[u8]) -> Option<(u8, String, bool)> {
    let (mut name, mut flags) = (String::new(), 0);
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            TABLE_NAME => name = text(value),
            TABLE_FLAGS => flags = number(value).unwrap_or_default(),
            _ => {}
        }
    }
    Some((u8_at(payload, 0)?, name, flags & DORMANT != 0))
}

/// A base chain on one of the hooks; other chains are none.
fn base(payload: &[u8]) -> Option<(Key, NetfilterChain)> {
    let family = u8_at(payload, 0)?;
    let (word, versions) = match family {
        INET => ("inet", BOTH.to_vec()),
        2 => ("ip", vec![IpVersion::V4]),
        10 => ("ip6", vec![IpVersion::V6]),
        NETDEV => ("netdev", BOTH.to_vec()),
        _ => return None,
    };
    let (mut table, mut name, mut hooked, mut drops, mut translates) =
        (String::new(), String::new(), None, false, false);
    let mut devices = Vec::new();
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            CHAIN_TABLE => table = text(value),
            CHAIN_NAME => name = text(value),
            CHAIN_HOOK => {
                for (kind, value) in Attributes::within(value) {
                    match kind {
                        HOOK_NUMBER => hooked = number(value),
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
    };
    Some((Key { family, table, chain: name }, chain))
}

/// The hook with this number that a forwarded packet passes; others are none.
fn hook_of(family: u8, number: u32) -> Option<NetfilterHook> {
    Some(match (family, number) {
        (NETDEV, 0) | (INET, INET_INGRESS) => NetfilterHook::Ingress,
        (NETDEV, 1) => NetfilterHook::Egress,
        (NETDEV, _) => return None,
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

/// The chain that a rule is in.
fn holder(payload: &[u8]) -> Option<Key> {
    let find =
        |wanted| Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| text(value));
    Some(Key { family: u8_at(payload, 0)?, table: find(RULE_TABLE)?, chain: find(RULE_CHAIN)? })
}

/// Netfilter's attributes are in network order.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        use NetfilterHook::{Egress, Forward, Ingress, Prerouting};
        let rows = [
            ("forward of inet", chain(1, Some(2), 1), Some((Forward, false))),
            ("dropping forward of ip6", chain(10, Some(2), 0), Some((Forward, true))),
            ("prerouting of ip", chain(2, Some(0), 1), Some((Prerouting, false))),
            ("input", chain(1, Some(1), 0), None),
            ("output", chain(1, Some(3), 0), None),
            ("a chain that is only jumped to", chain(1, None, 0), None),
            ("bridge", chain(7, Some(2), 0), None),
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

    #[test]
    fn a_table_may_be_asleep() {
        for (flags, asleep) in [(0_u32, false), (1, true), (2, false), (3, true)] {
            let mut message = vec![2, 0, 0, 0];
            put(&mut message, TABLE_NAME, b"filter\0");
            put(&mut message, TABLE_FLAGS, &flags.to_be_bytes());
            assert_eq!(table(&message), Some((2, "filter".to_owned(), asleep)), "{flags}");
        }
    }
}
