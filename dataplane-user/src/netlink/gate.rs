//! A table of nftables that drops what links receive until they are ports.
//!
//! It has no owner (`NFT_TABLE_F_OWNER` is not set), so it stays when the daemon dies. It is written as one transaction: at no
//! moment is there half of it.

use dataplane_common::abi::Ifindex;

use super::{
    Error,
    attribute::put,
    netfilter::{HEADER, NFTABLES, OWN_TABLE, terminated},
    nft::{
        ACCEPT, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TYPE, CHUNK, DATA_VALUE, DROP, ELEMENT_KEY, ELEMENTS, INET,
        LIST_ELEMENT, NESTED, NFT_MSG_DELSETELEM, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET,
        NFT_MSG_NEWSETELEM, NFT_MSG_NEWTABLE, NLM_F_APPEND, NLM_F_CREATE, RULE_CHAIN, RULE_EXPRESSIONS, SET_ID,
        SET_KEY_LENGTH, SET_KEY_TYPE, SET_NAME, TABLE, attributes, expression, number, part, verdict,
    },
    socket::{Part, Requester},
};

/// `NF_IP_PRI_RAW`: before connections are tracked.
const RAW: i32 = -300;
/// `NFT_META_IIF` and `NFT_META_IIFNAME`.
const META_IIF: u32 = 4;
const META_IIFNAME: u32 = 6;
/// nft's own number for the type, by which it lists elements.
const TYPE_IFINDEX: u32 = 20;
/// `IFNAMSIZ`.
const NAME_SIZE: usize = 16;

const READY: &str = "ready";
const CHAIN: &str = "prerouting";

/// The links whose packets wait, in the order of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateRule {
    /// A name, or with `*` at its end the beginning of names.
    pub name: String,
    /// Whether they wait; else they pass.
    pub waits: bool,
}

/// The table of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    table: String,
}

impl Gate {
    /// That of the daemon with these pins.
    pub fn of(pins: &std::path::Path) -> Self {
        // FNV-1a.
        let hash = pins.as_os_str().as_encoded_bytes().iter();
        let hash = hash.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        Self { table: format!("{OWN_TABLE}_{hash:08x}") }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.table
    }

    /// Writes the table in the place of what there is of it.
    pub fn write(&self, rules: &[GateRule], ready: &[Ifindex]) -> Result<(), Error> {
        let table = || self.message(&[]);
        let mut parts = vec![
            // So that there is one to delete.
            part(NFT_MSG_NEWTABLE, NLM_F_CREATE, table()),
            part(NFT_MSG_DELTABLE, 0, table()),
            part(NFT_MSG_NEWTABLE, NLM_F_CREATE, table()),
            part(
                NFT_MSG_NEWSET,
                NLM_F_CREATE,
                self.message(&[
                    (SET_NAME, terminated(READY)),
                    (SET_KEY_TYPE, number(TYPE_IFINDEX)),
                    (SET_KEY_LENGTH, number(4)),
                    (SET_ID, number(1)),
                ]),
            ),
            part(
                NFT_MSG_NEWCHAIN,
                NLM_F_CREATE,
                self.message(&[
                    (CHAIN_NAME, terminated(CHAIN)),
                    (CHAIN_HOOK | NESTED, attributes(&[(1, number(0)), (2, number(RAW.cast_unsigned()))])),
                    (CHAIN_POLICY, number(ACCEPT)),
                    (CHAIN_TYPE, terminated("filter")),
                ]),
            ),
        ];
        parts.extend(self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, ready));
        let lookup = expression("lookup", &[(1, terminated(READY)), (2, number(1)), (4, number(1))]);
        parts.push(self.rule(&[meta(META_IIF), lookup, verdict(ACCEPT)]));
        for rule in rules {
            let verdict = verdict(if rule.waits { DROP } else { ACCEPT });
            let asked = if rule.name == "*" { vec![] } else { vec![meta(META_IIFNAME), is_called(&rule.name)] };
            parts.push(self.rule(&[asked, vec![expression("counter", &[]), verdict]].concat()));
        }
        send(parts)
    }

    /// Takes the table away, if it is there.
    pub fn remove(&self) -> Result<(), Error> {
        send(vec![
            part(NFT_MSG_NEWTABLE, NLM_F_CREATE, self.message(&[])),
            part(NFT_MSG_DELTABLE, 0, self.message(&[])),
        ])
    }

    /// These are ports now.
    pub fn admit(&self, links: &[Ifindex]) -> Result<(), Error> {
        send(self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, links).collect())
    }

    /// These are none any more.
    pub fn hold_back(&self, links: &[Ifindex]) -> Result<(), Error> {
        send(self.elements(NFT_MSG_DELSETELEM, 0, links).collect())
    }

    fn elements(&self, kind: u16, flags: u16, links: &[Ifindex]) -> impl Iterator<Item = Part> {
        links.chunks(CHUNK).map(move |links| {
            let element = |link: &Ifindex| {
                let key = attributes(&[(DATA_VALUE, link.to_ne_bytes().to_vec())]);
                (LIST_ELEMENT | NESTED, attributes(&[(ELEMENT_KEY | NESTED, key)]))
            };
            let list = attributes(&links.iter().map(element).collect::<Vec<_>>());
            part(kind, flags, self.message(&[(SET_NAME, terminated(READY)), (ELEMENTS | NESTED, list)]))
        })
    }

    fn rule(&self, expressions: &[Vec<u8>]) -> Part {
        let list: Vec<_> = expressions.iter().map(|one| (LIST_ELEMENT | NESTED, one.clone())).collect();
        part(
            NFT_MSG_NEWRULE,
            NLM_F_CREATE | NLM_F_APPEND,
            self.message(&[(RULE_CHAIN, terminated(CHAIN)), (RULE_EXPRESSIONS | NESTED, attributes(&list))]),
        )
    }

    /// A message about something of the table.
    fn message(&self, more: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut message = vec![0; HEADER];
        message[0] = INET;
        put(&mut message, TABLE, &terminated(&self.table));
        message.extend(attributes(more));
        message
    }
}

fn send(parts: Vec<Part>) -> Result<(), Error> {
    if parts.is_empty() {
        return Ok(());
    }
    Requester::open(libc::NETLINK_NETFILTER as isize)?.transact(
        "table of links that are not ready",
        (NFTABLES >> 8) as u8,
        parts,
    )
}

/// Loads something of the packet into the first register.
fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[(1, number(1)), (2, number(key))])
}

/// Compares the first register with a name, or with its beginning.
fn is_called(name: &str) -> Vec<u8> {
    let (mut value, whole) = match name.strip_suffix('*') {
        Some(start) => (start.as_bytes().to_vec(), false),
        None => (name.as_bytes().to_vec(), true),
    };
    if whole {
        value.resize(NAME_SIZE.max(value.len()), 0);
    }
    expression("cmp", &[(1, number(1)), (2, number(0)), (3 | NESTED, attributes(&[(DATA_VALUE, value)]))])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::netlink::attribute::{Attributes, text};

    #[test]
    fn each_daemon_has_a_table_of_its_own() {
        let one = Gate::of(Path::new("/sys/fs/bpf/dataplane"));
        let other = Gate::of(Path::new("/run/dataplane-bpffs"));
        assert!(one.name().starts_with(OWN_TABLE) && other.name().starts_with(OWN_TABLE));
        assert_ne!(one, other);
        let message = one.message(&[]);
        let named = Attributes::behind(&message, HEADER).next().map(|(kind, value)| (kind, text(value)));
        assert_eq!((message[0], named), (INET, Some((TABLE, one.name().to_owned()))));
    }

    #[test]
    fn names_are_compared_whole_and_beginnings_as_far_as_they_go() {
        for (name, length) in [("veth0", NAME_SIZE), ("veth*", 4), ("fifteen-letters", NAME_SIZE)] {
            let comparison = is_called(name);
            let data = Attributes::within(&comparison).nth(1).expect("data").1;
            let value = Attributes::within(data).nth(2).expect("a value").1;
            assert_eq!(Attributes::within(value).next().map(|(_, bytes)| bytes.len()), Some(length), "{name}");
        }
    }
}
