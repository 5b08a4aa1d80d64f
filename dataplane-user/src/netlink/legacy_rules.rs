//! Rules of iptables-legacy (`struct ipt_entry`, `struct ip6t_entry`), in the form of those of nftables.

use std::collections::BTreeMap;

use super::attribute::{text, u16_at, u32_at};
use crate::model::{
    Comparison, Expression, Extension, NetfilterElement, NetfilterRule, NetfilterSet, NetfilterTable, NetfilterVerdict,
    Source,
};

/// `struct xt_entry_match` and `struct xt_entry_target`: their size, a name, a revision.
const HEAD: usize = 32;
/// `META_L4PROTO`.
const PROTOCOL: u32 = 16;
/// `IPT_F_FRAG`.
const FRAGMENT: u8 = 1;
/// `XT_INV_PROTO`, `IPT_INV_FRAG`.
const NOT_PROTOCOL: u8 = 0x40;
const NOT_FRAGMENT: u8 = 0x20;
/// The target of the entry in front of a chain, which holds its name.
const ERROR: &str = "ERROR";

/// Where things are in an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// The protocol, behind addresses and interfaces.
    protocol: usize,
    flags: usize,
    inverted: usize,
    /// The offset of the target, and behind it that of the next entry.
    target: usize,
    /// The first match.
    matches: usize,
    /// `IPT_F_GOTO`, `IP6T_F_GOTO`: for IPv6 another bit.
    goto: u8,
}

impl Layout {
    pub(super) const V4: Self = Self { protocol: 80, flags: 82, inverted: 83, target: 88, matches: 112, goto: 2 };
    pub(super) const V6: Self = Self { protocol: 128, flags: 131, inverted: 132, target: 140, matches: 168, goto: 4 };
}

/// A table. Its chains go by the offset of their first entry.
pub(super) struct LegacyTable<'a> {
    layout: Layout,
    entries: &'a [u8],
    titles: BTreeMap<usize, String>,
}

impl<'a> LegacyTable<'a> {
    /// `bases`: where base chains begin, and their names.
    pub(super) fn new(layout: Layout, entries: &'a [u8], bases: &[(usize, &str)]) -> Self {
        let mut titles: BTreeMap<_, _> = bases.iter().map(|(at, name)| (*at, (*name).to_owned())).collect();
        let mut at = 0;
        while let Some(entry) = Entry::at(layout, entries, at) {
            let target = entry.target();
            if target.name == ERROR {
                titles.insert(entry.next, text(&target.info));
            }
            at = entry.next;
        }
        Self { layout, entries, titles }
    }
}

impl NetfilterTable for LegacyTable<'_> {
    fn rules(&mut self, chain: &str) -> Result<Vec<NetfilterRule>, String> {
        let mut at = chain.parse().map_err(|_| format!("there is no chain {chain}"))?;
        let mut rules = Vec::new();
        // A base chain ends with its policy, which decides on all that comes so far; other chains with a return.
        while let Some(entry) = Entry::at(self.layout, self.entries, at) {
            if entry.target().name == ERROR {
                return Ok(rules);
            }
            rules.push(NetfilterRule { name: format!("number {}", rules.len() + 1), expressions: entry.expressions() });
            at = entry.next;
        }
        Err(format!("no entry at offset {at}"))
    }

    fn title(&self, chain: &str) -> String {
        let title = chain.parse().ok().and_then(|at: usize| self.titles.get(&at));
        title.map_or_else(|| chain.to_owned(), Clone::clone)
    }

    fn set(&mut self, name: &str) -> Result<NetfilterSet, String> {
        Err(format!("there is no set {name}"))
    }

    fn elements(&mut self, name: &str) -> Result<Vec<NetfilterElement>, String> {
        Err(format!("there is no set {name}"))
    }
}

/// One entry, whose offsets lie within it.
struct Entry<'a> {
    layout: Layout,
    bytes: &'a [u8],
    target: usize,
    /// Where the next one begins.
    next: usize,
}

impl<'a> Entry<'a> {
    fn at(layout: Layout, entries: &'a [u8], at: usize) -> Option<Self> {
        let rest = entries.get(at..)?;
        let target = usize::from(u16_at(rest, layout.target)?);
        let size = usize::from(u16_at(rest, layout.target + 2)?);
        let bytes = rest.get(..size)?;
        (target >= layout.matches && target + HEAD <= size).then_some(Self { layout, bytes, target, next: at + size })
    }

    fn target(&self) -> Extension {
        extension(&self.bytes[self.target..])
    }

    fn expressions(&self) -> Vec<Expression> {
        let Layout { protocol, flags, inverted, .. } = self.layout;
        let byte = |at: usize| self.bytes.get(at).copied().unwrap_or_default();
        let mut found = Vec::new();
        // Addresses and interfaces.
        if self.bytes[..protocol].iter().any(|byte| *byte != 0) {
            found.push(Expression::Uncertain(4));
        }
        if let Some(number) = u16_at(self.bytes, protocol).filter(|number| *number != 0) {
            let unequal = byte(inverted) & NOT_PROTOCOL != 0;
            found.push(Expression::Load(0, Source::Meta(PROTOCOL)));
            let comparison = if unequal { Comparison::Unequal } else { Comparison::Equal };
            found.push(Expression::Compare(0, comparison, vec![number as u8]));
        }
        // What is carried at the driver is no fragment.
        if byte(flags) & FRAGMENT != 0 && byte(inverted) & NOT_FRAGMENT == 0 && protocol == Layout::V4.protocol {
            found.push(Expression::Load(0, Source::Exthdr(0, 44, false)));
        }
        let mut at = self.layout.matches;
        while at + HEAD <= self.target {
            let size = u16_at(self.bytes, at).map_or(0, usize::from);
            if size < HEAD || at + size > self.target {
                found.push(Expression::Unknown("a match that is cut off".to_owned()));
                break;
            }
            found.push(Expression::Match(extension(&self.bytes[at..at + size])));
            at += size;
        }
        found.push(self.action(byte(flags)));
        found
    }

    fn action(&self, flags: u8) -> Expression {
        let target = self.target();
        if !target.name.is_empty() {
            return Expression::Target(target);
        }
        let Some(verdict) = u32_at(&target.info, 0).map(u32::cast_signed) else {
            return Expression::Unknown("a verdict that is cut off".to_owned());
        };
        Expression::Verdict(match verdict {
            // Without a target it goes on with the next one.
            0.. if verdict.cast_unsigned() as usize == self.next => NetfilterVerdict::Continue,
            0.. if flags & self.layout.goto != 0 => NetfilterVerdict::Goto(verdict.to_string()),
            0.. => NetfilterVerdict::Jump(verdict.to_string()),
            -1 => NetfilterVerdict::Drop,
            -2 => NetfilterVerdict::Accept,
            -4 => NetfilterVerdict::Queue,
            -5 => NetfilterVerdict::Return,
            other => return Expression::Unknown(format!("a verdict {other}")),
        })
    }
}

/// A match or target with its head.
fn extension(bytes: &[u8]) -> Extension {
    let (name, revision) = (bytes.get(2..31).unwrap_or_default(), bytes.get(31).copied().unwrap_or_default());
    let info = bytes.get(HEAD..).unwrap_or_default().to_vec();
    Extension { name: text(name), revision: revision.into(), info }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ObstacleKind, obstacles};

    fn part(name: &str, revision: u8, info: &[u8]) -> Vec<u8> {
        let size = (HEAD + info.len()).next_multiple_of(8);
        let mut part = vec![0; size];
        part[..2].copy_from_slice(&(size as u16).to_ne_bytes());
        part[2..2 + name.len()].copy_from_slice(name.as_bytes());
        part[31] = revision;
        part[HEAD..HEAD + info.len()].copy_from_slice(info);
        part
    }

    fn entry(layout: Layout, protocol: u16, matches: &[u8], target: &[u8]) -> Vec<u8> {
        let mut entry = vec![0; layout.matches];
        let at = layout.matches + matches.len();
        entry[layout.protocol..layout.protocol + 2].copy_from_slice(&protocol.to_ne_bytes());
        entry[layout.target..layout.target + 2].copy_from_slice(&(at as u16).to_ne_bytes());
        entry[layout.target + 2..layout.target + 4].copy_from_slice(&((at + target.len()) as u16).to_ne_bytes());
        [&entry[..], matches, target].concat()
    }

    fn verdict(number: i32) -> Vec<u8> {
        part("", 0, &number.to_ne_bytes())
    }

    /// `-m conntrack --ctstate`.
    fn state(mask: u16) -> Vec<u8> {
        let mut info = vec![0; 160];
        info[146] = 1;
        info[150..152].copy_from_slice(&mask.to_ne_bytes());
        part("conntrack", 3, &info)
    }

    #[test]
    fn entries_are_walked_like_rules() {
        for layout in [Layout::V4, Layout::V6] {
            let accept = entry(layout, 0, &[], &verdict(-2));
            let queue = |protocol| entry(layout, protocol, &[], &part("NFQUEUE", 0, &[0; 4]));
            let rows = [
                ("a queue", vec![queue(0), accept.clone()], vec![ObstacleKind::Queue]),
                ("one of TCP", vec![queue(6), accept.clone()], vec![ObstacleKind::Queue]),
                ("one of ICMP", vec![queue(1), accept.clone()], vec![]),
                ("behind the policy", vec![accept.clone(), queue(0)], vec![]),
                (
                    "behind established",
                    vec![entry(layout, 0, &state(6), &verdict(-2)), queue(0), accept.clone()],
                    vec![],
                ),
                ("new ones", vec![entry(layout, 0, &state(8), &part("LOG", 0, &[0; 40])), accept.clone()], vec![]),
                (
                    "a limited log",
                    vec![entry(layout, 0, &part("limit", 0, &[0; 40]), &part("LOG", 0, &[0; 40])), accept.clone()],
                    vec![ObstacleKind::Limit, ObstacleKind::Log],
                ),
            ];
            for (what, entries, wanted) in rows {
                let end = entry(layout, 0, &[], &part(ERROR, 0, b"ERROR"));
                let bytes = [entries.concat(), end].concat();
                let mut table = LegacyTable::new(layout, &bytes, &[(0, "FORWARD")]);
                let found = obstacles(&mut table, "iptables-legacy filter", "0", true);
                assert_eq!(found.iter().map(|one| one.kind).collect::<Vec<_>>(), wanted, "{what}: {found:?}");
            }
        }
    }

    #[test]
    fn chains_are_named_and_jumped_to() {
        let layout = Layout::V4;
        let head = |name: &str| entry(layout, 0, &[], &part(ERROR, 0, &[name.as_bytes(), &[0]].concat()));
        let policy = entry(layout, 0, &[], &verdict(-2));
        let base = entry(layout, 0, &[], &verdict(0)).len() + policy.len();
        let first = i32::try_from(base + head("mine").len()).expect("an offset");
        let jump = entry(layout, 0, &[], &verdict(first));
        let log = entry(layout, 17, &[], &part("NFLOG", 0, &[0; 80]));
        let back = entry(layout, 0, &[], &verdict(-5));
        let bytes = [jump, policy, head("mine"), log, back, head(ERROR)].concat();
        let mut table = LegacyTable::new(layout, &bytes, &[(0, "FORWARD")]);
        let found = obstacles(&mut table, "iptables-legacy filter", "0", true);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["rule iptables-legacy filter mine number 1 has log (target NFLOG)"]);
        // Whatever is cut off, is read as far as it goes.
        for end in 0..bytes.len() {
            let mut table = LegacyTable::new(layout, &bytes[..end], &[(0, "FORWARD")]);
            assert!(!obstacles(&mut table, "t", "0", true).is_empty(), "{end}");
        }
    }
}
