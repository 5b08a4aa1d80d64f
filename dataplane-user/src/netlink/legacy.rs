//! Tables of iptables-legacy (`net/ipv4/netfilter/ip_tables.c`), read with `getsockopt(2)`: `/proc` shows their names to root
//! alone.

#![expect(unsafe_code, reason = "getsockopt(2) of ip_tables has no wrapper in the libraries we use")]

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use rustix::net::{AddressFamily, SocketType, socket};

use super::{
    hook::Hooked,
    legacy_rules::{Layout, LegacyTable},
    netfilter::{unnamed, unnamed_in_bridges, unreadable},
};
use crate::model::{IpVersion, NetfilterChain, NetfilterHook, obstacles};

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: libc::c_int = 64;
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: libc::c_int = 65;
/// A table's name, with its closing zero.
const NAME: usize = 32;
/// `struct ipt_getinfo`: name, hooks, where they begin, where their policies are, how many entries, and how many bytes.
const INFO: usize = NAME + 4 + 5 * 4 + 5 * 4 + 4 + 4;
/// `struct ipt_get_entries`, without the entries.
const ENTRIES: usize = NAME + 8;
/// A verdict lies behind `struct xt_entry_target`.
const TARGET: usize = 32;
/// `-NF_DROP - 1`.
const DROP: i32 = -1;

/// All that there can be, with the priority of their hooks; those of `nat` are not their own.
const TABLES: [(&str, Option<i32>); 5] =
    [("raw", Some(-300)), ("mangle", Some(-150)), ("nat", None), ("filter", Some(0)), ("security", Some(50))];
/// Of ebtables-legacy.
const BRIDGE_TABLES: [&str; 3] = ["ebtable_broute", "ebtable_filter", "ebtable_nat"];
const HOOKS: [(usize, NetfilterHook); 3] =
    [(0, NetfilterHook::Prerouting), (2, NetfilterHook::Forward), (4, NetfilterHook::Postrouting)];

/// What differs between the families.
struct Side {
    version: IpVersion,
    family: AddressFamily,
    level: libc::c_int,
    /// Names of the tables; it is there if the kernel has such tables at all.
    names: &'static str,
    /// In the names of functions.
    function: &'static str,
    word: &'static str,
    /// In `struct ipt_entry` or `struct ip6t_entry`, where the offset of the target is.
    target: usize,
    /// Of all that is read in these.
    layout: Layout,
}

const SIDES: [Side; 2] = [
    Side {
        version: IpVersion::V4,
        family: AddressFamily::INET,
        level: libc::SOL_IP,
        names: "/proc/thread-self/net/ip_tables_names",
        function: "ipt_do_table",
        word: "iptables",
        target: 88,
        layout: Layout::V4,
    },
    Side {
        version: IpVersion::V6,
        family: AddressFamily::INET6,
        level: libc::SOL_IPV6,
        names: "/proc/thread-self/net/ip6_tables_names",
        function: "ip6t_do_table",
        word: "ip6tables",
        target: 140,
        layout: Layout::V6,
    },
];

/// The chains of both families that have rules or a dropping policy. `hooks` are the functions that are hooked in, where the
/// kernel lists them: a request for a table that does not exist yet may make it.
pub(super) fn chains(hooks: Option<&[Hooked]>) -> Vec<NetfilterChain> {
    SIDES.iter().filter(|side| Path::new(side.names).exists()).flat_map(|side| side.chains(hooks)).collect()
}

/// Tables of ebtables-legacy (`net/bridge/netfilter/ebtable_*.c`). A request for one would make it, so all are taken to have
/// rules where the kernel may have any.
pub(super) fn in_bridges() -> Option<NetfilterChain> {
    let loaded = || BRIDGE_TABLES.iter().any(|module| Path::new("/sys/module").join(module).exists());
    (loaded() || is_built_in(&BRIDGE_TABLES))
        .then(|| unnamed_in_bridges("ebtables-legacy tables that cannot be listed"))
}

/// Whether one of the modules is part of the kernel, as far as its files say (`modules.builtin`).
fn is_built_in(modules: &[&str]) -> bool {
    let release = rustix::system::uname();
    let path = Path::new("/lib/modules").join(release.release().to_string_lossy().as_ref()).join("modules.builtin");
    let named = |text: String| modules.iter().any(|module| text.contains(&format!("/{module}.ko")));
    fs::read_to_string(path).is_ok_and(named)
}

impl Side {
    fn chains(&self, hooks: Option<&[Hooked]>) -> Vec<NetfilterChain> {
        let found: io::Result<Vec<_>> = self.tables(hooks).into_iter().map(|table| self.table(&table)).collect();
        match found {
            Ok(found) => found.into_iter().flatten().collect(),
            Err(error) => {
                vec![unnamed(format!("{}-legacy tables that cannot be seen: {error}", self.word), &[self.version])]
            }
        }
    }

    /// Those that are there, or may be.
    fn tables(&self, hooks: Option<&[Hooked]>) -> Vec<String> {
        if let Ok(names) = fs::read_to_string(self.names) {
            return names.lines().map(str::to_owned).collect();
        }
        let Some(hooks) = hooks else { return TABLES.map(|(name, _)| name.to_owned()).to_vec() };
        let mut hooks = hooks.iter().filter(|hooked| hooked.version == self.version);
        let mut hooked = |name: &str, at: Option<i32>| match at {
            Some(at) => hooks.clone().any(|one| {
                one.priority == at && (one.function.starts_with(self.function) || one.function.contains(name))
            }),
            None => hooks.any(|one| one.function.starts_with("nf_nat_")),
        };
        let there = TABLES.into_iter().filter(|(name, at)| hooked(name, *at));
        there.map(|(name, _)| name.to_owned()).collect()
    }

    /// The chains of a table that have something to say.
    fn table(&self, name: &str) -> io::Result<Vec<NetfilterChain>> {
        let Some((info, entries)) = self.read(name)? else { return Ok(Vec::new()) };
        let word = |index: usize| u32::from_ne_bytes(info[NAME + index * 4..][..4].try_into().unwrap_or_default());
        let mut chains = Vec::new();
        for (number, hook) in HOOKS {
            if word(0) & 1 << number == 0 {
                continue;
            }
            let (begin, end) = (word(1 + number) as usize, word(6 + number) as usize);
            let rules = self.count(&entries, begin, end);
            let drops = self.verdict(&entries, end) == Some(DROP);
            if rules != Some(0) || drops {
                let name = format!("{}-legacy table {name}", self.word);
                let translates = name.ends_with(" nat");
                let obstacles = match rules {
                    // Packets of connections that are translated already do not come by.
                    _ if translates => Vec::new(),
                    None => vec![unreadable(&name)],
                    Some(_) => {
                        let mut rules = LegacyTable::new(self.layout, &entries, &[(begin, title(hook))]);
                        // Table raw comes before connections are looked up.
                        obstacles(&mut rules, &name, &begin.to_string(), !name.ends_with(" raw"))
                    }
                };
                let chain = NetfilterChain { hook, rules, drops, translates, ..unnamed(name, &[self.version]) };
                chains.push(NetfilterChain { obstacles, ..chain });
            }
        }
        Ok(chains)
    }

    /// What the kernel says of a table, and its entries; none where there is no such table.
    fn read(&self, name: &str) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let socket = socket(self.family, SocketType::DGRAM, None)?;
        let ask = |option, question: &mut [u8]| get(socket.as_fd().as_raw_fd(), self.level, option, question);
        // It may change between the two questions.
        for _ in 0..16 {
            // A request for no entries only shows whether there is such a table, and loads no module for it.
            let mut nothing = vec![0; ENTRIES];
            nothing[..name.len()].copy_from_slice(name.as_bytes());
            match ask(GET_ENTRIES, &mut nothing) {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => {
                    return Ok(None);
                }
                other => other?,
            }
            let mut info = vec![0; INFO];
            info[..name.len()].copy_from_slice(name.as_bytes());
            ask(GET_INFO, &mut info)?;
            let size = &info[INFO - 4..];
            let bytes = u32::from_ne_bytes(size.try_into().unwrap_or_default()) as usize;
            let mut entries = vec![0; ENTRIES + bytes];
            entries[..name.len()].copy_from_slice(name.as_bytes());
            entries[NAME..NAME + 4].copy_from_slice(size);
            match ask(GET_ENTRIES, &mut entries) {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                other => {
                    other?;
                    return Ok(Some((info, entries.split_off(ENTRIES))));
                }
            }
        }
        Err(io::Error::other(format!("table {name} changed all the time")))
    }

    /// How many entries lie between two offsets; none where they are not as they should be.
    fn count(&self, entries: &[u8], begin: usize, end: usize) -> Option<usize> {
        let mut at = begin;
        let mut count = 0;
        while at < end {
            let next = usize::from(half(entries, at + self.target + 2)?);
            (at, count) = (at + next, count + usize::from(next != 0));
            if next == 0 {
                return None;
            }
        }
        (at == end).then_some(count)
    }

    /// The verdict of the entry at an offset, which is a policy.
    fn verdict(&self, entries: &[u8], at: usize) -> Option<i32> {
        let target = at + usize::from(half(entries, at + self.target)?);
        Some(i32::from_ne_bytes(*entries.get(target + TARGET..)?.first_chunk()?))
    }
}

/// What iptables calls the chain of a hook.
const fn title(hook: NetfilterHook) -> &'static str {
    match hook {
        NetfilterHook::Prerouting => "PREROUTING",
        NetfilterHook::Forward => "FORWARD",
        NetfilterHook::Postrouting => "POSTROUTING",
        NetfilterHook::Ingress | NetfilterHook::Egress | NetfilterHook::Bridge => "",
    }
}

fn half(entries: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*entries.get(at..)?.first_chunk()?))
}

/// `getsockopt(2)` with a question that the answer takes the place of.
fn get(socket: i32, level: libc::c_int, option: libc::c_int, question: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(question.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes there, which are ours.
    let done = unsafe { libc::getsockopt(socket, level, option, question.as_mut_ptr().cast(), &raw mut length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry with a target of 40 bytes.
    fn entry(side: &Side, verdict: i32) -> Vec<u8> {
        let head = side.target + 24;
        let mut entry = vec![0; head + 40];
        entry[side.target..side.target + 2].copy_from_slice(&(head as u16).to_ne_bytes());
        entry[side.target + 2..side.target + 4].copy_from_slice(&((head + 40) as u16).to_ne_bytes());
        entry[head + TARGET..head + TARGET + 4].copy_from_slice(&verdict.to_ne_bytes());
        entry
    }

    #[test]
    fn entries_are_counted_and_policies_read() {
        for side in SIDES {
            let one = entry(&side, 0).len();
            let entries = [entry(&side, -2), entry(&side, -2), entry(&side, DROP), entry(&side, -2)].concat();
            assert_eq!(side.count(&entries, 0, 2 * one), Some(2));
            assert_eq!(side.count(&entries, one, one), Some(0));
            assert_eq!(side.count(&entries, 0, one + 1), None, "not at an entry");
            assert_eq!(side.count(&entries[..one], 0, 2 * one), None, "cut off");
            assert_eq!(side.verdict(&entries, 2 * one), Some(DROP));
            assert_eq!(side.verdict(&entries, 3 * one), Some(-2));
        }
    }
}
