//! Netfilter chains that forwarded packets meet in the kernel, and no longer meet once we forward them.

use std::{collections::BTreeMap, fmt, fs};

use super::{
    Error,
    attribute::{Attributes, text, u8_at},
    socket::Asker,
};

/// `NFNL_SUBSYS_NFTABLES << 8`.
const NFTABLES: u16 = 10 << 8;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_GETRULE: u16 = 7;
/// `struct nfgenmsg`.
const HEADER: usize = 4;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;

/// `NF_DROP`.
const DROP: u32 = 0;
/// Hooks that a forwarded packet passes, and their names.
const HOOKS: [(u32, &str); 3] = [(0, "prerouting"), (2, "forward"), (4, "postrouting")];
/// Families whose hooks it passes (`NFPROTO_*`), and their names in nft.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];

/// A chain with something to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetfilterChain {
    /// As nft names it: family, table, chain; or a table of iptables-legacy.
    pub name: String,
    /// Where it is hooked.
    pub hook: &'static str,
    /// Rules directly in it; `None` where the kernel does not tell.
    pub rules: Option<usize>,
    /// Whether it drops what no rule decided.
    pub drops: bool,
}

impl fmt::Display for NetfilterChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (hook {}", self.name, self.hook)?;
        match self.rules {
            Some(1) => f.write_str(", 1 rule")?,
            Some(rules) => write!(f, ", {rules} rules")?,
            None => f.write_str(", rules unknown")?,
        }
        f.write_str(if self.drops { ", policy drop)" } else { ")" })
    }
}

/// A chain as the kernel names it.
type Key = (u8, String, String);

/// The chains, of nftables and of iptables-legacy, that have rules or a dropping policy. None where the kernel has no
/// netfilter.
///
/// # Errors
///
/// The socket, or a dump that never settles.
pub fn forwarding_chains() -> Result<Vec<NetfilterChain>, Error> {
    let mut found = match nftables() {
        // A kernel, or a namespace, without nf_tables.
        Err(Error::Refused { .. }) => Vec::new(),
        other => other?,
    };
    for (path, family) in [("/proc/net/ip_tables_names", "iptables"), ("/proc/net/ip6_tables_names", "ip6tables")] {
        for table in fs::read_to_string(path).unwrap_or_default().lines() {
            found.push(NetfilterChain {
                name: format!("{family}-legacy table {table}"),
                hook: "forward",
                rules: None,
                drops: false,
            });
        }
    }
    Ok(found)
}

fn nftables() -> Result<Vec<NetfilterChain>, Error> {
    let mut asker = Asker::open(libc::NETLINK_NETFILTER as isize)?;
    let request = [0; HEADER];
    let chains =
        asker.dump("netfilter chains", NFTABLES | NFT_MSG_GETCHAIN, &request, |message| base(message.payload))?;
    let rules =
        asker.dump("netfilter rules", NFTABLES | NFT_MSG_GETRULE, &request, |message| holder(message.payload))?;
    let mut counts: BTreeMap<Key, usize> = BTreeMap::new();
    for key in rules {
        *counts.entry(key).or_default() += 1;
    }
    let name = |key: &Key| {
        let family = FAMILIES.iter().find(|(number, _)| *number == key.0).map_or("?", |(_, name)| name);
        format!("{family} {} {}", key.1, key.2)
    };
    let chains = chains.into_iter().map(|(key, hook, drops)| NetfilterChain {
        name: name(&key),
        hook,
        rules: Some(counts.get(&key).copied().unwrap_or_default()),
        drops,
    });
    Ok(chains.filter(|chain| chain.drops || chain.rules != Some(0)).collect())
}

/// A base chain on one of the hooks; other chains are none.
fn base(payload: &[u8]) -> Option<(Key, &'static str, bool)> {
    let family = u8_at(payload, 0).filter(|number| FAMILIES.iter().any(|(known, _)| known == number))?;
    let (mut table, mut name, mut hook, mut drops) = (String::new(), String::new(), None, false);
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            CHAIN_TABLE => table = text(value),
            CHAIN_NAME => name = text(value),
            CHAIN_HOOK => {
                hook = Attributes::within(value)
                    .find(|(kind, _)| *kind == HOOK_NUMBER)
                    .and_then(|(_, value)| number(value));
            }
            CHAIN_POLICY => drops = number(value) == Some(DROP),
            _ => {}
        }
    }
    let (_, hook) = HOOKS.iter().find(|(number, _)| Some(*number) == hook)?;
    Some(((family, table, name), hook, drops))
}

/// The chain that a rule is in.
fn holder(payload: &[u8]) -> Option<Key> {
    let find =
        |wanted| Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| text(value));
    Some((u8_at(payload, 0)?, find(RULE_TABLE)?, find(RULE_CHAIN)?))
}

/// Netfilter's attributes are in network order.
fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::{super::attribute::put, *};

    fn chain(family: u8, hook: Option<u32>, policy: u32) -> Vec<u8> {
        let mut message = vec![family, 0, 0, 0];
        put(&mut message, CHAIN_TABLE, b"filter\0");
        put(&mut message, CHAIN_NAME, b"fwd\0");
        if let Some(hook) = hook {
            let mut nested = Vec::new();
            put(&mut nested, HOOK_NUMBER, &hook.to_be_bytes());
            put(&mut message, CHAIN_HOOK, &nested);
        }
        put(&mut message, CHAIN_POLICY, &policy.to_be_bytes());
        message
    }

    #[test]
    fn only_chains_that_forwarded_packets_meet_count() {
        let rows = [
            ("forward of inet", chain(1, Some(2), 1), Some(("forward", false))),
            ("dropping forward of ip6", chain(10, Some(2), 0), Some(("forward", true))),
            ("prerouting of ip", chain(2, Some(0), 1), Some(("prerouting", false))),
            ("input", chain(1, Some(1), 0), None),
            ("output", chain(1, Some(3), 0), None),
            ("a chain that is only jumped to", chain(1, None, 0), None),
            ("bridge", chain(7, Some(2), 0), None),
        ];
        for (what, message, expected) in rows {
            let found = base(&message).map(|(_, hook, drops)| (hook, drops));
            assert_eq!(found, expected, "{what}");
        }
    }
}
