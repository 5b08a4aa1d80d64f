//! What is hooked into netfilter (`net/netfilter/nfnetlink_hook.c`, Linux 5.14 and later): also what no table knows of.

use super::{
    Error,
    attribute::{Attributes, put, text},
    netfilter::{HEADER, is_missing, number, unnamed},
    socket::Requester,
};
use crate::model::{IpVersion, NetfilterChain, NetfilterHook};

/// `NFNL_SUBSYS_HOOK << 8 | NFNL_MSG_HOOK_GET`.
const GET: u16 = 12 << 8;
/// `NFPROTO_BRIDGE`, and how many hooks it has (`NF_BR_NUMHOOKS`).
const BRIDGE: u8 = 7;
const BRIDGE_HOOKS: u32 = 6;
const HOOK_NUMBER: u16 = 1;
const PRIORITY: u16 = 2;
const FUNCTION: u16 = 4;
const CHAIN: u16 = 6;

/// The hooks that a forwarded packet passes.
const HOOKS: [(u32, NetfilterHook); 3] =
    [(0, NetfilterHook::Prerouting), (2, NetfilterHook::Forward), (4, NetfilterHook::Postrouting)];

/// Functions that change nothing without a rule that is found elsewhere: connection tracking and reassembly, translation
/// by connections, chains of nftables and tables of iptables, bridges. `SELinux` and Smack go by labels that rules give.
const HARMLESS: [&str; 21] = [
    "ipv4_conntrack_",
    "ipv6_conntrack_",
    "ipv4_confirm",
    "ipv6_confirm",
    "nf_confirm",
    "ipv4_helper",
    "ipv6_helper",
    "ipv6_defrag",
    "nf_nat_",
    "nft_",
    "ipt_do_table",
    "ip6t_do_table",
    "iptable_",
    "ip6table_",
    "ip_sabotage_in",
    "selinux_",
    "smack_",
    "apparmor_",
    "nf_ct_",
    "br_nf_",
    "nf_br_",
];

/// One function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hooked {
    pub(super) version: IpVersion,
    pub(super) hook: NetfilterHook,
    pub(super) priority: i32,
    /// Its name; empty where the kernel does not know names.
    pub(super) function: String,
    /// Whether it is a chain, a flow table or a BPF program, which are listed elsewhere.
    chain: bool,
}

impl Hooked {
    /// Its name, if no table has it.
    pub(super) fn foreign(&self) -> Option<NetfilterChain> {
        let program = self.function.starts_with("nf_hook_run_bpf") || self.function == "bpf";
        if !program && (self.chain || HARMLESS.iter().any(|known| self.function.starts_with(known))) {
            return None;
        }
        let name = if program {
            "a BPF program".to_owned()
        } else if self.function.is_empty() {
            "a function without a name".to_owned()
        } else {
            format!("function {}", self.function)
        };
        let name = format!("{name} at priority {}", self.priority);
        Some(NetfilterChain { hook: self.hook, ..unnamed(name, &[self.version]) })
    }
}

/// All that forwarded packets pass; `None` where the kernel does not list them.
pub(super) fn list() -> Result<Option<Vec<Hooked>>, Error> {
    let mut requester = Requester::open(libc::NETLINK_NETFILTER as isize)?;
    let mut found = Vec::new();
    for (family, version) in [(2, IpVersion::V4), (10, IpVersion::V6)] {
        for (wanted, hook) in HOOKS {
            let mut request = vec![family, 0, 0, 0];
            put(&mut request, HOOK_NUMBER, &wanted.to_be_bytes());
            match requester.dump("hooks of netfilter", GET, &request, |message| parse(message.payload, version, hook)) {
                Err(error) if is_missing(&error) => return Ok(None),
                // Nothing was ever hooked there.
                Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {}
                hooks => found.extend(hooks?),
            }
        }
    }
    Ok(Some(found))
}

/// What is hooked into bridges and is no chain of nftables: `ebtables`, for instance. None where the kernel has no such hooks, or
/// lists none at all ([`list`]).
pub(super) fn in_bridges() -> Result<Vec<NetfilterChain>, Error> {
    let mut requester = Requester::open(libc::NETLINK_NETFILTER as isize)?;
    let mut found = Vec::new();
    for hook in 0_u32..BRIDGE_HOOKS {
        let mut request = vec![BRIDGE, 0, 0, 0];
        put(&mut request, HOOK_NUMBER, &hook.to_be_bytes());
        let foreign = |payload: &[u8]| parse(payload, IpVersion::V4, NetfilterHook::Bridge)?.foreign();
        match requester.dump("hooks of bridges", GET, &request, |message| foreign(message.payload)) {
            Err(error) if is_missing(&error) => break,
            Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {}
            hooks => found.extend(hooks?.into_iter().map(|chain| NetfilterChain { versions: Vec::new(), ..chain })),
        }
    }
    Ok(found)
}

fn parse(payload: &[u8], version: IpVersion, hook: NetfilterHook) -> Option<Hooked> {
    let mut hooked = Hooked { version, hook, priority: 0, function: String::new(), chain: false };
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            PRIORITY => hooked.priority = number(value)?.cast_signed(),
            FUNCTION => hooked.function = text(value),
            CHAIN => hooked.chain = true,
            _ => {}
        }
    }
    Some(hooked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_without_a_table_count() {
        let rows = [
            ("ip_vs_out_hook", false, true),
            ("", false, true),
            ("nf_hook_run_bpf", true, true),
            ("nft_do_chain_inet", true, false),
            ("ipt_do_table", false, false),
            ("ipv4_conntrack_in", false, false),
            ("nf_nat_ipv4_out", false, false),
            ("selinux_ip_forward", false, false),
        ];
        for (function, chain, counts) in rows {
            let mut message = vec![2, 0, 0, 0];
            put(&mut message, PRIORITY, &(-5_i32).to_be_bytes());
            put(&mut message, FUNCTION, function.as_bytes());
            if chain {
                put(&mut message, CHAIN, &[]);
            }
            let hooked = parse(&message, IpVersion::V4, NetfilterHook::Forward).expect("a hook");
            assert_eq!((hooked.priority, hooked.foreign().is_some()), (-5, counts), "{function}");
        }
    }
}
